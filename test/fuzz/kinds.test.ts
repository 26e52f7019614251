/**
 * What fuzzing found, each as the kind of damage that it is: refused in words that name it, or rewritten so that `verify` finds
 * nothing and the way back leads to the damaged file.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import * as elf from "../../src/elf/constants.js";
import { readEhFrame } from "../../src/elf/eh-frame.js";
import { type ElfImage, parseElf, sectionNamed } from "../../src/elf/image.js";
import { symbolName, symtab } from "../../src/elf/symbols.js";
import { revert } from "../../src/rewrite/revert.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import type { RewriteOptions, RewriteReport } from "../../src/rewritten/contract.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { judgeHeader } from "../../src/verify/rest/unwind-records.js";
import { build } from "../fixtures/build.js";
import { sample } from "../sample/sample.js";
import { changed, complaints, held, plain, rewriteFile } from "../verify/held.js";
import { contentOf } from "./content.js";

type Change = (copy: Buffer, image: ElfImage) => void;

const section = (image: ElfImage, name: string) => sectionNamed(image, name)!;
/** Where a field of a section's header stands in the file. */
const field = (image: ElfImage, name: string, at: number): number =>
  image.header.e_shoff + section(image, name).index * elf.SHDR_SIZE + at;
const [SH_TYPE, SH_FLAGS] = [4, 8];

/** Rewrites a damaged file, and holds the output to all that is promised. */
function rewritten(bytes: Buffer, options: Partial<RewriteOptions> = {}): RewriteReport {
  const { content, report } = rewrite(parseElf(bytes), { ...plain, ...options });
  const output = contentOf(content!);
  expect(contentOf(revert(parseElf(output))).equals(bytes)).toBe(true);
  expect(complaints(held(output)).filter((line) => !line.startsWith("unproved"))).toEqual([]);
  return report;
}

/** The FDE of a function of the sample. */
function fdeOf(image: ElfImage, name: string): number {
  const table = symtab(image)!;
  const frames = readEhFrame(image);
  for (let i = 0; i < table.count; i++) {
    if (symbolName(table, i) !== name) continue;
    const value = Number(image.view.getBigUint64(table.section.sh_offset + i * elf.SYM_SIZE + 8, true));
    return frames.record(frames.indexAt(value)).at;
  }
  throw new Error(`${name} is no function of it`);
}

describe("what two readers understand differently is refused", () => {
  const kinds: readonly (readonly [string, RegExp, Change])[] = [
    [
      "a frame record begins elsewhere than the search table says",
      /search table says that the frame record at 0x[0-9a-f]+ begins at/,
      (copy, image) => {
        const at = fdeOf(image, "add") + 8;
        copy.writeInt32LE(copy.readInt32LE(at) + 0x2000, at);
      },
    ],
    [
      "a relocation is counted as relative, and is another",
      /DT_RELACOUNT counts/,
      (copy, image) => void copy.writeUInt32LE(elf.R_X86_64_GLOB_DAT, section(image, ".rela.dyn").sh_offset + 8),
    ],
    ...[".shstrtab", ".strtab", ".dynstr"].map((name): readonly [string, RegExp, Change] => [
      `${name} does not end`,
      /does not end with a NUL/,
      (copy, image) => void copy.writeUInt8(1, section(image, name).sh_offset + section(image, name).sh_size - 1),
    ]),
    [
      "the first section header is none",
      /the first section header is no empty one/,
      (copy, { header }) => void copy.copy(copy, header.e_shoff, header.e_shoff + 64, header.e_shoff + 128),
    ],
    [
      "a section is not loaded, and its segment is",
      /is not loaded, and stands in a segment that is/,
      (copy, image) => void copy.writeBigUInt64LE(0n, field(image, ".dynamic", SH_FLAGS)),
    ],
  ];

  it.each(kinds)("%s", async (_what, words, change) => {
    // With names after that of the notes, which would be no notes else.
    const bytes = changed(readFileSync(await sample("-g")), change);
    expect(() => rewrite(parseElf(bytes), plain)).toThrow(words);
  });
});

