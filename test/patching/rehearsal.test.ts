/** What an observer sees of single runs: the bytes that were measured on 6.18 and 7.2. */
import { describe, expect, it } from "vitest";
import type { KernelName } from "../../src/kernel/kernels.js";
import { faultNamed } from "../../src/patching/faults.js";
import type { ProgramName } from "../../src/patching/programs.js";
import { Rehearsal } from "../../src/patching/rehearsal.js";
import { prepare, type Scenario } from "../../src/patching/scenario.js";

function rehearse(kernel: KernelName, program: ProgramName, more: Partial<Scenario> = {}): Rehearsal {
  const scenario = { kernel, program, threads: 1, toggles: 2, signals: 0, ...more };
  return new Rehearsal(prepare(scenario).setup, scenario);
}

const hex = (bytes: Uint8Array): string => [...bytes].map((b) => b.toString(16).padStart(2, "0")).join(" ");
const NOP5 = "0f 1f 44 00 00";

describe("bytes at the probe", () => {
  it("6.18: int3, call behind the first hit, the nop again; the trampoline stays", () => {
    const run = rehearse("6.18", "plain");
    run.pass(0, 2);
    expect([hex(run.bytes()), run.trampolines(), run.hits]).toEqual([NOP5, [], 0]);
    run.attach();
    expect(hex(run.bytes())).toBe("cc 1f 44 00 00");
    run.pass(0);
    const [trampoline] = run.trampolines();
    const call = run.bytes();
    expect(call[0]).toBe(0xe8);
    expect(new DataView(call.buffer).getInt32(1, true)).toBe(trampoline! - (0x40_1087 + 5));
    run.pass(0, 9);
    expect(run.hits).toBe(10);
    run.detach();
    expect([hex(run.bytes()), run.trampolines()]).toEqual([NOP5, [trampoline]]);
    run.pass(0, 5);
    expect(run.hits).toBe(10);
    run.attach();
    run.pass(0, 2);
    expect([hex(run.bytes()), run.trampolines(), run.hits]).toEqual([hex(call), [trampoline], 12]);
    expect(run.violation).toBe(null);
  });

  it("7.2: lea and call; detaching leaves the call behind the nop's first five bytes", () => {
    const run = rehearse("7.2", "plain");
    run.attach();
    expect(hex(run.bytes())).toBe("cc 2e 0f 1f 84 00 00 00 00 00");
    run.pass(0, 2);
    const patched = hex(run.bytes());
    expect(patched).toMatch(/^48 8d 64 24 80 e8 /);
    run.detach();
    expect(hex(run.bytes())).toBe(`66 2e 0f 1f 84 ${patched.slice(15)}`);
    run.attach();
    run.pass(0, 2);
    expect([hex(run.bytes()), run.hits]).toEqual([patched, 4]);
  });

  it("before 6.18: int3 stays", () => {
    const run = rehearse("legacy", "plain");
    run.attach();
    run.pass(0, 3);
    expect([hex(run.bytes()), run.trampolines(), run.hits]).toEqual(["cc 1f 44 00 00", [], 3]);
  });
});

describe("address spaces", () => {
  it("three probes 3 GiB apart have three trampolines, each in reach", () => {
    const run = rehearse("6.18", "far");
    run.attach();
    run.pass(0, 6);
    expect(run.trampolines().length).toBe(3);
    expect([0, 1, 2].map((site) => run.bytes(site)[0])).toEqual([0xe8, 0xe8, 0xe8]);
    expect(run.hits).toBe(6);
  });

  it("6.18, fork: the child inherits the call and not the trampoline, and dies", () => {
    const run = rehearse("6.18", "fork");
    run.attach();
    run.pass(0, 2);
    run.mayFork = true;
    run.runTo(0, "kernel: forks");
    expect([run.bytes(0, 1)[0], run.trampolines(1), run.trampolines(0).length]).toEqual([0xe8, [], 1]);
    run.pass(1);
    expect(run.violation?.property).toBe("unmapped-code");
  });

  it("6.18, fork guard: the child gets its int3 back, is counted, and has a trampoline of its own", () => {
    const run = rehearse("6.18", "fork", { forkGuard: true });
    run.attach();
    run.pass(0, 2);
    run.mayFork = true;
    run.runTo(0, "kernel: forks");
    run.mayFork = false;
    run.pass(1, 3);
    expect([run.violation, run.hits, run.trampolines(1).length]).toEqual([null, 5, 1]);
    expect(run.bytes(0, 1)[0]).toBe(0xe8);
  });

  for (const [forkGuard, outcome] of [
    ["none", "torn-instruction"],
    ["repair-call", "torn-instruction"],
    ["repair", null],
  ] as const)
    it(`6.18, fork, attached and detached once more before the child runs, its guard: ${forkGuard}`, () => {
      const fault = { ...faultNamed("child-writes-int3")!, shape: { forkGuard } };
      const run = rehearse("6.18", "fork", { fault });
      run.attach();
      run.pass(0, 2);
      run.mayFork = true;
      run.runTo(0, "kernel: forks");
      run.mayFork = false;
      run.detach();
      expect(run.bytes(0, 1)[0]).toBe(0xe8); // the kernel does not know this call: its trampoline is not there
      run.attach();
      expect(run.bytes(0, 1)[0]).toBe(0xcc);
      run.detach();
      expect(run.bytes(0, 1)[0]).toBe(0x0f); // byte 0 of the nop, and the call's displacement behind it
      run.pass(1);
      expect(run.violation?.property ?? null).toBe(outcome);
    });

  it("7.2, fork: the child has both", () => {
    const run = rehearse("7.2", "fork");
    run.attach();
    run.pass(0, 2);
    run.mayFork = true;
    run.runTo(0, "kernel: forks");
    run.pass(1, 3);
    expect([run.violation, run.hits]).toEqual([null, 5]);
    expect(run.trampolines(1)).toEqual(run.trampolines(0));
  });
});

describe("what goes on besides", () => {
  it("a semaphore is raised while a probe is attached", () => {
    const run = rehearse("6.18", "semaphore");
    expect(run.semaphore()).toBe(0);
    run.attach();
    expect(run.semaphore()).toBe(1);
    run.pass(0, 2);
    run.detach();
    expect([run.semaphore(), run.hits]).toEqual([0, 2]);
  });

  it("a live red zone is destroyed by the call, not by int3", () => {
    const run = rehearse("6.18", "redzone", { guard: false });
    run.attach();
    run.pass(0);
    expect(run.violation).toBe(null);
    run.pass(0);
    expect(run.violation?.property).toBe("red-zone");
  });

  it("a probe across a page's end is never patched", () => {
    const fault = { name: "", what: "", change: () => ({}), shape: { crossing: true } };
    const run = rehearse("6.18", "plain", {
      fault: { ...fault, kernel: "6.18", scenario: "plain", threads: 1, toggles: 1, isHarmless: true },
    });
    run.attach();
    run.pass(0, 3);
    expect([run.bytes()[0], run.trampolines(), run.hits]).toEqual([0xcc, [], 3]);
  });
});
