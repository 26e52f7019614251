/**
 * Where a table stood that the dynamic loader finds elsewhere now. In a program with fixed addresses a section may
 * cover what is left of the first such place, so that no tool takes it for free: it says that there is something, and
 * nothing else. What the bytes are is judged with all that moved (moved.ts).
 */
import * as elf from "../../elf/constants.js";
import { readDynamicTags } from "../../elf/dynamic.js";
import type { ElfImage, Section } from "../../elf/image.js";

/** Dynamic tags that hold the address of a section. */
export const sectionTags: ReadonlyMap<number, string> = new Map([
  [elf.DT_HASH, "DT_HASH"],
  [elf.DT_RELA, "DT_RELA"],
  [elf.DT_RELR, "DT_RELR"],
  [elf.DT_JMPREL, "DT_JMPREL"],
  [elf.DT_GNU_HASH, "DT_GNU_HASH"],
  [elf.DT_SYMTAB, "DT_SYMTAB"],
  [elf.DT_STRTAB, "DT_STRTAB"],
  [elf.DT_VERSYM, "DT_VERSYM"],
  [elf.DT_VERDEF, "DT_VERDEF"],
  [elf.DT_VERNEED, "DT_VERNEED"],
]);

/**
 * Whether a section covers what is left of the first place, and nothing else.
 * @param moved sections of the original that are at other addresses now, with what they are now
 */
export function isLeftPlace(
  original: ElfImage,
  rewritten: ElfImage,
  moved: readonly (readonly [Section, Section])[],
  section: Section,
): boolean {
  if (original.header.e_type !== elf.ET_EXEC) return false;
  const tags = readDynamicTags(original).filter((t) => sectionTags.has(t.d_tag));
  const taken = endOfTaken(original, rewritten, moved);
  const [first] = moved
    .map(([old]) => old)
    .filter((old) => (old.sh_flags & elf.SHF_ALLOC) !== 0 && tags.some((t) => t.d_val === old.sh_addr))
    .filter((old) => old.sh_offset + old.sh_size > taken)
    .sort((a, b) => a.sh_offset - b.sh_offset);
  if (first === undefined) return false;
  const before = Math.max(0, taken - first.sh_offset);
  return (
    section.sh_type === elf.SHT_PROGBITS &&
    section.sh_flags === elf.SHF_ALLOC &&
    section.sh_addr === first.sh_addr + before &&
    section.sh_offset === first.sh_offset + before &&
    section.sh_size === first.sh_size - before &&
    [section.sh_link, section.sh_info, section.sh_entsize].every((value) => value === 0) &&
    section.sh_addralign === 1
  );
}

/** Where in the file the longer program header table ends, and the notes that slid up to it. */
function endOfTaken(original: ElfImage, rewritten: ElfImage, moved: readonly (readonly [Section, Section])[]): number {
  const { e_phoff, e_phnum } = rewritten.header;
  if (e_phoff !== original.header.e_phoff) return 0;
  const border = Math.max(...moved.map(([old]) => old.sh_offset + old.sh_size));
  const slid = moved
    .filter(([, now]) => now.sh_type === elf.SHT_NOTE && now.sh_offset < border)
    .map(([, now]) => now.sh_offset + now.sh_size);
  return Math.max(e_phoff + e_phnum * elf.PHDR_SIZE, ...slid);
}
