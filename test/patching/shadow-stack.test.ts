/** Threads with shadow stacks, under consumers that look, that want the return, and that send the thread elsewhere. */
import { describe, expect, it } from "vitest";
import type { Fault } from "../../src/patching/faults.js";
import { makeProgram, type Program, type ProgramName } from "../../src/patching/programs.js";
import { probeOf } from "../../src/patching/protocol.js";
import { Rehearsal } from "../../src/patching/rehearsal.js";
import { explore, prepare, type Scenario } from "../../src/patching/scenario.js";
import { PLAIN_CONSUMER } from "../../src/patching/setup.js";

const careless: Fault = {
  ...{ name: "own", what: "", change: () => ({ mendsShadowStack: false }), isHarmless: false },
  ...{ kernel: "6.18", scenario: "plain", threads: 1, toggles: 1 },
};

for (const kernel of ["legacy", "6.18", "7.2"] as const)
  describe(kernel, () => {
    const guarded = (name: ProgramName): Program => makeProgram(name, { probe: probeOf(kernel), shadowStack: true });
    const base: Scenario = { kernel, program: guarded("plain"), threads: 2, toggles: 1 };
    const found = (scenario: Partial<Scenario>) => {
      const result = explore({ ...base, ...scenario });
      expect(result.exhaustive).toBe(true);
      return result.found?.violation.property;
    };

    it("nothing is wrong where consumers look", () => expect(found({})).toBeUndefined());

    for (const name of ["return", "session"] as const)
      it(`${name}: the shadow stack is changed along`, () => {
        expect(found({ program: guarded(name) })).toBeUndefined();
        expect(found({ program: guarded(name), fault: careless })).toBe("killed");
        // It is there: the model knows what a function returns to.
        const { setup } = prepare({ ...base, threads: 1, program: guarded(name) });
        const run = new Rehearsal(setup);
        run.attach();
        run.pass(0, 6);
        expect(run.violation).toBe(null);
        expect(run.steps.some(({ label }) => label === "kernel: calls the consumer for the return")).toBe(true);
      });

    it.runIf(kernel !== "legacy")("a thread that a consumer sends elsewhere returns there", () => {
      const program = guarded("plain");
      const consumer = { ...PLAIN_CONSUMER, goTo: program.listing.at(-1)!.address };
      expect(program.listing.at(-1)!.text).toBe("ret");
      expect(found({ program, consumer })).toBeUndefined();
      expect(found({ program, consumer, fault: careless })).toBe("killed");
    });
  });
