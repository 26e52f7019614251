/**
 * Programs that make children in every way there is (ways.c), with a guard that writes G: it runs once in each child with a
 * copy of the memory, before the program's own code, and in nobody else. Dynamic programs by handler and wrapped imports,
 * static ones by system calls that lead through new code. Each way is broken once, to see that the test would notice.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";
import { R_X86_64_GLOB_DAT, R_X86_64_IRELATIVE, R_X86_64_RELATIVE } from "../../src/elf/constants.js";
import type { ForkCoverPlan } from "../../src/rewrite/fork-guard/install/fork-cover.js";
import { build } from "../fixtures/build.js";
import { findingsOf, newFindings } from "../judges/findings.js";
import { type CorpusFile, corpus, corpusPath, FETCH_TIMEOUT, fetchPackages } from "../packages/corpus.js";
import { canCompile, compile, scratch } from "../rewrite/compile.js";
import { must, run } from "../run.js";
import { cover, coverOf } from "./covered.js";
import { childOf } from "./handled.js";

const programs = fileURLToPath(new URL("./programs", import.meta.url));
const noMusl = (await run("musl-gcc", ["--version"]).catch(() => ({ status: 1 }))).status !== 0;
const long = process.env.LONG !== undefined;

async function compiled(compiler: string, file: string, ...flags: readonly string[]): Promise<string> {
  const built = await build({
    output: "program",
    compiler,
    sources: [join(programs, file)],
    flags: ["-O2", "-pthread", "-w", ...flags],
  });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return built.path;
}

/** What it writes to standard error, at ordinary and at early binding. */
async function said(file: string): Promise<string> {
  const [lazy, early] = await Promise.all(
    [{}, { LD_BIND_NOW: "1" }].map((environment) => run(file, [], { environment, timeout: 20_000 })),
  );
  expect(early).toEqual(lazy);
  expect(lazy!.stdout).toBe("done\n");
  return lazy!.stderr;
}

const WITHOUT = "tFx_xSxSx3xRxrxCcVcv";
const WITH = "tFGx_GxSGxSGx3GxRGxrGxCGcVcv";
/** How a program says it that has a pointer to _Fork as well. */
const withPointer = (text: string, by: string): string => text.replace("_", `P${by}_`);

async function expectCovered(input: string, before = WITHOUT, after = WITH): Promise<ReturnType<typeof cover>> {
  const output = scratch("covered");
  const covered = cover(input, output);
  expect(covered.uncovered).toEqual([]);
  expect(await said(input)).toBe(before);
  expect(await said(output), covered.covered.join("; ")).toBe(after);
  expect(newFindings(await findingsOf(input), await findingsOf(output))).toEqual([]);
  return covered;
}

