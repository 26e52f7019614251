/**
 * Jumps that stand far after everything else in memory: where the bytes after a probe lead if they are read as the
 * distance of a jump (tactics/punned.ts). Each is a `jmp` to new code and nothing more, so probes stay together, where
 * perf and the fork guard want them.
 *
 *     in memory    [ the file's segments ][ new segment ]   ...   [jmp]   ...   [jmp]
 *     in the file  [ the file's segments ][ new segment ][jmp..jmp]
 *
 * A page with such jumps is a segment of its own. In the file they share a page or two: each stands at the first offset
 * that agrees with its address modulo the size of a page.
 *
 * What it costs:
 *
 *     address space   The dynamic loader reserves all that a library spans, and what is between is mapped without any rights. No
 *                     memory stands after it, but RLIMIT_AS and mlockall count it, and the space within 2 GiB around a library, in
 *                     which the kernel's trampolines have to find a place, becomes less. Linux does the same for a moment with a
 *                     position-independent program that it starts. 256 MiB are what a large heap or the arenas of a few threads
 *                     (64 MiB each in glibc) reserve likewise. In a program with fixed addresses nothing is reserved; its heap
 *                     begins after it.
 *     pages           Each has a mapping in every process that loads the file, of which a process has 65,530, 56 bytes of the
 *                     program header table, and some 8 KiB of page tables once a probe is passed.
 */

import { alignUp, type FileOffset, fileOffset, hex, PAGE_SIZE, pageStart, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage } from "../elf/image.js";
import type { SiteCost } from "../rewritten/contract.js";
import { INT3, JUMP_SIZE } from "../x86/bytes.js";
import type { Chunk } from "./new-code.js";
import type { Proposal } from "./proposal.js";
import { farJumpOf } from "./proposal.js";

/** By so many bytes a file may reach further in memory than it did. */
const MOST_GROWTH = 2 ** 28;
/**
 * The same with fixed addresses, for all of what the file spans: jumps, and distances in its tables, reach no further.
 */
const MOST_FIXED_SPAN = 2 ** 31 - PAGE_SIZE;
/** So many segments with jumps a file may get. */
export const MOST_SEGMENTS = 16;
/**
 * After the file's segments the new one has its place: its code and tables are shorter than the file and this together.
 */
const ROOM_FOR_CODE = 2 ** 20;

/** Jumps that share a page, or stand in neighbouring ones: a segment. */
interface FarSegment {
  readonly start: Vaddr;
  readonly end: Vaddr;
  /** Where its jumps begin, ascending. */
  readonly jumps: readonly Vaddr[];
}

const memoryEnd = ({ programHeaders }: ElfImage): number =>
  alignUp(
    Math.max(...programHeaders.filter((p) => p.p_type === elf.PT_LOAD).map((p) => p.p_vaddr + p.p_memsz)),
    PAGE_SIZE,
  );

/** Why no jump can stand at an address, or undefined. */
export function farObstacle(image: ElfImage, at: number): string | undefined {
  const start = memoryEnd(image);
  const lowest = Math.min(...image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD).map((p) => p.p_vaddr));
  // Kernels before 5.18 find the program headers by the first segment, so no other may come before it.
  if (at + JUMP_SIZE <= lowest) return `in front of the file's first segment (${at < 0 ? "below address 0" : hex(at)})`;
  if (at < start + image.bytes.length + ROOM_FOR_CODE)
    return `where the file's own segments are or new code goes (${hex(at)})`;
  const end = alignUp(at + JUMP_SIZE, PAGE_SIZE);
  if (image.header.e_type === elf.ET_EXEC && end - pageStart(lowest) <= MOST_FIXED_SPAN) return undefined;
  const growth = end - start;
  return growth > MOST_GROWTH
    ? `${growth >>> 20} MiB after the file's segments, and more than ${MOST_GROWTH >>> 20} are too dear`
    : undefined;
}

/** The segments for jumps at these addresses, ascending. */
export function farSegments(jumps: readonly Vaddr[]): readonly FarSegment[] {
  const segments: { start: Vaddr; end: Vaddr; jumps: Vaddr[] }[] = [];
  for (const at of [...jumps].sort((a, b) => a - b)) {
    const last = segments.at(-1);
    const end = vaddr(at + JUMP_SIZE);
    if (last === undefined || pageStart(at) > alignUp(last.end, PAGE_SIZE))
      segments.push({ start: at, end, jumps: [at] });
    else {
      last.end = end;
      last.jumps.push(at);
    }
  }
  return segments;
}

/** A far segment in the file. */
export interface FarPiece extends FarSegment {
  readonly offset: FileOffset;
  readonly bytes: Uint8Array;
}

/**
 * The far jumps of new code, in the order of their places in the file.
 * @param after the file offset after which they go
 */
export function farPieces(chunks: readonly Chunk[], behind: number): readonly FarPiece[] {
  const jumps = new Map(chunks.flatMap(({ far }) => (far === undefined ? [] : [[far.at, far.bytes] as const])));
  const open = [...farSegments([...jumps.keys()])];
  const pieces: FarPiece[] = [];
  let at = behind;
  const gap = (s: FarSegment): number => (((s.start - at) % PAGE_SIZE) + PAGE_SIZE) % PAGE_SIZE;
  while (open.length > 0) {
    open.sort((a, b) => gap(a) - gap(b) || a.start - b.start);
    const segment = open.shift()!;
    const bytes = new Uint8Array(segment.end - segment.start).fill(INT3);
    for (const jump of segment.jumps) bytes.set(jumps.get(jump)!, jump - segment.start);
    const offset = fileOffset(at + gap(segment));
    pieces.push({ ...segment, offset, bytes });
    at = offset + bytes.length;
  }
  return pieces;
}

/**
 * What sites with a far jump cost: by how much the file reaches further for each, and how many pages are mapped for it
 * alone.
 */
export function farCosts(image: ElfImage, proposals: readonly Proposal[]): ReadonlyMap<Vaddr, SiteCost> {
  const costs = new Map<Vaddr, SiteCost>();
  const jumps = proposals.flatMap((p) => {
    const at = farJumpOf(p);
    return at === undefined ? [] : [{ at, site: p.site }];
  });
  let reach = memoryEnd(image);
  for (const { at, site } of jumps.sort((a, b) => a.at - b.at)) {
    const end = alignUp(at + JUMP_SIZE, PAGE_SIZE);
    const from = Math.max(reach, pageStart(at));
    costs.set(site, { addressSpace: Math.max(0, end - reach), pages: Math.max(0, end - from) / PAGE_SIZE });
    reach = Math.max(reach, end);
  }
  return costs;
}
