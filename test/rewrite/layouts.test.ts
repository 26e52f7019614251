/** Layouts, guards and which layout auto chooses, on compiled programs; objdump and readelf are the judges. */
import { describe, expect, it } from "vitest";
import { usdtNop5 } from "../command.js";
import { disassemble } from "../judges/code.js";
import { sha256 } from "../judges/digest.js";
import { readNotes } from "../judges/notes.js";
import { must } from "../run.js";
import { canCompile, compile, scratch } from "./compile.js";

interface Document {
  readonly layout: string;
  readonly sites: readonly { newLocation: string; status: string; guard: boolean; reason: string | null }[];
  readonly hazards: readonly { code: string; message: string }[];
  readonly forkGuard: { installed: boolean; reason: string | null; sites: number; pages: number } | null;
}

async function rewriteWith(input: string, ...options: readonly string[]): Promise<Document & { output: string }> {
  const output = scratch("out");
  const outcome = await usdtNop5("rewrite", input, "-o", output, "--json", ...options);
  expect(outcome.status, outcome.stderr).toBe(0);
  return { ...(JSON.parse(outcome.stdout) as Document), output };
}

/** The instructions from the first probe on, as bytes. */
async function bytesAt(file: string, count: number, before = 0n): Promise<string[]> {
  const [note] = await readNotes(file);
  const from = note!.location - before;
  return (await disassemble(file, from, from + 40n)).slice(0, count).map((i) => i.bytes);
}

const NOP = "90";
const NOP5 = "0f1f440000";
const NOP10 = "662e0f1f840000000000";
const LOWER = "488d642480";
const RAISE = "488da42480000000";

const plain = `
#include <stdio.h>
#include <sys/sdt.h>
__attribute__((noinline)) long twice(long x) { puts("twice"); DTRACE_PROBE1(lay, twice, x); return x * 2 + getchar(); }
int main(void) { printf("%ld\\n", twice(21)); }
`;

const forking = `
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <sys/sdt.h>
int main(void) {
  DTRACE_PROBE(lay, parent);
  if (fork() == 0) return 0;
  int status;
  wait(&status);
  printf("%d\\n", status);
}
`;

/** As libc.so.6 does: a library that names an interpreter. */
const runnable = `
#include <stdlib.h>
const char interpreter[] __attribute__((section(".interp"))) = "/lib64/ld-linux-x86-64.so.2";
void start(void) { _Exit(0); }
${plain.replace("int main", "int other")}`;

/** A leaf function that keeps its array below rsp, which -O0 does not even say. */
const leaf = `
#include <stdio.h>
#include <sys/sdt.h>
__attribute__((noinline)) long leaf(long x, int n) {
  volatile long a[4];
  for (int i = 0; i < 4; i++) a[i] = x + i;
  DTRACE_PROBE2(lay, leaf, x, a[1]);
  long sum = 0;
  for (int i = 0; i < 4; i++) sum += a[i];
  return sum + n;
}
int main(void) { printf("%ld\\n", leaf(10, 3)); }
`;

