/**
 * What runs on the kernel that is asked: tracers that find a program's probe by its note, and what stands there
 * meanwhile. Prints what it saw as JSON. Made into one file; its argument is the task's file.
 */
import { readFileSync } from "node:fs";
import { runningKernel } from "../../src/live/running-kernel.js";
import { bpftraceMissing, withBpftrace } from "../live/bpftrace.js";
import { traceByLibbpf } from "../live/libbpf-tracer.js";
import { start } from "../live/living.js";

/** A program with one probe, live:pass, that says when it has passed it for the last time. */
export interface Traceable {
  readonly file: string;
  /** The probe's link-time address, in hexadecimal. */
  readonly location: string;
}

export interface TracersTask {
  /** Tracers of libbpf, and whether to ask bpftrace. */
  readonly libbpf: readonly (readonly string[])[];
  readonly bpftrace: boolean;
  readonly programs: readonly Traceable[];
}

export interface Attached {
  readonly hits: number | null;
  /** At the probe's location, of the running program. */
  readonly bytes: string;
}

export interface TracersAnswer {
  readonly kernel: string;
  /** Those of libbpf, and bpftrace's behind them; of each tracer, those of each program. */
  readonly attached: readonly (readonly Attached[])[];
  /** Why bpftrace cannot be asked here, or null. */
  readonly noBpftrace: string | null;
}

const SHOWN = 12;

async function passed({ file, location }: Traceable, tell: (bytes: string) => void): Promise<void> {
  const program = await start(file);
  tell(program.bytesAt(BigInt(location), SHOWN));
  await program.finish();
}

async function byLibbpf(command: readonly string[], program: Traceable): Promise<Attached> {
  let bytes = "";
  const seen = await traceByLibbpf(command, program.file, ["live:pass"], () =>
    passed(program, (shown) => {
      bytes = shown;
    }),
  );
  return { hits: seen.get("live:pass")?.hits ?? null, bytes };
}

async function byBpftrace(program: Traceable): Promise<Attached> {
  let bytes = "";
  const probe = { provider: "live", name: "pass", action: "@hits = count();" };
  const printed = await withBpftrace(program.file, [probe], () =>
    passed(program, (shown) => {
      bytes = shown;
    }),
  );
  return { hits: Number(/@hits: (\d+)/.exec(printed)?.[1] ?? 0), bytes };
}

const task = JSON.parse(readFileSync(process.argv[2]!, "utf8")) as TracersTask;
const attached: Attached[][] = [];
const askAll = async (ask: (program: Traceable) => Promise<Attached>): Promise<void> => {
  const all: Attached[] = [];
  for (const program of task.programs) all.push(await ask(program));
  attached.push(all);
};
for (const command of task.libbpf) await askAll((program) => byLibbpf(command, program));
const noBpftrace = task.bpftrace ? bpftraceMissing() : "not asked";
if (noBpftrace === null) await askAll(byBpftrace);
const answer: TracersAnswer = { kernel: runningKernel().name, attached, noBpftrace };
console.log(JSON.stringify(answer));
