/**
 * Static programs, and programs for another C library than glibc: with `auto` no child of a traced parent dies, and every
 * pass is counted. Static ones have their guard right behind the system call that forks; where there can be none, `auto` is
 * nop,nop10.
 */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { places } from "../live/places.js";
import { build, scratch } from "../live/rewriting.js";
import { skipBecause } from "../packages/skips.js";
import { attach } from "../packages/uprobes.js";
import { run } from "../run.js";
import { crowd } from "./crowd.js";
import { flawless, forms, play, rewritten } from "./family.js";

const SITES = 5;
const SIGSEGV = 11;

const scenes = ["fork", "daemon", "threads", "handler"];
if (process.env.LONG === "1")
  scenes.push(
    "generations",
    "atfork",
    "setuid",
    "setuid-in-child",
    "undumpable",
    "mdwe",
    "forkpty",
    "destructor",
    "spawn",
  );

const noMusl = (): boolean =>
  skipBecause("programs for musl", spawnSync("musl-gcc", ["--version"]).status === 0 ? null : "no musl-gcc");

describe.skipIf(cannotOptimize("static programs that fork"))("static programs that fork, traced", () => {
  it.each(["-static", "-static-pie"])("made by gcc %s", async (flag) => {
    const { guarded, bare } = await forms("family.c", flag, "-w");
    for (const scene of scenes) {
      const played = await play(guarded, scene, { traced: [guarded] });
      expect(played, scene).toEqual(flawless(played, SITES));
      const { killed } = await play(bare, scene, { traced: [bare] });
      expect(new Set(killed), scene).toEqual(new Set([SIGSEGV]));
    }
  });

  it.skipIf(noMusl()).each([
    ["a static program", ["-static"], "nop5"],
    ["a dynamic one", [], "nop,nop10"],
  ] as const)("made for musl: %s", async (_what, flags, layout) => {
    const file = scratch("crowd.c");
    writeFileSync(file, crowd(3));
    const headers = ["/usr/include", "/usr/include/x86_64-linux-gnu"].flatMap((folder) => ["-idirafter", folder]);
    const compiled = await build("musl-gcc", file, "-O2", ...headers, ...flags);
    const of = async (path: string) => {
      const probes = attach((await places(path)).map((place) => place.point));
      try {
        return { status: (await run(path, [])).status, hits: probes.hits() };
      } finally {
        probes.detach();
      }
    };
    const report = await rewritten(compiled);
    expect([report.layout, report.forkGuard?.installed]).toEqual([layout, layout === "nop5"]);
    expect(await of(report.path)).toEqual({ status: 0, hits: [6, 6, 6] });
    const bare = await rewritten(compiled, "--layout", "nop5", "--no-fork-guard");
    expect(await of(bare.path)).toEqual({ status: SIGSEGV, hits: [3, 3, 3] });
  });
});
