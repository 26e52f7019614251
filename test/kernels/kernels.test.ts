/**
 * The table of kernels (src/kernel) held against kernels: Debian's newest of each series, booted in a virtual machine.
 *
 *     npm run test:kernels     all that Debian's suites have
 *     KERNELS=short            two of them; KERNELS=6.18,7.2 those
 *
 * Emulated CPUs run in turns: bytes and the order of events can be seen, and no times and no races.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { parseVersion, returnsBySystemCall, type Treatment } from "../../src/kernel/kernels.js";
import { treatmentAt } from "../../src/kernel/treatment.js";
import { bin } from "../command.js";
import { skipBecause } from "../packages/skips.js";
import type { GuestAnswer } from "./guest.js";
import { nopOfImage } from "./image.js";
import { type GuestRun, guestScript, guestTimeout, imageOf, inGuest, testKernels } from "./machine.js";
import { type Nop, nameOf, type Seen } from "./nops.js";
import { asked, notTried, said, seen } from "./seen.js";

const { kernels, missing } = testKernels();
const skips = skipBecause("test kernels", kernels.length === 0 ? missing.join("; ") : null);

beforeAll(() => {
  if (skips) return;
  for (const kernel of kernels) asked(kernel);
  for (const line of missing) notTried(line);
  notTried("a trap that emulates, told from one that steps: times alone show it, and none are taken of emulated CPUs");
  notTried("races: emulated CPUs run in turns");
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
      let run: GuestRun;
      let answer: GuestAnswer;
      // One guest for all: to boot and to start Node takes as long as half of the questions.
      beforeAll(async () => {
        run = await inGuest(kernel, process.execPath, script, bin);
        expect(run.status, run.stderr + run.stdout).toBe(0);
        answer = JSON.parse(run.stdout) as GuestAnswer;
      }, guestTimeout.timeout);

      it("the image has the trampoline of its range", () => {
        expect(nopOfImage(imageOf(kernel))).toBe(facts.optimizes);
        seen(kernel, "trampoline");
      });

      it("does with nops and returns what the table says, and gives back what it says", () => {
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
        seen(kernel, "shortNops", "nop5", "nop5InTwoPages", "prefixed", "nop10", "nop10InTwoPages", "nop11");
        seen(kernel, "twicePrefixed", "refused", "givesBack", "returns");
        const count = (what: string): number => answer.seen.filter((one) => became(one) === what).length;
        said(
          kernel,
          `${answer.seen.length} attachments: ${count("optimized")} optimized, ${count("trap")} trap, ${count("refused")} refused; return probes by ${expectedWay} (guest: ${run.seconds.toFixed(0)} s)`,
        );
      });

      it("doctor says of it what the table says", () => {
        expect(answer.doctor.status, answer.doctor.stderr).toBe(0);
        const { optimizes, checks } = JSON.parse(answer.doctor.stdout) as DoctorDocument;
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
        // Which kernels of a range that has the defect are mended is told by their third number: by what was seen, then.
        const stays = answer.seen.some(
          (one) => became(one) === "optimized" && facts.damages !== null && one.bytes.at(-1) !== plainHex(one.nop),
        );
        expect(statusOf.detach).toBe(of(!stays));
        // Where calls stay anyway, there is nothing that a second tracer could make worse.
        expect(statusOf["second tracer"]).toBe(stays ? "skipped" : of(facts.tearsCalls === null));
        const detail = checks.find(({ name }) => name === "uprobe system call")!.detail;
        expect(detail).toContain(facts.answers);
        seen(kernel, "answer", "callStays");
        if (facts.optimizes !== null) seen(kernel, "redZone", "fork", "seccomp", ...(stays ? [] : (["torn"] as const)));
        said(
          kernel,
          `doctor: ${["red zone", "fork", "seccomp", "detach", "second tracer"].map((name) => `${name} ${statusOf[name]}`).join(", ")}`,
        );
      });
    },
  );
});
