/**
 * What the guard costs a child that nobody traces: fork, the child's end and the wait for it, one with the guard and one
 * without by turns.
 *
 * Each page looked at may cost the child a page fault (the kernel maps sixteen pages around it at once where the page cache
 * has them). Sites of new code stand close together; sites in place do not.
 */
import { describe, expect, it } from "vitest";
import { cannotCompile } from "../live/kernel.js";
import { drive } from "./drive.js";
import { guardedProgram, type Layout } from "./guarded-program.js";

const FORKS = process.env.LONG === undefined ? 600 : 2_000;
/** What else the machine does moves medians by more than the guard costs: one quiet measurement is enough. */
const ATTEMPTS = 5;
/** What a displaced probe takes in new code, in bytes: the guard around the nop5, moved instructions, the jump back. */
const DISPLACED = 40;

describe.skipIf(cannotCompile("the cost of the fork guard"))("the cost of the fork guard, untraced", () => {
  it.each<[string, Layout, number]>([
    ["71 sites of new code", { sites: 71, stride: DISPLACED }, 10],
    ["531 sites of new code", { sites: 531, stride: DISPLACED }, 40],
    ["71 sites in 71 pages, far apart", { sites: 71, stride: 20 * 4096 + 48 }, 200],
    ["531 sites in 531 pages, 44 kB apart", { sites: 531, stride: 11 * 4096 + 16 }, 2000],
  ])("%s", { timeout: 60_000 }, async (name, layout, percent) => {
    const { path, guard } = await guardedProgram(layout);
    const pages = `${guard.pageCount} ${guard.pageCount === 1 ? "page" : "pages"}`;
    let least = Number.POSITIVE_INFINITY;
    for (let attempt = 0; attempt < ATTEMPTS && least >= percent; attempt++) {
      const { lines } = await drive(path, "manual", `T${FORKS}`);
      const [without, withGuard] = /without (\d+) with (\d+)/.exec(lines[0]!)!.slice(1).map(Number) as [number, number];
      const more = (100 * (withGuard - without)) / without;
      least = Math.min(least, more);
      console.log(
        `${name}, ${pages}, ${guard.bytes.length} bytes of guard: a fork takes ${(without / 1000).toFixed(1)} us, ` +
          `with the guard ${(withGuard / 1000).toFixed(1)} (${more.toFixed(1)} % more), medians of ${FORKS}`,
      );
    }
    expect(least).toBeLessThan(percent);
  });
});
