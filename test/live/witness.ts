/**
 * A program made for tracers to agree upon, as an executable and as a library, and what every tracer must see of it: said
 * here once more, by the words of witness.c, so that no tracer has to be believed.
 */
import { copyFileSync, mkdirSync } from "node:fs";
import { basename, join } from "node:path";
import { must, run } from "../run.js";
import { programSource, type Rewritten, rewriteWith, scratch } from "./rewriting.js";

/** What is traced, and how to run it. */
export interface Target {
  /** The file with the probes. */
  readonly file: string;
  /** Of the probes: no other run's, since perf makes events of this name that all the machine sees. */
  readonly provider: string;
  readonly command: string;
  readonly environment: Readonly<Record<string, string>>;
}

/** What a tracer saw of a run. */
export interface Seen {
  /** `name value value ...` for each hit, sorted: tracers do not all keep the order. */
  readonly hits: readonly string[];
  /** What the program printed meanwhile. */
  readonly output: string;
}

export const OUTPUT = "witness 00024f8d\n";

const ROUNDS = 12;

/** Every hit, in 64 bits with sign: that is how all of them print. */
export const EXPECTED: readonly string[] = expected();

function expected(): readonly string[] {
  const hits: string[] = [];
  const hit = (name: string, ...values: readonly (number | bigint)[]): void => {
    hits.push([name, ...values.map((value) => BigInt.asIntN(64, BigInt(value)))].join(" "));
  };
  const shared = (value: number, add: number): number => {
    hit("shared", value, add);
    return value * 3 + add;
  };
  for (let round = 0; round < ROUNDS; round++) {
    hit("entered", round, -3 * round);
    shared(shared(shared(round, round * 7), round * 7 + 1), round * 7 + 2);
    shared(round + 1000, round);
    hit("leaf", round * 100, round % 10);
    hit("wide", 1 << round, -round, -5 * round, -round, -1 - round, 200 + round);
  }
  for (let i = 0; i < ROUNDS; i++) {
    hit("gate", i, i * i);
    if (i % 2 === 1) hit("gate", i, -i);
    if (i % 3 === 0) hit("fence", (i * (i + 1)) / 2);
  }
  hit("last");
  return hits.sort();
}

/** `name hits`, for tracers or uses of them that only count. */
export function countsOf(hits: readonly string[]): readonly string[] {
  const counts = new Map<string, number>();
  for (const hit of hits) counts.set(hit.split(" ")[0]!, (counts.get(hit.split(" ")[0]!) ?? 0) + 1);
  return [...counts].map(([name, n]) => `${name} ${n}`).sort();
}

export const NAMES: readonly string[] = [...new Set(EXPECTED.map((hit) => hit.split(" ")[0]!))];
/** Notes: shared has four, gate has two. */
export const SITES = 11;

let providers = 0;

export interface Way {
  readonly title: string;
  readonly library?: boolean;
  readonly flags: readonly string[];
}

/** Builds the witness with a provider of its own. */
export async function buildWitness({ library = false, flags }: Way): Promise<Target> {
  providers += 1;
  const provider = `witness_${process.pid}_${providers}`;
  const sources = [programSource("witness.c"), programSource("witness-gated.c")];
  const define = [`-DPROVIDER=${provider}`, "-DGATED", "-O2", ...flags];
  // bpftrace takes no + in a path; perf keeps a copy by the path.
  const folder = scratch("witness");
  mkdirSync(folder);
  if (!library) {
    const file = join(folder, "witness");
    await must("gcc", [...define, ...sources, "-o", file]);
    return { file, provider, command: file, environment: {} };
  }
  const [file, command] = [join(folder, "libwitness.so"), join(folder, "runs")];
  await must("gcc", [...define, "-DLIBRARY", "-shared", "-fPIC", "-Wl,-soname,libwitness.so", ...sources, "-o", file]);
  await must("gcc", [programSource("witness-runs.c"), file, "-o", command]);
  return { file, provider, command, environment: { LD_LIBRARY_PATH: folder } };
}

/** The same, its file rewritten, in a folder of its own. */
export async function rewriteTarget(
  target: Target,
  ...options: readonly string[]
): Promise<{ target: Target; report: Rewritten }> {
  const report = await rewriteWith(target.file, ...options);
  const folder = scratch("rewritten-witness");
  mkdirSync(folder);
  const file = join(folder, basename(target.file));
  copyFileSync(report.path, file);
  const rewritten =
    target.command === target.file
      ? { ...target, file, command: file }
      : { ...target, file, environment: { LD_LIBRARY_PATH: folder } };
  return { target: rewritten, report };
}

/** The program without a tracer. */
export async function runTarget({ command, environment }: Target): Promise<string> {
  const { status, signal, stdout, stderr } = await run(command, [], { environment });
  if (status !== 0) throw new Error(`${command}: ${signal ?? status}\n${stderr}`);
  return stdout;
}
