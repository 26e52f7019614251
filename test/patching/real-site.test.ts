/** The code of rewritten files, as the compiler and the rewriter have made it, under threads and a patcher. */
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { faultNamed } from "../../src/patching/faults.js";
import { type RealSite, realSites } from "../../src/patching/real-site.js";
import { explore, type Result } from "../../src/patching/scenario.js";
import { carriedOriginal } from "../../src/verify/original.js";
import { usdtNop5 } from "../commands/in-process.js";
import { canCompile, compile, scratch } from "../rewrite/compile.js";

type Kernel = "legacy" | "6.18" | "7.2";

/** A leaf function that keeps its array below rsp, one that does not, one that calls, and one behind a branch. */
const source = `
#include <stdio.h>
#include <sys/sdt.h>
__attribute__((noinline)) long leaf(long x, int n) {
  volatile long b[8];
  for (int i = 0; i < 8; i++) b[i] = x + i;
  DTRACE_PROBE1(real, leaf, x);
  long s = 0;
  for (int i = 0; i < 8; i++) s += b[i];
  return s * n;
}
__attribute__((noinline)) long plain(long x) { DTRACE_PROBE1(real, plain, x); return x * 3; }
__attribute__((noinline)) long calls(long x) { puts("calls"); DTRACE_PROBE1(real, calls, x); puts("again"); return x + 1; }
__attribute__((noinline)) long branch(long x) { if (x > 10) { DTRACE_PROBE1(real, branch, x); x ^= 5; } return x - 1; }
int main(int argc, char **argv) { printf("%ld\\n", leaf(argc, 8) + plain(argc) + calls(argc) + branch(argc)); }
`;

async function rewritten(...options: readonly string[]): Promise<string> {
  const output = scratch("rewritten");
  const outcome = await usdtNop5("rewrite", await compile(source), "-o", output, "--strict", ...options);
  expect(outcome.status, outcome.stderr).toBe(0);
  return output;
}

function sitesOf(file: string, kernel: Kernel): readonly RealSite[] {
  const image = parseElf(readFileSync(file));
  return realSites(image, carriedOriginal(image).image!, kernel, () => true);
}

function run(site: RealSite, kernel: Kernel, fault?: string): Result {
  expect(site.because).toBe(null);
  const program = site.program!;
  return explore({ kernel, program, threads: 2, toggles: 1, fault: fault === undefined ? null : faultNamed(fault)! });
}

describe.skipIf(!canCompile)("rewritten sites", () => {
  for (const [layout, kernel, first] of [
    ["nop5", "6.18", 0xe8],
    ["nop5", "7.2", 0xcc],
    ["nop5", "legacy", 0xcc],
    ["nop,nop5", "6.18", 0xe8],
    ["nop,nop10", "7.2", 0x48],
    ["nop,nop10", "6.18", 0xcc],
  ] as const)
    it(`${layout} on ${kernel}`, async () => {
      const sites = sitesOf(await rewritten("--layout", layout), kernel);
      expect(sites.length).toBe(4);
      for (const site of sites) {
        const result = run(site, kernel);
        expect(result.found?.violation, site.name).toBeUndefined();
        expect(result.exhaustive).toBe(true);
        // It does run over the probe, and more than the probe.
        expect(site.program!.region!.size, site.name).toBeGreaterThan(2);
        const bytes = new Set<number>();
        const { model } = result;
        for (const step of model.allSteps()) if (step.bytes !== null) bytes.add(step.bytes[0]!);
        expect(bytes).toContain(first);
      }
    });

  it("a fault in the protocol shows there too", async () => {
    const sites = sitesOf(await rewritten("--layout", "nop5"), "6.18");
    for (const site of sites) {
      expect(run(site, "6.18", "optimize-no-second-sync").found?.violation.property).toBe("torn-instruction");
      expect(run(site, "6.18", "rcx-lost").found?.violation.property).toBe("registers");
    }
  });

  it("without its guard the leaf function loses what it keeps below rsp", async () => {
    const file = await rewritten("--layout", "nop5");
    const bytes = readFileSync(file);
    for (const [lea, nop] of [
      ["488d642480", "6666666690"],
      ["488da42480000000", "0f1f840000000000"],
    ] as const) {
      const at = bytes.indexOf(Buffer.from(lea, "hex"));
      expect(at).toBeGreaterThan(0);
      bytes.set(Buffer.from(nop, "hex"), at);
      expect(bytes.indexOf(Buffer.from(lea, "hex"))).toBe(-1);
    }
    const careless = scratch("careless");
    writeFileSync(careless, bytes);
    const verdicts = sitesOf(careless, "6.18").map((site) => [
      site.name,
      run(site, "6.18").found?.violation.property ?? null,
    ]);
    expect(Object.fromEntries(verdicts)).toEqual({ leaf: "red-zone", plain: null, calls: null, branch: null });
  });
});
