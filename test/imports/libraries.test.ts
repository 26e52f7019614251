/**
 * Libraries with a child handler of ours: it runs from the time on when the library is loaded until it is unloaded, in the
 * order in which handlers were registered, and no later.
 */
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { build } from "../fixtures/build.js";
import { compilers, linkers } from "../fixtures/combinations.js";
import { findingsOf, newFindings } from "../judges/findings.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must, run } from "../run.js";
import { type Handled, handle } from "./handled.js";

const programs = fileURLToPath(new URL("./programs", import.meta.url));
const long = process.env.LONG !== undefined;

async function compiled(output: string, compiler: string, file: string, ...flags: readonly string[]): Promise<string> {
  const built = await build({
    output,
    compiler,
    sources: [join(programs, file)],
    flags: ["-O2", "-pthread", ...flags],
  });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return built.path;
}

const library = (compiler: string, ...flags: readonly string[]): Promise<string> =>
  compiled("libvalue.so", compiler, "library.c", "-shared", "-fPIC", ...flags);

const ways = compilers.flatMap((compiler, c) =>
  linkers.flatMap((linker, l) =>
    (["startfiles", "nostartfiles"] as const).flatMap((start, k) =>
      (["gnu", "both", "sysv"] as const)
        .filter((_, h) => long || ((c + l + k) % 2 === 0 && h === (c + l + 2 * k) % 3))
        .map((hash) => ({ compiler, linker, start, hash })),
    ),
  ),
);

const WITHOUT = "hx [hHx ]hHx [hHx ]hHx ";
const WITH = "hx [hGHx ]hHx [hHGx ]hHx ";

describe.skipIf(!canCompile)("a child handler in a library", () => {
  let opens: string;
  beforeAll(async () => {
    opens = await compiled("opens", "gcc", "opens.c");
  });

  async function said(file: string): Promise<string> {
    const [lazy, early] = await Promise.all(
      [{}, { LD_BIND_NOW: "1" }].map((environment) => run(opens, [file], { environment, timeout: 10_000 })),
    );
    expect(early).toEqual(lazy);
    expect(lazy!.stdout).toBe("done\n");
    return lazy!.stderr;
  }

  async function expectHandled(input: string): Promise<Handled> {
    const output = scratch("libvalue.so");
    const handled = handle(input, output);
    expect(await said(input)).toBe(WITHOUT);
    expect(await said(output), handled.ways).toBe(WITH);
    expect(newFindings(await findingsOf(input), await findingsOf(output)), handled.ways).toEqual([]);
    return handled;
  }

  it.each(ways)("$compiler $linker $start, hash $hash", async ({ compiler, linker, start, hash }) => {
    const without = start === "nostartfiles" ? ["-nostartfiles"] : [];
    const input = await library(compiler, `-fuse-ld=${linker}`, `-Wl,--hash-style=${hash}`, ...without);
    const { plan } = await expectHandled(input);
    expect(plan.register.source).toBe(start === "nostartfiles" ? "appended" : "spare");
    const way = start === "startfiles" ? "tag" : linker === "lld" ? "array head" : "new tag";
    expect([plan.start.kind, plan.end?.kind]).toEqual([way, way]);
  });

  it.each([
    ["with relocations of its code", ["-DTEXTREL", "-Wl,-z,notext"]],
    ["stripped", ["-s"]],
    ["that names an interpreter", ["-DINTERPRETER"]],
    ["with packed relative relocations", ["-Wl,-z,pack-relative-relocs"]],
    ["that is initialised by its arrays alone", ["-nostartfiles", "-Wl,--spare-dynamic-tags=0"]],
  ])("%s", async (_what, flags) => {
    await expectHandled(await library("gcc", ...flags));
  });

  it("finds the same symbols in a hash table that a symbol was appended to", async () => {
    for (const flags of [[], ["-nostartfiles"]]) {
      const input = await library("gcc", "-Wl,--hash-style=sysv", ...flags);
      const output = scratch("libvalue.so");
      handle(input, output);
      // By way of DT_HASH: its chains lead to as many symbols as there are.
      const names = async (file: string): Promise<number> =>
        [...(await must("readelf", ["--dyn-syms", "--use-dynamic", "-W", file])).matchAll(/ (?:FUNC|NOTYPE) /g)].length;
      expect(await names(output)).toBe((await names(input)) + (flags.length === 0 ? 0 : 2));
      const histogram = await must("readelf", ["-IW", output]);
      expect(histogram).toContain("100.0%");
    }
  });

  it("is needed to the end: without the call at the end children die once the library is unloaded", async () => {
    const input = await library("gcc");
    const output = scratch("libvalue.so");
    const { plan, code } = handle(input, output);
    const [edit] = plan.end!.edits(code.addressOf("usdt_nop5.fini"), undefined);
    const bytes = readFileSync(output);
    bytes.set(edit!.old, edit!.offset);
    writeFileSync(output, bytes);
    const outcome = await run(opens, [output], { timeout: 10_000 });
    expect(outcome.stderr).toMatch(/\]h\(status 8?b\)/); // SIGSEGV, perhaps with a core file
  });

  it("is loaded and unloaded by one thread while another forks: every child lives", async () => {
    const races = await compiled("races", "gcc", "races.c");
    const output = scratch("libvalue.so");
    handle(await library("gcc"), output);
    const outcome = await run(races, [output, long ? "5000" : "500"], { timeout: 60_000 });
    expect(outcome.stdout).toBe("0 dead\n");
    expect(outcome.status).toBe(0);
  });

  it("is in a program's libraries from the start on", async () => {
    const input = await library("gcc", "-Wl,-soname,libvalue.so");
    const folder = dirname(input);
    const program = scratch("linked");
    const source = scratch("linked.c");
    writeFileSync(
      source,
      "#include <stdio.h>\n#include <sys/wait.h>\n#include <unistd.h>\nint value(void);\nint main(void) { if (fork() == 0) _exit(value()); int s; wait(&s); return s != 42 << 8; }\n",
    );
    await must("gcc", [source, "-o", program, `-L${folder}`, "-lvalue"]);
    const handled = `${scratch("folder")}-libvalue`;
    await must("mkdir", [handled]);
    handle(input, join(handled, "libvalue.so"));
    const before = await run(program, [], { environment: { LD_LIBRARY_PATH: folder } });
    const after = await run(program, [], { environment: { LD_LIBRARY_PATH: handled } });
    expect(before).toMatchObject({ status: 0, stderr: "[]" });
    expect(after).toMatchObject({ status: 0, stderr: "[G]" });
  });

  it.each([["strip"], ["eu-strip"], ["objcopy"], ["patchelf", "--set-rpath", "/nowhere/at/all"]])(
    "survives %s",
    async (tool, ...options) => {
      for (const flags of [[], ["-nostartfiles"]]) {
        const output = scratch("libvalue.so");
        handle(await library("gcc", ...flags), output);
        const after = scratch("libvalue.so");
        copyFileSync(output, after);
        await must(tool, [...options, after]);
        expect(await said(after)).toBe(WITH);
      }
    },
  );
});
