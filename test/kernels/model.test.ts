/**
 * The model of patching (src/patching) held against kernels: its cases run on each of them and in the model, step by step
 * (test/patching/conformance), with faults that have to be noticed.
 */
import path from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { behindFile } from "../behind.js";
import { skipBecause } from "../packages/skips.js";
import { guestScript, guestTimeout, inGuest, isShort, testKernels } from "./machine.js";
import { notTried, said, seen } from "./seen.js";

const { kernels, missing } = testKernels();
const skips = skipBecause("the model on test kernels", kernels.length === 0 ? missing.join("; ") : null);
/** There is little time in the short form: `npm test` holds more against a kernel of nop5, where developers have one. */
const chosen = kernels.filter(({ facts }) => !isShort || facts.optimizes !== "nop5");

interface VitestReport {
  readonly numPassedTests: number;
  readonly numPendingTests: number;
  readonly numTotalTests: number;
  readonly testResults: readonly {
    readonly assertionResults: readonly {
      readonly title: string;
      readonly status: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

describe.skipIf(skips)("the model on test kernels", guestTimeout, () => {
  let tests: string;
  beforeAll(async () => {
    if (isShort) notTried("short form: the model on a kernel of nop5, and with nop5 at the probes of others");
    tests = await guestScript("conformance-guest.ts", "guest.test.mjs");
    process.env.GUEST_TESTS = path.dirname(tests);
    behindFile(() => delete process.env.GUEST_TESTS);
  });

  it.each(chosen.map((kernel) => [`${kernel.series} (${kernel.version})`, kernel] as const))(
    "agrees with %s, and would not if it had a fault",
    async (_, kernel) => {
      // Its configuration is not written down first: nothing can be, where there is no overlay.
      const config = ["--config", "test/kernels/guest.config.ts", "--configLoader", "runner"];
      // In the short form without nop5 at the probes of kernels that make calls of another nop.
      const some = isShort ? ["-t", "agree: |agree where"] : [];
      const vitest = ["node_modules/vitest/vitest.mjs", "run", ...config, ...some];
      const run = await inGuest(kernel, process.execPath, ...vitest);
      const report = /\{"numTotalTestSuites".*\}/.exec(run.stdout)?.[0];
      expect(report, run.stdout + run.stderr).toBeDefined();
      const { numPassedTests, numPendingTests, numTotalTests, testResults } = JSON.parse(report!) as VitestReport;
      const failed = testResults.flatMap((file) => file.assertionResults.filter(({ status }) => status === "failed"));
      expect(failed.map(({ title, failureMessages }) => [title, failureMessages[0]])).toEqual([]);
      if (numPassedTests === 0 && numTotalTests > 0 && kernel.facts.damages !== null)
        return said(kernel, "not tried: the model, for calls stay here when tracers go");
      expect(numPassedTests).toBeGreaterThan(0);
      expect(numPassedTests).toBe(numTotalTests - (isShort ? numPendingTests : 0));
      seen(kernel, "model");
      if (kernel.facts.optimizes !== null) seen(kernel, "unmapped");
      said(kernel, `the model agrees: ${numPassedTests} cases and faults (guest: ${run.seconds.toFixed(0)} s)`);
    },
  );
});
