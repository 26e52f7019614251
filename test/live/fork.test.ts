/**
 * Forked children of a traced program. Linux 6.18 to 7.1 copy the patched probe to a child without the trampoline that it
 * calls, so a child dies where its parent was traced: `auto` must not bring a forking program into that. test/forks has the
 * many ways in which programs fork.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { attach } from "../packages/uprobes.js";
import { cannotOptimize } from "./kernel.js";
import { start } from "./living.js";
import { places } from "./places.js";
import { build, programSource, rewriteWith } from "./rewriting.js";

/** What the traced program said of its child, how often its probe was hit, and what stood there in the parent. */
async function traced(file: string): Promise<{ child: string; hits: number; byte: string }> {
  const [place] = await places(file);
  const probes = attach([place!.point]);
  try {
    const program = await start(file);
    const seen = { child: program.said.trim(), hits: probes.hits()[0]!, byte: program.bytesAt(place!.address, 1) };
    await program.finish();
    return seen;
  } finally {
    probes.detach();
  }
}

describe.skipIf(cannotOptimize("traced programs that fork"))("a traced program that forks", () => {
  let compiled: string;
  beforeAll(async () => {
    compiled = await build("gcc", programSource("fork.c"), "-O2");
  });

  it("keeps its child when rewritten for 6.18, and both are optimized", async () => {
    const { path, layout, summary } = await rewriteWith(compiled, "--kernel", "6.18");
    expect([layout, summary.rewritten]).toEqual(["nop5", 1]);
    expect(await traced(path)).toEqual({ child: "child exit 0", hits: 40, byte: "e8" });
  });

  it("keeps its child when rewritten with auto and without a guard: the probe is a nop,nop10", async () => {
    const { path, layout, summary } = await rewriteWith(compiled, "--no-fork-guard");
    expect([layout, summary.rewritten]).toEqual(["nop,nop10", 1]);
    expect(await traced(path)).toEqual({ child: "child exit 0", hits: 40, byte: "cc" });
  });

  it("loses its child when rewritten with --layout nop5 and without a guard, and the report says so", async () => {
    const { path, hazards, summary } = await rewriteWith(compiled, "--layout", "nop5", "--no-fork-guard");
    expect(summary.rewritten).toBe(1);
    expect(hazards.find((h) => h.code === "fork")?.message).toMatch(/imports fork/);
    // This is the danger itself: were the child to live, the test above would prove nothing.
    expect(await traced(path)).toEqual({ child: "child killed by signal 11", hits: 20, byte: "e8" });
  });
});
