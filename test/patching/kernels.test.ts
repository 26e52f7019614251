/** The kernels as they are: what is safe is safe in every order of steps, and what the live kernel shows is found. */
import { describe, expect, it } from "vitest";
import { bytesOf } from "../../src/patching/assemble.js";
import { makeProgram, type Shape } from "../../src/patching/programs.js";
import { Rehearsal } from "../../src/patching/rehearsal.js";
import { drawRuns, explore, prepare, type Result, type Scenario } from "../../src/patching/scenario.js";

const LONG = process.env.LONG === "1";
const base: Scenario = { kernel: "6.18", program: "redzone", threads: 2, toggles: 1 };
const guarded = { guard: true };

const figures = ({ states, transitions, depth, seconds, bytes }: Result): string =>
  `${states} states, ${transitions} transitions, depth ${depth}, ${seconds.toFixed(2)} s, ${Math.ceil(bytes / 1024)} KiB`;

/** Everything was searched, it was a lot, and nothing is wrong. */
function expectSafe(scenario: Partial<Scenario>, atLeast: number): void {
  const result = explore({ ...base, ...scenario });
  console.log(`${JSON.stringify({ ...scenario, consumer: undefined })}: ${figures(result)}`);
  expect(result.found?.violation).toBeUndefined();
  expect(result.exhaustive).toBe(true);
  expect(result.states).toBeGreaterThan(atLeast);
  expect(result.seconds).toBeLessThan(60);
  expect(result.bytes).toBeLessThan(2 ** 30);
}

const propertyOf = (scenario: Partial<Scenario>): string | undefined =>
  explore({ ...base, ...scenario }).found?.violation.property;

/** How the model takes a probe of these bytes. */
const siteOf = (kernel: Scenario["kernel"], hex: string, more: Partial<Shape> = {}) => {
  const program = makeProgram("plain", { probe: bytesOf(hex), ...more });
  const [site] = prepare({ ...base, kernel, program }).setup.sites;
  return { canPatch: site!.canPatch, isRefused: site!.isRefused };
};

describe("what is patched, and what is refused", () => {
  const patched = { canPatch: true, isRefused: false };
  const trapped = { canPatch: false, isRefused: false };
  const refused = { canPatch: false, isRefused: true };
  const NOP10 = "66 2e 0f 1f 84 00 00 00 00 00";

  it("7.2: one way to write ten bytes, in one page", () => {
    expect(siteOf("7.2", NOP10)).toEqual(patched);
    expect(siteOf("7.2", "66 2e 0f 1f 84 c0 78 56 34 12")).toEqual(patched);
    expect(siteOf("7.2", "66 66 0f 1f 84 00 00 00 00 00")).toEqual(trapped);
    expect(siteOf("7.2", "2e 66 0f 1f 84 00 00 00 00 00")).toEqual(refused);
    expect(siteOf("7.2", NOP10, { crossing: true })).toEqual(refused);
    expect(siteOf("7.2", "0f 1f 44 00 00")).toEqual(trapped);
  });

  it("before: five bytes, and no segment prefix of old days", () => {
    expect(siteOf("6.18", "0f 1f 44 00 08")).toEqual(patched);
    expect(siteOf("6.18", "0f 1f 44 00 00", { crossing: true })).toEqual(trapped);
    for (const kernel of ["legacy", "6.18"] as const) {
      expect(siteOf(kernel, NOP10)).toEqual(refused);
      expect(siteOf(kernel, "2e 0f 1f 40 00")).toEqual(refused);
    }
  });

  it("what is refused stays as it is, and the program runs on", () => {
    const program = makeProgram("plain", { probe: bytesOf(NOP10), crossing: true });
    const { found, exhaustive } = explore({ ...base, kernel: "7.2", program });
    expect([found, exhaustive]).toEqual([null, true]);
    const run = new Rehearsal(prepare({ ...base, kernel: "7.2", program }).setup);
    run.attach();
    run.pass(0, 3);
    expect([Buffer.from(run.bytes()).toString("hex"), run.hits]).toEqual([NOP10.replaceAll(" ", ""), 0]);
  });
});

