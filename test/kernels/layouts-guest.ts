/**
 * What runs on the kernel that is asked: programs under uprobes, attached as `live` attaches, and under tracers that
 * come and go. Prints what it saw as JSON. Made into one file; its argument is the task's file.
 */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { traceCommand } from "../../src/live/live.js";
import { runningKernel } from "../../src/live/running-kernel.js";
import { readTracedFile, type TracedFile } from "../../src/live/traced-file.js";
import { requireTracefs } from "../../src/live/tracefs.js";
import { attachUprobes, type Uprobes } from "../../src/live/uprobes.js";
import type { Answer, Ran, Task, Toggled, Traced } from "./layouts.js";

/** Every second tracer comes while the program pauses, and goes so. */
const TRACERS = 4;
const MEANWHILE = 150;

/** Without what the table says of this kernel: what it refuses is to be seen. */
const fileOf = ({ file, behind }: Traced): TracedFile => readTracedFile(file, behind === null ? {} : { behind });

async function run(traced: Traced, tracefs: string): Promise<Ran> {
  let output = "";
  const command = {
    program: traced.file,
    argv: [traced.file],
    stdio: ["ignore", "pipe", "pipe"] as const,
    output: (_: 1 | 2, chunk: Buffer): void => {
      output += chunk.toString("latin1");
    },
  };
  const { exitCode, signal, sites } = await traceCommand(tracefs, command, [fileOf(traced)]);
  const seen = sites.map(({ name, hits, optimized }) => ({ name, hits, optimized }));
  return { output, end: signal ?? `exit status ${exitCode}`, sites: seen };
}

type Said = Pick<Toggled, "passed" | "killed" | "children" | "wrong">;
const NOTHING: Said = { passed: 0, killed: 0, children: 0, wrong: 0 };

/** The program of toggled.c. */
class Restless {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly ended: Promise<string>;
  #text = "";
  last = NOTHING;

  constructor(file: string) {
    this.#child = spawn(file, [], { stdio: ["pipe", "pipe", "pipe"] });
    this.#child.stdin.on("error", () => {}); // it may have died
    this.#child.stdout.on("data", (chunk: Buffer) => {
      this.#text += chunk.toString("latin1");
    });
    this.ended = once(this.#child, "close").then(([status, signal]) => signal ?? `exit status ${status}`);
  }

  get isAlive(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  async pause(): Promise<void> {
    this.#child.stdin.write("p");
    while (!this.#text.endsWith("\n") && this.isAlive) await sleep(1);
    const [, passed, killed, children, wrong] =
      /passed (\d+) killed (\d+) of (\d+) wrong (\d+)\n$/.exec(this.#text)?.map(Number) ?? [];
    if (passed !== undefined) this.last = { passed, killed: killed!, children: children!, wrong: wrong! };
    this.#text = "";
  }

  goOn(): void {
    this.#child.stdin.write("g");
  }

  async end(): Promise<string> {
    this.#child.stdin.end();
    return await this.ended;
  }
}

async function toggle(traced: Traced, tracefs: string): Promise<Toggled> {
  const { places } = fileOf(traced);
  const program = new Restless(traced.file);
  const counts: Toggled["counts"][number][] = [];
  let refusal: string | null = null;
  let uprobes: Uprobes | null = null;
  try {
    for (let i = 0; i < TRACERS && program.isAlive; i++) {
      const pauses = i % 2 === 0;
      if (pauses) await program.pause();
      const before = program.last.passed;
      try {
        uprobes = attachUprobes(tracefs, places);
      } catch (error) {
        refusal = error instanceof Error ? error.message : String(error);
      }
      if (pauses) program.goOn();
      await sleep(MEANWHILE);
      if (pauses) {
        await program.pause();
        counts.push({ hits: uprobes?.hits()[0] ?? 0, passes: program.last.passed - before });
      }
      uprobes?.detach();
      uprobes = null;
      if (pauses) program.goOn();
      await sleep(MEANWHILE / 3);
    }
    await program.pause();
    return { ...program.last, end: await program.end(), counts, refusal };
  } finally {
    uprobes?.detach();
    await program.end();
  }
}

const tracefs = requireTracefs();
const task = JSON.parse(readFileSync(process.argv[2]!, "utf8")) as Task;
const ran: Ran[] = [];
for (const traced of task.run) ran.push(await run(traced, tracefs));
const toggled: Toggled[] = [];
for (const traced of task.toggle) toggled.push(await toggle(traced, tracefs));
const answer: Answer = { kernel: runningKernel().name, ran, toggled };
console.log(JSON.stringify(answer));
