/** Each fault is found where it says, by the property that it breaks, or searching everything shows that it does no harm. */
import { describe, expect, it } from "vitest";
import { faults } from "../../src/patching/faults.js";
import { explore, type Scenario, scenarioOf } from "../../src/patching/scenario.js";

/** What each fault breaks; null: nothing. */
const expected: Readonly<Record<string, string | null>> = {
  "optimize-no-first-sync": "torn-instruction",
  "optimize-no-second-sync": "torn-instruction",
  "optimize-no-last-sync": null,
  "unoptimize-no-first-sync": "torn-instruction",
  "unoptimize-no-second-sync": "torn-instruction",
  "unoptimize-no-last-sync": null,
  "optimize-at-once": "torn-instruction",
  "first-byte-before-tail": "torn-instruction",
  "tail-before-int3": "torn-instruction",
  "unoptimize-without-int3": "torn-instruction",
  "unoptimize-at-once": "torn-instruction",
  "displacement-off": "next-instruction",
  "trampoline-unmapped": "unmapped-code",
  "call-not-recognized": "torn-instruction",
  "trampoline-out-of-reach": "unmapped-code",
  "wrong-save-order": "consumer-sees-the-probe",
  "rcx-lost": "registers",
  "r11-lost": "registers",
  "rax-lost": "registers",
  "flags-lost": "consumer-sees-the-probe",
  "sp-not-fixed": "consumer-sees-the-probe",
  "ip-not-fixed": "consumer-sees-the-probe",
  "crosses-page": "torn-instruction",
  "two-nops": "torn-instruction",
  "child-writes-int3": "torn-instruction",
  "child-repairs-calls-only": "unmapped-code",
  "fork-without-trampoline": "unmapped-code",
  "no-recheck": null,
  "no-look-at-all": "torn-instruction",
  "no-lock": "torn-instruction",
  "stale-int3-kills": "killed",
  "no-wait-for-handlers": "no-hit-after-detach",
  "no-seccomp-exception": "killed",
  "red-zone-kept": "registers",
  "call-taken-back": "torn-instruction",
  "lea-and-call-at-once": "torn-instruction",
  "changes-lost": "registers",
  "counted-twice": "hit-exactly-once",
  "hits-lost": "hit-exactly-once",
  "semaphore-stays": "semaphore",
  "bytes-unchecked": "torn-instruction",
  "forgotten-after-error": "killed",
  "shadow-stack-kept": "killed",
  "both-places-run": "hit-exactly-once",
  "no-place-runs": "hit-exactly-once",
  "syncs-twice": null,
};

/** Each program without a fault is searched once. */
const sound = new Map<string, string | undefined>();
function withoutFault({ fault, ...scenario }: Scenario): string | undefined {
  const { shape, consumer } = fault!;
  const key = JSON.stringify([scenario, shape, consumer?.changes.size, fault!.joins, fault!.errors]);
  if (!sound.has(key)) {
    const harmless = { ...fault!, change: () => ({}) };
    sound.set(key, explore({ ...scenario, fault: harmless }).found?.violation.property);
  }
  return sound.get(key);
}

describe("faults", () => {
  it("every one has its answer here, and enough are found", () => {
    expect(faults.map((f) => f.name).sort()).toEqual(Object.keys(expected).sort());
    expect(faults.length).toBeGreaterThanOrEqual(20);
    expect(faults.filter((f) => !f.isHarmless).length).toBeGreaterThanOrEqual(18);
  });
  for (const { name, isHarmless } of faults)
    it(`${name}: ${expected[name] ?? "harmless"}`, () => {
      const scenario = scenarioOf(name)!;
      const result = explore(scenario);
      expect(result.exhaustive).toBe(true);
      expect(result.found?.violation.property ?? null).toBe(expected[name]);
      expect(isHarmless).toBe(result.found === null);
      // The same program and tracer on the same kernel, without the fault in the protocol. (The child's fault is its own.)
      if (scenario.fault?.shape?.forkGuard === undefined) expect(withoutFault(scenario)).toBeUndefined();
      // Harmless means: however small the steps are.
      if (isHarmless) expect(explore({ ...scenario, fine: true }).found).toBe(null);
    });

  it("harmless ones do no harm on 7.2 either", () => {
    for (const fault of faults.filter((f) => f.isHarmless))
      expect(explore({ kernel: "7.2", program: "plain", threads: 2, toggles: 2, fault }).found).toBe(null);
  });

  it("the fork hazard is not what the fault of the child is about", () => {
    const { found } = explore(scenarioOf("child-writes-int3")!);
    const child = found!.schedule.filter(({ actor }) => actor === 1).map(({ step }) => step.label);
    expect(child).toContain("writes int3 itself");
    // The probe has gone: byte 0 of the nop, and behind it the displacement of the call.
    expect([...found!.schedule.at(-1)!.step.bytes!.subarray(0, 2)]).not.toEqual([0x0f, 0x1f]);
  });
});
