/**
 * `npm run fuzz`: damaged files, each with every command that reads files.
 *
 *     --from N --count N     seeds [N, N + count): the mutants, in whichever order and slices (0, 2000)
 *     --jobs N               processes (one a CPU)           --minutes M    the slice ends then, with what is done (55)
 *     --out FILE             JSON: slices and what they come to; the slice is added
 *     --sum FILE             prints what the slices in FILE come to, and runs nothing
 *     --seed N,N,...         tries those, and prints what became of them; --keep DIR writes each mutant
 *
 * The exit status is 3 where there is a fault.
 */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type Fault, type Slice, Tally, table, total } from "./tally.js";
import { CHUNK, watch } from "./watch.js";
import { Judge, work } from "./worker.js";
import { writeBases } from "./write-bases.js";

const options = {
  from: { type: "string", default: "0" },
  count: { type: "string", default: "2000" },
  jobs: { type: "string", default: `${availableParallelism()}` },
  minutes: { type: "string", default: "55" },
  out: { type: "string" },
  sum: { type: "string" },
  seed: { type: "string" },
  keep: { type: "string" },
} as const;

/** @param script this program, as workers are started with it */
export async function main(script: string, argv: readonly string[]): Promise<number> {
  if (argv[0] === "--worker") {
    await work(argv[1]!, argv[2]!);
    return 0;
  }
  const { values } = parseArgs({ args: [...argv], options });
  if (values.sum !== undefined) return print(total(slicesIn(values.sum)));
  // In memory where that can be had: each mutant is a few files.
  const folder = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "usdt-fuzz-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => process.exit(1));
  for (const what of await writeBases(folder)) console.error(`not built here: ${what}`);
  if (values.seed !== undefined) return some(folder, values.seed.split(",").map(Number), values.keep);
  const earlier = values.out === undefined ? [] : slicesIn(values.out);
  const [from, count] = [Number(values.from), Number(values.count)];
  const slice = await runSlice(script, folder, from, count, Number(values.jobs), Number(values.minutes));
  if (values.out !== undefined) {
    const slices = [...earlier, slice];
    const { counts, mutants, faults } = total(slices);
    writeFileSync(
      values.out,
      `${JSON.stringify({ total: { mutants, faults: faults.length, counts }, slices }, null, 1)}\n`,
    );
  }
  return print(slice);
}

function print(slice: Slice): number {
  console.log(table(slice));
  for (const { seed, base, what } of slice.faults.slice(0, 40)) console.log(`${seed} ${base}: ${what}`);
  return slice.faults.length > 0 ? 3 : 0;
}

const slicesIn = (file: string): readonly Slice[] =>
  existsSync(file) ? (JSON.parse(readFileSync(file, "utf8")) as { slices: Slice[] }).slices : [];

async function some(folder: string, seeds: readonly number[], keep: string | undefined): Promise<number> {
  const own = join(folder, "work");
  mkdirSync(own);
  if (keep !== undefined) mkdirSync(keep, { recursive: true });
  const judge = await Judge.start(folder, own, () => {});
  let status = 0;
  for (const seed of seeds) {
    const { bytes, table, changes } = judge.mutant(seed);
    const { outcomes, fault } = await judge.judge(seed);
    console.log(`${seed} ${judge.baseOf(seed).name}, ${table}: ${changes.join("; ")}`);
    console.log(
      `  ${Object.entries(outcomes)
        .map(([command, outcome]) => `${command}: ${outcome}`)
        .join(", ")}`,
    );
    if (fault !== null) console.log(`  ${fault}`);
    if (fault !== null) status = 3;
    if (keep === undefined) continue;
    writeFileSync(join(keep, `${seed}`), bytes, { mode: 0o755 });
    if (existsSync(join(own, "output"))) copyFileSync(join(own, "output"), join(keep, `${seed}.output`));
  }
  return status;
}

async function runSlice(
  script: string,
  folder: string,
  from: number,
  count: number,
  jobs: number,
  minutes: number,
): Promise<Slice> {
  const start = Date.now();
  const faults: Fault[] = [];
  const tally = new Tally();
  let taken = from;
  let mutants = 0;
  const progress = setInterval(() => console.error(`${mutants} of ${count}, ${faults.length} faults`), 30_000);
  const watched = {
    take: () => {
      if (taken >= from + count || Date.now() - start > minutes * 60_000) return undefined;
      const task = { from: taken, to: Math.min(taken + CHUNK, from + count) };
      taken = task.to;
      return task;
    },
    judged: (
      seed: number,
      base: string,
      { outcomes, fault }: { outcomes: Readonly<Record<string, string>>; fault: string | null },
    ) => {
      mutants++;
      tally.add(outcomes);
      if (fault === null) return;
      faults.push({ seed, base, what: fault });
      console.error(`${seed} ${base}: ${fault}`);
    },
  };
  const { cpuSeconds, peak } = await watch(script, folder, jobs, watched);
  clearInterval(progress);
  return { from, mutants, seconds: (Date.now() - start) / 1000, cpuSeconds, peak, counts: tally.counts, faults };
}
