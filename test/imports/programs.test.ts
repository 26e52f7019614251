/**
 * Programs with a child handler of ours: it runs in each forked child, before the program's own handlers, however the
 * program was linked; readelf, eu-elflint and ldd find nothing that they did not find before. LONG=1 tries each linker
 * with each compiler and each kind of hash table, and each tool on each layout; otherwise each compiler meets each linker once, and
 * mold, whose tables are others, once more.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { FORK_GUARD } from "../../src/rewrite/fork-guard/install/fork-handlers.js";
import { build } from "../fixtures/build.js";
import { type Combination, compilers, linkers } from "../fixtures/combinations.js";
import { findingsOf, newFindings } from "../judges/findings.js";
import { skipBecause } from "../packages/skips.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must, run } from "../run.js";
import { handle } from "./handled.js";

const programs = fileURLToPath(new URL("./programs", import.meta.url));
const source = (name: string): string => join(programs, name);
const missing = (tool: string): boolean =>
  skipBecause(`child handlers under ${tool}`, spawnSync(tool, ["--version"]).status === 0 ? null : `no ${tool}`);
const [noGdb, noStrace] = [missing("gdb"), missing("strace")];
const long = process.env.LONG !== undefined;

async function compiled(compiler: string, file: string, ...flags: readonly string[]): Promise<string> {
  const sources = file.split(" ").map(source);
  const built = await build({ output: "program", compiler, sources, flags: ["-O2", "-pthread", ...flags] });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return built.path;
}

async function expectUnsuspicious(input: string, output: string, known = /^$/): Promise<void> {
  const findings = newFindings(await findingsOf(input), await findingsOf(output));
  expect(findings.filter((finding) => !known.test(finding))).toEqual([]);
  const unresolved = async (file: string): Promise<string> =>
    (await run("ldd", ["-r", file])).stdout.replace(/\(0x[0-9a-f]+\)/g, "");
  expect(await unresolved(output)).toBe(await unresolved(input));
}

/** What it writes to standard error, at ordinary and at early binding. */
async function said(file: string, environment: Readonly<Record<string, string>> = {}): Promise<string> {
  const outcomes = [];
  for (const more of [{}, { LD_BIND_NOW: "1" }])
    outcomes.push(await run(file, [], { environment: { ...environment, ...more }, timeout: 10_000 }));
  const [lazy, early] = outcomes;
  expect(early).toEqual(lazy);
  expect(lazy!.stdout).toBe("done\n");
  return lazy!.stderr;
}

const ways = compilers.flatMap((compiler, c) =>
  linkers.flatMap((linker, l) =>
    (["-pie", "-no-pie"] as const).flatMap((link, k) =>
      (["gnu", "both", "sysv"] as const)
        .filter(
          (_, h) =>
            long || (k === (c + l) % 2 && h === (c + l + 2 * k) % 3) || (linker === "mold" && h === c && k !== c),
        )
        .map((hash) => ({ compiler, linker, link, hash })),
    ),
  ),
) satisfies readonly (Pick<Combination, "compiler" | "linker"> & { link: string; hash: string })[];

