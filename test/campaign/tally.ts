/** What many functions come to: totals, and the same by each kind. */
import { dimensions } from "./function.js";
import type { FunctionRecord, ProgramRecord } from "./judge.js";

export const counters = [
  "functions",
  "sites",
  "rewritten",
  "touched",
  "wrong",
  "wrongTraced",
  "wrongEquivalent",
  "soundDifferent",
  "unproved",
  "traced",
] as const;
export type Counts = Record<(typeof counters)[number], number>;

export interface Slice {
  readonly seed: number;
  readonly programs: number;
  readonly seconds: number;
  readonly total: Counts;
  readonly byKind: Readonly<Record<string, Counts>>;
  /** Wrong functions that only break what the documentation assumes: not in the figures of `wrong`. */
  readonly assumptions: Readonly<Record<string, number>>;
  /** Why sites of controls were left as they are: that is what carefulness costs. */
  readonly skipped: Readonly<Record<string, number>>;
  readonly impossible: number;
  readonly broken: readonly string[];
  readonly errors: readonly string[];
  /** About files in which no function is wrong. */
  readonly findings: readonly string[];
  /** Programs with a wrong function, and those of them of which verify says nothing at all. */
  readonly wrongFiles: number;
  readonly wrongFilesEquivalent: number;
  readonly examples: readonly FunctionRecord[];
}

const none = (): Counts => Object.fromEntries(counters.map((name) => [name, 0])) as Counts;

/** Wrong, and nobody but the CPU says so. */
export const calledEquivalent = (f: FunctionRecord): boolean =>
  isWrong(f) && f.different === 0 && f.unproved === 0 && f.equivalent > 0;
export const isWrong = (f: FunctionRecord): boolean => f.untraced === "wrong" || f.traced === "wrong";
/** Verify says that something differs, and nothing does, from whatever this function can be given. */
export const calledDifferent = (f: FunctionRecord): boolean => f.untraced === "same" && !isWrong(f) && f.different > 0;

function add(counts: Counts, f: FunctionRecord): void {
  const excused = f.assumption !== null;
  counts.functions++;
  counts.sites += f.sites;
  counts.rewritten += f.rewritten;
  if (f.rewritten > 0) counts.touched++;
  if (f.traced !== null) counts.traced++;
  counts.unproved += f.unproved;
  if (calledDifferent(f)) counts.soundDifferent++;
  if (excused) return;
  if (f.untraced === "wrong") counts.wrong++;
  if (f.traced === "wrong") counts.wrongTraced++;
  if (calledEquivalent(f)) counts.wrongEquivalent++;
}

function kindsOf(f: FunctionRecord): string[] {
  const kinds = dimensions
    .map((dimension) => `${dimension}: ${f.kinds[dimension]}`)
    .filter((kind) => !kind.endsWith(": -"));
  const amount = f.unusual === 0 ? "control" : f.unusual === 1 ? "one unusual" : "several unusual";
  return [...kinds, `things: ${amount}`, `link: ${f.link}`, `layout: ${f.layout}`, `cfi: ${f.cfi ? "yes" : "no"}`];
}

/** Examples that are kept of each kind of failure and its cause. */
const MOST_EXAMPLES = 400;

export class Tally {
  private readonly total = none();
  private readonly byKind: Record<string, Counts> = {};
  private readonly assumptions: Record<string, number> = {};
  private readonly skipped: Record<string, number> = {};
  private readonly records: FunctionRecord[] = [];
  private readonly lists = { broken: [] as string[], errors: [] as string[], findings: [] as string[] };
  private impossible = 0;
  private programs = 0;
  private wrongFiles = 0;
  private wrongFilesEquivalent = 0;

  add(record: ProgramRecord): void {
    this.programs++;
    this.impossible += record.impossible;
    const wrong = record.functions.filter((f) => isWrong(f) && f.assumption === null).length > 0;
    for (const name of ["broken", "errors"] as const) this.lists[name].push(...record[name]);
    if (!record.functions.some(isWrong)) this.lists.findings.push(...record.findings);
    const silent = record.findings.length === 0 && record.functions.every((f) => f.different + f.unproved === 0);
    if (wrong) this.wrongFiles++;
    if (wrong && silent) this.wrongFilesEquivalent++;
    for (const f of record.functions) {
      add(this.total, f);
      for (const kind of kindsOf(f)) {
        this.byKind[kind] ??= none();
        add(this.byKind[kind], f);
      }
      if (f.unusual === 0)
        for (const reason of f.skipped) {
          const kind = reason.replace(/0x[0-9a-f]+/g, "X");
          this.skipped[kind] = (this.skipped[kind] ?? 0) + 1;
        }
      if (f.assumption !== null && isWrong(f))
        this.assumptions[f.assumption] = (this.assumptions[f.assumption] ?? 0) + 1;
      if ((isWrong(f) || f.different > 0 || f.unproved > 0) && this.records.length < MOST_EXAMPLES)
        this.records.push(f);
    }
  }

