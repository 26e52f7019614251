/**
 * The program header table of the output, and the edits that put it in place.
 */
import { PAGE_SIZE } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, ProgramHeader, Section } from "../elf/image.js";
import { type Edit, editAt, word } from "./edits.js";
import type { Place } from "./place.js";

/**
 * All program headers once new code is in its place.
 * @param size of the code, and what stands behind it
 * @param replaced headers that say something else than the input's, of which there is one of each type
 */
export function newProgramHeaders(
  image: ElfImage,
  place: Place,
  size: number,
  replaced: readonly ProgramHeader[] = [],
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
  const added: ProgramHeader = {
    index: -1,
    p_type: elf.PT_LOAD,
    p_flags: elf.PF_R | elf.PF_X,
    p_offset: place.p_offset,
    p_vaddr: place.p_vaddr,
    p_paddr: place.p_vaddr,
    p_filesz: length,
    p_memsz: length,
    p_align: PAGE_SIZE,
  };
  // PT_LOADs are in ascending order: the new one, which is the highest, comes behind the last.
  const behind = programHeaders.findLastIndex((p) => p.p_type === elf.PT_LOAD) + 1;
  return [...programHeaders.slice(0, behind), added, ...programHeaders.slice(behind)];
}

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
 * The table's bytes, and where it grew what stands behind it.
 * @param contentOf the output's content of a section that slid up behind the table
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
