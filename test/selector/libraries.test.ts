/**
 * Libraries with a selector, loaded in every way and after everything that programs do to their environment: no crash, and
 * it is what the kernel asks for, by the library's own look.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { planSelector } from "../../src/rewrite/selector/selector.js";
import { findingsOf, newFindings } from "../judges/findings.js";
import { skipBecause } from "../packages/skips.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must, run } from "../run.js";
import { compiled, guardOf, HERE, plant, select, subject, told } from "./selected.js";

const noMusl = skipBecause(
  "programs for musl",
  spawnSync("musl-gcc", ["--version"]).status === 0 ? null : "no musl-gcc",
);

const noStrace = skipBecause("strace", spawnSync("strace", ["-V"]).status === 0 ? null : "no strace");

const LIBRARY = ["-shared", "-fPIC"];
/** How the library's start is hooked, by what its linker left there. */
const kinds: readonly (readonly [string, string, readonly string[], string])[] = [
  ["gcc", "gcc", LIBRARY, "tag"],
  ["without start files", "gcc", [...LIBRARY, "-nostartfiles"], "new tag"],
  ["by lld without start files", "gcc", [...LIBRARY, "-nostartfiles", "-fuse-ld=lld"], "array head"],
  ["clang and lld", "clang", [...LIBRARY, "-fuse-ld=lld"], "tag"],
  ["mold", "gcc", [...LIBRARY, "-fuse-ld=mold"], "tag"],
  ["gold", "gcc", [...LIBRARY, "-fuse-ld=gold"], "tag"],
  [
    "with RELR",
    "gcc",
    [...LIBRARY, "-nostartfiles", "-Wl,-z,pack-relative-relocs,--spare-dynamic-tags=0"],
    "array head",
  ],
];

const scenes = [
  "plain",
  "setenv",
  "unsetenv",
  "unset-one",
  "putenv",
  "clearenv",
  "null",
  "moved",
  "moved-and-cleared",
  "own",
  "thread",
];
/** What the kernel wrote is not there any more: then it may be unknown, but nothing else may happen. */
const overwritten = ["first-gone", "on-the-stack", "after-a-null", "all-empty"];

const environment = ["A=1", "B=2", "C=3", "D=4", "PATH=/usr/bin:/bin"];

interface Loaded {
  readonly status: number | null;
  readonly selector: number;
  readonly said: string;
}

async function load(command: readonly string[], variables = environment): Promise<Loaded> {
  const { status, signal, stdout } = await run("env", ["-i", ...variables, ...command]);
  expect(signal, command.join(" ")).toBe(null);
  return { status, selector: Number(/selector=(-?\d+)/.exec(stdout)?.[1]), said: stdout.trim() };
}

async function selected(compiler: string, flags: readonly string[], source = "library.c", guard?: typeof guardOf) {
  const input = await compiled(compiler, [source], ...flags);
  const output = scratch("libselected.so");
  return { input, output, made: select(input, output, guard) };
}

