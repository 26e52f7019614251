/**
 * Every rewritten probe of the five Debian packages, with the code around it, run by two threads while a tracer comes and
 * goes once: everything that can happen, searched exhaustively, and nothing is wrong. Prints what that took.
 *
 * Twenty probes on one kernel; LONG=1 takes all of them, on 6.18 as nop5 and on 7.2 as nop,nop10, and builds two faults into
 * the kernel at each, which have to be found there.
 */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { type Fault, faultNamed } from "../../src/patching/faults.js";
import type { Program } from "../../src/patching/programs.js";
import { type RealSite, realSites } from "../../src/patching/real-site.js";
import { explore, type Result } from "../../src/patching/scenario.js";
import type { Kernel as AnyKernel, Layout } from "../../src/rewritten/contract.js";
import { carriedOriginal } from "../../src/verify/original.js";
import { type CorpusFile, corpus, corpusPath, FETCH_TIMEOUT, fetchPackages } from "../packages/corpus.js";
import { rewriteOnce } from "../packages/rewritten-once.js";
import type { RewriteDocument } from "../packages/tool.js";
import { scratch } from "../rewrite/compile.js";

type Kernel = Exclude<AnyKernel, "any">;

const long = process.env.LONG === "1";
const MINUTES = 60_000;

/** How many probes of each file are taken when it is not all. */
const sampled: Readonly<Record<keyof typeof corpus, number>> = {
  libjvm: 8,
  postgres: 5,
  php: 3,
  python: 2,
  libstdcxx: 2,
};

const ways: readonly (readonly [Layout, Kernel])[] = [
  ["nop5", "6.18"],
  ...(long ? [["nop,nop10", "7.2"] as const] : []),
];

/** What stands in byte 0 of a probe that has become a call. */
const CALLED: Partial<Record<Kernel, number>> = { "6.18": 0xe8, "7.2": 0x48 };

const table: string[] = [];
let total = { sites: 0, states: 0, seconds: 0 };

beforeAll(() => void fetchPackages(), FETCH_TIMEOUT);
afterAll(() => {
  const { sites, states, seconds } = total;
  table.push(`all: ${sites} probes, ${states.toLocaleString("en")} states, ${seconds.toFixed(1)} s`);
  console.log(table.join("\n"));
});

/** So many of a list, evenly spread. */
const spread = <T>(all: readonly T[], wanted: number): readonly T[] =>
  all.filter((_, i) => Math.floor((i * wanted) / all.length) !== Math.floor(((i + 1) * wanted) / all.length));

const run = (program: Program, kernel: Kernel, fault: Fault | null = null): Result =>
  explore({ kernel, program, threads: 2, toggles: 1, fault });

/** What is wrong with a run over a probe, as one line; null where it is as it should be. */
function complaint({ program, because }: RealSite, kernel: Kernel): { wrong: string | null; states: number } {
  if (program === null) return { wrong: because, states: 0 };
  const { found, exhaustive, states, model } = run(program, kernel);
  const violation = found?.violation;
  const isPatched = [...model.allSteps()].some(({ bytes }) => bytes !== null && bytes[0] === CALLED[kernel]);
  const wrong =
    violation !== undefined
      ? `${violation.property}: ${violation.message}`
      : !exhaustive
        ? "not searched to its end"
        : !isPatched
          ? "never patched into a call"
          : program.region!.size < 2
            ? "nothing but the probe was run"
            : null;
  return { wrong, states };
}

describe.each(ways)("as %s on %s", (layout, kernel) => {
  it.each(Object.entries(corpus))("%s", { timeout: 10 * MINUTES }, async (name, file: CorpusFile) => {
    const started = performance.now();
    const output = scratch(name);
    const options = ["--layout", layout, "--no-fork-guard", ...(kernel === "6.18" ? [] : ["--kernel", kernel])];
    const report = await rewriteOnce<RewriteDocument>(corpusPath(file), output, ...options);
    const image = parseElf(readFileSync(output));
    const moved = new Set(report.sites.filter((s) => s.status === "rewritten").map((s) => Number(s.newLocation)));
    const all = realSites(image, carriedOriginal(image).image!, kernel, () => true);
    const rewrittenSites = all.filter(({ location }) => moved.has(location));
    expect(rewrittenSites.length).toBeGreaterThanOrEqual(moved.size);
    const sites = long ? rewrittenSites : spread(rewrittenSites, sampled[name as keyof typeof corpus]);
    const prepared = performance.now();
    const wrong: string[] = [];
    let states = 0;
    for (const site of sites) {
      const seen = complaint(site, kernel);
      states += seen.states;
      if (seen.wrong !== null) wrong.push(`${site.provider}:${site.name}: ${seen.wrong}`);
    }
    const ended = performance.now();
    const seconds = (ended - started) / 1000;
    total = { sites: total.sites + sites.length, states: total.states + states, seconds: total.seconds + seconds };
    table.push(
      [
        `${name.padEnd(10)} ${layout.padEnd(9)} ${kernel.padEnd(4)}`,
        `${String(sites.length - wrong.length).padStart(4)} of ${String(sites.length).padStart(3)} without a violation`,
        `(${all.length} probes, ${rewrittenSites.length} rewritten)`,
        `${((prepared - started) / 1000).toFixed(1)} s to prepare, ${((ended - prepared) / 1000).toFixed(1)} s to search`,
      ].join("  "),
    );
    expect(wrong).toEqual([]);
    expect(sites.length).toBe(long ? rewrittenSites.length : sampled[name as keyof typeof corpus]);

    // The same code under a kernel that is wrong: else "no violation" would say nothing.
    const missed: string[] = [];
    for (const site of long ? sites : sites.slice(0, 1))
      for (const [fault, property] of [
        ["rcx-lost", "registers"],
        ["optimize-no-second-sync", "torn-instruction"],
      ] as const)
        if (run(site.program!, kernel, faultNamed(fault)!).found?.violation.property !== property)
          missed.push(`${site.provider}:${site.name}: ${fault}`);
    expect(missed).toEqual([]);
  });
});
