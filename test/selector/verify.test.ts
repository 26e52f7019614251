/** A selector in every kind of file is proved; and whatever is done to one is found. */
import { readFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import type { FileFinding } from "../../src/verify/contract.js";
import { carriedOriginal } from "../../src/verify/original.js";
import { verify } from "../../src/verify/verify.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { compiled, guardOf, type Installed, select } from "./selected.js";

const findingsIn = (bytes: Buffer): readonly FileFinding[] => {
  const image = parseElf(bytes);
  return verify(image, carriedOriginal(image)).findings;
};

const LIBRARY = ["-shared", "-fPIC"];

interface Subject {
  readonly bytes: Buffer;
  readonly made: Installed;
}

async function subject(compiler: string, source: string, flags: readonly string[], guarded = false): Promise<Subject> {
  const input = await compiled(compiler, [source], ...flags);
  const made = select(input, scratch("verified"), guarded ? guardOf : undefined);
  return { bytes: made.bytes, made };
}

describe.skipIf(!canCompile)("verify proves the selector of", () => {
  it.each([
    ["a PIE", "gcc", "program.c", ["-pie", "-fPIE"]],
    ["an ET_EXEC", "gcc", "program.c", ["-no-pie", "-fno-pie"]],
    ["a static program", "gcc", "program.c", ["-static"]],
    ["a static PIE", "gcc", "program.c", ["-static-pie", "-fPIE"]],
    ["a stripped one", "gcc", "program.c", ["-s"]],
    ["one by clang and lld", "clang", "program.c", ["-fuse-ld=lld"]],
    ["one by mold", "gcc", "program.c", ["-fuse-ld=mold"]],
    ["one by gold", "gcc", "program.c", ["-fuse-ld=gold"]],
    ["a library", "gcc", "library.c", LIBRARY],
    ["one without DT_INIT", "gcc", "library.c", [...LIBRARY, "-nostartfiles"]],
    ["one without unused tags", "gcc", "library.c", [...LIBRARY, "-nostartfiles", "-fuse-ld=lld"]],
    [
      "one with RELR",
      "gcc",
      "library.c",
      [...LIBRARY, "-nostartfiles", "-Wl,-z,pack-relative-relocs,--spare-dynamic-tags=0"],
    ],
    ["a library by mold", "gcc", "library.c", [...LIBRARY, "-fuse-ld=mold"]],
  ])("%s", async (_what, compiler, source, flags) => {
    const { bytes } = await subject(compiler, source, flags);
    expect(findingsIn(bytes)).toEqual([]);
  });
});
