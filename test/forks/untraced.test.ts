/**
 * Rewritten programs with the fork guard that nobody traces: parent and children make the same system calls as the program
 * as compiled, and go on under filters that forbid what the guard would do if it were needed. Traced, they show what the
 * guard does then, and what becomes of children that are not allowed to.
 */
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { cannotCompile, cannotOptimize } from "../live/kernel.js";
import { scratch } from "../live/rewriting.js";
import { skipBecause } from "../packages/skips.js";
import { run } from "../run.js";
import { type Forms, flawless, forms, play } from "./family.js";

const SITES = 5;
const [SIGSEGV, SIGSYS] = [11, 31];

/** The system call that an optimized probe makes, which has a name in newer versions of strace. */
const HIT = /^(syscall_0x150|uprobe)$/;

/** How the loader maps a file's segments. */
const LOADING = /^mmap\(.*MAP_DENYWRITE/;

const withoutLoading = (calls: readonly string[]): readonly string[] => calls.filter((call) => !LOADING.test(call));

/** What each process does, in the order in which they were started: its system calls, what differs from run to run left out. */
type SystemCalls = readonly (readonly string[])[];

async function systemCalls(path: string, scene: string, library = "", traced = false): Promise<SystemCalls> {
  const folder = scratch("strace");
  mkdirSync(folder);
  // Signals are left out: whether SIGCHLD comes before the end of a wait for the child or behind it is chance.
  const wrapper = ["strace", "-ff", "-qq", "-s", "200", "-e", "signal=none", "-o", join(folder, "of")];
  const environment = { MEMBER: library };
  const played = await play(path, scene, { wrapper, environment, traced: traced ? [path] : [] });
  expect(played).toMatchObject({ ended: played.begun, wrong: 0, killed: [] });
  const pids = readdirSync(folder).map((name) => Number(name.slice("of.".length)));
  const inOrder = pids.toSorted((a, b) => a - b);
  return inOrder.map((pid) =>
    readFileSync(join(folder, `of.${pid}`), "latin1")
      .replace(/"[^"]*\/usdt-live-[^"]*"/g, "FILE")
      .replace(/"\\177ELF[^"]*"/g, "HEADER")
      .replace(/^((?:mmap|munmap)\(\w+, )\d+/gm, "$1SIZE")
      .replace(/\b0x[0-9a-f]+\b/g, "ADDRESS")
      .replace(/\b\d+\b/g, (number) =>
        pids.includes(Number(number)) ? `PID-${inOrder.indexOf(Number(number))}` : number,
      )
      .replace(/^getrandom\(.*$/gm, "getrandom")
      .replace(/\bst_size=\d+/g, "st_size=SIZE")
      .trim()
      .split("\n"),
  );
}

describe.skipIf(cannotCompile("programs that nobody traces"))("a program that nobody traces", () => {
  let family: Forms;
  let member: Forms;
  beforeAll(async () => {
    [family, member] = await Promise.all([forms("family.c"), forms("member.c", "-shared", "-fPIC")]);
  });

  const noStrace = async (): Promise<boolean> =>
    skipBecause("system calls", (await run("strace", ["-V"])).status === 0 ? null : "no strace");

  it.each(["fork", "daemon", "handler", "forkpty", "destructor"])("%s: makes the same system calls", async (scene) => {
    if (await noStrace()) return;
    const guarded = await systemCalls(family.guarded, scene);
    expect(guarded.length).toBeGreaterThan(1);
    expect(guarded).toEqual(await systemCalls(family.compiled, scene));
  });

  it.each(["library", "close"])("%s: makes the same system calls with a rewritten library", async (scene) => {
    if (await noStrace()) return;
    const guarded = await systemCalls(family.compiled, scene, member.guarded);
    const compiled = await systemCalls(family.compiled, scene, member.compiled);
    expect(guarded.length).toBeGreaterThan(1);
    expect(guarded.map(withoutLoading)).toEqual(compiled.map(withoutLoading));
    // Only the loader may have a segment more to map, once whenever it opens the library.
    const loaded = (calls: SystemCalls): number => calls.flat().filter((call) => LOADING.test(call)).length;
    const opened = compiled.flat().filter((call) => call.startsWith("openat(AT_FDCWD, FILE")).length;
    expect(opened).toBeGreaterThan(0);
    expect(loaded(guarded) - loaded(compiled)).toBeLessThanOrEqual(opened);
  });

  it("makes those of the guard where it is traced", async () => {
    if ((await noStrace()) || cannotOptimize("system calls of the guard")) return;
    const names = (calls: readonly string[]): readonly string[] => calls.map((call) => /^\w*/.exec(call)![0]);
    const untraced = await systemCalls(family.guarded, "fork");
    const traced = await systemCalls(family.guarded, "fork", "", true);
    const more = traced.map((calls, process) => {
      const left = [...names(calls)];
      for (const name of names(untraced[process]!)) left.splice(left.indexOf(name), 1);
      return left
        .filter((name) => !HIT.test(name))
        .sort()
        .join(" ");
    });
    // A child blocks signals, mends, and undoes that; last of all it undoes what its parent did before the fork.
    const calls = ["rt_sigprocmask", ...Array(4).fill("madvise"), "rt_sigprocmask", "rt_sigprocmask"].sort().join(" ");
    // The parent keeps signals out around each of its two forks.
    const aroundForks = Array(4).fill("rt_sigprocmask").join(" ");
    expect(more).toEqual([aroundForks, calls, calls]);
  });

  const filters = [
    ["refused", "refuses open, openat and madvise"],
    ["forbidden", "kills for open, openat and madvise"],
    ["no-open", "kills for open and openat"],
    ["no-madvise", "refuses madvise"],
  ] as const;

  it.each(filters)("is unaffected by a filter (%s) that %s", async (scene) => {
    const guarded = await play(family.guarded, scene);
    expect(guarded).toEqual(flawless(guarded, 0));
    expect(guarded).toEqual(await play(family.compiled, scene));
    expect([guarded.begun, guarded.passes]).toEqual([3, 9]);
  });

  describe.skipIf(cannotOptimize("filters and the guard"))("and one that is traced", () => {
    const traced = (scene: string, path = family.guarded) => play(path, scene, { traced: [path] });

    it("loses children that may neither open nor call madvise, as without the guard", async () => {
      const lost = { begun: 3, ended: 1, wrong: 0, killed: [SIGSEGV, SIGSEGV] };
      expect(await traced("refused")).toMatchObject(lost);
      expect(await traced("refused", family.bare)).toMatchObject(lost);
    });

    it("loses children whose filter kills for madvise, at another place than without the guard", async () => {
      // They do not get as far as to count themselves: the guard comes before them.
      expect(await traced("forbidden")).toMatchObject({ begun: 1, ended: 1, wrong: 0, killed: [SIGSYS, SIGSYS] });
      expect(await traced("forbidden", family.bare)).toMatchObject({ begun: 3, ended: 1, killed: [SIGSEGV, SIGSEGV] });
    });

    it("keeps children that may not open anything, counted: madvise does", async () => {
      const played = await traced("no-open");
      expect(played).toEqual(flawless(played, SITES));
      expect((await traced("no-open", family.bare)).killed).toEqual([SIGSEGV, SIGSEGV]);
    });

    it("keeps children that may not call madvise, uncounted: the bytes are written, no mapping is split", async () => {
      const played = await traced("no-madvise");
      expect(played).toEqual({ ...flawless(played, 0), hits: Array(SITES).fill(3) });
      expect(played.passes).toBe(9);
      expect((await traced("no-madvise", family.bare)).killed).toEqual([SIGSEGV, SIGSEGV]);
    });
  });
});
