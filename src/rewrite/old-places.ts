/**
 * Where tables stood that the dynamic loader finds in the new segment now: a section, `.tables.old`, at the first such
 * place.
 *
 * patchelf takes the start of a program with fixed addresses for its own, up to the first section that cannot move.
 * What it makes longer goes there if it fits, and only else into new pages before the program's first. A linker leaves
 * no room for that: all those sections are counted. But once a table has moved away its old place is room that nobody
 * counts, and then .dynamic goes there, into a segment that cannot be written, and the loader, which writes to it,
 * dies.
 *
 * A section of program data cannot move. So one begins where the first such place does, and patchelf makes new pages as
 * it would have with the input.
 */

import { vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage } from "../elf/image.js";
import { OLD_PLACE_SECTION } from "../rewritten/section-names.js";
import type { NewSegment } from "./place.js";
import type { OutputSection } from "./sections.js";

/** What nothing else stands on now of the first place that a table left for the new segment; none or one. */
export function oldPlaces(image: ElfImage, { p_vaddr, growth, farSegments }: NewSegment): OutputSection[] {
  const { e_type, e_phoff, e_phnum } = image.header;
  if (e_type !== elf.ET_EXEC) return [];
  const slid = growth.moved.filter((m) => m.sh_addr < p_vaddr).map((m) => m.sh_offset + m.section.sh_size);
  const tableEnd = e_phoff + (e_phnum + 1 + farSegments) * elf.PHDR_SIZE;
  const taken = growth.kind === "in place" ? Math.max(tableEnd, ...slid) : 0;
  const [first] = growth.moved
    .filter((m) => m.sh_addr >= p_vaddr && growth.tags.some(({ value }) => value === m.sh_addr))
    .map(({ section }) => section)
    .filter(({ sh_offset, sh_size }) => sh_offset + sh_size > taken)
    .sort((a, b) => a.sh_offset - b.sh_offset);
  if (first === undefined) return [];
  const before = Math.max(0, taken - first.sh_offset);
  return [
    {
      name: OLD_PLACE_SECTION,
      sh_type: elf.SHT_PROGBITS,
      sh_flags: elf.SHF_ALLOC,
      sh_addr: vaddr(first.sh_addr + before),
      sh_offset: first.sh_offset + before,
      sh_size: first.sh_size - before,
      sh_link: 0,
      sh_info: 0,
      sh_addralign: 1,
      sh_entsize: 0,
      origin: undefined,
    },
  ];
}
