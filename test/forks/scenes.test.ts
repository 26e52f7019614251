/**
 * Ways to fork, traced from before the program starts: with the fork guard no child dies, and every pass is counted, as in
 * the program as compiled. Without it children die in each of these ways: so each of these tests can fail.
 */
import { copyFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { places } from "../live/places.js";
import { build, scratch } from "../live/rewriting.js";
import { skipBecause } from "../packages/skips.js";
import { attach } from "../packages/uprobes.js";
import { must, run } from "../run.js";
import { crowd } from "./crowd.js";
import { type Forms, flawless, forms, type Played, play, program, rewritten } from "./family.js";

const LONG = process.env.LONG === "1";
const SITES = 5;
const LIBRARY_SITES = 2;
const SIGSEGV = 11;

type Environment = Readonly<Record<string, string>>;

describe.skipIf(cannotOptimize("ways to fork, traced"))("ways to fork, traced", () => {
  let family: Forms;
  let member: Forms;
  beforeAll(async () => {
    [family, member] = await Promise.all([forms("family.c"), forms("member.c", "-shared", "-fPIC")]);
  });

  const traced = (path: string, scene: string, environment: Environment = {}): Promise<Played> =>
    play(path, scene, { traced: [path], environment });

  it.each<[scene: string, processes: number, because: string, environment?: Environment]>([
    ["fork", 3, "fork, twice"],
    ["generations", 5, "children, grandchildren and theirs"],
    ["daemon", 4, "daemon(3), by a child, and a child of the daemon's"],
    ["threads", 6, "from one of eight threads, while the others pass the sites"],
    ["handler", 3, "a child that forks in a signal handler"],
    ["atfork", 3, "sites in the program's own handlers, before and after in the parent, and in the child"],
    ["setuid", 2, "a process that has changed its user, and so is not dumpable"],
    ["setuid-in-child", 3, "a child that changes its user and forks"],
    ["undumpable", 2, "a process that is not dumpable"],
    ["mdwe", 2, "a process that may not make written memory executable"],
    ["forkpty", 2, "forkpty(3)"],
    ["destructor", 2, "in a destructor of the program, at exit"],
    ["nothing", 2, "in a constructor of the program", { AT_START: "1" }],
  ])("%s: %i processes, %s", async (scene, processes, _because, environment) => {
    const guarded = await traced(family.guarded, scene, environment);
    expect(guarded).toEqual(flawless(guarded, SITES));
    expect(guarded.begun).toBe(processes);
    // How often threads pass is chance.
    if (scene !== "threads") expect(guarded).toEqual(await traced(family.compiled, scene, environment));
    const { killed } = await traced(family.bare, scene, environment);
    expect(new Set(killed)).toEqual(new Set([SIGSEGV]));
  });

  it("a hundred generations", async () => {
    const played = await play(family.guarded, "generations", { traced: [family.guarded], arguments: ["100"] });
    expect(played).toEqual(flawless(played, SITES));
    expect(played.begun).toBe(101);
  });

  it("children that share the memory until they call exec are as they were", async () => {
    const guarded = await traced(family.guarded, "spawn");
    expect(guarded).toEqual(flawless(guarded, SITES));
    expect(guarded).toEqual(await traced(family.compiled, "spawn"));
    // vfork, posix_spawn, system and popen do not need the guard. The one that is forked and passes before it calls exec does.
    expect((await traced(family.bare, "spawn")).killed).toEqual([SIGSEGV]);
  });

  const builds = [
    ["-no-pie", "-fno-pie"],
    ["-fuse-ld=lld", "-pie"],
    // Sites behind semaphores, which the kernel raises; and one that was a nop5 before, in a page of its own.
    ["-DSEMAPHORES", "-DALREADY"],
  ];
  if (LONG)
    builds.push(["-fuse-ld=gold", "-pie"], ["-O0", "-pie"], ["-s", "-Wl,-z,now,-z,norelro"], ["-fuse-ld=mold", "-pie"]);
  it.each(builds)("a program made with %s %s", async (...flags) => {
    const { guarded, bare } = await forms("family.c", ...flags);
    const played = await traced(guarded, "generations");
    expect(played).toEqual(flawless(played, SITES));
    expect((await traced(bare, "generations")).killed).toContain(SIGSEGV);
  });

  it.each([["strip"], ["eu-strip"], ["objcopy"], ["patchelf", "--set-rpath", "/nowhere/that/is/known"]])(
    "a program that has gone through %s since it was rewritten",
    async (tool, ...args) => {
      if (skipBecause(tool, (await run(tool, ["--version"])).status === 0 ? null : `no ${tool}`)) return;
      const path = scratch("program");
      copyFileSync(family.guarded, path);
      await must(tool, [...args, path]);
      const played = await traced(path, "generations");
      expect(played).toEqual(flawless(played, SITES));
      expect(played.begun).toBe(5);
    },
  );

  it.each<[what: string, ofProgram: keyof Forms, ofLibrary: keyof Forms]>([
    ["the library", "compiled", "guarded"],
    ["the program", "guarded", "compiled"],
    ["both", "guarded", "guarded"],
  ])("a program that opens a library, of which %s is rewritten", async (_what, ofProgram, ofLibrary) => {
    const of = async (guardedIs: keyof Forms, scene: string): Promise<Played> => {
      const form = (which: keyof Forms): keyof Forms => (which === "guarded" ? guardedIs : which);
      const [path, library] = [family[form(ofProgram)], member[form(ofLibrary)]];
      return await play(path, scene, { traced: [path, library], environment: { MEMBER: library } });
    };
    for (const scene of ["library", "library-forks"]) {
      const guarded = await of("guarded", scene);
      expect(guarded).toEqual(flawless(guarded, SITES, LIBRARY_SITES));
      expect(guarded.begun).toBe(3);
      // Children of the library pass the library's sites alone.
      const dies = scene === "library" || ofLibrary === "guarded";
      expect((await of("bare", scene)).killed).toEqual(dies ? [SIGSEGV, SIGSEGV] : []);
    }
  });

  it("a library that is closed takes its handler with it", async () => {
    const of = (path: string, library: string) =>
      play(path, "close", { traced: [path, library], environment: { MEMBER: library } });
    const guarded = await of(family.guarded, member.guarded);
    expect(guarded).toEqual(flawless(guarded, SITES, LIBRARY_SITES));
    expect(guarded.begun).toBe(7);
    // A child handler that stays behind is called where there is nothing.
    const careless = await build("gcc", program("member.c"), "-O2", "-shared", "-fPIC", "-DCARELESS");
    expect((await of(family.guarded, careless)).killed).toContain(SIGSEGV);
    // Closed before the fork, a library without a guard kills nobody: the program, which is still there, does.
    expect((await of(family.guarded, member.bare)).killed).toEqual([SIGSEGV, SIGSEGV, SIGSEGV]);
  });

  it.each(["constructor", "destructor"])("in a %s of a library", async (when) => {
    const of = (library: string) =>
      play(family.compiled, "open", { traced: [library], environment: { MEMBER: library, MEMBER_FORKS: when } });
    const guarded = await of(member.guarded);
    expect(guarded).toEqual({ ...flawless(guarded, 0, LIBRARY_SITES), passes: 0 });
    expect([guarded.begun, guarded.libraryPasses]).toEqual([2, 6]);
    expect((await of(member.bare)).killed).toEqual([SIGSEGV]);
  });

  it("behind a library's end its handler is gone: children of libraries that outlive it are not kept", async () => {
    const late = await build("gcc", program("late.c"), "-O2", "-shared", "-fPIC");
    const compiled = await build("gcc", program("member.c"), "-shared", "-fPIC", "-DLATE", "-Wl,--no-as-needed", late);
    const { path: library, forkGuard } = await rewritten(compiled);
    expect(forkGuard?.installed).toBe(true);
    const environment = { MEMBER: library, MEMBER_FORKS: "late" };
    const { killed } = await play(family.compiled, "open", { traced: [library], environment });
    // This is what happens, not what should: at exit as at dlclose, __cxa_finalize takes the handler out.
    expect(killed).toEqual([SIGSEGV]);
  });

  it("behind handlers that were registered before it, a library's comes too late for what they call", async () => {
    const of = (library: string) =>
      play(family.compiled, "early-handler", { traced: [library], environment: { MEMBER: library } });
    expect(await of(member.compiled)).toMatchObject({ begun: 2, ended: 2, libraryPasses: 9, killed: [] });
    // This is what happens, not what should. The C library calls child handlers in the order in which they were registered.
    for (const library of [member.guarded, member.bare])
      expect(await of(library)).toMatchObject({ begun: 1, ended: 1, libraryPasses: 3, killed: [SIGSEGV] });
  });

  it("in another namespace (dlmopen) a library has another C library, whose forks alone it sees", async () => {
    const of = (library: string) =>
      play(family.compiled, "namespace", { traced: [library], environment: { MEMBER: library } });
    expect(await of(member.compiled)).toMatchObject({ begun: 3, ended: 3, libraryPasses: 9, killed: [] });
    // This is what happens, not what should: a child of the program dies, one of the library does not.
    expect(await of(member.guarded)).toMatchObject({ begun: 3, ended: 2, libraryPasses: 6, killed: [SIGSEGV] });
    expect(await of(member.bare)).toMatchObject({ begun: 3, ended: 1, libraryPasses: 3, killed: [SIGSEGV, SIGSEGV] });
  });

  it.each([
    [1, "less than a page of code: the sites' mapping has two pages all the same"],
    [531, "several pages of sites"],
  ])("%i sites, %s", async (sites) => {
    const file = scratch("crowd.c");
    writeFileSync(file, crowd(sites));
    const compiled = await build("gcc", file, "-O2");
    const of = async (path: string, step = 0n) => {
      const probes = attach((await places(path, step)).map((place) => place.point));
      try {
        const { status } = await run(path, []);
        return { status, hits: [...new Set(probes.hits())] };
      } finally {
        probes.detach();
      }
    };
    const alive = { status: 0, hits: [6] };
    const dead = { status: SIGSEGV, hits: [3] };
    expect(await of((await rewritten(compiled)).path)).toEqual(alive);
    expect(await of((await rewritten(compiled, "--layout", "nop5", "--no-fork-guard")).path)).toEqual(dead);
    if (sites > 1) return;
    // Tracers that know the kernel attach to the second of the two.
    const layout = ["--layout", "nop,nop5"];
    expect(await of((await rewritten(compiled, ...layout)).path, 1n)).toEqual(alive);
    expect(await of((await rewritten(compiled, ...layout, "--no-fork-guard")).path, 1n)).toEqual(dead);
  });

  const ways: [name: string, way: number][] = [
    ["_Fork", 1],
    ["clone(2)", 2],
    ["a system call whose number is computed", 7],
  ];
  if (LONG)
    ways.push(
      ["syscall(SYS_fork)", 3],
      ["syscall(SYS_clone)", 4],
      ["syscall(SYS_clone3)", 5],
      ["the system call fork", 6],
    );
  it.each(ways)("auto loses no child of %s, which runs no handlers", async (name, way) => {
    const compiled = await build("gcc", program("family.c"), "-O2", "-pthread", `-DWAY=${way}`);
    const { path, layout, forkGuard, hazards } = await rewritten(compiled);
    const played = await traced(path, "way");
    console.log(`${name}: ${layout}, ${JSON.stringify(forkGuard)}, ${hazards.map((h) => h.code).join(" ")}`);
    expect(played).toEqual(flawless(played, SITES));
    expect([played.begun, played.passes]).toEqual([2, 9]);
    const bare = await rewritten(compiled, "--layout", "nop5", "--no-fork-guard");
    expect((await traced(bare.path, "way")).killed).toEqual([SIGSEGV]);
  });

  it("a child that shares the memory is as it was", async () => {
    const compiled = await build("gcc", program("family.c"), "-O2", "-pthread", "-DWAY=8");
    for (const options of [[], ["--layout", "nop5"], ["--layout", "nop5", "--no-fork-guard"]]) {
      const { path } = await rewritten(compiled, ...options);
      const played = await traced(path, "way");
      expect(played).toEqual(flawless(played, SITES));
      expect([played.begun, played.passes]).toEqual([2, 9]);
    }
  });
});