  slice(seed: number, seconds: number): Slice {
    const { total, byKind, assumptions, skipped, impossible, programs, wrongFiles, wrongFilesEquivalent, records } =
      this;
    const counts = { programs, impossible, wrongFiles, wrongFilesEquivalent };
    return { seed, seconds, total, byKind, assumptions, skipped, ...counts, ...this.lists, examples: records };
  }
}

const plus = (a: Counts | undefined, b: Counts): Counts =>
  Object.fromEntries(counters.map((name) => [name, (a?.[name] ?? 0) + b[name]])) as Counts;

/** Slices of different seeds as one. */
export function sum(slices: readonly Slice[]): Slice {
  const byKind: Record<string, Counts> = {};
  const assumptions: Record<string, number> = {};
  const skipped: Record<string, number> = {};
  for (const slice of slices) {
    for (const [kind, counts] of Object.entries(slice.byKind)) byKind[kind] = plus(byKind[kind], counts);
    for (const [reason, count] of Object.entries(slice.skipped)) skipped[reason] = (skipped[reason] ?? 0) + count;
    for (const [name, count] of Object.entries(slice.assumptions)) assumptions[name] = (assumptions[name] ?? 0) + count;
  }
  return {
    seed: slices[0]?.seed ?? 0,
    programs: slices.reduce((n, s) => n + s.programs, 0),
    seconds: slices.reduce((n, s) => n + s.seconds, 0),
    total: slices.reduce((counts, s) => plus(counts, s.total), none()),
    byKind,
    assumptions,
    skipped,
    impossible: slices.reduce((n, s) => n + s.impossible, 0),
    wrongFiles: slices.reduce((n, s) => n + s.wrongFiles, 0),
    wrongFilesEquivalent: slices.reduce((n, s) => n + s.wrongFilesEquivalent, 0),
    broken: slices.flatMap((s) => s.broken),
    errors: slices.flatMap((s) => s.errors),
    findings: slices.flatMap((s) => s.findings),
    examples: slices.flatMap((s) => s.examples),
  };
}

const headings = [
  "functions",
  "sites",
  "rewritten",
  "touched",
  "wrong",
  "wrong traced",
  "wrong called equivalent",
  "sound called different",
  "unproved sites",
  "traced",
];

const percent = (part: number, whole: number): string =>
  whole === 0 ? "none" : `${((100 * part) / whole).toFixed(1)} %`;

/** A table for people: a line a kind. */
export function table(slice: Slice): string {
  const order = [
    "things",
    "language",
    "special",
    "index",
    "base",
    "table",
    "combine",
    "carry",
    "leave",
    "where",
    "link",
    "layout",
    "cfi",
  ];
  const kinds = Object.keys(slice.byKind).sort((a, b) => {
    const rank = (kind: string): number => order.indexOf(kind.split(":")[0]!);
    return rank(a) - rank(b) || (a < b ? -1 : 1);
  });
  const width = Math.max(10, ...kinds.map((kind) => kind.length));
  const widths = headings.map((heading) => Math.max(6, ...heading.split(" ").map((word) => word.length)));
  const height = Math.max(...headings.map((heading) => heading.split(" ").length));
  const lines = Array.from({ length: height }, (_, row) => {
    const cells = headings.map((heading, i) => {
      const words = heading.split(" ");
      return (words[row - height + words.length] ?? "").padStart(widths[i]!);
    });
    return `${"".padEnd(width)} ${cells.join(" ")}`;
  });
  const row = (name: string, counts: Counts): string =>
    `${name.padEnd(width)} ${counters.map((counter, i) => `${counts[counter]}`.padStart(widths[i]!)).join(" ")}`;
  lines.push(row("all", slice.total), ...kinds.map((kind) => row(kind, slice.byKind[kind]!)));
  const { programs, seconds, impossible, broken, errors, findings } = slice;
  lines.push(
    "",
    `${programs} programs in ${seconds.toFixed(0)} s; ${impossible} functions that no compiler takes, ${broken.length} that do not run as they are`,
    `assumptions broken: ${
      Object.entries(slice.assumptions)
        .map(([name, n]) => `${name}: ${n}`)
        .join("; ") || "none"
    }`,
    `errors thrown: ${errors.length}; findings about files in which nothing is wrong: ${findings.length}`,
    `programs with a wrong function: ${slice.wrongFiles}, of which verify has nothing to say: ${slice.wrongFilesEquivalent}`,
    `unproved: ${percent(slice.total.unproved, slice.total.rewritten)} of the rewritten sites; of the controls' sites ${percent(slice.byKind["things: control"]?.rewritten ?? 0, slice.byKind["things: control"]?.sites ?? 0)} were rewritten, and were not because:`,
    ...Object.entries(slice.skipped)
      .sort(([, a], [, b]) => b - a)
      .slice(0, 12)
      .map(([reason, n]) => `${String(n).padStart(7)}  ${reason}`),
    ...errors.slice(0, 10),
    ...findings.slice(0, 10),
  );
  return lines.join("\n");
}
