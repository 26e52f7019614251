/**
 * A process that tries mutants, one after the other, as long as it is given seeds. It lives on, as warm as it gets, and is
 * watched from outside (watch.ts): it says what it is about to do before it does it.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Runs } from "./bases.js";
import { type Damageable, damageable, mutantOf } from "./mutate.js";
import { runners } from "./native.js";
import { type Judged, Trial } from "./trial.js";

/** The bases as files of a folder, beside index.json that lists them in order. */
export interface BaseFile {
  readonly name: string;
  readonly file: string;
  readonly runs: Runs;
}

/** What the worker says. */
export type Report =
  | { readonly kind: "ready" }
  | { readonly kind: "command"; readonly seed: number; readonly base: string; readonly command: string }
  | {
      readonly kind: "judged";
      readonly seed: number;
      readonly base: string;
      readonly judged: Judged;
      readonly peak: number;
    };

/** Seeds [from, to). */
export interface Task {
  readonly from: number;
  readonly to: number;
}

export const readIndex = (folder: string): readonly BaseFile[] =>
  JSON.parse(readFileSync(join(folder, "index.json"), "utf8")) as BaseFile[];

/** Judges the mutants of seeds: of base `seed % bases`. */
export class Judge {
  private readonly known = new Map<string, { readonly file: Damageable; readonly behaviour: string | null }>();

  constructor(
    private readonly folder: string,
    private readonly bases: readonly BaseFile[],
    private readonly native: Awaited<ReturnType<typeof runners>>,
    private readonly trials: Readonly<Record<Runs, Trial>>,
  ) {}

  static async start(folder: string, work: string, tell: (command: string) => void): Promise<Judge> {
    const native = await runners();
    const of = (runs: Runs): Trial => new Trial(work, native[runs], tell);
    const trials = { program: of("program"), library: of("library"), not: of("not") };
    return new Judge(folder, readIndex(folder), native, trials);
  }

  baseOf(seed: number): BaseFile {
    return this.bases[seed % this.bases.length]!;
  }

  mutant(seed: number): ReturnType<typeof mutantOf> {
    return mutantOf(this.prepared(this.baseOf(seed)).file, seed);
  }

  judge(seed: number): Promise<Judged> {
    const base = this.baseOf(seed);
    const { bytes } = this.mutant(seed);
    return this.trials[base.runs].judge({ seed, bytes, behaviour: this.prepared(base).behaviour });
  }

  private prepared(base: BaseFile): { readonly file: Damageable; readonly behaviour: string | null } {
    const known = this.known.get(base.name);
    if (known !== undefined) return known;
    const path = join(this.folder, base.file);
    const run = this.native[base.runs];
    const seen = run === null ? [] : [run(path), run(path), run(path)];
    // What is another thing each time shows nothing.
    const behaviour = seen.length > 0 && seen.every((one) => one === seen[0]) ? seen[0]! : null;
    const made = { file: damageable(readFileSync(path)), behaviour };
    this.known.set(base.name, made);
    return made;
  }
}

export async function work(folder: string, own: string): Promise<void> {
  const say = (report: Report): void => void process.send!(report);
  let seed = 0;
  let base = "";
  const judge = await Judge.start(folder, own, (command) => say({ kind: "command", seed, base, command }));
  process.on("disconnect", () => process.exit());
  const tasks = (async function* (): AsyncGenerator<Task> {
    for (;;) yield await new Promise<Task>((resolve) => process.once("message", (task) => resolve(task as Task)));
  })();
  say({ kind: "ready" });
  for await (const { from, to } of tasks) {
    for (seed = from; seed < to; seed++) {
      base = judge.baseOf(seed).name;
      say({ kind: "command", seed, base, command: "making the mutant" });
      const judged = await judge.judge(seed);
      // Messages go out, and whoever watches has ended may be seen.
      await new Promise((resolve) => setImmediate(resolve));
      say({ kind: "judged", seed, base, judged, peak: process.resourceUsage().maxRSS * 1024 });
    }
    if (!existsSync(folder)) process.exit();
    say({ kind: "ready" });
  }
}
