/**
 * Files whose probes were built as five-byte nops, so that nothing is rewritten, traced from before they run: with the fork
 * guard no child dies, and each pass is counted wherever the kernel can be made to look again. As compiled all children die.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { cannotOptimize } from "../live/kernel.js";
import { places } from "../live/places.js";
import { build } from "../live/rewriting.js";
import { attach } from "../packages/uprobes.js";
import { must } from "../run.js";
import { program, rewritten } from "./family.js";

const CHILDREN = 300;
const SITES = 2;
/** A process passes each site three times. */
const PASSES = 3;

const source = program("already.c");

/** What the program says, and how often each site was hit. */
async function traced(path: string, command: readonly string[], step = 0n) {
  const probes = attach((await places(path, step)).map((place) => place.point));
  try {
    const [file, ...args] = command;
    return { said: (await must(file!, args)).trim(), hits: probes.hits() };
  } finally {
    probes.detach();
  }
}

const each = (hits: number): number[] => Array(SITES).fill(hits);
const alive = { said: `0 of ${CHILDREN} killed`, hits: each(PASSES * (CHILDREN + 1)) };
const dead = { said: `${CHILDREN} of ${CHILDREN} killed`, hits: each(PASSES) };

describe.skipIf(cannotOptimize("probes that were built as nop5"))("probes that were built as nop5, traced", () => {
  let user: string;
  beforeAll(async () => {
    user = await build("gcc", source, "-O2", "-DUSER");
  });

  /** Of a file as compiled and of the guarded one; `run` is the command that runs it. */
  async function both(compiled: string, run: (path: string) => readonly string[], step = 0n, ...options: string[]) {
    const { path, summary, forkGuard } = await rewritten(compiled, ...options);
    expect(summary).toEqual({ sites: SITES, rewritten: 0, already: SITES, skipped: 0 });
    expect(forkGuard).toMatchObject({ installed: true, reason: null, sites: SITES });
    return { before: await traced(compiled, run(compiled), step), after: await traced(path, run(path), step) };
  }
  const alone = (path: string): readonly string[] => [path, String(CHILDREN)];

  it.each([["-pie"], ["-no-pie"], ["-static"], ["-fuse-ld=lld", "-pie"]])("a program, %s %s", async (...flags) => {
    const compiled = await build("gcc", source, "-O2", "-DROOMY", ...flags);
    expect(await both(compiled, alone)).toEqual({ before: dead, after: alive });
  });

  it("a library", async () => {
    const compiled = await build("gcc", source, "-O2", "-DROOMY", "-DLIBRARY", "-shared", "-fPIC");
    const run = (path: string): readonly string[] => [user, String(CHILDREN), path];
    expect(await both(compiled, run)).toEqual({ before: dead, after: alive });
  });

  it("nop,nop5, traced at the second of the two", async () => {
    const compiled = await build("gcc", source, "-O2", "-DROOMY", "-DNOP=nop; .nops 5");
    expect(await both(compiled, alone, 1n, "--layout", "nop,nop5")).toEqual({ before: dead, after: alive });
  });

  it("in a segment of a single page: nobody dies, and children are not counted, as the report says", async () => {
    const compiled = await build("gcc", source, "-O2");
    const { hazards } = await rewritten(compiled);
    expect(hazards.find((h) => h.code === "fork-uncounted")?.message).toContain(
      "2 probes in a segment of a single page",
    );
    const uncounted = { said: alive.said, hits: each(PASSES) };
    expect(await both(compiled, alone)).toEqual({ before: dead, after: uncounted });
  });
});