describe.skipIf(!canCompile)("every fork of a dynamic program", () => {
  it.each([
    ["bound lazily", ["-Wl,-z,lazy"]],
    ["bound early", ["-Wl,-z,now", "-Wl,-z,relro"]],
    ["with fixed addresses", ["-no-pie", "-fno-pie"]],
    ["with fixed addresses, bound early", ["-no-pie", "-fno-pie", "-Wl,-z,now"]],
    ["without a linkage table", ["-fno-plt"]],
    ["with a linkage table for IBT", ["-fcf-protection", "-Wl,-z,ibtplt", "-Wl,-z,lazy"]],
    ["stripped", ["-s"]],
    ["with DT_HASH", ["-Wl,--hash-style=sysv"]],
    ["linked by lld", ["-fuse-ld=lld"]],
    ["linked by gold", ["-fuse-ld=gold"]],
    ["linked by mold", ["-fuse-ld=mold"]],
    ["linked by mold, bound lazily, fixed addresses", ["-fuse-ld=mold", "-no-pie", "-fno-pie", "-Wl,-z,lazy"]],
  ])("%s", async (_what, flags) => {
    const { plan } = await expectCovered(await compiled("gcc", "ways.c", ...flags));
    expect(plan!.handler!.wrapped.map((w) => w.name)).toEqual(["_Fork", "syscall", "clone"]);
    expect(plan!.detours).toHaveLength(2);
  });

  it("built by clang", async () => {
    await expectCovered(await compiled("clang", "ways.c"));
  });

  it("with a pointer to _Fork in data", async () => {
    const input = await compiled("gcc", "ways.c", "-DPOINTER=1");
    await expectCovered(input, withPointer(WITHOUT, "x"), withPointer(WITH, "Gx"));
  });

  it("but not where the address of its own linkage table is the function's, and says so", async () => {
    const input = await compiled("gcc", "ways.c", "-DPOINTER=2", "-no-pie", "-fno-pie");
    expect(coverOf(input).uncovered).toEqual([
      "it imports _Fork (it copies the memory), which cannot be wrapped: it hands out the address of _Fork in its own linkage table",
    ]);
    const output = scratch("covered");
    cover(input, output);
    expect(await said(output)).toBe(withPointer(WITH, "x").replace("_Gx", "_x"));
  });

  it("in a library that forks", async () => {
    const [library, source] = [scratch("libforks.so"), scratch("main.c")];
    const [name, program, covered] = [scratch("libforks.c"), scratch("main"), scratch("libforks.so")];
    writeFileSync(
      name,
      '#include <unistd.h>\n#include <sys/wait.h>\nint value(void) { int s; if (_Fork() == 0) { write(2, "x", 1); _exit(5); } wait(&s); return s >> 8; }\n',
    );
    writeFileSync(source, "int value(void);\nint main(void) { return value() != 5; }\n");
    await must("gcc", ["-w", "-shared", "-fPIC", name, "-o", library]);
    await must("gcc", [source, library, "-o", program]);
    cover(library, covered);
    expect(await run(program, [])).toMatchObject({ status: 0, stderr: "x" });
    writeFileSync(library, readFileSync(covered));
    expect(await run(program, [])).toMatchObject({ status: 0, stderr: "Gx" });
  });

  it.each([["strip"], ["eu-strip"], ["objcopy"], ["patchelf", "--set-rpath", "/nowhere/at/all"]])(
    "survives %s",
    async (tool, ...options) => {
      // strip and patchelf move most in tables that mold has laid out, the others in those of bfd.
      const all = [["-Wl,-z,lazy"], ["-no-pie", "-fno-pie", "-fuse-ld=mold"]];
      for (const flags of long ? all : [all[tool === "strip" || tool === "patchelf" ? 1 : 0]!]) {
        const output = scratch("covered");
        cover(await compiled("gcc", "ways.c", ...flags), output);
        await must(tool, [...options, output]);
        expect(await said(output)).toBe(WITH);
      }
    },
  );

  it("notices a word that does not lead to the wrapper, and a relocation that lazy binding cannot read", async () => {
    const input = await compiled("gcc", "ways.c", "-Wl,-z,lazy");
    const output = scratch("covered");
    const { plan } = cover(input, output);
    const tables = plan!.handler!.tables;
    const at = (type: number, table = tables.pltRelocations!): number => {
      for (let i = 0; i < table.head.length; i += 24)
        if (table.head.readUInt32LE(i + 8) === type) return table.section.sh_offset + i;
      throw new Error(`no relocation of type ${type}`);
    };
    const wrapped = at(R_X86_64_IRELATIVE);
    const before = readFileSync(input);
    const forgotten = readFileSync(output);
    before.copy(forgotten, wrapped, wrapped, wrapped + 24);
    const relative = readFileSync(output);
    relative.writeUInt32LE(R_X86_64_RELATIVE, wrapped + 8);
    writeFileSync(output, forgotten);
    expect((await run(output, [])).stderr).not.toBe(WITH);
    writeFileSync(output, relative);
    expect((await run(output, [])).stderr).toMatch(/unexpected (PLT )?reloc/);
    expect(at(R_X86_64_GLOB_DAT, tables.relocations)).toBeGreaterThan(0);
  });
});

