/**
 * The rest of the file: a change in each kind of place is found, with its place; so is a change of any byte at all.
 */
import { appendFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { type ElfImage, parseElf, type Section, sectionNamed } from "../../src/elf/image.js";
import { InputError } from "../../src/errors.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { canCompile, compile, manyProbes } from "../rewrite/compile.js";
import { changed, complaints, held, type RewrittenFile, rewritten } from "./held.js";

const [PT_LOAD, PT_INTERP, PT_NOTE, PT_GNU_STACK] = [1, 3, 4, 0x6474e551];
const source = `${manyProbes(12)}
const char *const table[] = {"read-only", "relocated"};
int data[] = {1, 2, 3};
`;

type Change = (bytes: Buffer, image: ElfImage) => void;

/** One more, in the lowest bit of the byte there. */
const flip = (bytes: Buffer, at: number, mask = 1): void => {
  bytes[at]! ^= mask;
};
const section = (image: ElfImage, name: string): Section => {
  const found = sectionNamed(image, name);
  if (found === undefined) throw new Error(`no ${name}`);
  return found;
};
const inside =
  (name: string, at = 0): Change =>
  (bytes, image) =>
    flip(bytes, section(image, name).sh_offset + at);
const sectionHeader =
  (name: string, field: number): Change =>
  (bytes, image) =>
    flip(bytes, image.header.e_shoff + section(image, name).index * 64 + field);
const programHeader =
  (field: number, mask: number, which: (p: ElfImage["programHeaders"][number]) => boolean): Change =>
  (bytes, image) => {
    const p = image.programHeaders.findLast(which);
    if (p === undefined) throw new Error("no such program header");
    flip(bytes, image.header.e_phoff + p.index * 56 + field, mask);
  };
/** A byte of the symbol with that name. */
const symbol =
  (name: string, field: number): Change =>
  (bytes, image) => {
    const [table, strings] = [section(image, ".symtab"), section(image, ".strtab")];
    for (let at = table.sh_offset + 24; at < table.sh_offset + table.sh_size; at += 24) {
      const start = strings.sh_offset + bytes.readUInt32LE(at);
      if (bytes.toString("latin1", start, bytes.indexOf(0, start)) !== name) continue;
      flip(bytes, at + field);
      return;
    }
    throw new Error(`no symbol ${name}`);
  };
/** A dynamic tag's own bytes (0) or its value's (8). */
const dynamicTag =
  (tag: number, field: number): Change =>
  (bytes, image) => {
    for (let at: number = section(image, ".dynamic").sh_offset; bytes.readUInt32LE(at) !== 0; at += 16)
      if (bytes.readUInt32LE(at) === tag) return flip(bytes, at + field);
    throw new Error(`no tag ${tag}`);
  };
const isCode = (p: { p_type: number; p_flags: number }): boolean => p.p_type === PT_LOAD && (p.p_flags & 1) !== 0;

/** What is changed, how, and what verify says about it. */
const changes: readonly (readonly [what: string, change: Change, says: RegExp])[] = [
  [
    "code without a probe",
    (b, i) => flip(b, i.header.e_entry - section(i, ".text").sh_addr + section(i, ".text").sh_offset),
    /^address 0x[0-9a-f]+: a byte differs in \.text/,
  ],
  ["read-only data", inside(".rodata", 5), /a byte differs in \.rodata/],
  ["data", inside(".data", 16), /a byte differs in \.data/],
  ["relocated data", inside(".data.rel.ro"), /a byte differs in \.data\.rel\.ro/],
  ["a relocation", inside(".rela.dyn", 16), /a byte differs in \.rela\.dyn/],
  ["a dynamic tag", dynamicTag(5, 0), /a dynamic tag is 0x4, not 0x5/],
  ["where a dynamic tag points", dynamicTag(5, 8), /DT_STRTAB is 0x[0-9a-f]+, not/],
  ["where the tag of a section that moved points", dynamicTag(0x6ffffef5, 8), /DT_GNU_HASH is 0x[0-9a-f]+, not/],
  ["the entry point", (b) => flip(b, 24), /^offset 0x18: e_entry is/],
  ["flags in the ELF header", (b) => flip(b, 48), /^offset 0x30: e_flags is 0x1, not 0x0/],
  ["padding in e_ident", (b) => flip(b, 12), /^offset 0x0: e_ident/],
  [
    "writable code",
    programHeader(4, 2, (p) => isCode(p) && p.p_vaddr === 0),
    /PT_LOAD at 0x0: has the permissions RWX, not R-X/,
  ],
  ["new code made writable", programHeader(4, 2, isCode), /PT_LOAD .*: is new, and writable/],
  [
    "executable data",
    programHeader(4, 1, (p) => p.p_type === PT_LOAD && (p.p_flags & 2) !== 0),
    /has the permissions RWX, not RW-/,
  ],
  [
    "an executable stack",
    programHeader(4, 1, (p) => p.p_type === PT_GNU_STACK),
    /PT_GNU_STACK at 0x0: has the permissions RWX/,
  ],
  [
    "another interpreter",
    (b, i) => flip(b, section(i, ".interp").sh_offset + 3),
    /PT_INTERP .*: what stands there is not what stood at/,
  ],
  ["where PT_INTERP points", programHeader(16, 1, (p) => p.p_type === PT_INTERP), /PT_INTERP .*: p_offset is/],
  [
    "a segment's size in memory",
    programHeader(41, 16, (p) => p.p_type === PT_LOAD && (p.p_flags & 2) !== 0),
    /has 0x[0-9a-f]+ bytes in the file and/,
  ],
  [
    "the size of a note segment",
    programHeader(32, 4, (p) => p.p_type === PT_NOTE),
    /PT_NOTE .*: has 0x[0-9a-f]+ bytes/,
  ],
  ["an unwind rule", inside(".eh_frame", 20), /differs? in \.eh_frame/],
  ["the address of an FDE", inside(".eh_frame", 0x20), /differs? in \.eh_frame|an unwind record leads to/],
  [
    "the index of the unwind table",
    inside(".eh_frame_hdr", 12),
    /differs? in \.eh_frame_hdr|\.eh_frame_hdr leads from/,
  ],
  [
    "the build-id",
    inside(".note.gnu.build-id", 20),
    /what stands there is not what stood at|differs? in \.note\.gnu\.build-id/,
  ],
  [
    "a note's semaphore",
    (b) => flip(b, readUsdtNotes(parseElf(b))[3]!.locationOffset + 16),
    /different many:p3: its semaphore is at|names another base or semaphore/,
  ],
  [
    "a note's base",
    (b) => flip(b, readUsdtNotes(parseElf(b))[3]!.locationOffset + 8),
    /names another base or semaphore|different many:/,
  ],
  [
    "a probe's name",
    (b) => flip(b, readUsdtNotes(parseElf(b))[3]!.argumentOffset - 2),
    /the note of many:p3 names another probe/,
  ],
  ["a symbol's address", symbol("main", 8), /\.symtab: symbol \d+ is at 0x/],
  ["a symbol's size", symbol("main", 16), /\.symtab: symbol \d+ has 0x/],
  ["a symbol's section", symbol("main", 6), /\.symtab: symbol \d+ is in section \d+, not \d+/],
  ["a symbol's name", symbol("main", 0), /\.symtab: symbol \d+ has another name or kind/],
  ["a new symbol's address", symbol("f7.nop5", 8), /the new symbol f7\.nop5 does not cover what stands there/],
  ["a new symbol's size", symbol("f7.nop5", 16), /the new symbol f7\.nop5 does not cover what stands there/],
  ["a dynamic symbol", inside(".dynsym", 24 + 8), /\.dynsym: symbol 1 is at/],
  ["a name in .strtab", inside(".strtab", 3), /a byte differs in \.strtab/],
  [
    "the name of new code",
    (b, i) => flip(b, b.indexOf("f7.nop5\0", section(i, ".strtab").sh_offset)),
    /a new symbol is called "g7\.nop5"/,
  ],
  ["a section's address", sectionHeader(".data", 16), /\.data is not where it was|section \.data: sh_offset/],
  [
    "a section's offset",
    sectionHeader(".data", 24),
    /section \.data: sh_offset is 0x[0-9a-f]+, not 0x[0-9a-f]+, where its segment has it/,
  ],
  ["a section's size", sectionHeader(".data", 32), /section \.data: sh_size is/],
  [
    "the size of a table of names",
    (b, i) => {
      const { index, sh_size } = section(i, ".shstrtab");
      b.writeUInt32LE(sh_size - 1, i.header.e_shoff + index * 64 + 32);
    },
    /\.shstrtab does not end with a NUL/,
  ],
  ["a section's flags", sectionHeader(".data", 8), /section \.data: sh_flags is/],
  ["a section's link", sectionHeader(".symtab", 40), /section \.symtab: sh_link is/],
  ["a section's type", sectionHeader(".comment", 4), /section \.comment: sh_type is/],
  ["the flags of new code's section", sectionHeader(".text.nop5", 8), /section \.text\.nop5: is not plain code/],
  ["a comment", inside(".comment", 2), /a byte differs in \.comment/],
  [
    "int3 behind the last piece of new code",
    (b, i) => flip(b, lastFill(b, i)),
    /new code that no probe leads to|does not cover|something new is loaded/,
  ],
  ["an appended byte", (b) => flip(b, b.length - 1), /a byte differs in what is appended/],
];

/** An int3 between two pieces of new code. */
function lastFill(bytes: Buffer, image: ElfImage): number {
  const code = section(image, ".text.nop5");
  const at = bytes.lastIndexOf(Buffer.of(0xcc), code.sh_offset + code.sh_size - 1);
  if (at < code.sh_offset) throw new Error("no int3 in new code");
  return at;
}

describe.skipIf(!canCompile)("the rest of the file", () => {
  let subject: RewrittenFile;

  beforeAll(async () => {
    // No room in the last page of code: there is a new segment, and sections moved to make room for its header.
    const path = await compile(source, "-falign-functions=1", "-fPIE", "-pie", "-Wl,-z,noseparate-code", "-rdynamic");
    appendFileSync(path, "an archive");
    subject = rewritten(path);
  });

  it("is as it was where nobody changed it", () => {
    expect(complaints(held(subject.bytes))).toEqual([]);
    expect(complaints(held(subject.bytes, subject.original))).toEqual([]);
  });

  it.each(changes)("%s", (_what, change, says) => {
    const copy = changed(subject.bytes, change);
    expect(copy.equals(subject.bytes)).toBe(false);
    const given = complaints(held(copy, subject.original));
    expect(
      given.some((line) => says.test(line)),
      given.join("\n"),
    ).toBe(true);
    // With what the file carries it is found as well, if not always with its place.
    expect(complaints(held(copy)).length).toBeGreaterThan(0);
  });

  it("is not an original where what the file leads to is damaged", () => {
    // The FDE's distance to its CIE: nobody can read the table any more.
    const copy = changed(subject.bytes, (bytes, image) =>
      flip(bytes, section(image, ".eh_frame").sh_offset + 0x1c, 0x40),
    );
    expect(complaints(held(copy, subject.original))).not.toEqual([]);
    const { sites, findings } = held(copy);
    expect(findings.map((f) => f.what)).toEqual([expect.stringMatching(/no longer leads to its original/)]);
    expect(sites.map((s) => s.verdict)).toEqual(Array(12).fill("unproved"));
    expect(sites[0]!.reason).toMatch(/the original cannot be restored: damaged \.eh_frame/);
  });

  it("counts changes of any byte, wherever it is", () => {
    const unnoticed: string[] = [];
    let seed = 1;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    for (let turn = 0; turn < (process.env.LONG === "1" ? 8000 : 300); turn++) {
      const at = random(subject.bytes.length);
      const mask = 1 << random(8);
      try {
        const report = held(
          changed(subject.bytes, (copy) => flip(copy, at, mask)),
          subject.original,
        );
        const isFound = report.findings.length > 0 || report.sites.some((s) => s.verdict === "different");
        if (!isFound) unnoticed.push(`offset 0x${at.toString(16)} ^ ${mask}`);
      } catch (error) {
        // Headers that lead outside of the file, and damage to what the file carries.
        if (!(error instanceof InputError)) throw error;
      }
    }
    expect(unnoticed).toEqual([]);
  });
});
