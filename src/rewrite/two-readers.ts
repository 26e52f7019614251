/**
 * A program header says twice where something is: in the file, and in memory. The kernel goes by the one for the
 * interpreter and the properties, the dynamic loader and unwinders by the other for the same; tools go by either. Where
 * the two lead to different bytes nobody can say what the file is, so it is refused: what moves would be another thing
 * to each reader. Linkers write no such file.
 */
import { hex, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, offsetOf, type ProgramHeader } from "../elf/image.js";
import { InputError } from "../errors.js";

/** Segments that are, or lead to, no bytes of their own. */
const others = new Set<number>([elf.PT_NULL, elf.PT_LOAD, elf.PT_GNU_STACK, elf.PT_GNU_RELRO]);

/** @throws InputError where two readers would read different things */
export function refuseTwoReadings(image: ElfImage): void {
  for (const segment of image.programHeaders) {
    if (others.has(segment.p_type) || segment.p_filesz === 0 || isOne(image, segment)) continue;
    const where = `program header ${segment.index}`;
    throw new InputError(
      `damaged: a segment of type ${hex(segment.p_type)} is at ${hex(segment.p_offset)} of the file, and in memory at ${hex(segment.p_vaddr)}, which is not the same`,
      where,
    );
  }
}

function isOne(image: ElfImage, { p_vaddr, p_offset, p_filesz }: ProgramHeader): boolean {
  const last = p_filesz - 1;
  return offsetOf(image, p_vaddr) === p_offset && offsetOf(image, vaddr(p_vaddr + last)) === p_offset + last;
}
