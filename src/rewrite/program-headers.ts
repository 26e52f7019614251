/**
 * The program header table of the output, and the edits that put it in place.
 */
import { type FileOffset, fileOffset, PAGE_SIZE, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, ProgramHeader, Section } from "../elf/image.js";
import { type Edit, editAt, word } from "./edits.js";
import type { FarPiece } from "./far-jumps.js";
import type { Place } from "./place.js";

/**
 * All program headers once new code is in its place.
 * @param size of the code, and what stands after it
 * @param far segments with far jumps
 * @param replaced headers that say something else than the input's, of which there is one of each type
 */
export function newProgramHeaders(
  image: ElfImage,
  place: Place,
  size: number,
  replaced: readonly ProgramHeader[] = [],
  far: readonly FarPiece[] = [],
): readonly ProgramHeader[] {
  if (place.kind === "rest of page") {
    const length = place.start + size - place.segment.p_vaddr;
    return image.programHeaders.map((p) => (p === place.segment ? { ...p, p_filesz: length, p_memsz: length } : p));
  }
  const programHeaders = place.growth.programHeaders.map((p) => {
    const now = replaced.find((r) => r.p_type === p.p_type);
    return now === undefined ? p : { ...now, index: p.index };
  });
  const length = place.start + size - place.p_vaddr;
  const added = [
    codeSegment(place.p_vaddr, place.p_offset, length),
    ...[...far].sort((a, b) => a.start - b.start).map((f) => codeSegment(f.start, f.offset, f.bytes.length)),
  ];
  // PT_LOADs are in ascending order: the new ones, which are the highest, come after the last.
  const behind = programHeaders.findLastIndex((p) => p.p_type === elf.PT_LOAD) + 1;
  const unused = Array.from({ length: 1 + place.farSegments - added.length }, () => nothing);
  return [...programHeaders.slice(0, behind), ...added, ...programHeaders.slice(behind), ...unused];
}

const codeSegment = (p_vaddr: Vaddr, p_offset: FileOffset, length: number): ProgramHeader => ({
  index: -1,
  p_type: elf.PT_LOAD,
  p_flags: elf.PF_R | elf.PF_X,
  p_offset,
  p_vaddr,
  p_paddr: p_vaddr,
  p_filesz: length,
  p_memsz: length,
  p_align: PAGE_SIZE,
});

/** An entry that there was room for and that nobody needs. */
const nothing: ProgramHeader = {
  index: -1,
  p_type: elf.PT_NULL,
  p_flags: 0,
  p_offset: fileOffset(0),
  p_vaddr: vaddr(0),
  p_paddr: 0,
  p_filesz: 0,
  p_memsz: 0,
  p_align: 0,
};

export function encodeProgramHeaders(headers: readonly ProgramHeader[]): Uint8Array {
  const bytes = new Uint8Array(headers.length * elf.PHDR_SIZE);
  const view = new DataView(bytes.buffer);
  headers.forEach((p, i) => {
    const at = i * elf.PHDR_SIZE;
    view.setUint32(at, p.p_type, true);
    view.setUint32(at + 4, p.p_flags, true);
    [p.p_offset, p.p_vaddr, p.p_paddr, p.p_filesz, p.p_memsz, p.p_align].forEach((value, field) => {
      view.setBigUint64(at + 8 + field * 8, BigInt(value), true);
    });
  });
  return bytes;
}

/**
 * The table's bytes, and where it grew what stands after it.
 * @param contentOf the output's content of a section that slid up after the table
 */
export function programHeaderEdits(
  image: ElfImage,
  place: Place,
  headers: readonly ProgramHeader[],
  contentOf: (section: Section) => Uint8Array,
): Edit[] {
  const table = encodeProgramHeaders(headers);
  if (place.kind === "rest of page") return [editAt(image, image.header.e_phoff, table)];
  const { kind, cleared, moved } = place.growth;
  if (kind === "at end") return [];
  if (cleared === undefined) return [editAt(image, image.header.e_phoff, table)];
  const bytes = new Uint8Array(cleared.end - image.header.e_phoff);
  bytes.set(table);
  for (const { section, sh_offset } of moved)
    if (sh_offset < cleared.end) bytes.set(contentOf(section), sh_offset - image.header.e_phoff);
  return [editAt(image, image.header.e_phoff, bytes)];
}

/** The dynamic tags that point to sections that moved. */
export const tagEdits = (image: ElfImage, place: Place): Edit[] =>
  place.kind === "rest of page"
    ? []
    : place.growth.tags.map(({ tag, value }) => editAt(image, tag.valueOffset, word(value, 8)));
