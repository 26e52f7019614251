/**
 * Signals that come to a whole process group while a traced program forks, and whose handler passes the sites: none of the
 * children dies. With a guard that does not keep them out before the fork some do: the program is the same, but that its
 * initialiser registers no handler for that.
 */
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { build, scratch } from "../live/rewriting.js";
import { must } from "../run.js";
import { type Forms, flawless, forms, type Played, play, program, rewritten } from "./family.js";

const LONG = process.env.LONG === "1";
const CHILDREN = LONG ? 3000 : 600;
const SITES = 5;
const LIBRARY_SITES = 2;
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

  it.each<[name: string, way: number]>([
    ["_Fork", 1],
    ["syscall(SYS_fork)", 3],
    ["syscall(SYS_clone)", 4],
  ])("%s, which runs no handlers, is wrapped by new code that does", { timeout: 300_000 }, async (name, way) => {
    const compiled = await build("gcc", program("family.c"), "-O2", "-pthread", `-DWAY=${way}`);
    const { path, forkGuard } = await rewritten(compiled);
    expect(forkGuard?.installed).toBe(true);
    const played = await traced(path, "signals-way");
    console.log(`${name}: ${played.begun} begun, ${played.killed.length} killed, ${played.passes} passes`);
    expect(played).toEqual(flawless(played, SITES));
    // One is the process itself.
    expect(played.begun).toBe(CHILDREN + 1);
  });

  it("a library that is opened and closed leaves nothing blocked", async () => {
    const member = await forms("member.c", "-shared", "-fPIC");
    const library = member.guarded;
    // Both are traced, and hold signals one after the other; what comes back is compared at each fork.
    const played = await play(family.guarded, "close", {
      traced: [family.guarded, library],
      environment: { MEMBER: library },
    });
    expect(played).toEqual(flawless(played, SITES, LIBRARY_SITES));
    expect(played.begun).toBe(7);
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
