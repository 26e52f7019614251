/**
 * What elfy gets wrong or drops, shown against readelf. src/elf/image.ts reads these fields itself because of it; should
 * one of these tests fail, elfy has been mended there and the field can be left to it.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseElf } from "../src/elf/image.js";
import { must } from "./run.js";
import { folder, sample } from "./sample/sample.js";

interface ElfyFile {
  readonly body: {
    readonly programs: readonly { readonly type: string | undefined; readonly flags: object }[];
    readonly sections: readonly {
      readonly name: string;
      readonly type: string | number;
      readonly flags: object;
      readonly addralign: number;
      readonly entsize: number;
    }[];
  };
}

const elfy = createRequire(import.meta.url)("elfy") as { parse(bytes: Buffer): ElfyFile };

interface ReadelfSection {
  readonly name: string;
  readonly type: string;
  readonly entsize: number;
  readonly flags: string;
  readonly addralign: number;
}

/** `readelf -SW`: [Nr] Name Type Address Off Size ES Flg Lk Inf Al; the flags may be missing. */
async function readelfSections(path: string): Promise<ReadelfSection[]> {
  const row =
    /^ +\[ *\d+\] (\S*) +(\S+) +[0-9a-f]{16} [0-9a-f]{6} [0-9a-f]{6} ([0-9a-f]{2}) +([A-Za-z]*) +\d+ +\d+ +(\d+)$/gm;
  const text = await must("readelf", ["-SW", path]);
  return [...text.matchAll(row)].map(([, name, type, entsize, flags, addralign]) => ({
    name: name!,
    type: type!,
    entsize: Number.parseInt(entsize!, 16),
    flags: flags!,
    addralign: Number(addralign),
  }));
}

describe("elfy on ELF64", () => {
  it("reads sh_addralign two bytes early", async () => {
    const path = await sample();
    const theirs = elfy.parse(readFileSync(path)).body.sections;
    const truth = await readelfSections(path);
    expect(theirs.length).toBe(truth.length);
    // Bytes 46 to 53: the upper half of sh_info, then sh_addralign, shifted by 16 bits.
    for (const [i, section] of truth.entries()) expect(theirs[i]!.addralign).toBe(section.addralign * 2 ** 16);
    expect(truth.some((section) => section.addralign > 0)).toBe(true);
  });

  it("reads sh_entsize two bytes early", async () => {
    const path = await sample();
    const theirs = elfy.parse(readFileSync(path)).body.sections;
    const symbols = (await readelfSections(path)).findIndex((section) => section.name === ".symtab");
    expect((await readelfSections(path))[symbols]!.entsize).toBe(24);
    expect(theirs[symbols]!.entsize).toBe(24 * 2 ** 16);
  });

  it("has no name for PT_GNU_PROPERTY and drops its number", async () => {
    const path = await sample();
    expect(await must("readelf", ["-lW", path])).toContain("GNU_PROPERTY");
    const { programs } = elfy.parse(readFileSync(path)).body;
    expect(programs.filter((program) => program.type === undefined)).toHaveLength(1);
  });

  it("keeps section flags without a name as numbers, and drops those above bit 31", async () => {
    const path = join(folder(), "flags");
    const bytes = readFileSync(await sample());
    const { sections, header } = parseElf(bytes);
    const { index } = sections.find((section) => section.name === ".comment")!;
    // SHF_ALLOC, SHF_COMPRESSED, and a bit that nobody has named.
    bytes.writeBigUInt64LE(0x1_0000_0802n, header.e_shoff + index * 64 + 8);
    writeFileSync(path, bytes);
    const truth = (await readelfSections(path))[index]!;
    expect(truth.flags).toMatch(/^AC[a-z]$/);
    expect(parseElf(bytes).sections[index]!.sh_flags).toBe(0x1_0000_0802);
    expect(Object.keys(elfy.parse(bytes).body.sections[index]!.flags).sort()).toEqual(["2048", "alloc"]);
  });

  it("calls SHT_RELR by another name", async () => {
    const bytes = readFileSync(await sample());
    const { sections, header } = parseElf(bytes);
    const { index } = sections.find((section) => section.name === ".comment")!;
    bytes.writeUInt32LE(19, header.e_shoff + index * 64 + 4);
    expect(elfy.parse(bytes).body.sections[index]!.type).toBe("num");
    expect(parseElf(bytes).sections[index]!.sh_type).toBe(19);
  });
});

describe("our reader", () => {
  it.each([[[]], [["-no-pie"]], [["-static"]], [["-fuse-ld=lld"]]])("agrees with readelf, flags %j", async (flags) => {
    const path = await sample(...flags);
    const ours = parseElf(readFileSync(path)).sections;
    expect(ours.map((s) => [s.name, s.sh_entsize, s.sh_addralign])).toEqual(
      (await readelfSections(path)).map((s) => [s.name, s.entsize, s.addralign]),
    );
  });
});
