/**
 * ELF programs and libraries in an address space: each PT_LOAD as Linux maps it (fs/binfmt_elf.c is the only full
 * account; the gABI, "Program Loading", has the principle).
 *
 * A segment maps whole pages of the file: what stands in the file before it and after it in its first and last page
 * comes along. Segments are mapped in the order of the table, so of a page that two of them share the later one has
 * all. Where p_memsz is larger than p_filesz, a writable segment's last page is zeroed after p_filesz, and zero pages
 * follow.
 *
 * Relocation is not done here: a static PIE relocates itself, and code of a library can be looked at without it.
 */
import { PAGE_SIZE, pageStart, type RuntimeAddress, runtimeAddress, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, ProgramHeader } from "../elf/image.js";
import { InputError } from "../errors.js";
import { effective, type Regions } from "./regions.js";

/** A file that stands in an address space, and how to get from its link-time addresses to there and back. */
export interface Loaded {
  readonly image: ElfImage;
  /** Runtime address - link-time address; 0 for ET_EXEC. */
  readonly bias: number;
  /** The runtime addresses from the first to after the last page of its segments. */
  readonly start: RuntimeAddress;
  readonly end: RuntimeAddress;
  /** Where a link-time address of the file is. */
  toRuntime(address: Vaddr): RuntimeAddress;
  /** The link-time address of what stands at a runtime address, whether that is in the file or not. */
  toLinkTime(address: RuntimeAddress): Vaddr;
}

/** Where position-independent files are put: any place that is no small number. */
const BIAS = 0x5555_4000_0000;

/** Runtime minus link-time address for a file that any place is good for. */
export const biasOf = (image: ElfImage): number =>
  image.header.e_type === elf.ET_EXEC ? 0 : BIAS - (BIAS % alignmentOf(image));

/**
 * Maps the segments of a program or library; their pages are read when they are touched.
 * @param bias runtime - link-time address, a multiple of PAGE_SIZE
 * @throws InputError for a file that Linux refuses to map
 */
export function load(regions: Regions, image: ElfImage, bias: number): Loaded {
  const segments = image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD && p.p_memsz > 0);
  if (segments.length === 0) throw new InputError("nothing to load: no PT_LOAD segment", "program headers");
  const toRuntime = (address: Vaddr): RuntimeAddress => runtimeAddress(address + bias);
  for (const segment of segments) mapSegment(regions, image, segment, toRuntime(segment.p_vaddr));
  return {
    image,
    bias,
    start: toRuntime(vaddr(pageStart(Math.min(...segments.map((p) => p.p_vaddr))))),
    end: toRuntime(vaddr(pageEnd(Math.max(...segments.map((p) => p.p_vaddr + p.p_memsz))))),
    toRuntime,
    toLinkTime: (address) => vaddr(address - bias),
  };
}

function mapSegment(regions: Regions, image: ElfImage, segment: ProgramHeader, at: RuntimeAddress): void {
  const { p_offset, p_filesz, p_memsz, p_flags } = segment;
  const permissions = effective(p_flags);
  const start = runtimeAddress(pageStart(at));
  const fileEnd = at + p_filesz;
  let mapped: number = start;
  if (p_filesz > 0) {
    const offset = p_offset - (at - start);
    if (offset < 0 || offset % PAGE_SIZE !== 0)
      throw new InputError("p_offset and p_vaddr of a segment differ within a page", `program header ${segment.index}`);
    const zeroed = p_memsz > p_filesz && (p_flags & elf.PF_W) !== 0;
    mapped = pageEnd(fileEnd);
    regions.map(start, mapped - start, permissions, (page) => {
      const from = offset + (page - start);
      const size = zeroed ? Math.min(PAGE_SIZE, fileEnd - page) : PAGE_SIZE;
      return image.bytes.subarray(from, from + size);
    });
  }
  regions.map(runtimeAddress(mapped), at + p_memsz - mapped, permissions);
}

/** The program header table in memory: where PT_PHDR says, else where the segment that holds e_phoff has it. */
export function programHeadersAt(loaded: Loaded): RuntimeAddress | undefined {
  const { header, programHeaders } = loaded.image;
  const own = programHeaders.find((p) => p.p_type === elf.PT_PHDR);
  if (own !== undefined) return loaded.toRuntime(own.p_vaddr);
  const holder = programHeaders.find(
    (p) => p.p_type === elf.PT_LOAD && header.e_phoff >= p.p_offset && header.e_phoff < p.p_offset + p.p_filesz,
  );
  return holder && loaded.toRuntime(vaddr(header.e_phoff - holder.p_offset + holder.p_vaddr));
}

/** The largest alignment that a segment asks for: its load bias must be a multiple of it. */
export const alignmentOf = (image: ElfImage): number =>
  Math.max(PAGE_SIZE, ...image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD).map((p) => p.p_align));
const pageEnd = (address: number): number => Math.ceil(address / PAGE_SIZE) * PAGE_SIZE;