describe("no fork guard beside tables that no linker writes", () => {
  const kinds: readonly (readonly [string, RegExp, Change])[] = [
    [
      "a symbol of a version that is not there",
      /a symbol is of version 77/,
      (copy, image) => void copy.writeUInt16LE(77, section(image, ".gnu.version").sh_offset),
    ],
    [
      "two versions of one number",
      /have the number|not one after the other/,
      (copy, image) => {
        const { sh_offset } = section(image, ".gnu.version_r");
        copy.copy(copy, sh_offset + 32, sh_offset + 16, sh_offset + 32);
      },
    ],
    [
      "a symbol in its own chain",
      /DT_HASH/,
      (copy, image) => {
        const { sh_offset } = section(image, ".hash");
        const buckets = copy.readUInt32LE(sh_offset);
        copy.writeUInt32LE(1, sh_offset + 8 + 4 * (buckets + 1));
        copy.writeUInt32LE(1, sh_offset + 8);
      },
    ],
    [
      "a relocation of what is not loaded",
      /a relocation writes to 0x[0-9a-f]+, where nothing is loaded/,
      (copy, image) => {
        const { sh_offset, sh_size } = section(image, ".rela.dyn");
        copy.writeBigUInt64LE(0xffffffffffffff3cn, sh_offset + sh_size - elf.RELA_SIZE);
      },
    ],
  ];

  it.each(kinds)("%s", async (_what, words, change) => {
    const path = await sample("-Wl,--hash-style=both");
    expect(rewritten(readFileSync(path), { forkGuard: true }).forkGuard?.installed).toBe(true);
    const report = rewritten(changed(readFileSync(path), change), { forkGuard: true });
    expect(report.forkGuard?.installed ?? false).toBe(false);
    expect(JSON.stringify(report)).toMatch(words);
  });
});

describe("what is rewritten is verified, and leads back", () => {
  it("notes that name the bytes after a probe, and the middle of instructions", async () => {
    for (const flags of [[], ["-shared", "-fPIC"]]) {
      const bytes = readFileSync(await sample(...flags));
      const notes = readUsdtNotes(parseElf(bytes));
      const moved = notes.find((note) => note.name === "other")!;
      for (const { location } of notes)
        for (let by = 0; by < 6; by++)
          rewritten(changed(bytes, (copy) => void copy.writeBigUInt64LE(BigInt(location + by), moved.locationOffset)));
    }
  });

  it("a frame record that ends after the nop", async () => {
    for (const flags of [[], ["-no-pie"], ["-shared", "-fPIC"]])
      rewritten(
        changed(readFileSync(await sample(...flags)), (copy, image) => {
          copy.writeUInt32LE(1, fdeOf(image, "add") + 12);
        }),
      );
  });

  it("a first symbol, which is none, that says that it is in a section that moves", async () => {
    const bytes = readFileSync(await sample("-no-pie"));
    for (const name of [".dynsym", ".symtab"])
      for (let number = 1; number < 9; number++)
        rewritten(
          changed(bytes, (copy, image) => void copy.writeUInt16LE(number, section(image, name).sh_offset + 6)),
          { forkGuard: true },
        );
  });

  it("a rewritten file that somebody changed", async ({ skip }) => {
    const built = await sample("-fuse-ld=lld").catch(() => null);
    if (built === null) return skip("no lld here");
    for (const path of [built, await sample(), await sample("-no-pie")]) {
      const { bytes } = rewriteFile(path, { only: ["sample:guarded"] })!;
      rewritten(changed(bytes, (copy, image) => void copy.writeUInt8(0x20, section(image, ".comment").sh_offset)));
    }
  });
});

it("a guard in a file whose notes were taken away is judged without a defect of ours", async () => {
  const source = fileURLToPath(new URL("../fixtures/programs/forks.c", import.meta.url));
  const built = await build({ output: "forks", compiler: "gcc", sources: [source], flags: ["-O2"] });
  if (!built.ok) throw new Error(built.because);
  const made = rewriteFile(built.path, { forkGuard: true })!;
  expect(made.report.forkGuard?.installed).toBe(true);
  const without = changed(
    made.bytes,
    (copy, image) => void copy.writeUInt32LE(1, field(image, ".note.stapsdt", SH_TYPE)),
  );
  expect(complaints(held(without)).length).toBeGreaterThan(0);
});

it("verify: what the search table led to it leads to", async () => {
  const bytes = readFileSync(await sample());
  const at = fdeOf(parseElf(bytes), "add") + 8;
  const elsewhere: Change = (copy) => void copy.writeInt32LE(copy.readInt32LE(at) + 2, at);
  const original = parseElf(changed(bytes, elsewhere));
  const { sh_offset, sh_addr } = section(original, ".eh_frame_hdr");
  const entry = [...Array(original.view.getUint32(sh_offset + 8, true)).keys()]
    .map((i) => sh_offset + 12 + 8 * i)
    .find((e) => sh_addr + original.view.getInt32(e + 4, true) === at - 8)!;
  // As one would make it who goes by the records alone.
  const anew = parseElf(changed(original.bytes, (copy) => void copy.writeInt32LE(copy.readInt32LE(entry) + 2, entry)));
  const said = (rewritten: ElfImage): string[] => {
    const pair = (name: string) => ({ original: section(original, name), rewritten: section(rewritten, name) });
    const frames = [readEhFrame(original), readEhFrame(rewritten)] as const;
    return judgeHeader(original, rewritten, pair(".eh_frame_hdr"), pair(".eh_frame"), ...frames).map((f) => f.what);
  };
  expect(said(anew).some((what) => what.includes("no longer leads from"))).toBe(true);
  expect(said(original).some((what) => what.includes("no longer leads from"))).toBe(false);
});
