/**
 * The guard itself, in children that no handler of the C library sees, under a real uprobe: its parent has hit the site, so
 * that without the guard every child dies of it. Threads hit it in between.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it } from "vitest";
import { type Vaddr, vaddr } from "../../src/address.js";
import { offsetOf, parseElf } from "../../src/elf/image.js";
import { childGuard } from "../../src/rewrite/fork-guard/handler/child-guard.js";
import { FORK_GUARD } from "../../src/rewrite/fork-guard/install/fork-handlers.js";
import { build } from "../fixtures/build.js";
import { Tracer } from "../guard/tracer.js";
import { cannotOptimize } from "../live/kernel.js";
import { scratch } from "../rewrite/compile.js";
import { must, run } from "../run.js";
import { cover } from "./covered.js";

const source = fileURLToPath(new URL("./programs/traced.c", import.meta.url));
const ways = ["fork", "_Fork", "clone", "syscall", "_Fork"];
const all = (word: string): string => `${word}\n`.repeat(ways.length);

async function siteOf(file: string): Promise<Vaddr> {
  const line = / *\d+: ([0-9a-f]+) .* traced_site$/m.exec(await must("readelf", ["-sW", file]));
  return vaddr(Number.parseInt(line![1]!, 16));
}

describe.skipIf(cannotOptimize("children that no handler sees, under a uprobe"))("a traced child of", () => {
  let tracer: Tracer | undefined;
  afterEach(() => tracer?.remove());

  it.each([
    ["a dynamic program", ["-pie", "-fPIE"]],
    ["a dynamic program, bound lazily", ["-no-pie", "-fno-pie", "-Wl,-z,lazy"]],
    ["a static program", ["-static"]],
    ["a static PIE", ["-static-pie", "-fPIE"]],
  ])("%s", async (_what, flags) => {
    const built = await build({
      output: "program",
      compiler: "gcc",
      sources: [source],
      flags: ["-O2", "-pthread", "-w", ...flags],
    });
    if (!built.ok) throw new Error(built.because);
    const site = await siteOf(built.path);
    const guarded = scratch("guarded");
    cover(built.path, guarded, (plan) =>
      childGuard(FORK_GUARD, [{ sites: [site], privatePages: new Set() }], plan.handler?.slots),
    );
    const traced = async (file: string): Promise<{ stdout: string; hits: number }> => {
      tracer = new Tracer(file, [offsetOf(parseElf(readFileSync(file)), site)!]);
      tracer.on();
      try {
        return { stdout: (await run(file, ways, { timeout: 20_000 })).stdout, hits: tracer.hits() };
      } finally {
        tracer.remove();
      }
    };
    expect((await run(guarded, ways)).stdout).toBe(all("ok"));
    expect(await traced(guarded)).toEqual({ stdout: all("ok"), hits: 3 + 3 * ways.length });
    expect(await traced(built.path)).toEqual({ stdout: all("signal 11"), hits: 3 + ways.length });
  });
});
