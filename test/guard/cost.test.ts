/**
 * What the guard costs a child that nobody traces: fork, the child's end and the wait for it, by turns without the guard,
 * with it, without it again, and with nothing but a look at a byte of the sites and one of the guard, in several processes,
 * since the layout of a process counts. What is measured twice without it says how far such figures are off: were that more
 * than a quarter of the limit, the machine would be too busy to tell, and all is measured again; what the guard's figure is
 * makes no difference to that.
 *
 * Each page looked at may cost the child a page fault (the kernel maps sixteen pages around it at once where the page cache
 * has them). Sites of new code stand close together; sites in place do not. What a fault costs is the machine's affair (35
 * us was measured under a hypervisor, a sixteenth of this small program's fork). So the limits are for what the guard costs beyond the look, which no guard can do without; test/forks/cost holds the
 * whole of it against a program with libraries.
 */
import { describe, expect, it } from "vitest";
import { cannotCompile } from "../live/kernel.js";
import { drive } from "./drive.js";
import { guardedProgram, type Layout } from "./guarded-program.js";

/** In each process. */
const FORKS = process.env.LONG === undefined ? 60 : 200;
const PROCESSES = 10;
const ATTEMPTS = 5;
/** What a displaced probe takes in new code, in bytes: the guard around the nop5, moved instructions, the jump back. */
const DISPLACED = 40;

const median = (values: readonly number[]): number => {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[Math.floor((sorted.length - 1) / 2)]! + sorted[Math.ceil((sorted.length - 1) / 2)]!) / 2;
};

describe.skipIf(cannotCompile("the cost of the fork guard"))("the cost of the fork guard, untraced", () => {
  it.each<[name: string, layout: Layout, least: number, most: number]>([
    ["71 sites of new code", { sites: 71, stride: DISPLACED }, -10, 10],
    ["531 sites of new code", { sites: 531, stride: DISPLACED }, -10, 40],
    // These are what new code is placed for: were they cheap, the measurement would see nothing.
    ["71 sites in 71 pages, far apart", { sites: 71, stride: 20 * 4096 + 48 }, 10, 200],
    ["531 sites in 531 pages, 44 kB apart", { sites: 531, stride: 11 * 4096 + 16 }, 40, 2000],
  ])("%s", { timeout: 300_000 }, async (name, layout, least, most) => {
    const { path, guard } = await guardedProgram(layout);
    const pages = `${guard.pageCount} ${guard.pageCount === 1 ? "page" : "pages"}`;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const [took, more, again, looks]: [number[], number[], number[], number[]] = [[], [], [], []];
      for (let i = 0; i < PROCESSES; i++) {
        const { lines } = await drive(path, "manual", `T${FORKS}`);
        const [without, withGuard, once, look] = /without (\d+) with (\d+) again (\d+) look (\d+)/
          .exec(lines[0]!)!
          .slice(1)
          .map(Number) as [number, number, number, number];
        took.push(without / 1000);
        more.push(100 * (withGuard / without - 1));
        again.push(100 * (once / without - 1));
        looks.push(100 * (look / without - 1));
      }
      console.log(
        `${name}, ${pages}, ${guard.bytes.length} bytes of guard: a fork takes ${median(took).toFixed(1)} us, ` +
          `with the guard ${median(more).toFixed(1)} % more (${Math.min(...more).toFixed(1)} to ` +
          `${Math.max(...more).toFixed(1)}), with a look ${median(looks).toFixed(1)} % more, once more without ${median(again).toFixed(1)} % ` +
          `(${Math.min(...again).toFixed(1)} to ${Math.max(...again).toFixed(1)})`,
      );
      if (Math.abs(median(again)) > most / 4) continue;
      const beyond = median(more.map((percent, i) => percent - looks[i]!));
      expect(beyond).toBeGreaterThan(least);
      expect(beyond).toBeLessThan(most);
      return;
    }
    throw new Error(`the machine is too busy: the same differs from itself in ${ATTEMPTS} measurements`);
  });
});