describe.skipIf(!canCompile)("a child handler in a program", () => {
  it.each(ways)("$compiler $linker $link, hash $hash", async ({ compiler, linker, link, hash }) => {
    const flags = [`-fuse-ld=${linker}`, link, link === "-pie" ? "-fPIE" : "-fno-pie", `-Wl,--hash-style=${hash}`];
    // Handlers of its own, or none: by turns, and both with mold, where that decides whether a table grows.
    const owns =
      long || linker === "mold" ? [true, false] : [(compilers.indexOf(compiler) + linkers.indexOf(linker)) % 4 < 2];
    for (const own of owns) {
      const input = await compiled(compiler, "forks.c", ...flags, ...(own ? ["-DOWN"] : []));
      const output = scratch("handled");
      const { ways: how, plan } = handle(input, output);
      expect(await said(input), how).toBe(own ? "chxhx" : "cxx");
      expect(await said(output), how).toBe(own ? "cGhxGhx" : "cGxGx");
      expect(plan.start.kind).toBe(linker === "lld" ? "array head" : "preinit array");
      expect(plan.register.source).toBe(own ? "there already" : linker === "mold" ? "appended" : "spare");
      await expectUnsuspicious(input, output);
    }
  });

  it.each([
    ["stripped", ["-s"]],
    ["bound early, with all of RELRO", ["-Wl,-z,now", "-Wl,-z,relro"]],
    ["without RELRO", ["-Wl,-z,norelro"]],
    ["with packed relative relocations", ["-Wl,-z,pack-relative-relocs"]],
    [
      "with packed relative relocations, and without unused dynamic tags",
      ["-Wl,-z,pack-relative-relocs", "-Wl,--spare-dynamic-tags=0"],
    ],
    ["without unused dynamic tags", ["-Wl,--spare-dynamic-tags=0"]],
    ["with code and data in fewer segments", ["-Wl,-z,noseparate-code"]],
    ["whose .bss ends with a page", [`-Wl,-T,${source("page-end.ld")}`]],
  ])("%s", async (_what, flags) => {
    const input = await compiled("gcc", "forks.c", "-DOWN", "-pie", "-fPIE", ...flags);
    const output = scratch("handled");
    const { ways: how } = handle(input, output);
    expect(await said(output), how).toBe("cGhxGhx");
    await expectUnsuspicious(input, output);
  });

  it("comes before the handlers of libraries, which are initialised before the program", async () => {
    const library = await build({
      output: "libhandler.so",
      compiler: "gcc",
      sources: [source("handler.c")],
      flags: ["-shared", "-fPIC"],
    });
    if (!library.ok) throw new Error(library.because);
    const input = await compiled("gcc", "forks.c", "-DOWN", "-DLIBRARY", "-pie", library.path);
    const output = scratch("handled");
    handle(input, output);
    expect(await said(input)).toBe("clhxlhx");
    expect(await said(output)).toBe("cGlhxGlhx");
  });

  it.each(["-pie", "-no-pie"])(
    "goes on to the functions that the program has in its preinit array (%s)",
    async (link) => {
      const input = await compiled("gcc", "forks.c", "-DOWN", "-DPREINIT", link, "-fPIE");
      const output = scratch("handled");
      const { plan } = handle(input, output);
      expect(plan.start).toMatchObject({ kind: "preinit array", needsWord: false });
      expect(await said(input)).toBe("pchxhx");
      expect(await said(output)).toBe("pcGhxGhx");
      await expectUnsuspicious(input, output);
    },
  );

  it.each(["bfd", "lld"])(
    "is registered where libc does not read DT_INIT (start files before glibc 2.34, %s)",
    async (linker) => {
      const [crti, crtn] = await Promise.all(
        ["crti.o", "crtn.o"].map(async (name) => (await must("gcc", [`-print-file-name=${name}`])).trim()),
      );
      const flags = ["-nostartfiles", `-fuse-ld=${linker}`, "-pie", "-fPIE", "-fno-builtin", crti!, crtn!];
      const input = await compiled("gcc", "old-start.c forks.c", "-DOWN", ...flags);
      const output = scratch("handled");
      const { ways: how } = handle(input, output);
      expect(await must("readelf", ["-VW", input])).not.toContain("GLIBC_2.34");
      expect(await said(input)).toBe("chxhx");
      expect(await said(output), how).toBe("cGhxGhx");
      await expectUnsuspicious(input, output);
    },
  );

  it.each(["bfd", "mold"])("works without symbol versions (%s)", async (linker) => {
    // Linked with a library of libc's name that has no versions, run with the real one.
    const stub = await build({
      output: "libc.so.6",
      compiler: "gcc",
      sources: [source("unversioned.c")],
      flags: ["-shared", "-fPIC", "-nostdlib", "-fno-builtin", "-w", "-Wl,-soname,libc.so.6"],
    });
    if (!stub.ok) throw new Error(stub.because);
    const flags = ["-nodefaultlibs", `-fuse-ld=${linker}`, "-pie", "-fPIE", stub.path];
    const input = await compiled("gcc", "forks.c", ...flags);
    expect(await must("readelf", ["-VW", input])).toContain("No version information");
    const output = scratch("handled");
    const { plan } = handle(input, output);
    expect(plan.register.source).toBe(linker === "mold" ? "appended" : "spare");
    expect(await said(input)).toBe("cxx");
    expect(await said(output)).toBe("cGxGx");
    await expectUnsuspicious(input, output);
  });

  it.skipIf(noStrace)("makes no system calls of its own but for what the handler does", async () => {
    const input = await compiled("gcc", "forks.c", "-DOWN");
    const output = scratch("handled");
    handle(input, output);
    const calls = async (file: string): Promise<string[]> => {
      const log = scratch("strace");
      await must("strace", ["-f", "-qq", "-o", log, file]);
      const names = readFileSync(log, "latin1").match(/^\d+ +[a-z0-9_]+\(.*$/gm) ?? [];
      return names.map((line) => /^\d+ +([a-z0-9_]+\((?:2, "."|))/.exec(line)![1]!).sort();
    };
    const added = await calls(output);
    for (const call of await calls(input)) added.splice(added.indexOf(call), added.includes(call) ? 1 : 0);
    expect(added).toEqual(['write(2, "G"', 'write(2, "G"']);
  });

  it.skipIf(noGdb)("lets a debugger stop in it, and in the program", async () => {
    const input = await compiled("gcc", "forks.c", "-DOWN", "-g", "-pie", "-fPIE");
    const output = scratch("handled");
    const { code } = handle(input, output);
    const commands = ["set debuginfod enabled off", "set follow-fork-mode child", "starti", "info proc mappings"];
    const base = /^\s+0x([0-9a-f]+) .* 0x0 .*handled$/m.exec(
      (await run("gdb", ["-nx", "-q", "-batch", ...commands.flatMap((c) => ["-ex", c]), output])).stdout,
    );
    const child = `*0x${(BigInt(`0x${base![1]}`) + BigInt(code.addressOf(FORK_GUARD))).toString(16)}`;
    const more = [`break ${child}`, "break main", "continue", "backtrace", "continue", "backtrace 2", "kill"];
    const { stdout } = await run("gdb", [
      "-nx",
      "-q",
      "-batch",
      ...[...commands, ...more].flatMap((c) => ["-ex", c]),
      output,
    ]);
    expect(stdout).toMatch(/#0 +main \(\)/);
    expect(stdout).toMatch(/hit Breakpoint 1, .*\n#0 .*\n#1 .* in \S*fork/);
  });

  const tools: readonly (readonly string[])[] = [
    ["strip"],
    ["strip", "-g"],
    ["eu-strip"],
    ["objcopy"],
    ["patchelf", "--set-rpath", "/nowhere/at/all"],
    ["patchelf", "--add-needed", "libm.so.6"],
  ];
  it.each([
    ["nothing moved (PIE)", ["-pie", "-fPIE"]],
    ["nothing moved (fixed addresses)", ["-no-pie"]],
    ["tables that moved", ["-fuse-ld=mold", "-no-pie", "-Wl,--hash-style=both"]],
    ["another linker's layout", ["-fuse-ld=lld", "-pie", "-fPIE"]],
  ])("survives the tools that change files: %s", async (what, flags) => {
    const input = await compiled("gcc", "forks.c", ...flags);
    const output = scratch("handled");
    handle(input, output);
    // Half of the tools for one layout, the other half for the next.
    const turn = what.startsWith("nothing moved (PIE)") || what.startsWith("tables") ? 0 : 1;
    for (const [tool, ...options] of tools.filter((_, t) => long || t % 2 === turn)) {
      const [before, after] = [scratch("before"), scratch("after")];
      copyFileSync(input, before);
      copyFileSync(output, after);
      for (const file of [before, after]) await must(tool!, [...options, file]);
      expect(await said(after), tool).toBe("cGxGx");
      // The order of the section headers is then the tool's own.
      await expectUnsuspicious(before, after, /not in address order/);
    }
  });
});
