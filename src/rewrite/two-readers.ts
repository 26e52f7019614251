/**
 * Headers that two readers understand differently. A program header says twice where something is: in the file, and in
 * memory. The kernel goes by the one for the interpreter and the properties, the dynamic loader and unwinders by the
 * other for the same; tools go by either, or by section headers. Where they lead to different bytes nobody can say what
 * the file is, and what moves would be another thing to each: it is refused. Linkers write no such file.
 */
import { hex, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, offsetOf, type ProgramHeader, type Section } from "../elf/image.js";
import { InputError } from "../errors.js";
import { refuseOtherCount } from "./two-tables.js";

/** Segments that are bytes of other segments, or none. */
const plain = new Set<number>([elf.PT_NULL, elf.PT_LOAD, elf.PT_GNU_STACK, elf.PT_GNU_RELRO]);
/** Segments that tell of something, as a whole, in sections of its own. */
const telling = new Set<number>([
  elf.PT_INTERP,
  elf.PT_DYNAMIC,
  elf.PT_NOTE,
  elf.PT_TLS,
  elf.PT_GNU_EH_FRAME,
  elf.PT_GNU_PROPERTY,
  elf.PT_GNU_SFRAME,
]);
/** Of these there is one, whoever looks for it. */
const single = [elf.PT_INTERP, elf.PT_DYNAMIC, elf.PT_PHDR, elf.PT_TLS];

/** @throws InputError where two readers would read different things */
export function refuseTwoReadings(image: ElfImage): void {
  const { programHeaders, sections } = image;
  for (const segment of programHeaders) {
    const problem = isExact(segment) ? segmentProblem(image, segment) : "has a number beyond 2^53";
    if (problem !== undefined) throw damaged(`a segment of type ${hex(segment.p_type)} ${problem}`, segment);
  }
  for (const type of single) {
    const second = programHeaders.filter((p) => p.p_type === type)[1];
    if (second !== undefined) throw damaged(`there is another segment of type ${hex(type)}`, second);
  }
  if (sections[0]?.sh_type !== elf.SHT_NULL)
    throw new InputError("damaged: the first section header is no empty one", "section header 0");
  refuseOtherCount(image);
  for (const section of sections) {
    const problem = isExact(section) ? sectionProblem(image, section) : "has a number beyond 2^53";
    if (problem !== undefined)
      throw new InputError(`damaged: section ${section.name} ${problem}`, `section header ${section.index}`);
  }
}

const damaged = (what: string, { index }: ProgramHeader): InputError =>
  new InputError(`damaged: ${what}`, `program header ${index}`);

/** Numbers that are read as they stand, and so can be written again. */
const isExact = (header: ProgramHeader | Section): boolean =>
  Object.values(header).every((value) => typeof value !== "number" || Number.isSafeInteger(value));

function segmentProblem(image: ElfImage, segment: ProgramHeader): string | undefined {
  const { p_type, p_offset, p_vaddr, p_filesz, p_memsz } = segment;
  if (plain.has(p_type)) return undefined;
  if (p_type !== elf.PT_PHDR && !telling.has(p_type)) return "tells of something that is not known here";
  if (p_filesz === 0) return undefined;
  const { e_phoff } = image.header;
  const tableEnd = e_phoff + image.programHeaders.length * elf.PHDR_SIZE;
  if (p_type === elf.PT_PHDR) {
    if (p_offset !== e_phoff || p_offset + p_filesz !== tableEnd) return "is not the table of program headers";
  } else if (p_type === elf.PT_GNU_PROPERTY) {
    // patchelf moves notes and forgets this segment, which tells of anything then; on x86-64 no kernel asks.
  } else if (p_offset < elf.EHDR_SIZE || (p_offset < tableEnd && p_offset + p_filesz > e_phoff))
    return "lies over the headers";
  else if (!isSections(image, segment)) return `at ${hex(p_offset)} begins or ends within a section`;
  if (p_type !== elf.PT_TLS && p_filesz !== p_memsz) return "has another size in memory than in the file";
  const last = p_filesz - 1;
  if (offsetOf(image, p_vaddr) === p_offset && offsetOf(image, vaddr(p_vaddr + last)) === p_offset + last)
    return undefined;
  return `is at ${hex(p_offset)} of the file, and in memory at ${hex(p_vaddr)}, which is not the same`;
}

/** Whether a segment is one section in the file, or several in a row. */
function isSections({ sections }: ElfImage, { p_offset, p_filesz }: ProgramHeader): boolean {
  const stored = sections.filter((s) => s.sh_type !== elf.SHT_NULL && s.sh_type !== elf.SHT_NOBITS);
  return (
    stored.some((s) => s.sh_offset === p_offset) && stored.some((s) => s.sh_offset + s.sh_size === p_offset + p_filesz)
  );
}

function sectionProblem(
  image: ElfImage,
  { sh_type, sh_flags, sh_addr, sh_offset, sh_size }: Section,
): string | undefined {
  // The last name would go on in whatever is added.
  if (sh_type === elf.SHT_STRTAB && sh_size > 0 && image.bytes[sh_offset + sh_size - 1] !== 0)
    return "does not end with a NUL";
  const isStored = sh_type !== elf.SHT_NULL && sh_type !== elf.SHT_NOBITS && sh_size > 0;
  if (!isStored) return undefined;
  if ((sh_flags & elf.SHF_ALLOC) === 0) {
    const isIn = (p: ProgramHeader): boolean =>
      p.p_type === elf.PT_LOAD && sh_offset < p.p_offset + p.p_filesz && sh_offset + sh_size > p.p_offset;
    return image.programHeaders.some(isIn) ? "is not loaded, and stands in a segment that is" : undefined;
  }
  const last = sh_size - 1;
  if (offsetOf(image, sh_addr) === sh_offset && offsetOf(image, vaddr(sh_addr + last)) === sh_offset + last)
    return undefined;
  return `is at ${hex(sh_offset)} of the file, and in memory at ${hex(sh_addr)}, which is not the same`;
}
