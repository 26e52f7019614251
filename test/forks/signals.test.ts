/**
 * Signals that come to a whole process group while a traced program forks, and whose handler passes the sites: none of the
 * children dies. With a guard that does not keep them out before the fork some do: the program is the same, but that its
 * initialiser registers no handler for that.
 */
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { scratch } from "../live/rewriting.js";
import { must } from "../run.js";
import { type Forms, flawless, forms, type Played, play } from "./family.js";

const LONG = process.env.LONG === "1";
const CHILDREN = LONG ? 3000 : 600;
const SITES = 5;
const SIGSEGV = 11;

/** A copy whose initialiser registers NULL for the handler before the fork: `lea rdi, [...]` becomes `xor edi, edi`. */
async function withoutHold(path: string): Promise<string> {
  const copy = scratch("without-hold");
  copyFileSync(path, copy);
  const line = / *\d+: ([0-9a-f]+) +(\d+) .* usdt_nop5\.init$/m.exec(await must("readelf", ["-sW", path]))!;
  const [start, size] = [Number.parseInt(line[1]!, 16), Number(line[2])];
  const segments = [...(await must("readelf", ["-lW", path])).matchAll(/LOAD +0x(\w+) 0x(\w+) 0x\w+ 0x(\w+)/g)];
  const segment = segments.map((s) => s.slice(1).map((n) => Number.parseInt(n, 16)) as [number, number, number]);
  const [offset, address] = segment.find(([, at, length]) => start >= at && start < at + length)!;
  const bytes = readFileSync(copy);
  const init = start - address + offset;
  const at = bytes.subarray(init, init + size).indexOf("488d3d", "hex");
  expect(at).toBeGreaterThan(0);
  bytes.write("31ff0f1f440000", init + at, "hex");
  writeFileSync(copy, bytes);
  return copy;
}

describe.skipIf(cannotOptimize("signals while a program forks"))("signals while a traced program forks", () => {
  let family: Forms;
  beforeAll(async () => {
    family = await forms("family.c");
  });

  const traced = (path: string, scene: string, children = CHILDREN): Promise<Played> =>
    play(path, scene, { traced: [path], arguments: [`${children}`] });

  it.each<[scene: string, because: string]>([
    ["signals", "children one after the other"],
    ["signals-threads", "children of eight threads at once"],
    ["signals-fork", "children of the handler as well"],
  ])("%s: %s", { timeout: 300_000 }, async (scene) => {
    const played = await traced(family.guarded, scene);
    console.log(`${scene}: ${played.begun} begun, ${played.killed.length} killed, ${played.passes} passes`);
    expect(played).toEqual(flawless(played, SITES));
    expect(played.begun).toBeGreaterThan(CHILDREN);
    const control = await traced(await withoutHold(family.guarded), scene);
    console.log(`${scene} without: ${control.begun} begun, ${control.killed.length} killed`);
    expect(new Set(control.killed)).toEqual(new Set([SIGSEGV]));
  });

  it.each<[scene: string, processes: number]>([
    ["masks", 4],
    ["fork-fails", 1],
  ])("%s: what was blocked is blocked again", async (scene, processes) => {
    for (const points of [[family.guarded], []]) {
      const played = await play(family.guarded, scene, { traced: points });
      expect(played).toEqual(flawless(played, points.length * SITES));
      expect(played.begun).toBe(processes);
    }
  });
});