describe.skipIf(!canCompile)("layouts", () => {
  it("writes the bytes that libbpf looks for", async () => {
    const input = await compile(plain);
    expect(await bytesAt((await rewriteWith(input, "--layout", "nop,nop5")).output, 2)).toEqual([NOP, NOP5]);
    expect(await bytesAt((await rewriteWith(input, "--layout", "nop,nop10")).output, 2)).toEqual([NOP, NOP10]);
    const { output } = await rewriteWith(input, "--layout", "nop5");
    expect((await bytesAt(output, 1))[0]).toBe(NOP5);
  });

  it("guards a nop5 where something below rsp may be needed, and arguments that go by rsp say 128 more", async () => {
    const input = await compile(leaf, "-fno-unroll-loops", "-fno-tree-vectorize");
    const { output, sites } = await rewriteWith(input, "--layout", "nop5");
    expect(sites.map((s) => [s.status, s.guard])).toEqual([["rewritten", true]]);
    expect(await bytesAt(output, 3, 5n)).toEqual([LOWER, NOP5, RAISE]);
    const [before] = await readNotes(input);
    const [after] = await readNotes(output);
    const shifted = before!.arguments.map((a) =>
      a.replace(/@(-?\d*)\(%rsp/, (_, n: string) => `@${Number(n || 0) + 128}(%rsp`),
    );
    expect(after!.arguments).toEqual(shifted);
    expect(shifted).not.toEqual(before!.arguments);
    expect(await must(output, [])).toBe(await must(input, []));
  });

  it("needs no guard around nop,nop10", async () => {
    const input = await compile(leaf);
    const { output, sites } = await rewriteWith(input, "--layout", "nop,nop10");
    expect(sites.map((s) => s.guard)).toEqual([false]);
    expect(await bytesAt(output, 2)).toEqual([NOP, NOP10]);
  });

  it.each([
    ["6.18", "nop5"],
    ["any", "universal"],
  ])(
    "for %s chooses %s for a program that shows no way to fork, and guards it against forks of its libraries",
    async (kernel, fast) => {
      const input = await compile(plain);
      const { layout, hazards, forkGuard } = await rewriteWith(input, "--kernel", kernel);
      expect([layout, forkGuard]).toEqual([fast, { installed: true, reason: null, sites: 1, pages: 1 }]);
      expect(hazards.map((h) => h.code)).not.toContain("fork-in-library");
      const bare = await rewriteWith(input, "--kernel", kernel, "--no-fork-guard");
      expect([bare.layout, bare.forkGuard?.installed]).toEqual([fast, false]);
      expect(bare.hazards.map((h) => h.code)).toContain("fork-in-library");
    },
  );

  it.each([
    ["a program that forks", forking, []],
    ["a shared library", plain.replace("int main", "int other"), ["-shared", "-fPIC"]],
    ["a shared library that can be run as well", runnable, ["-shared", "-fPIC", "-Wl,-e,start"]],
  ])("chooses universal with the fork guard for %s, and nop,nop10 without it", async (_what, source, flags) => {
    const input = await compile(source, ...flags);
    const guarded = await rewriteWith(input);
    expect([guarded.layout, guarded.forkGuard?.installed]).toEqual(["universal", true]);
    expect((await rewriteWith(input, "--kernel", "6.18")).layout).toBe("nop5");
    expect(guarded.hazards.map((h) => h.code)).not.toContain("fork");
    const bare = await rewriteWith(input, "--no-fork-guard");
    expect([bare.layout, bare.forkGuard]).toEqual([
      "nop,nop10",
      { installed: false, reason: "--no-fork-guard leaves it out", sites: 0, pages: 0 },
    ]);
    expect(bare.hazards.map((h) => h.code)).not.toContain("fork");
    const warned = await rewriteWith(input, "--no-fork-guard", "--layout", "nop5");
    expect(warned.hazards.map((h) => h.code)).toContain("fork");
  });

  it("chooses nop,nop10 for a program that forks in a way that no guard can see, and says which", async () => {
    // Branches lead to the system call and right behind it, so that no jump finds room.
    const raw = `
__attribute__((noinline)) static long forks(long yes) {
  long number = 57;
  __asm__ volatile("test %1,%1; jz 2f; js 1f; nop; 1: syscall; 2:" : "+a"(number) : "r"(yes) : "rcx", "r11", "memory");
  return number;
}`;
    const input = await compile(raw + forking.replace("fork()", "forks(1)"));
    const { layout, forkGuard } = await rewriteWith(input);
    expect([layout, forkGuard?.installed]).toEqual(["nop,nop10", false]);
    expect(forkGuard?.reason).toContain("system call");
    const warned = await rewriteWith(input, "--layout", "nop5");
    expect(warned.forkGuard?.installed).toBe(true);
    expect(warned.hazards.find((h) => h.code === "fork")?.message).toContain("system call");
  });

  it.each(["6.18", "6.18.44", "6.19", "7.1.13"])(
    "chooses nop5 for kernel %s, which makes a call of it",
    async (kernel) => {
      const { layout } = await rewriteWith(await compile(plain), "--kernel", kernel);
      expect(layout).toBe("nop5");
    },
  );

  it.each(["7.2", "7.2.6", "7.3.4", "7.4", "6.1", "6.12.117"])(
    "chooses nop,nop10 for kernel %s, so that no kernel is slowed down",
    async (kernel) => {
      const { layout, hazards } = await rewriteWith(await compile(plain), "--kernel", kernel);
      expect(layout).toBe("nop,nop10");
      expect(hazards).toEqual([]);
    },
  );

  it("starts from the original where a rewritten file is rewritten with other options", async () => {
    const input = await compile(plain);
    const five = await rewriteWith(input, "--layout", "nop5");
    const ten = await rewriteWith(input, "--layout", "nop,nop10");
    const again = await rewriteWith(five.output, "--layout", "nop,nop10");
    expect(sha256(again.output)).toBe(sha256(ten.output));
    const same = await rewriteWith(five.output, "--layout", "nop5");
    expect(sha256(same.output)).toBe(sha256(five.output));
    expect(same.sites.map((s) => s.status)).toEqual(["already"]);
  });
});