describe.skipIf(!canCompile)("every fork of a static program", () => {
  const statics: readonly (readonly [what: string, flags: readonly string[]])[] = [
    ["fixed addresses", ["-static"]],
    ["position-independent, stripped", ["-static-pie", "-fPIE", "-s"]],
    ["linked by mold, stripped", ["-static", "-fuse-ld=mold", "-s"]],
  ];
  const more: typeof statics = [
    ["position-independent", ["-static-pie", "-fPIE"]],
    ["fixed addresses, stripped", ["-static", "-s"]],
  ];
  it.each(long ? [...statics, ...more] : statics)("%s", async (_what, flags) => {
    const { plan } = await expectCovered(await compiled("gcc", "ways.c", ...flags));
    expect(plan!.handler).toBeUndefined();
    expect(plan!.detours.map((d) => d.question).filter((q) => q === "none")).toHaveLength(2);
  });

  // lld begins at 2 MB: bytes of _int_malloc, which jumps past a lock prefix and so cannot be decoded, look like an address
  // inside of a function that forks, and the loader's calls might lead there.
  it("linked by lld: says what it cannot exclude", async () => {
    const { uncovered } = coverOf(await compiled("gcc", "ways.c", "-static", "-fuse-ld=lld"));
    expect(uncovered.every((why) => /may lead anywhere that an address inside a function is kept of/.test(why))).toBe(
      true,
    );
  });

  it.skipIf(noMusl)("with musl, not stripped", async () => {
    // Its program header table has no room for another entry where it stands.
    const [input, output] = [await compiled("musl-gcc", "ways.c", "-static"), scratch("covered")];
    expect(cover(input, output, undefined, undefined, true).uncovered).toEqual([]);
    expect(await said(input)).toBe(WITHOUT);
    expect(await said(output)).toBe(WITH);
    // Stripped, it has neither symbols nor unwind information to say where functions begin.
    const stripped = coverOf(await compiled("musl-gcc", "ways.c", "-static", "-s"));
    expect(stripped.uncovered.join()).toMatch(/between the instructions there|in no known function/);
  });

  const planted = async (change: (plan: ForkCoverPlan) => ForkCoverPlan): Promise<string> => {
    const output = scratch("covered");
    cover(await compiled("gcc", "ways.c", "-static"), output, undefined, change);
    return (await run(output, [], { timeout: 10_000 })).stderr;
  };

  it("notices one system call that is left as it was", async () => {
    const whole = (await planted((plan) => plan)).split("G").length;
    expect(whole).toBe(WITH.split("G").length);
    for (const question of ["none", "any", "clone"] as const) {
      const less = await planted((plan) => ({ ...plan, detours: plan.detours.filter((d) => d.question !== question) }));
      expect(less.split("G").length, question).toBeLessThan(whole);
    }
  });

  it("notices a guard that runs in threads, and in a child that shares the memory", async () => {
    // Nothing is asked: whatever returns 0 is taken for a child with a copy of the memory.
    const output = await planted((plan) => ({
      ...plan,
      detours: plan.detours.map((d) => (d.question.startsWith("clone") ? { ...d, question: "none" as const } : d)),
    }));
    expect(output).toMatch(/^Gt/);
    expect(output).toContain("VGc");
  });

  it("goes on when a signal interrupts it, and returns from handlers", async () => {
    const source = `#include <signal.h>
#include <stdio.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
static volatile long ticks;
static void tick(int s) { ticks++; }
int main(void) {
  signal(SIGALRM, tick);
  struct itimerval often = {{0, 50}, {0, 50}};
  setitimer(ITIMER_REAL, &often, 0);
  for (int i = 0; i < ${long ? 3000 : 300}; i++) {
    int s, pid = fork();
    if (pid < 0) return 1;
    if (pid == 0) _exit(3);
    while (waitpid(pid, &s, 0) < 0);
    if (s != 3 << 8) return 2;
  }
  printf("%d\\n", ticks > 10);
}`;
    for (const link of ["-static", "-static-pie"]) {
      const output = scratch("covered");
      cover(await compile(source, link), output);
      expect(await run(output, [], { timeout: 60_000 })).toMatchObject({
        status: 0,
        stdout: "1\n",
        stderr: "G".repeat(long ? 3000 : 300),
      });
    }
  });

  it("leaves registers, flags and the red zone as the kernel leaves them, in parent and child", async () => {
    const exact = (...flags: readonly string[]): Promise<string> =>
      compiled("gcc", "exact.S", "-nostdlib", "-nostartfiles", ...flags);
    for (const link of ["-static", "-static-pie"]) {
      const output = scratch("exact");
      const input = await exact(link);
      expect(await run(input, [])).toMatchObject({ status: 0, stderr: "" });
      expect(cover(input, output).uncovered).toEqual([]);
      expect(await run(output, [])).toMatchObject({ status: 0, stderr: "GG" });
      // The program tells which of them is wrong: a guard that leaves 0 in rdx, one that clears CF.
      for (const [guard, status] of [
        ["ba00000000c3", 6],
        ["f8c3", 2],
      ] as const) {
        cover(input, output, () => childOf(guard));
        expect((await run(output, [])).status, guard).toBe(status);
      }
    }
    expect(coverOf(await exact("-static", "-DSTUCK")).uncovered.join()).toMatch(/cannot be led elsewhere/);
  });

  it("says that nothing forks where nothing does", async () => {
    const source = 'void _start(void) { __asm__ volatile("syscall; hlt" :: "a"(60), "D"(0)); }';
    const { plan, obstacle, uncovered, covered } = coverOf(await compile(source, "-static", "-nostdlib"));
    expect([plan, obstacle, uncovered]).toEqual([undefined, undefined, []]);
    expect(covered).toEqual(["it is static, and makes no system call that forks"]);
  });

  it("says so of int 0x80, which takes other numbers", async () => {
    const source = '_Noreturn void _start(void) { for (;;) __asm__ volatile("int $0x80" :: "a"(2)); }';
    expect(coverOf(await compile(source, "-static", "-nostdlib")).uncovered.join()).toMatch(/int 0x80 at/);
  });
});

describe("the forks of Debian's packages", () => {
  beforeAll(() => {
    fetchPackages();
  }, FETCH_TIMEOUT);

  const told = (file: CorpusFile) => {
    const { plan, obstacle, covered, uncovered } = coverOf(corpusPath(file));
    return { wrapped: plan?.handler?.wrapped.length, detours: plan?.detours.length, obstacle, covered, uncovered };
  };
  const all = { wrapped: 0, detours: 0, obstacle: undefined, uncovered: [] };
  const harmless = ["it imports syscall, and calls it for nothing that copies the memory"];

  it("are all covered", () => {
    expect(told(corpus.postgres)).toEqual({ ...all, covered: [] });
    // The others are covered in the same way: LONG=1 looks at them as well.
    for (const file of long ? [corpus.python, corpus.php, corpus.libjvm, corpus.libstdcxx] : [corpus.python])
      expect(told(file), file.path).toEqual({ ...all, covered: harmless });
  });
});
