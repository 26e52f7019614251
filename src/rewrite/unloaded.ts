/**
 * What stands in the file after the part that is loaded: which of it stays, and which is written anew after new code.
 *
 * Programs know data that somebody appended to them by two ways: from the file's end (archives, cookies), or by an
 * offset that was written into them (bundles). So where a file has bytes that no header describes, the whole of it
 * stays in place, offset by offset; what is new comes after it; and bytes that stood after everything stand at the end
 * once more.
 *
 *     usual      [ loaded ][ new segment ][ sections ][ revert data ][ section headers ]
 *     appended   [ loaded ][ sections ][ old section headers ][ data ][ new segment ][ sections that change ][ ... ][ data ]
 *
 * Else sections that are not loaded follow after the new segment in their old order. A section that changes is written
 * anew wherever it stood: linkers leave them after what is loaded, but patchelf puts loaded parts after them.
 */
import { PAGE_SIZE } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, Section } from "../elf/image.js";

interface Unloaded {
  /** Where the part ends that stays as it is: nothing new stands before it but in the rest of a page. */
  readonly keptEnd: number;
  /** Where the bytes begin that stand after all that headers describe. */
  readonly trailingStart: number;
}

/** How many bytes stand after everything that headers describe. */
export const trailingBytes = (image: ElfImage): number => image.bytes.length - unloadedPart(image).trailingStart;

/** The sections that are written after the part that stays, in the order of their offsets. */
export function writtenSections(image: ElfImage, keptEnd: number, changes: (section: Section) => boolean): Section[] {
  return image.sections
    .filter((s) => s.sh_type !== elf.SHT_NOBITS && s.sh_type !== elf.SHT_NULL)
    .filter((s) => s.sh_offset + s.sh_size > keptEnd || s.index === image.header.e_shstrndx || changes(s))
    .filter((s) => s.sh_size > 0 || (s.sh_flags & elf.SHF_ALLOC) === 0)
    .sort((a, b) => a.sh_offset - b.sh_offset || a.index - b.index);
}

/** Where the content of the last segment ends in the file. */
export const loadedEnd = ({ programHeaders }: ElfImage): number =>
  Math.max(...programHeaders.filter((p) => p.p_type === elf.PT_LOAD).map((p) => p.p_offset + p.p_filesz));

/** How the part of a file is used that is not loaded. */
export function unloadedPart(image: ElfImage): Unloaded {
  const { bytes, sections, header } = image;
  const loaded = loadedEnd(image);
  const described = [
    { start: header.e_shoff, end: header.e_shoff + header.e_shnum * elf.SHDR_SIZE },
    ...sections
      .filter((s) => s.sh_type !== elf.SHT_NULL && s.sh_type !== elf.SHT_NOBITS)
      .map((s) => ({ start: s.sh_offset, end: s.sh_offset + s.sh_size })),
  ].sort((a, b) => a.start - b.start);
  let at = loaded;
  let isGap = false;
  for (const { start, end } of described) {
    if (start > at && !isPadding(bytes, at, start)) isGap = true;
    at = Math.max(at, end);
  }
  const trailingStart = Math.min(bytes.length, at);
  return { keptEnd: isGap || trailingStart < bytes.length ? bytes.length : loaded, trailingStart };
}

/** Zeros between two sections, as many as an alignment takes. */
const isPadding = (bytes: Buffer, start: number, end: number): boolean =>
  end - start <= MOST_PADDING && bytes.subarray(start, end).every((byte) => byte === 0);

const MOST_PADDING = 16 * PAGE_SIZE;
