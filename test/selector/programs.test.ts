/**
 * Programs of every kind with a selector: it is what the kernel asks for, by the program's own look, and the program gets
 * all that it would get without.
 */
import { spawnSync } from "node:child_process";
import { chmodSync, chownSync, copyFileSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { findingsOf, newFindings } from "../judges/findings.js";
import { skipBecause } from "../packages/skips.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must, run } from "../run.js";
import { compiled, HERE, select } from "./selected.js";

const noMusl = skipBecause(
  "programs for musl",
  spawnSync("musl-gcc", ["--version"]).status === 0 ? null : "no musl-gcc",
);
const noStrace = skipBecause("strace", spawnSync("strace", ["-V"]).status === 0 ? null : "no strace");
const isRoot = process.getuid?.() === 0;

/** -fsanitize and the like are of no use here: what differs is who starts the program, and what it brings along. */
const kinds: readonly (readonly [string, string, readonly string[]])[] = [
  ["PIE", "gcc", ["-pie", "-fPIE"]],
  ["ET_EXEC", "gcc", ["-no-pie", "-fno-pie"]],
  ["static", "gcc", ["-static"]],
  ["static-pie", "gcc", ["-static-pie", "-fPIE"]],
  ["stripped", "gcc", ["-s"]],
  ["bound early", "gcc", ["-Wl,-z,now,-z,relro"]],
  ["with IBT", "gcc", ["-fcf-protection=full"]],
  ["by clang and lld", "clang", ["-fuse-ld=lld"]],
  ["by lld, static", "gcc", ["-fuse-ld=lld", "-static"]],
  ["by gold", "gcc", ["-fuse-ld=gold"]],
  ["by mold", "gcc", ["-fuse-ld=mold"]],
];
const forMusl: readonly (readonly [string, string, readonly string[]])[] = [
  ["musl, dynamic", "musl-gcc", ["-pie", "-fPIE"]],
  ["musl, ET_EXEC", "musl-gcc", ["-no-pie", "-fno-pie"]],
  ["musl, static", "musl-gcc", ["-static"]],
  ["musl, static-pie", "musl-gcc", ["-static-pie", "-fPIE"]],
];
const all = [...kinds, ...(noMusl ? [] : forMusl)];

const inputs = new Map<string, Promise<readonly [string, string]>>();
/** A program, and the same with a selector, at another path of the same length. */
function made(what: string, compiler: string, flags: readonly string[]): Promise<readonly [string, string]> {
  const make = async () => {
    const input = await compiled(compiler, ["program.c"], ...flags);
    const output = scratch("selected");
    select(input, output);
    return [input, output] as const;
  };
  if (!inputs.has(what)) inputs.set(what, make());
  return inputs.get(what)!;
}

const said = (selector: number, argc: number, last: string, variables: number, secure = 0): string =>
  `selector=${selector} argc=${argc} last=${last} env=${variables} same=1 secure=${secure} exits=1\n`;

describe.skipIf(!canCompile)("the selector of a program", () => {
  it.each(all)("%s", async (what, compiler, flags) => {
    const [input, output] = await made(what, compiler, flags);
    const start = await compiled("gcc", ["start.c"], "-static");
    expect(newFindings(await findingsOf(input), await findingsOf(output))).toEqual([]);
    expect(await must(start, [input, "3", "empty"])).toBe(said(-1, 3, "x", 0));
    expect(await must(start, [output, "3", "empty"])).toBe(said(HERE, 3, "x", 0));
    // Linux makes one of none (5.18).
    const none = await must(start, [input, "0", "empty"]);
    expect(await must(start, [output, "0", "empty"])).toBe(none.replace("selector=-1", `selector=${HERE}`));
    expect(await must("env", ["-i", "A=1", "B=2", output, ...new Array(3000).fill("y"), "z"])).toBe(
      said(HERE, 3002, "z", 2),
    );
  });

  it.each(all.filter(([what]) => !what.includes("static")))("%s, by its loader", async (what, compiler, flags) => {
    const [, output] = await made(what, compiler, flags);
    const loader = /\[Requesting program interpreter: (.*)\]/.exec(await must("readelf", ["-lW", output]))![1]!;
    expect(await must("env", ["-i", "A=1", loader, output, "x"])).toBe(said(HERE, 2, "x", 1));
  });

  it.skipIf(skipBecause("setuid programs", isRoot ? null : "not root")).each(all)(
    "%s, setuid",
    async (what, compiler, flags) => {
      const [, output] = await made(what, compiler, flags);
      // A folder that others may look into.
      const path = `/var/tmp/usdt-nop5-setuid-${process.pid}`;
      try {
        copyFileSync(output, path);
        chownSync(path, 0, 0);
        chmodSync(path, 0o4755);
        const nobody = ["--reuid", "65534", "--clear-groups", "env", "-i", "A=1"];
        expect(await must("setpriv", [...nobody, path])).toBe(said(HERE, 1, path, 1, 1));
      } finally {
        spawnSync("rm", ["-f", path]);
      }
    },
  );

  it.each([
    ["static", ["-static"]],
    ["static-pie", ["-static-pie", "-fPIE"]],
    ["PIE", ["-pie", "-Wl,--dynamic-linker=/lib64/ld-linux-x86-64.so.2"]],
    ["ET_EXEC", ["-no-pie", "-Wl,--dynamic-linker=/lib64/ld-linux-x86-64.so.2", "-Wl,--no-as-needed", "-lc"]],
  ])("leaves all registers as they were: %s", async (_what, flags) => {
    const input = await compiled("gcc", ["registers.S"], "-nostartfiles", "-nodefaultlibs", ...flags);
    const output = scratch("registers");
    // Both at one path: the path is on the stack.
    const path = scratch("program");
    const registersOf = async (file: string): Promise<bigint[]> => {
      copyFileSync(file, path);
      chmodSync(path, 0o755);
      const out = Buffer.from(await must("env", ["-i", "A=1", "setarch", "-R", path, "x", "y"]), "latin1");
      return Array.from({ length: out.length / 8 }, (_, i) => out.readBigInt64LE(8 * i));
    };
    select(input, output);
    const before = await registersOf(input);
    const after = await registersOf(output);
    expect(before).toHaveLength(19);
    expect([before[17], before[18], after[18]]).toEqual([3n, -1n, BigInt(HERE)]);
    // The loader leaves in a register where it goes: that is what changes.
    const [from, to] = [input, output].map((file) => BigInt(parseElf(readFileSync(file)).header.e_entry));
    const known = after.slice(0, 18).map((value, i) => (value - before[i]! === to! - from! ? before[i]! : value));
    expect(known).toEqual(before.slice(0, 18));
    expect(after.slice(0, 18).filter((value, i) => value !== before[i]).length).toBeLessThanOrEqual(1);
  });

  it.skipIf(noStrace).each(all)("%s makes no system call more", async (what, compiler, flags) => {
    const [input, output] = await made(what, compiler, flags);
    const calls = async (path: string): Promise<string[]> => {
      const log = scratch("calls");
      await must("strace", ["-f", "-o", log, "env", "-i", "A=1", path]);
      const lines = readFileSync(log, "latin1").split("\n");
      const from = lines.findIndex((line) => line.includes(`execve("${path}"`));
      return lines.slice(from).map((line) => line.replace(/^\d+ +/, "").replace(/\(.*/, ""));
    };
    const before = await calls(input);
    expect(before.length).toBeGreaterThan(3);
    expect(await calls(output)).toEqual(before);
  });
});

describe.skipIf(!canCompile)("no selector", () => {
  it("for a program whose entry point is no code", async () => {
    const input = await compiled("gcc", ["registers.S"], "-nostartfiles", "-nodefaultlibs", "-static", "-Wl,-e,0");
    expect(() => select(input, scratch("none"))).toThrow("its entry point 0x0 is no code of it");
  });
});

/** So that a test that sees nothing but 0 cannot pass for one that sees the right value. */
it("knows which value this kernel asks for", async () => {
  const { stdout } = await run("uname", ["-r"]);
  const [major, minor] = stdout.split(".").map(Number);
  expect(HERE).toBe(major === 6 ? (minor! >= 18 ? 1 : 0) : major === 7 && minor! < 2 ? 1 : 0);
});
