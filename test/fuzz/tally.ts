/** What many mutants come to: by command, how many there were of each outcome; and the faults, each with its number. */
import type { Outcomes } from "./trial.js";

/** By command, then by outcome. */
export type Counts = Readonly<Record<string, Readonly<Record<string, number>>>>;

export interface Fault {
  readonly seed: number;
  readonly base: string;
  readonly what: string;
}

/** Mutants of seeds that follow each other. */
export interface Slice {
  readonly from: number;
  readonly mutants: number;
  readonly seconds: number;
  /** CPU time of the processes that tried them. */
  readonly cpuSeconds: number;
  /** Largest memory of such a process, in bytes. */
  readonly peak: number;
  readonly counts: Counts;
  readonly faults: readonly Fault[];
}

/** One more of an outcome, or so many. */
function count(into: Record<string, Record<string, number>>, command: string, outcome: string, by = 1): void {
  const outcomes = into[command] ?? {};
  outcomes[outcome] = (outcomes[outcome] ?? 0) + by;
  into[command] = outcomes;
}

/** Counts that grow. */
export class Tally {
  readonly counts: Record<string, Record<string, number>> = {};

  add(outcomes: Outcomes): void {
    for (const [command, outcome] of Object.entries(outcomes)) count(this.counts, command, outcome);
  }
}

function sumOf(all: readonly Counts[]): Counts {
  const sum: Record<string, Record<string, number>> = {};
  for (const counts of all)
    for (const [command, by] of Object.entries(counts))
      for (const [outcome, n] of Object.entries(by)) count(sum, command, outcome, n);
  return sum;
}

/** Slices of different seeds as one. @throws Error where a seed is in two of them */
export function total(slices: readonly Slice[]): Slice {
  const ordered = [...slices].sort((a, b) => a.from - b.from);
  ordered.forEach((slice, i) => {
    const next = ordered[i + 1];
    if (next !== undefined && slice.from + slice.mutants > next.from)
      throw new Error(`seed ${next.from} is in two slices: it would be counted twice`);
  });
  const add = (of: (slice: Slice) => number): number => slices.reduce((sum, slice) => sum + of(slice), 0);
  return {
    from: ordered[0]?.from ?? 0,
    mutants: add((s) => s.mutants),
    seconds: add((s) => s.seconds),
    cpuSeconds: add((s) => s.cpuSeconds),
    peak: Math.max(0, ...slices.map((s) => s.peak)),
    counts: sumOf(slices.map((s) => s.counts)),
    faults: slices.flatMap((s) => s.faults),
  };
}

/** For people. */
export function table({ mutants, seconds, cpuSeconds, peak, counts, faults }: Slice): string {
  const rate = seconds === 0 ? 0 : (60 * mutants) / seconds;
  const lines = [
    `${mutants} mutants in ${seconds.toFixed(0)} s (${cpuSeconds.toFixed(0)} s of CPU), ${rate.toFixed(0)} a minute; at most ${(peak / 2 ** 20).toFixed(0)} MB`,
  ];
  for (const [command, by] of Object.entries(counts))
    lines.push(
      `${command.padEnd(22)} ${Object.entries(by)
        .sort(([, a], [, b]) => b - a)
        .map(([outcome, count]) => `${outcome} ${count}`)
        .join(", ")}`,
    );
  lines.push(`faults: ${faults.length}`);
  return lines.join("\n");
}
