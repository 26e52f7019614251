/**
 * Probes that were built as a nop5: no rewriting makes anything of them, and on Linux 6.18 to 7.1 forked children die at them
 * all the same. So the file gets the fork guard and nothing else, where options and file admit of one.
 */
import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { vaddr } from "../../src/address.js";
import { offsetOf } from "../../src/elf/image.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { type RewriteDocument, usdtNop5 } from "../command.js";
import { program } from "../forks/family.js";
import { instructionsAt, nop5 } from "../judges/code.js";
import { findingsOf, newFindings } from "../judges/findings.js";
import { readNotes } from "../judges/notes.js";
import { must } from "../run.js";
import { changed, complaints, held } from "../verify/held.js";
import { canCompile, compile, scratch } from "./compile.js";

interface Document extends RewriteDocument {
  readonly layout: string;
  readonly output: string;
}

async function rewriteWith(input: string, ...options: readonly string[]): Promise<Document> {
  const output = scratch("output");
  const outcome = await usdtNop5("rewrite", input, "-o", output, "--json", ...options);
  expect(outcome.status, outcome.stderr).toBe(0);
  return { ...(JSON.parse(outcome.stdout) as Document), output };
}

const source = readFileSync(program("already.c"), "utf8");
const build = (...flags: readonly string[]): Promise<string> => compile(source, "-DROOMY", ...flags);
const isSame = (a: string, b: string): boolean => readFileSync(a).equals(readFileSync(b));
const codes = ({ hazards }: Document): string[] => hazards.map((h) => h.code);
const fork = ({ hazards }: Document): string => hazards.find((h) => h.code === "fork")?.message ?? "";

