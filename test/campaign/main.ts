/**
 * `npm run campaign`: random programs, rewritten and held against themselves by the machine's CPU.
 *
 *     --seed N            the first slice's seed (1)             --functions N     in a slice (2000)
 *     --slices N          slices, of seeds that follow (1)       --jobs N          processes (one a CPU)
 *     --traced-share P    of the programs, run under uprobes (0.1; 0 where uprobes cannot be had)
 *     --layout L          for all, instead of one by chance      --dist DIR        the build to judge (dist)
 *     --out FILE          a line of JSON is added for each slice --keep DIR        programs that differ or are unproved, with sources
 *     --sum FILE          prints what the slices in FILE come to, and runs nothing
 *     --program N         judges one program and prints all that is known of it
 *     --source N:fnK      prints the source of a function of program N
 *
 * The exit status is 3 where anything is wrong, or verify is.
 */
import { spawn } from "node:child_process";
import { appendFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { findTracefs } from "../../src/live/tracefs.js";
import type { Layout } from "../../src/rewritten/contract.js";
import { type JudgeOptions, judge, type ProgramRecord } from "./judge.js";
import { buildDriver, generate } from "./program.js";
import { type Slice, sum, Tally, table } from "./tally.js";
import { loadToolkit } from "./toolkit.js";

const options = {
  seed: { type: "string", default: "1" },
  functions: { type: "string", default: "2000" },
  slices: { type: "string", default: "1" },
  jobs: { type: "string", default: `${availableParallelism()}` },
  "traced-share": { type: "string" },
  layout: { type: "string" },
  dist: { type: "string", default: "dist" },
  out: { type: "string" },
  keep: { type: "string" },
  sum: { type: "string" },
  program: { type: "string" },
  source: { type: "string" },
  worker: { type: "string" },
  folder: { type: "string" },
} as const;

type Values = ReturnType<typeof parse>;
const parse = (argv: readonly string[]) => parseArgs({ args: [...argv], options }).values;

/** How many programs have that many functions together. */
export function programsFor(seed: number, functions: number): number {
  let [count, programs] = [0, 0];
  while (count < functions) count += generate(seed, programs++).functions.length;
  return programs;
}

const bad = (slice: Slice): boolean => {
  const { wrong, wrongTraced, wrongEquivalent, soundDifferent } = slice.total;
  return wrong + wrongTraced + wrongEquivalent + soundDifferent + slice.errors.length + slice.findings.length > 0;
};

export async function main(script: string, argv: readonly string[]): Promise<number> {
  const values = parse(argv);
  if (values.sum !== undefined) {
    const lines = readFileSync(values.sum, "utf8").trim().split("\n");
    const slice = sum(lines.map((line) => JSON.parse(line) as Slice));
    console.log(table(slice));
    return bad(slice) ? 3 : 0;
  }
  if (values.worker !== undefined) return work(values);
  if (values.source !== undefined) {
    const [index, name] = values.source.split(":");
    console.log(generate(Number(values.seed), Number(index)).functions.find((f) => f.name === name)?.text ?? "none");
    return 0;
  }
  const folder = mkdtempSync(join(tmpdir(), "usdt-campaign-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(1));
  buildDriver(folder);
  if (values.program !== undefined) {
    const record = judge(await loadToolkit(values.dist), Number(values.program), judgeOptions(values, folder));
    console.log(JSON.stringify(record, null, 2));
    return 0;
  }
  const slices: Slice[] = [];
  for (let i = 0; i < Number(values.slices); i++) {
    const slice = await runSlice(script, argv, values, Number(values.seed) + i, folder);
    slices.push(slice);
    if (values.out !== undefined) appendFileSync(values.out, `${JSON.stringify(slice)}\n`);
  }
  const all = sum(slices);
  console.log(table(all));
  for (const line of all.broken.slice(0, 10)) console.log(`does not run as it is: ${line}`);
  return bad(all) ? 3 : 0;
}

function judgeOptions(values: Values, folder: string): JudgeOptions {
  const share = values["traced-share"] ?? (findTracefs().path === null ? "0" : "0.1");
  if (values.keep !== undefined) mkdirSync(values.keep, { recursive: true });
  return {
    seed: Number(values.seed),
    folder,
    driver: join(folder, "driver"),
    tracedShare: Number(share),
    keep: values.keep === undefined ? null : resolve(values.keep),
    layout: (values.layout as Layout | undefined) ?? null,
  };
}

/** Programs are dealt out to processes: uprobes are a process's own, and one that dies takes no other with it. */
async function runSlice(
  script: string,
  argv: readonly string[],
  values: Values,
  seed: number,
  folder: string,
): Promise<Slice> {
  const start = Date.now();
  const programs = programsFor(seed, Number(values.functions));
  const jobs = Math.min(Number(values.jobs), programs);
  const tally = new Tally();
  let done = 0;
  const progress = setInterval(() => console.error(`seed ${seed}: ${done} of ${programs} programs`), 30_000);
  const worker = (k: number): Promise<void> =>
    new Promise((fulfil, reject) => {
      const own = ["--worker", `${k}/${jobs}/${programs}`, "--folder", folder, "--seed", `${seed}`];
      const child = spawn(process.execPath, [script, ...argv, ...own], { stdio: ["ignore", "pipe", "inherit"] });
      createInterface({ input: child.stdout }).on("line", (line) => {
        done++;
        tally.add(JSON.parse(line) as ProgramRecord);
      });
      child.on("error", reject);
      child.on("close", (status) => (status === 0 ? fulfil() : reject(new Error(`worker ${k} ended with ${status}`))));
    });
  try {
    await Promise.all(Array.from({ length: jobs }, (_, k) => worker(k)));
  } finally {
    clearInterval(progress);
  }
  return tally.slice(seed, (Date.now() - start) / 1000);
}

async function work(values: Values): Promise<number> {
  const [k, jobs, programs] = values.worker!.split("/").map(Number);
  const toolkit = await loadToolkit(values.dist);
  const own = judgeOptions(values, values.folder!);
  for (let index = k!; index < programs!; index += jobs!) {
    const line = `${JSON.stringify(judge(toolkit, index, own))}\n`;
    await new Promise((written) => process.stdout.write(line, written));
  }
  return 0;
}
