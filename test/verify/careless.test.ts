/**
 * Careless rewriters: for each kind of knowledge one that lacks it, and one that lacks all of it. Each writes broken files, which
 * is to say that the kind is needed and that the programs can show it; and verify objects to every broken file. It must do so, too,
 * if its own facts lack the same: then only the witness, which shares nothing with them, can see it.
 *
 * Broken is what runs differently. One kind shows only when somebody attaches: a probe where rsp is no stack pointer.
 *
 * CARELESS=all (or LONG=1) tries every lack on every program, and prints the table; else each lack is tried on programs that
 * it is known to break.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { canCompile } from "../rewrite/compile.js";
import { allPrograms, type Program } from "./careless/programs.js";
import { LACKS, type Lack, type Trial, tryWithout } from "./careless/trial.js";

const ALL = process.env.CARELESS === "all" || process.env.LONG === "1";

/** Programs, by how their names begin, that each lack breaks. */
const breaks: Readonly<Record<Lack, readonly string[]>> = {
  "near branches": ["far-branch pie", "cold-branch no-pie"],
  "short branches": ["loop pie", "straddle-entered no-pie"],
  relocations: ["own relocated-variable pie"],
  symbols: ["symbol pie", "symbol no-pie"],
  "entry points": ["entry bare"],
  "landing pads": ["landing-pad no-pie"],
  "patch tables": ["patchable-before pie", "rseq-range no-pie"],
  "absolute words": ["init-array no-pie", "proof packed pointers"],
  "self-relative words": ["own fault-table pie", "own fault-table no-pie"],
  tables: ["table-pic pie", "table-absolute-in-text no-pie", "label-difference no-pie", "proof retpolines in line"],
  "addresses in code": ["lea pie", "immediate no-pie"],
  "sums of code": ["own sum-elsewhere pie", "own sum-elsewhere no-pie"],
  "unknown jumps": [
    "label-handed-over pie",
    "label-handed-over no-pie",
    "word-",
    "sum-in-entered-frame",
    "sum-in-mask",
  ],
  "data in code": ["own data-like-padding pie", "own data-like-padding no-pie"],
  "faulting addresses": ["own fault-known pie", "proof faulting address"],
  "return addresses": ["proof return address"],
  "reads below rsp": ["own reads-below-rsp pie", "own reads-below-rsp no-pie"],
  "stack pointer": ["own stack-as-data pie", "proof rsp as data pointer"],
  "status flags": ["own flags-over-the-probe pie", "own flags-over-the-probe no-pie"],
  anything: ["proof "],
};

/** Broken only while traced. */
const shownByTracing: ReadonlySet<Lack> = new Set(["stack pointer"]);

/**
 * What version 0.1 let through breaks as well if nothing is known: but for where it matters which way is found, and another is found
 * then, and for what only tracing shows.
 */
const letThrough = allPrograms()
  .map(({ name }) => name)
  .filter((name) => name.startsWith("proof ") && !/address|rsp as data/.test(name));

const lacksOf = ({ name }: Program): readonly Lack[] =>
  ALL ? LACKS : LACKS.filter((lack) => breaks[lack].some((start) => name.startsWith(start)));

describe.runIf(canCompile)("careless rewriters", () => {
  const trials: Trial[] = [];

  beforeAll(async () => {
    for (const program of allPrograms()) {
      const lacks = lacksOf(program);
      if (lacks.length === 0) continue;
      const built = await program.build();
      if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
      trials.push(...(await tryWithout(program.name, built.path, lacks)));
    }
  }, 1_800_000);

  it.each(LACKS)("without %s", (lack) => {
    const own = trials.filter((trial) => trial.lack === lack);
    const bad = own.filter(({ broken }) => broken || shownByTracing.has(lack));
    const programs = lack === "anything" ? letThrough : breaks[lack];
    for (const start of programs) expect(bad.map(({ program }) => program).join("\n")).toContain(start);
    const missed = namesOf(bad.filter(({ objections }) => objections.length === 0));
    expect(missed).toEqual([]);
    expect(namesOf(bad.filter(({ blind }) => blind.length === 0))).toEqual([]);
  });

  afterAll(() => {
    if (ALL) console.log(tableOf(trials));
  });
});

const namesOf = (trials: readonly Trial[]): string[] => trials.map(({ lack, program }) => `${lack}: ${program}`);

function tableOf(trials: readonly Trial[]): string {
  const rows = LACKS.map((lack) => {
    const own = trials.filter((trial) => trial.lack === lack);
    const broken = own.filter((trial) => trial.broken);
    const caught = broken.filter(({ objections }) => objections.length > 0);
    const blind = broken.filter((trial) => trial.blind.length > 0);
    return [lack, own.length, broken.length, caught.length, blind.length];
  });
  const missed = trials.filter((t) => t.broken && (t.objections.length === 0 || t.blind.length === 0));
  const lines = [["without", "files that differ", "broken", "caught", "by the witness alone"], ...rows].map((row) =>
    row.join(" | "),
  );
  return [...lines, ...namesOf(missed).map((name) => `missed: ${name}`)].join("\n");
}
