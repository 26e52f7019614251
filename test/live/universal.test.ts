/**
 * Universal probes under the tracers of this machine: each pass is counted once, whichever of the two places runs, results
 * are right, children live, and semaphores come back to 0.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { usdtNop5 } from "../command.js";
import { scratch } from "../rewrite/compile.js";
import { cannotOptimize } from "./kernel.js";
import { build, programSource, rewriteWith } from "./rewriting.js";

interface LiveDocument {
  readonly exitCode: number;
  readonly sites: readonly { readonly name: string; readonly hits: number; readonly optimized: boolean }[];
}

async function live(path: string): Promise<LiveDocument> {
  const { status, stdout, stderr } = await usdtNop5("live", "--json", "--", path);
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout) as LiveDocument;
}

/** Hits by name, and whether those that were hit were all calls, or none. */
function seen({ sites }: LiveDocument): Record<string, readonly [hits: number, by: string]> {
  const found: Record<string, readonly [number, string]> = {};
  for (const name of new Set(sites.map((s) => s.name))) {
    const own = sites.filter((s) => s.name === name);
    const hit = own.filter((s) => s.hits > 0);
    const by = hit.every((s) => s.optimized) ? "call" : hit.some((s) => s.optimized) ? "both" : "trap";
    found[name] = [own.reduce((sum, s) => sum + s.hits, 0), by];
  }
  return found;
}

/** The same program, started past the code that sets the selector: as on a kernel that optimizes no nop5. */
function unselected(path: string, original: string): string {
  const bytes = readFileSync(path);
  bytes.writeBigUInt64LE(BigInt(parseElf(readFileSync(original)).header.e_entry), 24);
  const copy = scratch("unselected");
  writeFileSync(copy, bytes, { mode: 0o755 });
  return copy;
}

describe.skipIf(cannotOptimize("universal probes"))("a universal program", () => {
  it.each<[name: string, source: string, flags: string[], hits: Record<string, number>]>([
    ["with values below rsp", programSource("redzone.c"), [], { mix: 500, weigh: 500 }],
    ["with semaphores", programSource("gated.c"), [], { open: 10, shut: 3 }],
    ["that forks", programSource("fork.c"), [], { pass: 40 }],
  ])("%s: each pass counted once, with either selector", async (_name, source, flags, hits) => {
    const compiled = await build("gcc", source, "-O2", ...flags);
    const { path, layout, summary } = await rewriteWith(compiled);
    expect([layout, summary.rewritten]).toEqual(["universal", summary.sites]);
    const as = (by: string) => Object.fromEntries(Object.entries(hits).map(([name, n]) => [name, [n, by]]));
    const selected = await live(path);
    expect([selected.exitCode, seen(selected)]).toEqual([0, as("call")]);
    const not = await live(unselected(path, compiled));
    expect([not.exitCode, seen(not)]).toEqual([0, as("trap")]);
  });
});
