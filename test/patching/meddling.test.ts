/**
 * What kernels answer to bytes that they did not write, to what cannot be done, and to errors on the way. Where the
 * kernels as they are do harm, the schedule is here, and the rule without which they would not;
 * test/patching/conformance shows on kernels what needs no luck.
 */
import { describe, expect, it } from "vitest";
import type { Fault } from "../../src/patching/faults.js";
import { makeProgram, type Program } from "../../src/patching/programs.js";
import { type Protocol, probeOf } from "../../src/patching/protocol.js";
import { explore, type Scenario } from "../../src/patching/scenario.js";
import type { Act } from "../../src/patching/state.js";

const base: Scenario = { kernel: "6.18", program: "plain", threads: 2, toggles: 1 };

const without = (change: Partial<Protocol>): Fault => ({
  ...{ name: "own", what: "", change: () => change, isHarmless: false },
  ...{ kernel: "6.18", scenario: "plain", threads: 1, toggles: 1 },
});

/** What is found, or null where everything was searched. */
function found(scenario: Partial<Scenario>) {
  const result = explore({ ...base, ...scenario });
  expect(result.exhaustive).toBe(true);
  return result.found;
}
const propertyOf = (scenario: Partial<Scenario>): string | undefined => found(scenario)?.violation.property;
const labelsOf = (scenario: Partial<Scenario>): string[] => found(scenario)!.schedule.map(({ step }) => step.label);

for (const kernel of ["6.18", "7.2"] as const)
  describe(`Linux ${kernel}`, () => {
    const acting = (name: "plain" | "fork", own: readonly Act[], child: readonly Act[] = []): Program =>
      makeProgram(name, { probe: probeOf(kernel), acts: { own, child } });

    it("another tracer that comes changes nothing", () => {
      expect(propertyOf({ kernel, joins: [0] })).toBeUndefined();
      expect(propertyOf({ kernel, threads: 1, program: "semaphore", joins: [0, 1], toggles: 2 })).toBeUndefined();
    });

    it("what a program writes over its probe stays, and the kernel stops", () => {
      // On 7.2 a thread may stand between lea and call, which are written over as well: the program's own fault.
      const threads = kernel === "7.2" ? 1 : 2;
      const program = acting("plain", ["overwrite"]);
      expect(propertyOf({ kernel, threads, program, toggles: 2 })).toBeUndefined();
      const fault = without({ checksBytes: false });
      expect(propertyOf({ kernel, threads: 2, program, fault })).toBe("torn-instruction");
    });

    it("a write that fails leaves what is whole, and known", () => {
      expect(propertyOf({ kernel, errors: 1 })).toBeUndefined();
      expect(propertyOf({ kernel, errors: 1, fault: without({ keepsAfterError: false }) })).toBe("killed");
    });

    it("who comes after that, and goes before anybody hits the probe, tears the call apart", () => {
      const labels = labelsOf({ kernel, errors: 1, toggles: 2 });
      const [fails, stays, comes] = [
        labels.indexOf("a write fails"),
        labels.indexOf("keeps the probe, which is not gone everywhere"),
        labels.lastIndexOf("finds int3"),
      ];
      expect(fails).toBeGreaterThan(0);
      expect(stays).toBeGreaterThan(fails);
      expect(comes).toBeGreaterThan(stays);
      expect(labels.slice(-2)).toEqual(["writes byte 0 of the nop", "fetches a mixture"]);
    });

    it("a process without room, and another tracer: the call of another process is torn apart", () => {
      // A child of 6.18 dies of its parent's call whatever else is done: so its trampoline comes along here.
      const forking = { kernel, threads: 1, program: acting("fork", [], ["crowd"]) };
      const copies = { forkCopiesTrampoline: true };
      const scenario = { ...forking, joins: [0], fault: without(copies) };
      const labels = labelsOf(scenario);
      for (const label of [
        "maps all pages around",
        "kernel: no trampoline in reach",
        "another tracer registers the probe as well",
      ])
        expect(labels).toContain(label);
      expect(labels.slice(-2)).toEqual(["writes byte 0 of the nop", "fetches a mixture"]);
      // Neither without the other tracer, nor if a failure were its process's own.
      expect(propertyOf({ ...scenario, joins: [] })).toBeUndefined();
      expect(propertyOf({ ...scenario, fault: without({ ...copies, failsForAll: false }) })).toBeUndefined();
    });

    it("a program that unmaps its trampoline dies in it, or of the next call", () => {
      const labels = labelsOf({ kernel, threads: 1, program: acting("plain", ["unmap"]) });
      expect(labels).toContain("unmaps its trampolines");
      expect(propertyOf({ kernel, threads: 1, program: acting("plain", ["unmap"]) })).toBe("unmapped-code");
    });
  });
