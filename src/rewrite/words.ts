/**
 * Words that can be written: at the end of the highest writable segment, after .bss (of a lower one, where a linker
 * script gave .bss a segment of its own, and an offset in the file that belongs to another).
 *
 *     before   [.data][.bss          ]
 *     after    [.data][.bss          ][.bss.nop5][.selector.nop5]
 *
 * p_memsz grows by some bytes. They are zeros that the kernel provides; the file does not grow, no segment is added,
 * and nothing becomes both writable and executable. They stand outside of RELRO: so what leads to code there is read
 * once, while the file is initialised, and never again, but for imports that the fork guard wraps; the others hold
 * numbers.
 */

import { alignUp, PAGE_SIZE, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, ProgramHeader } from "../elf/image.js";
import type { OutputSection } from "./sections.js";

/** In bytes. */
export const WORD = 8;

export interface NewWords {
  /**
   * The input as it would be had its writable segment been larger: what new places and program headers are made from.
   */
  readonly image: ElfImage;
  readonly section: OutputSection;
}

/** Where new words may stand, and how they come to be. */
interface WordSpace {
  readonly start: Vaddr;
  /** Makes room for `count` words from `start` on. */
  take(count: number): NewWords;
}

/** The space after .bss for at most `most` words, in a section of that name, or why there is none. */
export function wordSpace(image: ElfImage, most: number, name: string): WordSpace | string {
  const loads = image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD);
  const writable = loads
    .filter((p) => p.p_flags & elf.PF_W && !(p.p_flags & elf.PF_X))
    .sort((a, b) => b.p_vaddr - a.p_vaddr);
  const [highest] = writable;
  if (highest === undefined) return "it has no writable segment";
  // A segment that has nothing in the file may say any offset; where that is in another, tools take the words for a
  // part of it.
  if (highest.p_filesz === 0 && belongsElsewhere(loads, highest, most * WORD))
    for (const lower of writable.slice(1)) {
      const space = spaceBehind(image, loads, lower, most, name);
      if (typeof space === "object" && !isProtected(image, space.start) && !belongsElsewhere(loads, lower, most * WORD))
        return space;
    }
  return spaceBehind(image, loads, highest, most, name);
}

function spaceBehind(
  image: ElfImage,
  loads: readonly ProgramHeader[],
  segment: ProgramHeader,
  most: number,
  name: string,
): WordSpace | string {
  const start = vaddr(alignUp(segment.p_vaddr + segment.p_memsz, WORD));
  const end = alignUp(start + most * WORD, PAGE_SIZE);
  const follows = (p: ProgramHeader): boolean => p !== segment && p.p_vaddr + p.p_memsz > segment.p_vaddr;
  if (loads.some((p) => follows(p) && Math.floor(p.p_vaddr / PAGE_SIZE) * PAGE_SIZE < end))
    return "there is no room after its writable segment";
  return {
    start,
    take: (count) => {
      const size = count * WORD;
      const sh_offset = nominalOffset(loads, segment, size);
      return { image: grown(image, segment, start + size), section: wordsSection(name, start, sh_offset, size) };
    },
  };
}

/** Whether the loader takes away the right to write there. */
export const isProtected = ({ programHeaders }: ElfImage, at: Vaddr): boolean =>
  programHeaders.some(
    (p) => p.p_type === elf.PT_GNU_RELRO && at >= p.p_vaddr && at < alignUp(p.p_vaddr + p.p_memsz, PAGE_SIZE),
  );

/**
 * Whether eu-elflint takes a section after what the segment has in the file for one of another segment, and finds
 * fault.
 */
function belongsElsewhere(loads: readonly ProgramHeader[], segment: ProgramHeader, size: number): boolean {
  const at = nominalOffset(loads, segment, size);
  const taker = loads.find((p) => p.p_offset <= at && at < p.p_offset + p.p_memsz);
  return taker !== undefined && taker !== segment && at < taker.p_offset + taker.p_filesz;
}

/**
 * The sh_offset of a section that has nothing in the file: after what its segment has there, as linkers give it.
 * eu-elflint goes by offsets, though, and takes the section for one of the first segment that reaches over that offset
 * with its p_memsz, as the RELRO segments of mold do. Where that one ends too early, the section is said to be after
 * what that one has in the file.
 */
function nominalOffset(loads: readonly ProgramHeader[], segment: ProgramHeader, size: number): number {
  const usual = segment.p_offset + segment.p_filesz;
  const taker = loads.find((p) => p.p_offset <= usual && usual < p.p_offset + p.p_memsz);
  if (taker === undefined || taker === segment || usual + size <= taker.p_offset + taker.p_memsz) return usual;
  return size <= taker.p_memsz - taker.p_filesz ? taker.p_offset + taker.p_filesz : usual;
}

function grown(image: ElfImage, segment: ProgramHeader, end: number): ElfImage {
  const programHeaders = image.programHeaders.map((p) => (p === segment ? { ...p, p_memsz: end - p.p_vaddr } : p));
  return { ...image, programHeaders };
}

function wordsSection(name: string, start: Vaddr, sh_offset: number, sh_size: number): OutputSection {
  return {
    name,
    sh_type: elf.SHT_NOBITS,
    sh_flags: elf.SHF_ALLOC | elf.SHF_WRITE,
    sh_addr: start,
    sh_offset,
    sh_size,
    sh_link: 0,
    sh_info: 0,
    sh_addralign: WORD,
    sh_entsize: 0,
    origin: undefined,
  };
}
