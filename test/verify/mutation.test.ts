/**
 * Verification can fail: faults are planted by the hundred into rewritten files, and every one of them is reported.
 *
 * The plan of faults is made from the two files and knows nothing of verification; a change that makes no difference is not
 * planted (see mutation/semantics.ts). Each file with a fault is held against its original, the one it carries and the one
 * given: twice where the two are not the same. Then a number of them go through the command.
 *
 * LONG=1 plants more of them, into the Debian packages and the red-zone family as well.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { usdtNop5 } from "../command.js";
import { SMOKE } from "../extent.js";
import { build } from "../fixtures/build.js";
import { corpus, corpusPath } from "../packages/corpus.js";
import { compileFamily } from "../redzone/family.js";
import { canCompile } from "../rewrite/compile.js";
import { codeFaults } from "./mutation/code-faults.js";
import { chosen, type Fault, plant } from "./mutation/fault.js";
import { fileFaults } from "./mutation/file-faults.js";
import { examine, type Finding } from "./mutation/judging.js";
import { probeFaults } from "./mutation/probe-faults.js";
import { type FixedLayout, Subject } from "./mutation/spots.js";
import { tableOf } from "./mutation/table.js";
import { wayFaults } from "./mutation/way-faults.js";
import { tacticsLibrary } from "./planting.js";

const LONG = process.env.LONG === "1";
const SEED = 20_261_122;
const layouts: readonly FixedLayout[] = ["nop5", "nop,nop5", "nop,nop10"];

const folder = mkdtempSync(join(tmpdir(), "usdt-mutation-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function mutants(): Promise<string> {
  const source = fileURLToPath(new URL("./mutation/mutants.S", import.meta.url));
  const built = await build({ output: "mutants.so", compiler: "gcc", sources: [source], flags: ["-shared", "-fPIC"] });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return built.path;
}

/** All faults that can be planted into a file in its layouts. */
const faultsIn = (name: string, path: string, among: readonly FixedLayout[]): Fault[] =>
  among
    .map((layout) => Subject.of(name, path, layout))
    .flatMap((subject) => [
      ...codeFaults(subject),
      ...wayFaults(subject),
      ...probeFaults(subject),
      ...fileFaults(subject, SEED),
    ]);

const describeFault = ({ subject, kind, what, tactic }: Fault): string =>
  `${subject.name} (${subject.layout}), ${kind} at ${tactic}: ${what}`;

const findings: Finding[] = [];

/** Plants faults, some of all; returns those that are not reported. */
function missedOf(faults: readonly Fault[], count: number, asksWays = true): string[] {
  const now = chosen(faults, count, SEED).map((fault) => examine(fault, undefined, asksWays));
  if (asksWays) findings.push(...now);
  return now.filter((f) => !f.given || !f.alone).map((f) => [describeFault(f.fault), ...f.says].join("; "));
}

describe.skipIf(!canCompile)("every planted fault is reported as different", () => {
  let small: Fault[] = [];
  beforeAll(async () => {
    small = [...faultsIn("mutants", await mutants(), layouts), ...faultsIn("tactics", await tacticsLibrary(), layouts)];
  });

  it("in programs that have every tactic, with and without a guard", { timeout: 600_000 }, () => {
    expect(missedOf(small, LONG ? 900 : SMOKE ? 9 : 170)).toEqual([]);
    if (SMOKE) return;
    const planted = (of: (fault: Fault) => string): Set<string> => new Set(findings.map((f) => of(f.fault)));
    // Each kind, and each tactic in each layout, has its share.
    expect(planted((f) => f.kind)).toEqual(new Set(small.map((f) => f.kind)));
    const place = (f: Fault): string => `${f.tactic} ${f.subject.layout}`;
    expect([...planted(place)].sort()).toEqual([...new Set(small.map(place))].sort());
  });

  it.runIf(LONG).each([["gcc", "-O2"] as const, ["clang", "-O0"] as const])(
    "in functions of %s %s that need bytes below rsp",
    { timeout: 900_000 },
    async (compiler, level) => {
      const { path } = await compileFamily(compiler, level);
      expect(missedOf(faultsIn(`family, ${compiler} ${level}`, path, layouts), 100)).toEqual([]);
    },
  );

  const counts = { libjvm: 60, postgres: 150, php: 200, python: 100, libstdcxx: 150 };
  it.runIf(LONG).each(Object.entries(counts))("in a Debian package: %s", { timeout: 1_800_000 }, (name, count) => {
    const path = corpusPath(corpus[name as keyof typeof corpus]);
    expect(missedOf(faultsIn(name, path, name === "libjvm" ? ["nop5"] : layouts), count, false)).toEqual([]);
  });

  it("by the command, with exit status 3", async () => {
    const sample = chosen(small, SMOKE ? 4 : 40, SEED + 1);
    const originals = new Map<Subject, string>();
    const wrong: string[] = [];
    const one = async (fault: Fault, i: number): Promise<void> => {
      const { subject } = fault;
      const file = join(folder, `${i}`);
      writeFileSync(file, plant(fault));
      let original = originals.get(subject);
      if (original === undefined) {
        original = join(folder, `original-${originals.size}`);
        writeFileSync(original, subject.rewritten.original.bytes);
        originals.set(subject, original);
      }
      // One alone, the next with its original.
      const options = i % 2 === 0 ? [] : ["--original", original];
      const { status, stdout, stderr } = await usdtNop5("verify", "--json", ...options, file);
      const { summary } =
        status === 3 ? (JSON.parse(stdout) as { summary: { different: number } }) : { summary: undefined };
      if (!((summary?.different ?? 0) > 0)) wrong.push(`${describeFault(fault)}: exit ${status} ${stderr}`);
    };
    for (let i = 0; i < sample.length; i += 2)
      await Promise.all(sample.slice(i, i + 2).map((fault, k) => one(fault, i + k)));
    expect(wrong).toEqual([]);
  });

  afterAll(() => {
    if (findings.length > 0) console.log(tableOf(findings));
  });
});

describe.skipIf(!canCompile)("a file without a fault", () => {
  it("is not reported", async () => {
    for (const layout of layouts) {
      const subject = Subject.of("mutants", await mutants(), layout);
      const clean = examine(
        { subject, kind: "", tactic: "", note: undefined, what: "", patches: [] },
        subject.rewritten.bytes,
      );
      expect([clean.given, clean.alone, clean.byProof, clean.byRuns, clean.byRest]).toEqual(Array(5).fill(false));
      expect(clean.says).toEqual([]);
    }
  });
});
