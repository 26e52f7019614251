/** `verify --live`: the same program with uprobes and without, on this kernel, or not. */
import { copyFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { cannotOptimize, cannotTrace } from "./kernel.js";
import { build, programSource, rewriteWith, scratch } from "./rewriting.js";
import { eventsOf, startTool } from "./tool.js";

interface Verified {
  readonly status: number | null;
  readonly stderr: string;
  readonly live: {
    readonly same: boolean | null;
    readonly differences: readonly string[];
    readonly exitCode: number | null;
    readonly hits: number;
    readonly optimized: number;
  } | null;
}

async function verify(path: string, ...options: readonly string[]): Promise<Verified> {
  const tool = startTool(["verify", "--json", ...options, path]);
  const { status, stdout, stderr } = await tool.ended;
  expect(eventsOf(tool.pid)).toEqual([]);
  const live = stdout === "" ? null : (JSON.parse(stdout) as Pick<Verified, "live">).live;
  return { status, stderr, live };
}

const skipped = cannotTrace("verify --live");
const optimizing = !skipped && !cannotOptimize("verify --live: what is optimized");

describe.skipIf(skipped)("verify --live", () => {
  let program: string;
  beforeAll(async () => {
    program = await build("gcc", programSource("workload.c"), "-O2", "-pthread");
  });

  it("finds a rewritten program the same", async () => {
    const { path } = await rewriteWith(program, "--layout", "nop5");
    expect((await verify(path)).live).toBeNull();
    const { status, live } = await verify(path, "--live", "--strict");
    expect(status).toBe(0);
    expect(live).toMatchObject({ same: true, differences: [], exitCode: 0, hits: 10, optimized: optimizing ? 1 : 0 });
  });

  it.skipIf(!optimizing)("notices a program that does not survive it", async () => {
    // A child that passes what its parent has: the defect of this kernel that the fork guard is for.
    const forks = await build("gcc", programSource("fork.c"), "-O2");
    const [bad, good] = [await rewriteWith(forks, "--layout", "nop5", "--no-fork-guard"), await rewriteWith(forks)];
    expect(await verify(bad.path, "--live")).toMatchObject({
      status: 3,
      live: { same: false, differences: ["standard output"] },
    });
    expect(await verify(good.path, "--live")).toMatchObject({ status: 0, live: { same: true, hits: 40 } });
  });

  it("blames no uprobe for what a program does by itself", async () => {
    const source = programSource("restless.c");
    const { path } = await rewriteWith(await build("gcc", source, "-O2"), "--layout", "nop5");
    expect(await verify(path, "--live")).toMatchObject({ status: 0, live: { same: null } });
    expect((await verify(path, "--live", "--strict")).status).toBe(3);
  });

  it("does not wait for what a program leaves behind", { timeout: 18_000 }, async () => {
    const { path } = await rewriteWith(await build("gcc", programSource("leaves.c"), "-O2"), "--layout", "nop5");
    expect(await verify(path, "--live")).toMatchObject({ status: 0, live: { same: true, hits: 1 } });
  });

  it("runs programs only", async () => {
    const library = await build("gcc", programSource("goes-on.c"), "-O2", "-shared", "-fPIC");
    const { path } = await rewriteWith(library, "--layout", "nop5");
    const { status, stderr } = await verify(path, "--live");
    expect(status).toBe(1);
    expect(stderr).toMatch(/^usdt-nop5: .*: a shared library cannot be run: --live is for programs\n$/);
    const plain = scratch("plain");
    copyFileSync(program, plain);
    expect((await verify(plain, "--live")).status).toBe(1);
  });
});
