/** A selector in every kind of file is proved; and whatever is done to one is found. */
import { readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { DT_INIT } from "../../src/elf/constants.js";
import { readDynamicTags } from "../../src/elf/dynamic.js";
import { parseElf } from "../../src/elf/image.js";
import type { FileFinding } from "../../src/verify/contract.js";
import { carriedOriginal, givenOriginal } from "../../src/verify/original.js";
import { verify } from "../../src/verify/verify.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must } from "../run.js";
import { plant, type Subject, subject } from "./selected.js";

const findingsIn = (bytes: Buffer): readonly FileFinding[] => {
  const image = parseElf(bytes);
  return verify(image, carriedOriginal(image)).findings;
};

const LIBRARY = ["-shared", "-fPIC"];

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

describe.skipIf(!canCompile)("after other tools, verify still proves the selector of", () => {
  const tools: readonly (readonly string[])[] = [
    ["strip"],
    ["objcopy"],
    ["patchelf", "--set-rpath", "/nowhere/at/all"],
  ];
  it.each(
    tools.flatMap((tool) => [
      ["a program", "program.c", ["-pie", "-fPIE"], tool] as const,
      ["a library", "library.c", LIBRARY, tool] as const,
    ]),
  )("%s", async (_what, source, flags, [tool, ...more]) => {
    const { bytes, made } = await subject("gcc", source, flags);
    const path = scratch("changed");
    writeFileSync(path, bytes);
    await must(tool!, [...more, path]);
    const image = parseElf(readFileSync(path));
    const { findings } = verify(image, givenOriginal(image, { bytes: made.original, holes: [], zeroTail: 0 }));
    // What patchelf does to tables and strings is a difference, and is told.
    const ours = findings.filter(
      ({ what }) => tool !== "patchelf" || /selector|e_entry|DT_INIT|new code|PT_LOAD/.test(what),
    );
    expect(ours).toEqual([]);
  });
});

/** A fault: bytes of the selector's code, ** where they may be any, and what they become, .. where they stay. */
type Fault = readonly [what: string, bytes: string, becomes: string, finding: RegExp];

const NO_BUSINESS = /an instruction that has no business there/;
const nops = (count: number): string => "90".repeat(count);

const ofBoth: readonly Fault[] = [
  ["it begins with 6.17", "81e800120600", "81e800110600", /the selector is 1, not 0 .*6\.17\.0/],
  ["it begins with 6.19", "81e800120600", "81e800130600", /the selector is 0, not 1 .*6\.18\.0/],
  ["it ends with 7.1", "81f800f00000", "81f800ef0000", /the selector is 0, not 1 .*7\.1\.0/],
  ["it ends with 7.2", "81f800f00000", "81f800f10000", /the selector is 1, not 0 .*7\.2\.0/],
  ["its sense is inverted", "7307c605", "7207c605", /the selector is 0, not 1/],
  ["it sets another value", "c605********01", "c605********02", NO_BUSINESS],
  ["it sets nothing", "c605********01", nops(7), /it sets nothing/],
  ["it writes a register there", "c605********01", "8805........90", NO_BUSINESS],
  ["two registers are exchanged", "5e5a", "5a5e", /r(dx|si) is not what it was/],
  ["a register is not given back", "5f5e5a5958", "5f5e5a5990", /with rsp moved|where no new code is/],
  ["a register is lost", "c1ea10", "c1eb10", /rbx is not what it was/],
  ["it asks the kernel", "ffc90f84", "0f050f84", NO_BUSINESS],
  ["it calls", "4801d6e9", "4801d6e8", NO_BUSINESS],
  ["it jumps where a register leads", "4801d6e9", "4801ffe0", NO_BUSINESS],
  ["it writes where rsi leads", "488b06", "488906", NO_BUSINESS],
  ["it reads by a segment", "8b46144", "648b464", NO_BUSINESS],
  ["nothing bounds the loop over notes", "ffc90f84********488d460c", "66900f84........488d460c", /bounds the loop/],
  ["its counter begins again", "81f8001000000f87********8b5604", `b900001000${nops(7)}8b5604`, /bounds the loop/],
  ["a counter without a beginning", "c7c100001000", nops(6), /bounds the loop/],
  ["notes have no end", "4839f80f87********8b06", `${nops(9)}8b06`, /it ends with "fault"|the selector is 1, not 0/],
  [
    "the kernel's note has no end",
    "4839f80f87********8b4608",
    `${nops(9)}8b4608`,
    /the selector is 1, not 0 .*within the kernel's/,
  ],
  ["the notes may begin anywhere", "4881f8001000000f87********", nops(13), /fault|the selector is 1/],
  [
    "the notes may have any size",
    "4881fa001000000f87********4801c24881fa001000000f87********",
    `${nops(13)}4801c2${nops(13)}`,
    /fault/,
  ],
  ["program headers may be anywhere", "4881fe800c00000f87********", nops(13), /fault/],
  ["program headers may be any number", "83fa100f87********", nops(9), /fault/],
  ["program headers may have any size", "83f8380f85********", nops(9), /the selector is 1, not 0/],
  ["any file will do", "81f87f454c460f85********", nops(12), /the selector is 1, not 0 .*no ELF file/],
  ["a vDSO at 0", "4885ff0f84********", nops(9), /"fault" at 0x0.*a vDSO at 0/],
  ["any owner", "81f84c696e75750e", nops(8), /the selector is 1, not 0/],
  ["any end of the owner", "83f878741d", "83f878eb1d", /the selector is 1, not 0/],
  ["any type", "85c07519", nops(4), /the selector is 1, not 0/],
  ["any size of the note", "83fa04752f", nops(5), /the selector is 1, not 0/],
  ["any size of the owner", "83f8067534", nops(5), /the selector is 1, not 0/],
  ["a pair of another type", "4883f821", "4883f820", /the selector is 0, not 1/],
  ["the pairs have no end", "4885c00f84********4883f821", `${nops(9)}4883f821`, /it ends with "fault"|it does not end/],
];

const ofPrograms: readonly Fault[] = [
  ["it takes argv for argc", "488b7c2428", "488b7c2430", /it ends with "fault"|the selector is 0/],
  ["it forgets what it has pushed", "488d742430", "488d742428", /it ends with "fault"|the selector is 0/],
];

const ofLibraries: readonly Fault[] = [
  ["it reads envp", "48c1e7034883c6084801fe", `4889d6${nops(8)}`, /"fault"|the selector is 0, not 1/],
  ["any number of arguments", "4881ff000000010f83********", nops(13), /"fault".*2\^24 arguments/],
  ["any argv", "4885f60f84********", nops(9), /"fault".*argv = NULL/],
  ["argv at any address", "f7c6070000000f85********", nops(12), /an odd argv|a multiple of four/],
  ["the first NULL is the last", "4885c07506", "4885c0eb06", /the selector is 0, not 1 .*unsetenv/],
  ["what looks like a pair", "f7c7ff0f00000f85********", nops(12), /"fault".*cleared, and pairs after it/],
];

describe.skipIf(!canCompile)("verify finds", () => {
  let program: Subject;
  let library: Subject;

  beforeAll(async () => {
    program = await subject("gcc", "program.c", ["-pie", "-fPIE"]);
    library = await subject("gcc", "library.c", LIBRARY);
  });

  const said = (bytes: Buffer): string =>
    findingsIn(bytes)
      .map(({ what }) => what)
      .filter((what) => what.startsWith("the code that sets the selector: "))
      .join("\n");

  it.each([...ofBoth, ...ofPrograms])("in a program: %s", (_what, pattern, becomes, finding) => {
    expect(said(plant(program, pattern, becomes))).toMatch(finding);
  });

  it.each([...ofBoth, ...ofLibraries])("in a library: %s", (_what, pattern, becomes, finding) => {
    expect(said(plant(library, pattern, becomes))).toMatch(finding);
  });

  /** A file with one word of its own changed. */
  const changed = ({ bytes }: Subject, offset: number, to: (old: bigint) => bigint): Buffer => {
    const faulty = Buffer.from(bytes);
    faulty.writeBigUInt64LE(to(bytes.readBigUInt64LE(offset)), offset);
    return faulty;
  };
  const all = (bytes: Buffer): string =>
    findingsIn(bytes)
      .map(({ where, what }) => `${where}: ${what}`)
      .join("\n");
  const distance = (bytes: Buffer, at: number, by: number): Buffer => {
    const faulty = Buffer.from(bytes);
    faulty.writeInt32LE(bytes.readInt32LE(at) + by, at);
    return faulty;
  };
  /** Where the code ends in the file. */
  const endOf = ({ bytes, made }: Subject): number => {
    const { p_vaddr, p_offset } = parseElf(bytes).programHeaders.find(
      (p) => p.p_type === 1 && p.p_vaddr <= made.code.start && p.p_vaddr + p.p_filesz >= made.code.end,
    )!;
    return made.code.end - p_vaddr + p_offset;
  };

  it("an entry that leads past the original one", () => {
    expect(said(distance(program.bytes, endOf(program) - 4, 4))).toMatch(/it goes on at 0x\w+, not at 0x\w+/);
  });

  it("an entry in the midst of the code, before it, and elsewhere", () => {
    expect(said(changed(program, 24, (old) => old + 4n))).toMatch(/it does not begin with endbr64/);
    expect(all(changed(program, 24, (old) => old + 12n))).toMatch(/the code that sets the selector/);
    expect(all(changed(program, 24, () => 0x1000n))).toMatch(/e_entry is 0x1000, not/);
  });

  it("an entry that is the original's, and so sets nothing", () => {
    const original = BigInt((program.made.plan.start as { next: number }).next);
    expect(all(changed(program, 24, () => original))).toMatch(/new code that no probe leads to/);
  });

  it("a byte that is another's", () => {
    const at = program.bytes.indexOf(Buffer.of(0xc6, 0x05), endOf(program) - 24) + 2;
    expect(said(distance(program.bytes, at, -16))).toMatch(
      /is not the first of the last word of memory after variables/,
    );
    expect(said(distance(program.bytes, at, 1))).toMatch(/is not the first of the last word of memory after variables/);
  });

  it("memory for the word that is missing, or larger", () => {
    const image = parseElf(program.bytes);
    const grown = image.programHeaders.find((p) => p.p_type === 1 && (p.p_flags & 2) !== 0)!;
    const at = image.header.e_phoff + grown.index * 56 + 40;
    expect(all(changed(program, at, (old) => old - 8n))).toMatch(/is not the first of the last word/);
    expect(all(changed(program, at, (old) => old + 8n))).toMatch(/is not the first of the last word/);
  });

  it("a library's start that leads nowhere it should", () => {
    const { bytes, made } = library;
    const image = parseElf(bytes);
    const dynamic = image.programHeaders.find((p) => p.p_type === 2)!;
    const at = bytes.indexOf(Buffer.from(BigUint64Array.of(BigInt(made.code.start)).buffer), dynamic.p_offset);
    expect(said(changed(library, at, (old) => old + 4n))).toMatch(/it does not begin with endbr64/);
    expect(said(distance(bytes, endOf(library) - 4, 4))).toMatch(/it goes on at 0x\w+, not at 0x\w+/);
    const returns = Buffer.from(bytes);
    returns[endOf(library) - 5] = 0xc3;
    expect(said(returns)).toMatch(/it goes on back, not at 0x\w+/);
  });

  describe("where a fork guard is called at the start as well", () => {
    let guarded: Subject;

    beforeAll(async () => {
      guarded = await subject("gcc", "guarded-library.c", LIBRARY, true);
    });

    it("nothing, if all is well", () => {
      expect(all(guarded.bytes)).toBe("");
    });

    it("a selector's code that goes on past the guard's", () => {
      const { bytes, made } = guarded;
      const at = endOf(guarded) - 4;
      const init = made.code.end + bytes.readInt32LE(at);
      const { d_val } = readDynamicTags(parseElf(made.original)).find((t) => t.d_tag === DT_INIT)!;
      expect(all(distance(bytes, at, d_val - init))).toMatch(/no guard|the loader calls none|registers/);
      expect(all(distance(bytes, at, 4))).toMatch(NO_BUSINESS);
    });

    it("a start that leads past the selector's code to the guard's", () => {
      const { bytes, made } = guarded;
      const init = made.code.end + bytes.readInt32LE(endOf(guarded) - 4);
      const dynamic = parseElf(bytes).programHeaders.find((p) => p.p_type === 2)!;
      const tag = bytes.indexOf(Buffer.from(BigUint64Array.of(BigInt(made.code.start)).buffer), dynamic.p_offset);
      expect(said(changed(guarded, tag, () => BigInt(init)))).toMatch(NO_BUSINESS);
    });
  });
});