describe.skipIf(!canCompile)("the selector of a library", () => {
  it.each(kinds)("%s", async (_what, compiler, flags, kind) => {
    const { input, output, made } = await selected(compiler, flags);
    expect(made.plan.start).toMatchObject({ kind: "library", hook: { kind } });
    expect(newFindings(await findingsOf(input), await findingsOf(output))).toEqual([]);
    const host = await compiled("gcc", ["host.c"]);
    const fixed = await compiled("gcc", ["host.c"], "-no-pie");
    for (const scene of scenes) {
      const said = scene === "moved-and-cleared" ? "argv=1" : "argc=1 argv=1 envp=1";
      for (const program of [host, fixed]) {
        const loaded = await load([program, output, scene]);
        expect([scene, loaded.status, loaded.selector]).toEqual([scene, 0, HERE]);
        expect(loaded.said, scene).toContain(said);
      }
    }
    for (const scene of overwritten)
      for (const variables of [environment, environment.slice(1), ["A=1"], []]) {
        const loaded = await load([host, output, scene], variables);
        expect([scene, variables.length, loaded.status]).toEqual([scene, variables.length, 0]);
        expect([0, HERE]).toContain(loaded.selector);
      }
    expect((await load([host, output, "null"], [])).selector).toBe(HERE);
  });

  it("linked, and with no environment", async () => {
    const { input, output } = await selected("gcc", [...LIBRARY, "-Wl,-soname,libselected.so"]);
    const program = await compiled("gcc", ["host.c"], "-DLINKED", input);
    await must("cp", [output, `${dirname(output)}/libselected.so`]);
    for (const variables of [environment, []]) {
      const own = [`LD_LIBRARY_PATH=${dirname(output)}`, ...variables];
      expect((await load([program, "x", "plain"], own)).said).toBe(`selector=${HERE} argc=1 argv=1 envp=1`);
    }
    const by = ["/lib64/ld-linux-x86-64.so.2", "--library-path", dirname(output), program, "x", "plain"];
    expect(await load(by, [])).toMatchObject({ status: 0, selector: HERE });
  });

  it("by LD_PRELOAD", async () => {
    const { output } = await selected("gcc", LIBRARY, "preloaded.c");
    expect(await must("env", ["-i", `LD_PRELOAD=${output}`, "/bin/true"])).toBe(`preloaded=${HERE}\n`);
  });

  it("from a static program", async () => {
    const { output } = await selected("gcc", LIBRARY);
    const host = await compiled("gcc", ["host.c"], "-static");
    for (const scene of scenes)
      expect([scene, await load([host, output, scene])]).toMatchObject([scene, { status: 0, selector: HERE }]);
  });

  it.each([
    ["gcc", "gcc", LIBRARY],
    ["without start files", "gcc", [...LIBRARY, "-nostartfiles"]],
    ["clang and lld", "clang", [...LIBRARY, "-fuse-ld=lld"]],
  ])("with a fork guard, which is called after it: %s", async (_what, compiler, flags) => {
    const { input, output, made } = await selected(compiler, flags, "guarded-library.c", guardOf);
    expect(made.plan.start).toEqual({ kind: "guard" });
    expect(newFindings(await findingsOf(input), await findingsOf(output))).toEqual([]);
    const host = await compiled("gcc", ["host.c"], "-DREGISTER", "-rdynamic");
    const plain = await compiled("gcc", ["host.c"]);
    for (const scene of scenes) {
      const said = (await load([host, output, scene])).said;
      expect([scene, said]).toEqual([scene, expect.stringContaining(`registered selector=${HERE} argc=1 argv=1`)]);
      expect([scene, await load([plain, output, scene])]).toMatchObject([scene, { status: 0, selector: HERE }]);
    }
  });

  it("is seen to be wrong, were it read by envp, or from what only looks like a pair", async () => {
    const library = await subject("gcc", "library.c", LIBRARY);
    const { selector } = library.made.plan;
    const host = await compiled("gcc", ["host.c"]);
    // shl, add, add become mov %rdx,%rsi; the test of an address within its page goes.
    const faults = [
      ["48c1e7034883c6084801fe", `4889d6${"90".repeat(8)}`, ["null", "moved", "own", "clearenv"]],
      ["4885c07506", "4885c0eb06", ["unsetenv"]],
    ] as const;
    for (const [pattern, becomes, wrong] of faults) {
      const path = scratch("libfaulty.so");
      writeFileSync(path, told(library.made.original, plant(library, pattern, becomes), selector));
      expect((await load([host, path, "plain"])).selector).toBe(HERE);
      for (const scene of wrong) {
        const { stdout } = await run("env", ["-i", ...environment, host, path, scene]);
        expect([scene, HERE === 0 || !stdout.includes(`selector=${HERE}`)]).toEqual([scene, true]);
      }
    }
  });

  it.skipIf(noStrace)("makes no system call more", async () => {
    const { input, output } = await selected("gcc", LIBRARY);
    const host = await compiled("gcc", ["host.c"]);
    const calls = async (library: string): Promise<string[]> => {
      const log = scratch("calls");
      await must("strace", ["-o", log, host, library, "plain"]);
      return readFileSync(log, "latin1")
        .split("\n")
        .map((line) => line.replace(/\(.*/, ""));
    };
    expect(await calls(output)).toEqual(await calls(input));
  });

  it("of the C library itself, and others of this machine", async () => {
    const folder = mkdtempSync(scratch("libraries-"));
    const program = await compiled("gcc", ["mapped.c"], "-lm");
    const names = ["libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1"];
    const listed = (await must("ldconfig", ["-p"])).split("\n").filter((line) => line.includes("x86-64"));
    const asked: string[] = [];
    for (const name of names) {
      const path = listed.find((line) => line.trim().startsWith(`${name} `))?.split(" => ")[1];
      if (path === undefined) continue;
      const made = select(path, join(folder, name));
      asked.push(`${name}=${made.plan.selector.toString(16)}`);
      expect(newFindings(await findingsOf(path), await findingsOf(join(folder, name)))).toEqual([]);
    }
    expect(asked.length).toBeGreaterThan(1);
    const said = await must("env", ["-i", `LD_LIBRARY_PATH=${folder}`, program, ...asked]);
    expect(said).toBe(asked.map((one) => `${one.replace(/=.*/, "")}=${HERE}\n`).join(""));
  });

  it.skipIf(noMusl)("is there for no library of musl's", async () => {
    const input = await compiled("musl-gcc", ["library.c"], ...LIBRARY);
    expect(planSelector({ image: parseElf(readFileSync(input)), callsFirst: false })).toBe(
      "it is a library, and needs no version of glibc's symbols: other C libraries start it with anything in the argument registers",
    );
  });

  it.skipIf(noMusl)("does no harm where musl loads a library of glibc's", async () => {
    const { output } = await selected("gcc", [...LIBRARY, "-Wl,-soname,libselected.so"]);
    await must("cp", [output, `${dirname(output)}/libselected.so`]);
    const host = await compiled("musl-gcc", ["host.c"], "-DMUSL", "-D_GNU_SOURCE");
    for (const scene of [...scenes, ...overwritten])
      for (const variables of [environment, []]) {
        if (scene === "moved-and-cleared" && variables.length === 0) continue;
        expect(await load([host, output, scene], variables)).toMatchObject({ status: 0 });
      }
    const linked = await compiled("musl-gcc", ["host.c"], "-DMUSL", "-DLINKED", "-D_GNU_SOURCE", output);
    expect(await load([linked], [`LD_LIBRARY_PATH=${dirname(output)}`])).toMatchObject({ status: 0 });
  });
});