describe("safe in every order", () => {
  it("6.18 with a guard: 2 threads, 2 cycles", () => expectSafe({ ...guarded, toggles: 2 }, 10_000));
  it("6.18 with a guard: 3 threads, 1 cycle", () => expectSafe({ ...guarded, threads: 3 }, 100_000));
  it("7.2: 2 threads, 2 cycles", () => expectSafe({ kernel: "7.2", toggles: 2 }, 10_000));
  it("7.2: 3 threads, 1 cycle", () => expectSafe({ kernel: "7.2", threads: 3 }, 100_000));
  it("before 6.18: 3 threads, 2 cycles", () => expectSafe({ kernel: "legacy", threads: 3, toggles: 2 }, 10_000));
  it("6.18, nothing below rsp, no guard", () => expectSafe({ program: "plain" }, 5000));
  it("6.18, a semaphore", () => expectSafe({ program: "semaphore" }, 5000));
  it("6.18, a return probe", () => expectSafe({ program: "return" }, 10_000));
  it("6.18, a session", () => expectSafe({ program: "session" }, 10_000));
  it("6.18, seccomp", () => expectSafe({ program: "seccomp" }, 5000));
  it("6.18, vfork", () => expectSafe({ program: "vfork" }, 5000));
  it("6.18, three probes 3 GiB apart", () => expectSafe({ program: "far", threads: 1, toggles: 2 }, 5000));
  it("7.2, three probes 3 GiB apart", () => expectSafe({ kernel: "7.2", program: "far", threads: 1 }, 5000));
  it("7.2, fork", () => expectSafe({ kernel: "7.2", program: "fork", threads: 1, toggles: 2 }, 10_000));
  it("6.18, fork, the child repairs", () =>
    expectSafe({ program: "fork", forkGuard: true, threads: 1, toggles: 2 }, 20_000));
  for (const kernel of ["legacy", "6.18", "7.2"] as const)
    it(`${kernel}, a signal, its handler passes the probe too`, () =>
      expectSafe({ kernel, program: "signal", threads: 1, toggles: 2 }, 500));
  it.runIf(LONG)("6.18 with a guard: 3 threads, 2 cycles", () =>
    expectSafe({ ...guarded, threads: 3, toggles: 2 }, 500_000),
  );
  it.runIf(LONG)("7.2: 3 threads, 2 cycles", () => expectSafe({ kernel: "7.2", threads: 3, toggles: 2 }, 500_000));
  it.runIf(LONG)("6.18, a signal, 2 threads", () => expectSafe({ program: "signal", threads: 2 }, 100_000));
  it.runIf(LONG)("7.2, fork, 2 threads", () => expectSafe({ kernel: "7.2", program: "fork", threads: 2 }, 100_000));
  it.runIf(LONG)("6.18, three probes, 2 threads", () => expectSafe({ program: "far", threads: 2 }, 100_000));
});

describe("as the live kernel shows it", () => {
  it("6.18 without a guard destroys a live red zone", () => {
    expect(propertyOf({ guard: false })).toBe("red-zone");
    expect(propertyOf({ guard: false, threads: 1 })).toBe("red-zone");
  });
  it("neither the kernels before nor those behind do", () => {
    expect(propertyOf({ kernel: "legacy", guard: false })).toBeUndefined();
    expect(propertyOf({ kernel: "7.2", guard: false })).toBeUndefined();
  });
  it("6.18 kills a forked child that runs what its parent had hit", () => {
    const { found } = explore({ ...base, program: "fork", threads: 1 });
    expect(found?.violation.property).toBe("unmapped-code");
    const child = found!.schedule.filter(({ actor }) => actor === 1).map(({ step }) => step.label);
    expect(child.at(-2)).toBe("call trampoline");
  });
});

describe("smaller steps, and no reduction", () => {
  for (const [name, scenario] of [
    ["6.18 with a guard", guarded],
    ["6.18 without", { guard: false }],
    ["7.2", { kernel: "7.2" }],
  ] as const)
    it(`${name}: the same verdict when an IPI and the write behind it are two steps`, () => {
      const coarse = explore({ ...base, ...scenario });
      const fine = explore({ ...base, ...scenario, fine: true });
      expect(fine.found?.violation.property).toBe(coarse.found?.violation.property);
      if (coarse.found === null) expect(fine.states).toBeGreaterThan(coarse.states);
    });

  it("the same verdict when private steps are interleaved as well", async () => {
    const { search } = await import("../../src/explore/search.js");
    const { prepare } = await import("../../src/patching/scenario.js");
    for (const guard of [true, false]) {
      const scenario = { ...base, guard, threads: 1 };
      const reduced = search(prepare(scenario).model);
      const full = search(prepare(scenario).model, { reduce: false });
      expect(full.found?.violation.property).toBe(reduced.found?.violation.property);
      expect(full.states).toBeGreaterThan(reduced.states);
    }
  });
});

describe("random runs", () => {
  const steps = LONG ? 10_000_000 : 500_000;
  for (const kernel of ["6.18", "7.2"] as const)
    it(`${kernel}: ${steps} steps with 8 threads`, () => {
      const result = drawRuns({ ...base, ...guarded, kernel, threads: 8, toggles: 2 }, 42, steps);
      expect(result.found?.violation).toBeUndefined();
      expect(result.transitions).toBe(steps);
    });
  it("find what is there to be found", () => {
    const { found } = drawRuns({ ...base, guard: false, threads: 8 }, 42, 100_000);
    expect(found?.violation.property).toBe("red-zone");
  });
});
