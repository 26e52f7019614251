/**
 * More program headers, one in most cases, without moving the table.
 *
 * The table stands after the ELF header and something stands right after the table: .interp, notes, .gnu.hash. An
 * entry needs 56 bytes of that. So the sections after the table move into the new segment, as many as it takes; whoever
 * points to them (program headers, the dynamic section) is told. The build-id does not move but slides up after the
 * longer table where there is room, since older kernels look for it in the file's first page only.
 *
 *     before   [ELF header][table        ][.interp][.note.gnu.property][.note.gnu.build-id][.gnu.hash]...
 *     after    [ELF header][table            |new entry]              [.note.gnu.build-id][.gnu.hash]...  [.interp][...][new code]
 *
 * A table that stays where it was is what loaders, kernels before 5.18 (AT_PHDR = load address + e_phoff) and strip
 * agree on. Which sections may move: .interp and notes, which are found by program headers, and those that a dynamic
 * tag points to. Nothing else is ever addressed otherwise by a linker.
 */
import { alignUp, type FileOffset, fileOffset, hex, type Interval, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type DynamicTag, readDynamicTags } from "../elf/dynamic.js";
import { type ElfImage, type ProgramHeader, type Section, segmentAt } from "../elf/image.js";

/** A section that stands elsewhere than before. */
export interface MovedSection {
  readonly section: Section;
  readonly sh_addr: Vaddr;
  readonly sh_offset: FileOffset;
}

export interface TableGrowth {
  readonly kind: "free entry" | "in place" | "at end";
  /** Where the table stands then. */
  readonly e_phoff: FileOffset;
  /** How many bytes the new segment begins with: sections that moved there, or the table itself. */
  readonly size: number;
  readonly moved: readonly MovedSection[];
  /** Dynamic tags that point to a moved section, with their new value. */
  readonly tags: readonly { readonly tag: DynamicTag; readonly value: Vaddr }[];
  /** The bytes after the old table that get new content: the longer table, the slid sections, and zeros. */
  readonly cleared: Interval<FileOffset> | undefined;
  /** The program headers for the new table, without those of the new segments. */
  readonly programHeaders: readonly ProgramHeader[];
}

const BUILD_ID = ".note.gnu.build-id";

/** Dynamic tags that hold the address of a section, and nothing else knows where it is. */
const sectionTags = new Set<number>([
  elf.DT_HASH,
  elf.DT_RELA,
  elf.DT_RELR,
  elf.DT_JMPREL,
  elf.DT_GNU_HASH,
  elf.DT_SYMTAB,
  elf.DT_STRTAB,
  elf.DT_VERSYM,
  elf.DT_VERDEF,
  elf.DT_VERNEED,
]);

/** How a file gets room for `count` more program headers, or why it does not. */
export function growTable(
  image: ElfImage,
  p_vaddr: Vaddr,
  p_offset: FileOffset,
  tableAtEnd: boolean,
  count: number,
): TableGrowth | string {
  const { programHeaders, header } = image;
  const free = programHeaders.filter((p) => p.p_type === elf.PT_NULL).slice(0, count);
  if (free.length === count) {
    return {
      kind: "free entry",
      e_phoff: header.e_phoff,
      size: 0,
      moved: [],
      tags: [],
      cleared: undefined,
      programHeaders: programHeaders.filter((p) => !free.includes(p)),
    };
  }
  const inPlace = growInPlace(image, p_vaddr, p_offset, count);
  if (typeof inPlace !== "string") return inPlace;
  return tableAtEnd ? moveTable(image, p_vaddr, p_offset, count) : inPlace;
}

function growInPlace(image: ElfImage, p_vaddr: Vaddr, p_offset: FileOffset, count: number): TableGrowth | string {
  const { header, sections } = image;
  const tableEnd = header.e_phoff + header.e_phnum * elf.PHDR_SIZE;
  const segment = image.programHeaders.find(
    (p) => p.p_type === elf.PT_LOAD && p.p_offset <= header.e_phoff && p.p_offset + p.p_filesz >= tableEnd,
  );
  if (segment === undefined) return "there is no room for another program header: the table is in no segment";
  const limit = segment.p_offset + segment.p_filesz;
  const behind = sections
    .filter(
      (s) =>
        s.sh_flags & elf.SHF_ALLOC &&
        s.sh_type !== elf.SHT_NOBITS &&
        s.sh_size > 0 &&
        s.sh_offset >= tableEnd &&
        s.sh_offset < limit,
    )
    .sort((a, b) => a.sh_offset - b.sh_offset);
  const tags = readDynamicTags(image);
  const taken: Section[] = [];
  const newEnd = tableEnd + count * elf.PHDR_SIZE;
  for (const keepBuildId of [true, false]) {
    taken.length = 0;
    for (let i = 0; i <= behind.length; i++) {
      const border = behind[i]?.sh_offset ?? limit;
      const slid = slide(image, keepBuildId ? taken : [], newEnd, segment);
      const slidEnd = slid.reduce((end, m) => Math.max(end, m.sh_offset + m.section.sh_size), newEnd);
      const split = splitNote(image, slid, taken);
      if (slidEnd <= border && split === undefined) {
        const stray = strayBytes(image, tableEnd, border, taken);
        if (stray !== undefined) return stray;
        return finish(image, tags, taken, slid, border, p_vaddr, p_offset, count);
      }
      const next = behind[i];
      if (next === undefined) break;
      const obstacle = immovable(image, next, tags);
      if (obstacle !== undefined) {
        if (keepBuildId) break;
        return `there is no room for another program header: ${obstacle}`;
      }
      taken.push(next);
    }
  }
  return "there is no room for another program header";
}

