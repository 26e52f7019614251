/**
 * Where new code goes, best first.
 *
 *     rest of page   the unused rest of an executable segment's last page: no new segment, no new program header; every
 *                    tool that rewrites binaries keeps it
 *     PT_NULL entry  a new segment, described by a program header that the linker left free
 *     grown table    a new segment; the program header table grows where it stands, and what stood after it moves into
 *                    the new segment (see table-growth.ts)
 *     table at end   a new segment; the whole table moves there. Only when asked for: strip and eu-strip break such files
 *
 * A new segment begins after everything else in memory, since the loader wants segments in ascending order, and in the
 * file at the offset that gives it the p_vaddr - p_offset of .stapsdt.base's segment: perf takes the one for the other.
 * So .bss is a hole in the file then. One that is longer than the file itself, and than 1 MiB, is only made when asked
 * for: else the segment stands right after what the file has, and perf does not find its probes.
 */
import { alignUp, type FileOffset, fileOffset, PAGE_SIZE, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, isCode, type ProgramHeader, sectionNamed } from "../elf/image.js";
import { codeStart } from "./new-code.js";
import { growTable, type TableGrowth } from "./table-growth.js";
import { unloadedPart } from "./unloaded.js";

export interface Places {
  /** Best first. */
  readonly places: readonly Place[];
  /** Why there are no more. */
  readonly obstacle: string;
}

const LARGEST_SEGMENT = 2 ** 30;

/** A hole of so many bytes is nothing to speak of, not even for who copies it out. */
const SMALL_HOLE = 2 ** 20;

/** How far a 32-bit distance reaches, with a page to spare for the instruction that holds it. */
const JUMP_REACH = 2 ** 31 - PAGE_SIZE;

interface RestOfPage {
  readonly kind: "rest of page";
  readonly segment: ProgramHeader;
  readonly start: Vaddr;
  readonly offset: FileOffset;
  /** How many bytes of new code there is room for. */
  readonly capacity: number;
}

export interface NewSegment {
  readonly kind: "new segment";
  /** Where the segment begins; what `growth` moves comes first, then the code. */
  readonly p_vaddr: Vaddr;
  readonly p_offset: FileOffset;
  readonly start: Vaddr;
  readonly capacity: number;
  readonly growth: TableGrowth;
  /** For how many segments more the table has room. */
  readonly farSegments: number;
}

export type Place = RestOfPage | NewSegment;

/** What the user allows; see RewriteOptions. */
export interface PlaceOptions {
  readonly tableAtEnd: boolean;
  readonly keepOffsets: boolean;
  /** How many segments more there are to be, far after it: then new code is in a new segment, too. */
  readonly farSegments?: number;
}

/** The places a file has, best first, and why there are no more. */
export function placesFor(image: ElfImage, options: PlaceOptions): { places: readonly Place[]; obstacle: string } {
  const places: Place[] = options.farSegments ? [] : restsOfPages(image);
  const fresh = newSegment(image, options);
  if (typeof fresh === "string") return { places, obstacle: fresh };
  return { places: [...places, fresh], obstacle: "the new code is larger than 1 GiB" };
}

const loads = (image: ElfImage): ProgramHeader[] => image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD);

function restsOfPages(image: ElfImage): RestOfPage[] {
  const places: RestOfPage[] = [];
  for (const segment of loads(image)) {
    const { p_flags, p_filesz, p_memsz, p_vaddr, p_offset } = segment;
    if ((p_flags & elf.PF_X) === 0 || (p_flags & elf.PF_W) !== 0 || p_filesz !== p_memsz) continue;
    const end = p_vaddr + p_filesz;
    const pageEnd = alignUp(end, PAGE_SIZE);
    const isAlone = loads(image).every(
      (p) => p === segment || p.p_vaddr >= pageEnd || p.p_vaddr + p.p_memsz <= p_vaddr,
    );
    const endOffset = p_offset + p_filesz;
    const start = codeStart(end);
    if (!isAlone || start >= pageEnd || !isUnused(image, endOffset, endOffset + pageEnd - end)) continue;
    places.push({
      kind: "rest of page",
      segment,
      start,
      offset: fileOffset(start - p_vaddr + p_offset),
      capacity: pageEnd - start,
    });
  }
  return places.sort((a, b) => b.capacity - a.capacity);
}

