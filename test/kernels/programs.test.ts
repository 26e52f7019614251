/**
 * What docs/kernel-reports.md says, shown by its programs on each kernel that makes calls of nops; and what BPF
 * programs see on probes at functions' beginnings (test/live/sessions.test.ts), on each kernel.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { behindFile } from "../behind.js";
import { skipBecause } from "../packages/skips.js";
import { must } from "../run.js";
import { inGuest, isShort, testKernels } from "./machine.js";
import { said, seen } from "./seen.js";

const { kernels, missing } = testKernels();
/** BPF programs of several places (uprobe_multi) are from 6.6 on: of Debian's kernels 6.1 has none. */
const OLDEST = "6.12";
const skips = skipBecause("programs on test kernels", kernels.length === 0 ? missing.join("; ") : null);

/** Programs of the reports, compiled into a folder below /tmp, where guests see it. */
async function compiled(...names: readonly string[]): Promise<string> {
  const folder = mkdtempSync(path.join(tmpdir(), "usdt-report-"));
  behindFile(() => rmSync(folder, { recursive: true, force: true }));
  for (const name of names) {
    const source = fileURLToPath(new URL(`programs/${name}.c`, import.meta.url));
    await must("gcc", ["-O2", source, "-o", path.join(folder, name)]);
  }
  return folder;
}

describe.skipIf(skips)("programs on test kernels", () => {
  const all = kernels.map((kernel) => [`${kernel.series} (${kernel.version})`, kernel] as const);

  describe.each(all.filter(([, { facts }]) => facts.optimizes !== null))("%s", (_, kernel) => {
    const length = kernel.facts.optimizes === "nop10" ? "10" : "5";

    it("a call changes, and is torn apart, as the reports say", async () => {
      const folder = await compiled("moving-call", "failed-elsewhere", "cleared-counter");
      const programs = ["moving-call", "failed-elsewhere", "cleared-counter"].map((name) => `./${name} ${length}`);
      const command = `cd ${folder} && ${programs.join(" && ")} && dmesg`;
      const { status, stdout } = await inGuest(kernel, "bash", "-c", command);
      expect(status, stdout).toBe(0);
      for (const said of ["the call has changed", "another tracer attached: cc", "the call was torn apart"])
        expect(stdout).toContain(said);
      expect(stdout).toContain("the probe stays");
      expect(stdout).toMatch(/WARNING: .*set_orig_insn/);
      // lea of 16 bits, and the call; before 7.2 what is no instruction.
      if (length === "10") expect(stdout).toContain("both gone: 66 8d 64 24 80 e8");
      else expect(stdout).toContain("who calls it dies: Illegal instruction");
      seen(kernel, "movingCall", "noRoom", "torn");
    });
  });

  const oldest = all.findIndex(([, { series }]) => series === OLDEST);
  describe.each(all.slice(Math.max(0, oldest)))("%s", (_, kernel) => {
    it.skipIf(isShort)("BPF programs see what they see on this machine", async () => {
      const config = ["--config", "test/kernels/guest-live.config.ts", "--configLoader", "runner"];
      const run = await inGuest(kernel, process.execPath, "node_modules/vitest/vitest.mjs", "run", ...config);
      const report = /\{"numTotalTestSuites".*\}/.exec(run.stdout)?.[0];
      expect(report, run.stdout + run.stderr).toBeDefined();
      const { numPassedTests, numTotalTests } = JSON.parse(report!) as Record<
        "numPassedTests" | "numTotalTests",
        number
      >;
      expect(numPassedTests, report).toBe(numTotalTests);
      seen(kernel, "sessions", "changedRegisters");
      said(kernel, `BPF entries, returns and sessions: ${numPassedTests} tests (guest: ${run.seconds.toFixed(0)} s)`);
    });
  });
});
