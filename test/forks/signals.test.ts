/**
 * Signals that come to a whole process group while a traced program forks, and whose handler passes the sites: none of the
 * children dies. With a guard that does not keep them out before the fork some do: the program is the same, but that its
 * initialiser registers no handler for that.
 */
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { fileOffset, readSegments } from "../judges/headers.js";
import { cannotOptimize } from "../live/kernel.js";
import { build, scratch } from "../live/rewriting.js";
import { must } from "../run.js";
import { type Forms, flawless, forms, type Played, play, program, rewritten } from "./family.js";

const LONG = process.env.LONG === "1";
const CHILDREN = LONG ? 3000 : 600;
const SITES = 5;
const LIBRARY_SITES = 2;
const SIGSEGV = 11;

/** A copy in which some bytes of a piece of new code are others. */
async function changed(path: string, name: string, from: string, to: string): Promise<string> {
  const copy = scratch("changed");
  copyFileSync(path, copy);
  const symbols = await must("readelf", ["-sW", path]);
  const line = symbols.split("\n").find((l) => l.endsWith(` usdt_nop5.${name}`));
  const [, start, size] = /^ *\d+: ([0-9a-f]+) +(\d+) /.exec(line ?? "")!;
  const offset = Number(fileOffset(await readSegments(path), BigInt(`0x${start}`), "E")!);
  const bytes = readFileSync(copy);
  const at = bytes.subarray(offset, offset + Number(size)).indexOf(from, "hex");
  expect(at).toBeGreaterThan(0);
  bytes.write(to, offset + at, "hex");
  writeFileSync(copy, bytes);
  return copy;
}
/** The initialiser registers NULL for the handler before the fork: `lea rdi, [...]` becomes `xor edi, edi`. */
const withoutPrepare = (path: string): Promise<string> => changed(path, "init", "488d3d", "31ff0f1f440000");
/** A wrapper does not call it: the call behind `sub rsp, 8` becomes a nop. */
const withoutCall = (path: string, wrapper: string): Promise<string> =>
  changed(path, wrapper, "4881ec08000000e8", "4881ec080000000f1f440000");

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
    const control = await traced(await withoutPrepare(family.guarded), scene);
    console.log(`${scene} without: ${control.begun} begun, ${control.killed.length} killed`);
    expect(new Set(control.killed)).toEqual(new Set([SIGSEGV]));
  });

  it.each<[name: string, way: number, wrapper: string]>([
    ["_Fork", 1, "_Fork"],
    ["syscall(SYS_fork)", 3, "syscall"],
    ["syscall(SYS_clone)", 4, "syscall"],
  ])("%s, wrapped by new code that calls the handlers", { timeout: 300_000 }, async (name, way, wrapper) => {
    const compiled = await build("gcc", program("family.c"), "-O2", "-pthread", `-DWAY=${way}`);
    const { path, forkGuard } = await rewritten(compiled);
    expect(forkGuard?.installed).toBe(true);
    const played = await traced(path, "signals-way");
    console.log(`${name}: ${played.begun} begun, ${played.killed.length} killed, ${played.passes} passes`);
    expect(played).toEqual(flawless(played, SITES));
    // One is the process itself.
    expect(played.begun).toBe(CHILDREN + 1);
    const control = await traced(await withoutCall(path, wrapper), "signals-way");
    console.log(`${name} without: ${control.begun} begun, ${control.killed.length} killed`);
    expect(new Set(control.killed)).toEqual(new Set([SIGSEGV]));
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
