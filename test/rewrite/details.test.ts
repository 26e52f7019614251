/** Notes that depend on where the probe stands, build-ids, appended data, kept relocations. */
import { appendFileSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { rewrite, usdtNop5 } from "../command.js";
import { sha256 } from "../judges/digest.js";
import { readBuildId, readSections } from "../judges/headers.js";
import { readNotes } from "../judges/notes.js";
import { must } from "../run.js";
import { canCompile, compile, manyProbes, scratch } from "./compile.js";

/** A probe written by hand: two notes name one nop, and an argument is a bare distance from it. */
const byHand = `
#include <stdio.h>
long value = 42;
#define NOTE(name, argument) \\
  ".pushsection .note.stapsdt,\\"\\",\\"note\\"\\n .balign 4\\n .4byte 992f-991f, 994f-993f, 3\\n991: .asciz \\"stapsdt\\"\\n" \\
  "992: .balign 4\\n993: .8byte 990b, _.stapsdt.base, 0\\n .asciz \\"hand\\"\\n .asciz \\"" name "\\"\\n .asciz \\"" argument "\\"\\n" \\
  "994: .balign 4\\n .popsection\\n"
__attribute__((noinline)) long f(long x) {
  puts("f");
  __asm__ volatile("990: nop\\n" NOTE("one", "8@16(%rip) 8@%rdi") NOTE("two", "8@value(%rip)")
    ".pushsection .stapsdt.base,\\"aG\\",\\"progbits\\",.stapsdt.base,comdat\\n.weak _.stapsdt.base\\n"
    "_.stapsdt.base: .space 1\\n.popsection\\n");
  return x + value + getchar();
}
int main(void) { printf("%ld\\n", f(1)); }
`;

describe.skipIf(!canCompile)("rewriting", () => {
  it("moves all notes of a site, and counts a bare distance from the new place", async () => {
    const input = await compile(byHand);
    const output = scratch("by-hand");
    const { sites } = await rewrite(input, output);
    expect(sites.map((s) => s.status)).toEqual(["rewritten", "rewritten"]);
    const [before] = await readNotes(input);
    const after = await readNotes(output);
    expect(after.map((n) => n.name)).toEqual(["one", "two"]);
    expect(after[0]!.location).toBe(after[1]!.location);
    expect(after[0]!.location).not.toBe(before!.location);
    const target = before!.location + 16n;
    expect(after[0]!.arguments).toEqual([`8@${target - after[0]!.location}(%rip)`, "8@%rdi"]);
    expect(after[1]!.arguments).toEqual(["8@value(%rip)"]);
    expect(await must(output, [])).toBe(await must(input, []));
  });

  it("keeps the build-id, or derives a new one when asked", async () => {
    const input = await compile(manyProbes(600), "-falign-functions=1");
    const [kept, derived, again] = [scratch("kept"), scratch("derived"), scratch("again")];
    await rewrite(input, kept);
    expect(await readBuildId(kept)).toBe(await readBuildId(input));
    for (const output of [derived, again])
      expect((await usdtNop5("rewrite", "--layout", "nop5", "--new-build-id", input, "-o", output)).status).toBe(0);
    expect(await readBuildId(derived)).toMatch(/^[0-9a-f]{40}$/);
    expect(await readBuildId(derived)).not.toBe(await readBuildId(input));
    expect(sha256(again)).toBe(sha256(derived));
    expect((await usdtNop5("revert", derived, "-o", `${derived}.back`)).status).toBe(0);
    expect(sha256(`${derived}.back`)).toBe(sha256(input));
  });

  it("derives a new build-id where sections move and notes grow as well", async () => {
    // Leaf functions with an array below rsp: their probes are guarded, and arguments go by %rsp.
    const source = `#include <sys/sdt.h>
${Array.from({ length: 60 }, (_, i) => `__attribute__((noinline)) int leaf${i}(int n) { volatile int a[8]; for (int k = 0; k < 8; k++) a[k] = n + k; DTRACE_PROBE1(many, leaf${i}, a[3]); return a[n & 7]; }`).join("\n")}
int main(int n, char **v) { (void)v; return (${Array.from({ length: 60 }, (_, i) => `leaf${i}(n)`).join(" + ")}) == 0; }`;
    const input = await compile(source, "-falign-functions=1", "-Wl,-z,noseparate-code");
    const [kept, derived] = [scratch("kept"), scratch("derived")];
    const { sites } = await rewrite(input, kept);
    expect(sites.some((s) => s.guard)).toBe(true);
    const outcome = await usdtNop5("rewrite", "--layout", "nop5", "--new-build-id", input, "-o", derived);
    expect(outcome.status, outcome.stderr).toBe(0);
    const headers = async (file: string) => (await readSections(file)).map((s) => `${s.name} ${s.address} ${s.offset}`);
    const before = new Map((await readNotes(input)).map((n) => [n.name, n.arguments]));
    const notes = await readNotes(derived);
    expect(notes.some((n) => n.arguments.join() !== before.get(n.name)!.join())).toBe(true);
    expect(notes).toEqual(await readNotes(kept));
    // The carried data is longer by the old build-id; everything that is loaded stands in the same place.
    const loaded = (lines: readonly string[]): readonly string[] => lines.filter((line) => !/ 0 \d+$/.test(line));
    expect(loaded(await headers(derived))).toEqual(loaded(await headers(kept)));
    expect(await readBuildId(derived)).not.toBe(await readBuildId(kept));
    expect(await must(derived, [])).toBe(await must(kept, []));
    expect((await usdtNop5("revert", derived, "-o", `${derived}.back`)).status).toBe(0);
    expect(sha256(`${derived}.back`)).toBe(sha256(input));
  });

  it("keeps what is appended to the file at its end, and says so", async () => {
    const input = await compile(manyProbes(600), "-falign-functions=1");
    const payload = Buffer.from("an archive that the program looks for at its own end");
    appendFileSync(input, payload);
    const output = scratch("appended");
    const { hazards } = await rewrite(input, output);
    expect(hazards.map((h) => h.code)).toContain("appended-data");
    expect(readFileSync(output).subarray(-payload.length)).toEqual(payload);
    expect(await must(output, [])).toBe(await must(input, []));
    expect((await usdtNop5("revert", output, "-o", `${output}.back`)).status).toBe(0);
    expect(sha256(`${output}.back`)).toBe(sha256(input));
  });

  it("says which kept relocations no longer fit", async () => {
    const source = `${manyProbes(2)}
extern long elsewhere; long elsewhere = 3;
long relocated(void) { puts("r"); DTRACE_PROBE(many, relocated); return elsewhere + getchar(); }`;
    const input = await compile(source, "-Wl,--emit-relocs");
    const output = scratch("relocs");
    const { hazards } = await rewrite(input, output);
    expect(hazards.map((h) => h.code)).toContain("stale-relocations");
    expect(await must(output, [])).toBe(await must(input, []));
    expect((await usdtNop5("revert", output, "-o", `${output}.back`)).status).toBe(0);
    expect(sha256(`${output}.back`)).toBe(sha256(input));
  });

  it("rewrites only what --only names", async () => {
    const input = await compile(manyProbes(12));
    const output = scratch("only");
    const outcome = await usdtNop5("rewrite", "--layout", "nop5", "--only", "many:p1*", "--json", input, "-o", output);
    const { sites } = JSON.parse(outcome.stdout) as { sites: { name: string; status: string }[] };
    const done = sites.filter((s) => s.status === "rewritten").map((s) => s.name);
    expect(done.sort()).toEqual(["p1", "p10", "p11"]);
    const before = new Map((await readNotes(input)).map((n) => [n.name, n.location]));
    for (const note of await readNotes(output))
      if (!note.name.startsWith("p1")) expect(note.location).toBe(before.get(note.name));
  });
});