/** Something after the table that no section header describes: nobody knows who needs it. */
function strayBytes(image: ElfImage, start: number, end: number, taken: readonly Section[]): string | undefined {
  for (let at = start; at < end; at++)
    if (image.bytes[at] !== 0 && !taken.some((s) => at >= s.sh_offset && at < s.sh_offset + s.sh_size))
      return `there is no room for another program header: the bytes at offset ${hex(at)}, after the table, are in no section`;
  return undefined;
}

/** The build-id among the sections that have to go, with the notes of its PT_NOTE, directly after the longer table. */
function slide(image: ElfImage, taken: readonly Section[], newEnd: number, segment: ProgramHeader): MovedSection[] {
  const buildId = taken.find((s) => s.name === BUILD_ID);
  if (buildId === undefined) return [];
  const notes = image.programHeaders.filter((p) => p.p_type === elf.PT_NOTE && contains(p, buildId));
  const moved: MovedSection[] = [];
  let at = newEnd;
  for (const section of taken) {
    if (section !== buildId && !notes.some((p) => contains(p, section))) continue;
    at = alignUp(at, section.sh_addralign);
    moved.push({ section, sh_addr: vaddr(at - segment.p_offset + segment.p_vaddr), sh_offset: fileOffset(at) });
    at += section.sh_size;
  }
  return moved;
}

/** A PT_NOTE covers one stretch of memory: its sections stay or go together. */
function splitNote(
  image: ElfImage,
  slid: readonly MovedSection[],
  taken: readonly Section[],
): ProgramHeader | undefined {
  return image.programHeaders.find((p) => {
    if (p.p_type !== elf.PT_NOTE) return false;
    const covered = image.sections.filter((s) => s.sh_flags & elf.SHF_ALLOC && contains(p, s));
    const fate = (s: Section): string =>
      slid.some((m) => m.section === s) ? "slid" : taken.includes(s) ? "moved" : "stays";
    return new Set(covered.map(fate)).size > 1;
  });
}

const contains = (p: ProgramHeader, s: Section): boolean =>
  s.sh_size > 0 && s.sh_addr >= p.p_vaddr && s.sh_addr + s.sh_size <= p.p_vaddr + p.p_memsz;

function immovable(image: ElfImage, section: Section, tags: readonly DynamicTag[]): string | undefined {
  if (section.name === ".interp" || section.sh_type === elf.SHT_NOTE) return undefined;
  const pointing = tags.filter((t) => t.d_val === section.sh_addr);
  if (pointing.length === 1 && sectionTags.has(pointing[0]!.d_tag)) return undefined;
  const where = segmentAt(image, section.sh_addr) ? ` at ${hex(section.sh_addr)}` : "";
  return `${section.name || "a section"}${where}, after the table, cannot move`;
}

function finish(
  image: ElfImage,
  allTags: readonly DynamicTag[],
  taken: readonly Section[],
  slid: readonly MovedSection[],
  border: number,
  p_vaddr: Vaddr,
  p_offset: FileOffset,
  count: number,
): TableGrowth {
  const { header } = image;
  const moved: MovedSection[] = [...slid];
  let size = 0;
  for (const section of taken) {
    if (slid.some((m) => m.section === section)) continue;
    size = alignUp(size, section.sh_addralign);
    moved.push({ section, sh_addr: vaddr(p_vaddr + size), sh_offset: fileOffset(p_offset + size) });
    size += section.sh_size;
  }
  const tableEnd = header.e_phoff + header.e_phnum * elf.PHDR_SIZE;
  const tags = allTags.flatMap((tag) => {
    const target = moved.find((m) => m.section.sh_addr === tag.d_val && sectionTags.has(tag.d_tag));
    return target === undefined ? [] : [{ tag, value: target.sh_addr }];
  });
  const programHeaders = image.programHeaders.map((p) => {
    if (p.p_type === elf.PT_PHDR) {
      const by = count * elf.PHDR_SIZE;
      return { ...p, p_filesz: p.p_filesz + by, p_memsz: p.p_memsz + by };
    }
    if (p.p_type === elf.PT_LOAD) return p;
    const first = moved.filter((m) => contains(p, m.section)).sort((a, b) => a.section.sh_addr - b.section.sh_addr)[0];
    if (first === undefined || p.p_type === elf.PT_GNU_STACK) return p;
    const by = first.sh_addr - first.section.sh_addr;
    return {
      ...p,
      p_vaddr: vaddr(p.p_vaddr + by),
      p_paddr: p.p_paddr + by,
      p_offset: fileOffset(p.p_offset + first.sh_offset - first.section.sh_offset),
    };
  });
  return {
    kind: "in place",
    e_phoff: header.e_phoff,
    size,
    moved,
    tags,
    cleared: { start: fileOffset(tableEnd), end: fileOffset(border) },
    programHeaders,
  };
}

/** The last resort: the table itself goes to the start of the new segment. */
function moveTable(image: ElfImage, p_vaddr: Vaddr, p_offset: FileOffset, count: number): TableGrowth | string {
  const { header, programHeaders } = image;
  // Kernels before 5.18 take AT_PHDR for the first segment's load address + e_phoff, so the two must agree.
  const first = programHeaders.find((p) => p.p_type === elf.PT_LOAD);
  if (first === undefined || p_vaddr - first.p_vaddr !== p_offset - first.p_offset)
    return "the program header table cannot move to the end: kernels before 5.18 would not find it there";
  const size = (header.e_phnum + count) * elf.PHDR_SIZE;
  return {
    kind: "at end",
    e_phoff: p_offset,
    size,
    moved: [],
    tags: [],
    cleared: undefined,
    programHeaders: programHeaders.map((p) =>
      p.p_type === elf.PT_PHDR ? { ...p, p_vaddr, p_paddr: p_vaddr, p_offset, p_filesz: size, p_memsz: size } : p,
    ),
  };
}
