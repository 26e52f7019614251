/**
 * What the fork guard costs children that nobody traces: rewritten programs beside the same as compiled, fork by fork. At
 * most 10 % for as many sites as postgres has, and 40 % for as many as libjvm.so has.
 *
 * Each comparison has the compiled program a second time: were that off by more than a quarter of the limit, the machine
 * would be too busy to tell, and all is measured again, five times at most; what the guard's figure is makes no difference
 * to that. And a child that has a page fault for each site, as where sites are far apart, is above the limits: what is above
 * them would be seen.
 */
import { writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { cannotCompile } from "../live/kernel.js";
import { build, scratch } from "../live/rewriting.js";
import { corpus, corpusPath, FETCH_TIMEOUT, libraryPath } from "../packages/corpus.js";
import { rewriteOnce } from "../packages/rewritten-once.js";
import { crowd } from "./crowd.js";
import { program, rewritten } from "./family.js";
import { type Cost, compareForks, type Form } from "./fork-clock.js";
import type { GuardDocument } from "./versions.js";

/** 2,000 forks of each form, or 480. */
const LONG = process.env.LONG === "1";
const EFFORT = LONG ? { rounds: 25, turns: 4, forks: 20 } : { rounds: 12, turns: 4, forks: 10 };
const ATTEMPTS = 5;

/** Sites in code as long as that of real programs: this much of something else in front of each, in bytes. */
const APART = 24 * 1024;

describe.skipIf(cannotCompile("the cost of forks"))("the cost of forks, untraced", () => {
  let clock: string;
  beforeAll(async () => {
    clock = await build("gcc", program("clock.c"), "-O2", "-shared", "-fPIC");
  });

  async function expectCheap(
    name: string,
    compiled: Form,
    guarded: Form,
    faults: number,
    limit: number,
  ): Promise<void> {
    const faulting = { ...compiled, environment: { ...compiled.environment, FORK_CLOCK_PAGES: `${faults}` } };
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const costs = await compareForks(clock, [compiled, compiled, guarded, faulting], EFFORT);
      const names = ["compiled", "compiled again", "guarded", `${faults} page faults more`];
      console.log([`${name}:`, ...costs.map((cost, i) => `  ${names[i]}: ${inWords(cost)}`)].join("\n"));
      const [, again, withGuard, faulty] = costs as [Cost, Cost, Cost, Cost];
      if (Math.abs(again.more) > limit / 4) continue;
      expect(withGuard.more).toBeLessThan(limit);
      expect(faulty.more).toBeGreaterThan(limit);
      return;
    }
    throw new Error(`the machine is too busy: the same program differs from itself in ${ATTEMPTS} comparisons`);
  }

  it.each([
    [71, 10],
    [531, 40],
  ])("%i sites: at most %i percent more", async (sites, limit) => {
    // LONG=1 measures both of both; else the few are far apart, where each costs most, and the many close together.
    for (const apart of LONG ? [0, APART] : [sites === 71 ? APART : 0]) {
      const file = scratch("crowd.c");
      writeFileSync(file, crowd(sites, apart));
      const compiled = await build("gcc", file, "-O2");
      const { path, forkGuard } = await rewritten(compiled);
      expect(forkGuard).toMatchObject({ installed: true, sites });
      const name = `${sites} sites that were ${apart} bytes apart, in ${forkGuard!.pages} pages`;
      await expectCheap(name, { path: compiled }, { path }, sites, limit);
    }
  });

  it("postgres: at most 10 percent more", { timeout: FETCH_TIMEOUT }, async () => {
    const compiled = corpusPath(corpus.postgres);
    const path = scratch("rewritten");
    const { forkGuard } = await rewriteOnce<GuardDocument>(compiled, path);
    expect(forkGuard?.installed).toBe(true);
    const environment = libraryPath();
    await expectCheap("postgres", { path: compiled, environment }, { path, environment }, 300, 10);
  });

  it("a program that opens libjvm.so: at most 40 percent more", { timeout: FETCH_TIMEOUT }, async () => {
    const compiled = corpusPath(corpus.libjvm);
    const path = scratch("rewritten");
    const { forkGuard } = await rewriteOnce<GuardDocument>(compiled, path);
    expect(forkGuard?.installed).toBe(true);
    const opens = (library: string): Form => ({ path: "/bin/true", environment: { FORK_CLOCK_OPENS: library } });
    await expectCheap("libjvm.so", opens(compiled), opens(path), 531, 40);
  });
});

const inWords = ({ microseconds, pageFaults, more, quartiles }: Cost): string =>
  `${microseconds.toFixed(1)} us, ${pageFaults.toFixed(1)} page faults, ${more.toFixed(1)} % more ` +
  `(half of the rounds: ${quartiles.map((q) => q.toFixed(1)).join(" to ")})`;
