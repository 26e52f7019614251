/**
 * A C++ program that throws, rethrows and catches in several threads, through a rewritten libstdc++ that it finds by
 * LD_LIBRARY_PATH. The sites have no semaphores: they are passed in every run, traced or not.
 */
import { spawnSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { corpus, FETCH_TIMEOUT, fetchPackages, libraryPath } from "./corpus.js";
import { mustRun, type RunResult, run } from "./scratch.js";
import { coverage } from "./sites.js";
import { skipBecause } from "./skips.js";
import { counted, makeTwins, printHits, type Twins, visible } from "./twins.js";
import { uprobesMissing } from "./uprobes.js";

const uncounted = skipBecause("hits of libstdc++", uprobesMissing());
const source = fileURLToPath(new URL("programs/throws.cc", import.meta.url));
const noCompiler = skipBecause("libstdc++", spawnSync("g++", ["--version"]).status === 0 ? null : "no g++");

describe.skipIf(noCompiler)("libstdc++, rewritten", () => {
  let twins: Twins;
  let program: string;
  beforeAll(async () => {
    fetchPackages();
    // The name by which the loader looks for it.
    twins = await makeTwins(corpus.libstdcxx, "libstdc++.so.6");
    program = twins.scratch.file("throws");
    await mustRun("g++", ["-O2", "-pthread", source, "-o", program]);
  }, FETCH_TIMEOUT + 60_000);
  afterAll(() => twins?.scratch.remove());

  const runWith = (library: string, extra: Record<string, string> = {}): Promise<RunResult> =>
    run(program, [], { env: { ...libraryPath(path.dirname(library)), ...extra } });

  it("is the library that the program loads", async () => {
    const r = await runWith(twins.rewritten, { LD_TRACE_LOADED_OBJECTS: "1" });
    expect(r.stdout).toContain(twins.rewritten);
  });

  it("catches what the unrewritten one catches", async () => {
    const before = await runWith(twins.original);
    expect(before.status, before.stderr).toBe(0);
    expect(before.stdout).toContain("again: bottom");
    for (let round = 0; round < 5; round++) {
      expect(visible(await runWith(twins.rewritten))).toEqual(visible(before));
    }
  });

  it.skipIf(uncounted)("throws, rethrows and catches as often, counted by uprobes", async () => {
    const before = await counted(twins.original, () => runWith(twins.original));
    const after = await counted(twins.rewritten, () => runWith(twins.rewritten));
    expect(before.result.status, before.result.stderr).toBe(0);
    expect(visible(after.result)).toEqual(visible(before.result));
    printHits("libstdc++", before.hits, after.hits);
    expect(coverage(before.hits).never).toEqual([]);
    expect(after.hits).toEqual(before.hits);
  });
});
