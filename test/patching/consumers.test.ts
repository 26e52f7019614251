/** Tracers that do more than look: they change registers, send the program elsewhere, want the return. */
import { describe, expect, it } from "vitest";
import { Gpr } from "../../src/emulate/state.js";
import type { Version } from "../../src/kernel/kernels.js";
import { FIRST_SP, makeProgram } from "../../src/patching/programs.js";
import { Rehearsal } from "../../src/patching/rehearsal.js";
import { explore, prepare, type Scenario } from "../../src/patching/scenario.js";
import { type Consumer, PLAIN_CONSUMER } from "../../src/patching/setup.js";

const kernels = ["legacy", "6.18", "7.2"] as const;
const base: Scenario = { kernel: "6.18", program: "plain", threads: 2, toggles: 1 };

function expectSafe(scenario: Partial<Scenario>): void {
  const { found, exhaustive } = explore({ ...base, ...scenario });
  expect(found?.violation).toBeUndefined();
  expect(exhaustive).toBe(true);
}

const changing = (...registers: number[]): Consumer => ({
  ...PLAIN_CONSUMER,
  changes: new Map(registers.map((r, i) => [r, 0x7000 + i])),
});

describe("changed registers reach the program", () => {
  for (const kernel of kernels)
    it(`${kernel}: rax, rcx, r11, rdi`, () =>
      expectSafe({ kernel, consumer: changing(Gpr.RAX, Gpr.RCX, Gpr.R11, Gpr.RDI) }));
});

describe("another next instruction", () => {
  // The function's last instruction: it returns what rax holds at the probe.
  const ret = makeProgram("plain").listing.at(-1)!;
  const goTo = { ...PLAIN_CONSUMER, goTo: ret.address };
  it("is what the program has there", () => expect(ret.text).toBe("ret"));
  // On 7.2 the listing has other addresses.
  for (const kernel of ["legacy", "6.18"] as const) it(kernel, () => expectSafe({ kernel, consumer: goTo }));
  it("is where the program goes on", () => {
    const { setup } = prepare({ ...base, consumer: goTo });
    const run = new Rehearsal(setup);
    run.attach();
    run.pass(0, 3);
    const labels = run.steps.filter(({ actor }) => actor === 0).map(({ label }) => label);
    expect(labels.filter((l) => l === "setb cl")).toEqual([]);
    expect(run.hits).toBe(3);
  });
});

describe("another stack pointer", () => {
  // The consumer returns from the function in the program's place: the trampoline is left out.
  const { listing } = makeProgram("plain");
  const behindCall = listing[listing.findIndex((l) => l.text === "call leaf") + 1]!;
  const returning = { ...PLAIN_CONSUMER, changes: new Map([[Gpr.RSP as number, FIRST_SP]]), goTo: behindCall.address };
  for (const kernel of kernels) it(kernel, () => expectSafe({ kernel, consumer: returning }));
});

describe("return probes and sessions", () => {
  it.each<[Version, boolean]>([
    [[6, 10], false],
    [[6, 11], true],
    [[6, 12], true],
  ])("before 6.18 they return through int3, and by a system call from 6.11 on: %s", (version, calls) => {
    const result = explore({ ...base, kernel: "legacy", version, program: "return", threads: 1 });
    expect([result.found, result.exhaustive]).toEqual([null, true]);
    const labels = [...result.model.allSteps()].map((step) => step.label);
    expect(labels).toContain("kernel: calls the consumer for the return");
    expect(labels.includes("syscall")).toBe(calls);
  });

  for (const kernel of kernels)
    for (const kind of ["return", "session"] as const)
      it(`${kernel}, ${kind}`, () => expectSafe({ kernel, program: "return", consumer: { ...PLAIN_CONSUMER, kind } }));

  for (const kernel of kernels)
    it(`${kernel}: every call returns once, every second one in a session`, () => {
      const returns = (kind: "return" | "session"): number => {
        const { setup } = prepare({ ...base, kernel, program: "return", consumer: { ...PLAIN_CONSUMER, kind } });
        const run = new Rehearsal(setup);
        run.attach();
        run.pass(0, 11);
        expect(run.violation).toBe(null);
        expect(run.hits).toBe(11);
        return run.steps.filter(({ label }) => label === "kernel: calls the consumer for the return").length;
      };
      // The eleventh may not have returned yet.
      expect(returns("return")).toBe(10);
      expect(returns("session")).toBe(5);
    });
});
