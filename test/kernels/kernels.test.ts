/**
 * The table of kernels (src/kernel) held against kernels: Debian's newest of each series, booted in a virtual machine.
 *
 *     npm run test:kernels     all that Debian's suites have
 *     KERNELS=short            two of them; KERNELS=6.18,7.2 those
 *
 * Emulated CPUs run in turns: bytes and the order of events can be seen, and no times and no races.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseVersion, kernels as ranges, returnsBySystemCall, type Treatment } from "../../src/kernel/kernels.js";
import { treatmentAt } from "../../src/kernel/treatment.js";
import { bin } from "../command.js";
import { skipBecause } from "../packages/skips.js";
import { nopOfImage } from "./image.js";
import { guestScript, guestTimeout, imageOf, inGuest, isShort, type TestKernel, testKernels } from "./machine.js";
import { type Nop, nameOf, type Seen } from "./nops.js";
import type { ReturnSeen } from "./probed-return.js";

const { kernels, missing } = testKernels();
const skips = skipBecause("test kernels", kernels.length === 0 ? missing.join("; ") : null);

/** Kernel by kernel, claim by claim. */
const table: string[] = [];
const label = ({ series, version }: TestKernel): string => `${series.padEnd(5)} ${version.padEnd(22)}`;
const seen = (kernel: TestKernel, claim: string): void => void table.push(`${label(kernel)} seen: ${claim}`);

afterAll(() => {
  if (skips) return;
  for (const line of missing) table.push(`not tried: ${line}`);
  for (const { name, range } of ranges)
    if (!kernels.some((kernel) => kernel.facts.name === name)) table.push(`not tried: Linux ${range}`);
  const megabytes = kernels.reduce((sum, { bytes }) => sum + bytes, 0) / 1e6;
  table.push(`${kernels.length} kernels, ${megabytes.toFixed(0)} MB of packages`);
  console.log(table.join("\n"));
});

/** Under emulated CPUs a trap that is emulated and one that is stepped look the same. */
const visible = (treatment: Treatment | null): string =>
  treatment === "emulated" || treatment === "stepped" ? "trap" : String(treatment);

const plainHex = ({ hex }: Nop): string => hex.replaceAll(" ", "");

/** mov $335,%rax; syscall: what a return probe leads to, if it is not int3. */
const RETURN_CALL = /48c7c04f0100000f05/;

/** What became of a nop, by its bytes and hits alone. */
function became({ nop, bytes, hits, passes, refusal, end }: Seen): string {
  const original = plainHex(nop);
  if (end !== "exit status 0") return end;
  const [, , traced = ""] = bytes;
  if (hits === 0 && traced === original) return "refused";
  if (refusal !== null || hits !== passes) return `${hits} of ${passes} hits, ${refusal ?? "attached"}`;
  if (/^(e8|488d642480e8)/.test(traced)) return "optimized";
  return traced === `cc${original.slice(2)}` ? "trap" : traced;
}

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

interface DoctorDocument {
  readonly optimizes: string;
  readonly checks: readonly { readonly name: string; readonly status: string; readonly detail: string }[];
}

