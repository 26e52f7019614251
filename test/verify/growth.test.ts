/**
 * Files with thousands of probes, in one function and in as many functions: all are proved, and no piece of the verifier runs more
 * than twice as often, and a little, where there are twice as many. Counts are held against each other, not times. `npm run
 * test:long` takes 100, 1,000 and 4,000 probes in one function and 10,000 functions, and shows the times.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { carriedOriginal } from "../../src/verify/original.js";
import { verify } from "../../src/verify/verify.js";
import { canCompile, compile, manyProbes } from "../rewrite/compile.js";
import { grown, WorkMeter } from "../work.js";
import { rewritten as made } from "./held.js";

const inOneFunction = (n: number): string => `
#include <sys/sdt.h>
volatile int v;
int main(int x, char **argv) {
${Array.from({ length: n }, (_, i) => `  v += x; STAP_PROBE2(p, s${i}, x, v); if (x & ${1 << (i % 20)}) v ^= x;`).join("\n")}
  return v == 0;
}
`;

/** A program with so many probes, rewritten. */
const rewritten = async (source: (n: number) => string, n: number): Promise<Buffer> =>
  made(await compile(source(n))).bytes;

function expectProved(bytes: Buffer, n: number): void {
  const image = parseElf(bytes);
  const { sites, findings } = verify(image, carriedOriginal(image));
  expect(findings).toEqual([]);
  expect(sites.length).toBe(n);
  expect(sites.filter(({ verdict }) => verdict !== "equivalent")).toEqual([]);
}

const kinds: Readonly<Record<string, readonly [source: (n: number) => string, least: number]>> = {
  "in one function": [inOneFunction, 400],
  "in as many functions": [manyProbes, 400],
};

describe.skipIf(!canCompile)("work of verify grows with the number of probes, and no faster,", () => {
  let meter: WorkMeter;
  beforeAll(async () => {
    meter = await WorkMeter.start();
  });
  afterAll(() => meter.stop());

  it.each(Object.entries(kinds))("%s", async (_what, [source, count]) => {
    const work: ReadonlyMap<string, number>[] = [];
    // The first compiles what the others run.
    for (const n of [3, count, 2 * count]) {
      const bytes = await rewritten(source, n);
      work.push(await meter.of(() => expectProved(bytes, n)));
    }
    expect(grown(work[1]!, work[2]!, 100 * count)).toEqual([]);
  });
});

/** n log n, and half as much again for the machine. */
const most = (from: number, to: number): number => (1.5 * to * Math.log(to)) / (from * Math.log(from));

describe.skipIf(!canCompile || process.env.LONG !== "1")("all are proved", () => {
  it.each([
    ["in one function", inOneFunction, [100, 1000, 4000]],
    ["in as many functions", manyProbes, [1000, 10_000]],
  ] as const)("%s", async (what, source, counts) => {
    const times: number[] = [];
    for (const n of counts) {
      const bytes = await rewritten(source, n);
      const before = process.cpuUsage();
      expectProved(bytes, n);
      const { user, system } = process.cpuUsage(before);
      times.push((user + system) / 1e6);
    }
    console.log(`verify, probes ${what}: ${counts.map((n, i) => `${n} in ${times[i]!.toFixed(1)} s`).join(", ")}`);
    const [last, previous] = [counts.length - 1, counts.length - 2];
    expect(times[last]! / times[previous]!).toBeLessThan(most(counts[previous]!, counts[last]!));
  });
});