/** Whether a stretch of the file lies in it, is all zeros, and no header says that it belongs to anything. */
function isUnused(image: ElfImage, start: number, end: number): boolean {
  const { header, sections, programHeaders, bytes } = image;
  if (end > bytes.length) return false;
  const touches = (offset: number, size: number): boolean => size > 0 && offset < end && offset + size > start;
  if (touches(header.e_phoff, header.e_phnum * elf.PHDR_SIZE)) return false;
  if (touches(header.e_shoff, header.e_shnum * elf.SHDR_SIZE)) return false;
  if (programHeaders.some((p) => p.p_type !== elf.PT_NULL && touches(p.p_offset, p.p_filesz))) return false;
  if (sections.some((s) => s.sh_type !== elf.SHT_NOBITS && touches(s.sh_offset, s.sh_size))) return false;
  return bytes.subarray(start, end).every((byte) => byte === 0);
}

/**
 * After what the file has, and after where .bss and its like are said to stand: tools take them for a part of a segment
 * there.
 */
function offsetApart({ sections, bytes }: ElfImage, fileEnd: number): number {
  const nominal = sections.filter((s) => s.sh_type === elf.SHT_NOBITS && s.sh_offset <= bytes.length);
  return alignUp(Math.max(fileEnd, ...nominal.map((s) => s.sh_offset + 1)), PAGE_SIZE);
}

/** p_vaddr - p_offset of the segment that perf goes by, or of the first executable one. */
export function segmentShift(image: ElfImage): number {
  const base = sectionNamed(image, ".stapsdt.base");
  const of = (p: ProgramHeader): number => p.p_vaddr - p.p_offset;
  const holding = base && loads(image).find((p) => base.sh_addr >= p.p_vaddr && base.sh_addr < p.p_vaddr + p.p_memsz);
  const executable = loads(image).find((p) => p.p_flags & elf.PF_X);
  return holding ? of(holding) : executable ? of(executable) : 0;
}

function newSegment(image: ElfImage, { tableAtEnd, keepOffsets, farSegments = 0 }: PlaceOptions): NewSegment | string {
  const fileEnd = unloadedPart(image).keptEnd;
  const shift = segmentShift(image);
  const memoryEnd = Math.max(...loads(image).map((p) => p.p_vaddr + p.p_memsz));
  const p_vaddr = vaddr(alignUp(Math.max(memoryEnd, fileEnd + shift), PAGE_SIZE));
  const hole = p_vaddr - shift - fileEnd;
  const isApart = hole > Math.max(image.bytes.length, SMALL_HOLE) && !keepOffsets;
  let p_offset = fileOffset(isApart ? offsetApart(image, fileEnd) : p_vaddr - shift);
  let growth = growTable(image, p_vaddr, p_offset, tableAtEnd, 1 + farSegments);
  if (typeof growth === "string" && isApart && tableAtEnd) {
    // Kernels before 5.18 find a table that moved by the equal offsets alone.
    p_offset = fileOffset(p_vaddr - shift);
    growth = growTable(image, p_vaddr, p_offset, tableAtEnd, 1 + farSegments);
  }
  if (typeof growth === "string") return growth;
  const start = codeStart(p_vaddr + growth.size);
  // Jumps lead from any code of the file to the new code and back.
  const lowest = Math.min(...image.sections.filter(isCode).map((s) => s.sh_addr));
  const capacity = Math.min(LARGEST_SEGMENT, lowest + JUMP_REACH - start);
  if (capacity <= 0) return "new code, after everything else in memory, would be out of the reach of a jump (2 GiB)";
  return { kind: "new segment", p_vaddr, p_offset, start, capacity, growth, farSegments };
}