describe.skipIf(skips)("test kernels", guestTimeout, () => {
  let script: string;
  beforeAll(async () => {
    script = await guestScript("guest.ts");
  });

  describe.each(kernels.map((kernel) => [`${kernel.series} (${kernel.version})`, kernel] as const))(
    "%s",
    (_, kernel) => {
      const { facts } = kernel;

      it("the image has the trampoline of its range", () => {
        expect(nopOfImage(imageOf(kernel))).toBe(facts.optimizes);
        seen(kernel, `its image optimizes ${facts.optimizes ?? "nothing"}`);
      });

      it("does with nops and returns what the table says, and gives back what it says", async () => {
        const run = await inGuest(kernel, process.execPath, script);
        expect(run.status, run.stderr + run.stdout).toBe(0);
        const answer = JSON.parse(run.stdout) as { kernel: string; seen: readonly Seen[]; returned: ReturnSeen };
        expect(answer.kernel).toBe(facts.name);
        const row = (one: Seen, what: string) => `${nameOf(one.nop)}, attached ${one.when}: ${what}`;
        const expected = answer.seen.map((one) => {
          const address = one.nop.room === null ? 0 : 0x1000 - one.nop.room;
          return row(one, visible(treatmentAt(facts, Buffer.from(plainHex(one.nop), "hex"), address)));
        });
        expect(answer.seen.map((one) => row(one, became(one)))).toEqual(expected);
        for (const one of answer.seen) {
          // Refused: at once where a process runs the file; else it is taken, and never fires.
          if (became(one) === "refused") expect(one.refusal === null, nameOf(one.nop)).toBe(one.when === "before");
          const [original, last] = [plainHex(one.nop), one.bytes.at(-1)!];
          const given = became(one) === "optimized" ? facts.givesBack : original.length / 2;
          // What CVE-2026-72357 leaves: which kernels have it is told by their third number, which nothing here goes by.
          if (became(one) === "optimized" && facts.damages !== null && last !== original) continue;
          expect(last.slice(0, 2 * given), nameOf(one.nop)).toBe(original.slice(0, 2 * given));
        }
        const { untraced, traced, hits, passes, end } = answer.returned;
        const way = (code: string): string => (/^cc/.test(code) ? "int3" : RETURN_CALL.test(code) ? "335" : "neither");
        const version = parseVersion(kernel.series)!;
        const expectedWay = returnsBySystemCall(version) ? "335" : "int3";
        expect([way(untraced), way(traced), hits, end]).toEqual(["neither", expectedWay, passes, "exit status 0"]);
        seen(kernel, `return probes by ${expectedWay === "335" ? "system call 335" : "int3"}`);
        const count = (what: string): number => answer.seen.filter((one) => became(one) === what).length;
        seen(
          kernel,
          `${answer.seen.length} attachments: ${count("optimized")} optimized, ${count("trap")} trap, ${count("refused")} refused (${run.seconds.toFixed(0)} s)`,
        );
      });

      it.skipIf(isShort && facts.optimizes === "nop5")(
        "the model of patching agrees with it, and would not if it had a fault",
        async () => {
          // Its configuration is not written down first: nothing can be, where there is no overlay.
          const config = ["--config", "test/kernels/guest.config.ts", "--configLoader", "runner"];
          // In the short form without nop5 at the probes of kernels that make calls of another nop.
          const some = isShort ? ["-t", "agree: |agree where"] : [];
          const vitest = ["node_modules/vitest/vitest.mjs", "run", ...config, ...some];
          const run = await inGuest(kernel, process.execPath, ...vitest);
          const report = /\{"numTotalTestSuites".*\}/.exec(run.stdout)?.[0];
          expect(report, run.stdout + run.stderr).toBeDefined();
          const { numPassedTests, numPendingTests, numTotalTests, testResults } = JSON.parse(report!) as VitestReport;
          const failed = testResults.flatMap((file) =>
            file.assertionResults.filter(({ status }) => status === "failed"),
          );
          expect(failed.map(({ title, failureMessages }) => [title, failureMessages[0]])).toEqual([]);
          if (numPassedTests === 0 && facts.damages !== null)
            return void table.push(`${label(kernel)} not tried: the model, for calls stay here when tracers go`);
          expect(numPassedTests).toBe(numTotalTests - (isShort ? numPendingTests : 0));
          seen(kernel, `the model agrees: ${numPassedTests} cases and faults (${run.seconds.toFixed(0)} s)`);
        },
      );

      it("doctor says of it what the table says", async () => {
        const run = await inGuest(kernel, process.execPath, bin, "doctor", "--json");
        expect(run.status, run.stderr).toBe(0);
        const { optimizes, checks } = JSON.parse(run.stdout) as DoctorDocument;
        const statusOf = Object.fromEntries(checks.map(({ name, status }) => [name, status]));
        expect(optimizes).toBe(facts.optimizes ?? "none");
        const of = (holds: boolean): string => (facts.optimizes === null ? "skipped" : holds ? "ok" : "warn");
        expect(statusOf).toMatchObject({
          kernel: "ok",
          "uprobe system call": "ok",
          uprobes: "ok",
          nop5: "ok",
          nop10: facts.treats.nop10 === "refused" ? "warn" : "ok",
          optimizes: facts.optimizes === null ? "warn" : "ok",
          "red zone": of(!facts.writesRedZone),
          fork: of(!facts.killsForkedChildren),
          seccomp: of(true),
        });
        // Which kernels of a range that has the defect are mended is told by their third number.
        if (facts.damages === null) expect(statusOf.detach).toBe(of(true));
        const detail = checks.find(({ name }) => name === "uprobe system call")!.detail;
        expect(detail).toContain(facts.answers);
        seen(kernel, `doctor: red zone ${statusOf["red zone"]}, fork ${statusOf.fork}, detach ${statusOf.detach}`);
      });
    },
  );
});
