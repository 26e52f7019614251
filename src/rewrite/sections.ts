/**
 * The section headers of the output: new sections, moved ones, and everything in the file that names a section by its
 * number.
 *
 * Tools want the headers of loaded sections in the order of their addresses, so a new section goes in the middle, and
 * all numbers after it change: sh_link, sh_info of relocation sections, st_shndx of every symbol, e_shstrndx.
 */

import type { FileOffset, Vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, Section } from "../elf/image.js";
import { CODE_SECTION, FAR_SECTION } from "../rewritten/section-names.js";
import type { MovedSection } from "./table-growth.js";

/** A section header of the output. `content` is what its bytes are, where they do not stay in place. */
export interface OutputSection {
  readonly name: string;
  readonly sh_type: number;
  readonly sh_flags: number;
  readonly sh_addr: number;
  readonly sh_offset: number;
  readonly sh_size: number;
  /** In terms of the input's section numbers; renumbered when the table is written. */
  readonly sh_link: number;
  readonly sh_info: number;
  readonly sh_addralign: number;
  readonly sh_entsize: number;
  /** The section of the input that it was, or undefined for a new one. */
  readonly origin: Section | undefined;
}

export function codeSection(address: Vaddr, offset: FileOffset, size: number): OutputSection {
  return {
    name: CODE_SECTION,
    sh_type: elf.SHT_PROGBITS,
    sh_flags: elf.SHF_ALLOC | elf.SHF_EXECINSTR,
    sh_addr: address,
    sh_offset: offset,
    sh_size: size,
    sh_link: 0,
    sh_info: 0,
    sh_addralign: 16,
    sh_entsize: 0,
    origin: undefined,
  };
}

/** A section with far jumps: tools keep no bytes that are in none. */
export const farSection = (address: Vaddr, offset: FileOffset, size: number): OutputSection => ({
  ...codeSection(address, offset, size),
  name: FAR_SECTION,
  sh_addralign: 1,
});

/** The output's sections in their final order: the null section, loaded ones by address, the others as they were. */
export function orderSections(
  image: ElfImage,
  moved: readonly MovedSection[],
  added: readonly OutputSection[],
): OutputSection[] {
  const kept = image.sections.map((origin): OutputSection => {
    const target = moved.find((m) => m.section === origin);
    const { name, sh_type, sh_flags, sh_size, sh_link, sh_info, sh_addralign, sh_entsize } = origin;
    const sh_addr = target?.sh_addr ?? origin.sh_addr;
    const sh_offset = target?.sh_offset ?? origin.sh_offset;
    return { name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, sh_addralign, sh_entsize, origin };
  });
  const result = kept.filter((s) => moved.every((m) => m.section !== s.origin));
  const loaded = [...kept.filter((s) => !result.includes(s)), ...added.filter((s) => s.sh_flags & elf.SHF_ALLOC)];
  for (const section of loaded.sort((a, b) => a.sh_addr - b.sh_addr)) {
    // After the last loaded section with a lower address: what the input has in another order stays so.
    const before = result.findLastIndex((s) => (s.sh_flags & elf.SHF_ALLOC) !== 0 && s.sh_addr <= section.sh_addr);
    result.splice(before < 0 ? 1 : before + 1, 0, section);
  }
  return [...result, ...added.filter((s) => !(s.sh_flags & elf.SHF_ALLOC))];
}

/** For each section number of the input the one of the output; a section that is gone becomes SHN_UNDEF. */
export function renumbering(image: ElfImage, output: readonly OutputSection[]): Uint16Array {
  const numbers = new Uint16Array(image.sections.length);
  output.forEach((section, index) => {
    if (section.origin !== undefined) numbers[section.origin.index] = index;
  });
  return numbers;
}

/** Whether sh_info of a section is a section number: relocation sections that say so. */
const infoIsSection = (s: OutputSection): boolean =>
  (s.sh_flags & elf.SHF_INFO_LINK) !== 0 || s.sh_type === elf.SHT_RELA || s.sh_type === elf.SHT_REL;

/** Writes the section header table. `names` gives each section's offset in .shstrtab. */
export function encodeSectionHeaders(
  output: readonly OutputSection[],
  numbers: Uint16Array,
  names: (section: OutputSection) => number,
): Uint8Array {
  const bytes = new Uint8Array(output.length * elf.SHDR_SIZE);
  const view = new DataView(bytes.buffer);
  const put64 = (at: number, value: number): void => view.setBigUint64(at, BigInt(value), true);
  const renumber = (section: number): number => (section < numbers.length ? numbers[section]! : section);
  output.forEach((s, index) => {
    const at = index * elf.SHDR_SIZE;
    view.setUint32(at, names(s), true);
    view.setUint32(at + 4, s.sh_type, true);
    put64(at + 8, s.sh_flags);
    put64(at + 16, s.sh_addr);
    put64(at + 24, s.sh_offset);
    put64(at + 32, s.sh_size);
    view.setUint32(at + 40, s.origin === undefined ? s.sh_link : renumber(s.sh_link), true);
    view.setUint32(at + 44, s.origin !== undefined && infoIsSection(s) ? renumber(s.sh_info) : s.sh_info, true);
    put64(at + 48, s.sh_addralign);
    put64(at + 56, s.sh_entsize);
  });
  return bytes;
}
