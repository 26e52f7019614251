/** Rewritten programs are the same programs: every tactic, layout and guard. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { FileFacts } from "../../src/facts/file-facts.js";
import { examineCode, gatherEvidence } from "../../src/verify/sites.js";
import { judge } from "../../src/verify/verdicts.js";
import { corpus, corpusPath } from "../packages/corpus.js";
import { compileFamily } from "../redzone/family.js";
import { canCompile, compile, manyProbes } from "../rewrite/compile.js";
import { type Rewritten, rewriteFile, tacticsLibrary } from "./planting.js";

const layouts = ["nop5", "nop,nop5", "nop,nop10"] as const;

/** What is not as it must be: sites that are not equivalent, code that nobody explains. */
function complaints({ facts, bytes }: Rewritten): string[] {
  const { sites, unexplained } = examineCode(parseElf(bytes), facts);
  return [
    ...sites.filter((s) => s.verdict !== "equivalent").map((s) => `${s.name}: ${s.verdict}, ${s.reason}`),
    ...unexplained.map((s) => `unexplained from 0x${s.start.toString(16)} to 0x${s.end.toString(16)}`),
  ];
}

describe.skipIf(!canCompile)("a rewritten program", () => {
  it("uses every tactic, and is equivalent at every site", async () => {
    const path = await tacticsLibrary();
    const { report } = rewriteFile(path, "nop5");
    expect(report.sites.map((s) => [s.name, s.tactic])).toEqual([
      ["in_place", "in-place"],
      ["shift", "shift"],
      ["displace", "displace"],
      ["branches", "displace"],
      ["pairs", "displace"],
      ["straddle", "straddle"],
      ["call_through", "call-through"],
      ["retarget", "retarget"],
      ["hop", "hop"],
      ["widened", "retarget-short"],
      ["relay", "retarget-short"],
      ["moved", "retarget-short"],
      ["hop_twice", "hop"],
      ["hop_retarget", "hop-retarget"],
      ["evict", "evict"],
      ["displace_call", "displace-call"],
      ["guarded", "displace"],
      ["edge", "in-place"],
    ]);
    expect(report.sites.find((s) => s.name === "guarded")!.guard).toBe(true);
    for (const layout of layouts) expect(complaints(rewriteFile(path, layout)), layout).toEqual([]);
  });

  it("is run from states that pass each probe and take both ways of each branch", async () => {
    const { facts, bytes } = rewriteFile(await tacticsLibrary(), "nop5");
    const evidence = gatherEvidence(parseElf(bytes), facts);
    for (const site of judge(evidence).sites) expect(site.states, site.name).toBeGreaterThanOrEqual(6);
    expect(evidence.found.flatMap(({ runs }) => runs.flatMap((r) => r.untaken))).toEqual([]);
  });

  it.each(["gcc", "clang"] as const)("is equivalent where probes are guarded: functions of %s", async (compiler) => {
    const { path } = await compileFamily(compiler, "-O2");
    for (const layout of ["nop5", "nop,nop10"] as const)
      expect(complaints(rewriteFile(path, layout)), layout).toEqual([]);
  });

  it("is equivalent in a program with fixed addresses", async () => {
    const path = await compile(manyProbes(40), "-no-pie", "-static", "-falign-functions=1");
    expect(complaints(rewriteFile(path, "nop5"))).toEqual([]);
  });

  it("is equivalent where sites stay as they are", async () => {
    const path = await compile(manyProbes(3));
    const original = parseElf(readFileSync(path));
    const { sites, explained, unexplained } = examineCode(original, new FileFacts(original));
    expect(sites.map((s) => [s.verdict, s.states])).toEqual(sites.map(() => ["equivalent", 0]));
    expect([...explained, ...unexplained]).toEqual([]);
  });
});

/** LONG=1 takes all of them, of the largest one. Else the layouts are dealt out, and libjvm is left to guard.test.ts. */
function layoutsOf(name: string): readonly (typeof layouts)[number][] {
  if (name === "libjvm" || process.env.LONG === "1") return name === "libjvm" ? ["nop5"] : layouts;
  return name === "libstdcxx" ? layouts : [layouts[["postgres", "php", "python"].indexOf(name)]!];
}

describe("the Debian packages, rewritten", () => {
  const files = Object.entries(corpus).filter(([name]) => name !== "libjvm" || process.env.LONG === "1");
  it.each(files)("%s: every site is equivalent", { timeout: 300_000 }, (name, file) => {
    for (const layout of layoutsOf(name)) {
      const rewritten = rewriteFile(corpusPath(file), layout);
      expect(complaints(rewritten), layout).toEqual([]);
      expect(rewritten.report.sites).toHaveLength(file.sites);
    }
  });
});