describe.skipIf(!canCompile)("probes that were built as a nop5", () => {
  let compiled: string;
  let guarded: Document;
  beforeAll(async () => {
    compiled = await build();
    guarded = await rewriteWith(compiled);
  });

  it("get the guard, and stay what and where they were", async () => {
    const { layout, summary, sites, forkGuard, output } = guarded;
    expect(layout).toBe("universal");
    expect(summary).toEqual({ sites: 2, rewritten: 0, already: 2, skipped: 0 });
    for (const site of sites)
      expect(site).toMatchObject({ status: "already", newLocation: site.location, tactic: null, reason: null });
    expect(forkGuard).toEqual({ installed: true, reason: null, sites: 2, pages: 2 });
    expect(codes(guarded)).not.toContain("fork");
    expect(codes(guarded)).not.toContain("fork-uncounted");
    expect(await readNotes(output)).toEqual(await readNotes(compiled));
    const locations = (await readNotes(output)).map((note) => note.location);
    const instructions = await instructionsAt(output, locations);
    expect(locations.map((at) => instructions.get(at)?.bytes)).toEqual([nop5, nop5]);
    expect(newFindings(await findingsOf(compiled), await findingsOf(output))).toEqual([]);
    expect(await must(output, ["3"])).toBe(await must(compiled, ["3"]));
  });

  it.each<[what: string, flags: string[], ...options: string[]]>([
    ["a program with fixed addresses", ["-no-pie"]],
    ["a static program", ["-static"]],
    ["a library", ["-DLIBRARY", "-shared", "-fPIC"]],
    ["a program of lld's, without padding", ["-fuse-ld=lld", "-falign-functions=1"]],
    ["nop,nop5, with --layout nop,nop5", ["-DNOP=nop; .nops 5"], "--layout", "nop,nop5"],
  ])("%s: verified, reverted, and rewritten once only", async (_what, flags, ...options) => {
    const input = await build(...flags);
    const { output, summary, forkGuard } = await rewriteWith(input, ...options);
    expect([summary.already, forkGuard]).toMatchObject([2, { installed: true, sites: 2 }]);
    for (const original of [[], ["--original", input]]) {
      const outcome = await usdtNop5("verify", "--strict", "--json", output, ...original);
      expect(outcome.status, outcome.stdout).toBe(0);
      expect(JSON.parse(outcome.stdout)).toMatchObject({
        summary: { sites: 2, equivalent: 2, unproved: 0, different: 0 },
        forkGuard: { verdict: "equivalent" },
      });
    }
    const again = await rewriteWith(output, ...options);
    expect(isSame(again.output, output)).toBe(true);
    expect([again.summary, again.forkGuard]).toEqual([summary, forkGuard]);
    const back = scratch("back");
    expect((await usdtNop5("revert", output, "-o", back)).status).toBe(0);
    expect(isSame(back, input)).toBe(true);
  });

  it.each([
    [["--no-fork-guard"], "there is no fork guard: --no-fork-guard leaves it out", { installed: false }],
    [["--kernel", "7.2"], "--kernel 6.18 --layout auto gives them a fork guard", null],
    [["--layout", "nop,nop10"], "--kernel 6.18 --layout auto gives them a fork guard", null],
  ])("%s leaves the file as it was, a guarded one as it was before, and says so", async (options, why, forkGuard) => {
    for (const input of [compiled, guarded.output]) {
      const report = await rewriteWith(input, ...options);
      expect(isSame(report.output, compiled)).toBe(true);
      expect(fork(report)).toContain(why);
      expect(report.forkGuard).toEqual(forkGuard && expect.objectContaining(forkGuard));
    }
    const inPlace = scratch("in place");
    await must("cp", [guarded.output, inPlace]);
    expect((await usdtNop5("rewrite", "--in-place", inPlace, ...options)).status).toBe(0);
    expect(isSame(inPlace, compiled)).toBe(true);
  });

  it("are looked at where somebody asks for them", async () => {
    const one = await rewriteWith(compiled, "--only", "already:first");
    // What is not asked for stays as it is, and the guard looks at all that a child may run.
    expect([one.summary.already, one.summary.skipped, one.forkGuard]).toMatchObject([1, 1, { sites: 2 }]);
    const none = await rewriteWith(compiled, "--only", "other:*");
    expect(none.forkGuard).toMatchObject({ installed: false, reason: "no probe is or becomes a nop5" });
    expect(isSame(none.output, compiled)).toBe(true);
  });

  const another = "\n#undef _SDT_NOP\n#define _SDT_NOP nop\nvoid third(void) { STAP_PROBE(already, third); }";

  it("share the guard with others that are rewritten", async () => {
    const { layout, forkGuard, summary } = await rewriteWith(await compile(`${source}${another}`, "-DROOMY"));
    expect([layout, forkGuard]).toMatchObject(["universal", { installed: true, sites: 3 }]);
    expect(summary).toMatchObject({ rewritten: 1, already: 2 });
  });

  it("are guarded against those forks that can be seen, and the report names the others", async () => {
    // Branches lead to the system call and right behind it, so that no jump finds room.
    const raw = `
__attribute__((noinline, used)) static long forks(long yes) {
  long number = 57;
  __asm__ volatile("test %1,%1; jz 2f; js 1f; nop; 1: syscall; 2:" : "+a"(number) : "r"(yes) : "rcx", "r11", "memory");
  return number;
}`;
    const report = await rewriteWith(await compile(`${source}${raw}`, "-DROOMY"));
    expect(report.forkGuard).toMatchObject({ installed: true, sites: 2 });
    expect(fork(report)).toMatch(/it may fork in ways that no guard sees: .*system call/);
    expect((await usdtNop5("verify", "--strict", report.output)).status).toBe(0);
    // Where a probe has the choice, auto makes that as safe as it can be for all kernels.
    const mixed = await rewriteWith(await compile(`${source}${raw}${another}`, "-DROOMY"));
    expect([mixed.layout, mixed.forkGuard]).toMatchObject(["nop,nop10", { installed: false }]);
    expect(fork(mixed)).toMatch(/it may fork in ways that no guard sees: .*system call/);
  });

  it("a file with a signature: that it no longer fits is said", async () => {
    const [signed, signature] = [scratch("signed"), compiled];
    await must("objcopy", ["--add-section", `.signature=${signature}`, compiled, signed]);
    expect(codes(await rewriteWith(signed))).toContain("self-check");
    expect(codes(await rewriteWith(signed, "--no-fork-guard"))).not.toContain("self-check");
  });

  it("verify finds what changes in such a file: a probe, a guard that does nothing", async () => {
    const bytes = readFileSync(guarded.output);
    expect(complaints(held(bytes))).toEqual([]);
    // Any other nop of five bytes, or one of one byte, is another probe.
    for (const [at, value] of [
      [4, 8],
      [0, 0x90],
    ] as const) {
      const probe = changed(bytes, (copy, image) => {
        copy[offsetOf(image, readUsdtNotes(image)[0]!.location)! + at] = value;
      });
      expect(held(probe, readFileSync(compiled)).sites.map((s) => s.verdict)).toEqual(["different", "equivalent"]);
    }
    const symbols = await must("readelf", ["-sW", guarded.output]);
    for (const name of ["usdt_nop5.init", "usdt_nop5.fork_guard"]) {
      const address = new RegExp(`([0-9a-f]{16}) .* ${name}$`, "m").exec(symbols)?.[1];
      const idle = changed(bytes, (copy, image) => {
        copy[offsetOf(image, vaddr(Number.parseInt(address!, 16)))!] = 0xc3;
      });
      const { forkGuard, findings } = held(idle, readFileSync(compiled));
      expect(forkGuard?.verdict, name).toBe("different");
      expect(findings.length).toBeGreaterThan(0);
    }
  });
});
