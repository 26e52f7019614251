/** The explorer on systems whose answers are known, with the reduction and without: the same verdicts, fewer states. */
import { describe, expect, it } from "vitest";
import { sample } from "../../src/explore/sample.js";
import { search } from "../../src/explore/search.js";
import type { System } from "../../src/explore/system.js";
import { peterson, philosophers, tornWrite, trap } from "./toys.js";

const cases: readonly [name: string, system: () => System, verdict: string | null, shortest: number | null][] = [
  ["Peterson", () => peterson("right"), null, null],
  ["Peterson, nobody gives way", () => peterson("mutilated"), "deadlock", 2],
  ["Peterson, nobody waits", () => peterson("hasty"), "both inside", 6],
  ["three philosophers", () => philosophers(3, false), "deadlock", 3],
  ["three philosophers, one left-handed", () => philosophers(3, true), null, null],
  ["five philosophers", () => philosophers(5, false), "deadlock", 5],
  ["five philosophers, one left-handed", () => philosophers(5, true), null, null],
  ["two words without a lock", () => tornWrite(false), "torn", 3],
  ["two words with a lock", () => tornWrite(true), null, null],
  ["a loop of visible steps", () => trap(false), "livelock", 1],
  ["a loop of private steps", () => trap(true), "livelock", 1],
];

describe("search", () => {
  for (const [name, make, verdict, shortest] of cases)
    it(`${name}: ${verdict ?? "nothing wrong"}`, () => {
      const reduced = search(make());
      const full = search(make(), { reduce: false });
      expect(reduced.complete && full.complete).toBe(true);
      expect([reduced.found?.violation.property ?? null, full.found?.violation.property ?? null]).toEqual([
        verdict,
        verdict,
      ]);
      if (verdict === null) expect(reduced.states).toBeLessThanOrEqual(full.states);
      const visible = reduced.found?.schedule.filter(({ step }) => !step.isPrivate).length ?? null;
      expect(visible).toBe(shortest);
    });

  it("counts states: one philosopher, alone with one fork", () => {
    const one = search(philosophers(1, true), { reduce: false });
    expect(one.states).toBe(3); // thinks, takes the only fork, waits for ever for the second
    expect(one.found?.violation.property).toBe("deadlock");
  });

  it("a schedule replays to the violation", () => {
    const { found } = search(peterson("hasty"));
    expect(found!.schedule.map(({ actor, step }) => `${actor} ${step.label}`)).toEqual([
      "0 raise flag",
      "0 give way",
      "0 enter",
      "1 raise flag",
      "1 give way",
      "1 enter",
    ]);
  });

  it("stops, unfinished, where it is told to", () => {
    const report = search(philosophers(5, true), { mostStates: 50 });
    expect([report.complete, report.found]).toEqual([false, null]);
  });
});

describe("sample", () => {
  it("finds what is wrong, and shows the run", () => {
    const report = sample(philosophers(3, false), { seed: 1, steps: 100_000 });
    expect(report.found?.violation.property).toBe("deadlock");
    expect(sample(tornWrite(false), { seed: 1, steps: 100_000 }).found?.schedule.at(-1)?.step.label).toBe("read high");
  });

  it("finds nothing where nothing is wrong, and starts again after each end", () => {
    const report = sample(peterson("right"), { seed: 7, steps: 100_000 });
    expect(report.found).toBe(null);
    expect(report.steps).toBe(100_000);
    expect(report.ended).toBeGreaterThan(1000);
  });

  it("is the same run for the same seed, another one for another", () => {
    const run = (seed: number) => sample(philosophers(4, false), { seed, steps: 1_000_000 }).steps;
    expect(run(5)).toBe(run(5));
    expect(new Set([1, 2, 3, 4, 5, 6].map(run)).size).toBeGreaterThan(1);
  });
});
