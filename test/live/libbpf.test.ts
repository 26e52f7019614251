/** The arguments of rewritten probes as libbpf reads them, and that it refuses none that it took before. */
import { beforeAll, describe, expect, it } from "vitest";
import { readNotes } from "../judges/notes.js";
import { skipBecause } from "../packages/skips.js";
import { must } from "../run.js";
import { cannotTrace } from "./kernel.js";
import { libbpfMissing, withLibbpf } from "./libbpf.js";
import type { SeenByLibbpf } from "./libbpf-tracer.js";
import { build, programSource, rewriteWith, sameLength } from "./rewriting.js";

const skipped = cannotTrace("arguments, read by libbpf") || skipBecause("arguments, read by libbpf", libbpfMissing());

describe.skipIf(skipped)("arguments, read by libbpf", () => {
  let program: string;
  let before: ReadonlyMap<string, SeenByLibbpf | null>;

  async function read(file: string): Promise<ReadonlyMap<string, SeenByLibbpf | null>> {
    const probes = (await readNotes(file)).map((note) => `${note.provider}:${note.name}`);
    return withLibbpf(file, probes, () => must("setarch", ["-R", file]));
  }

  beforeAll(async () => {
    program = await build("gcc", programSource("arguments.S"), programSource("arguments.c"), "-O2", "-no-pie");
    before = await read(program);
  });

  it("are what the program says", () => {
    // The others have an index, a symbol or a floating value.
    expect([...before].filter(([, seen]) => seen !== null).map(([name]) => name)).toEqual(
      expect.arrayContaining(["args:constants", "args:wide", "args:unoptimized", "args:below", "args:for_the_note"]),
    );
    expect(before.get("args:for_the_note")).toEqual({ hits: 6, arguments: ["36", "5", ...Array(10).fill("0")] });
  });

  it.each(["nop5", "nop,nop5", "nop,nop10"])("are the same with %s", async (layout) => {
    const { path, summary } = await rewriteWith(program, "--layout", layout);
    expect(summary.rewritten).toBe(16);
    expect(await read(sameLength(path, program))).toEqual(before);
  });
});
