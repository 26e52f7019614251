/**
 * The addresses that matter: those around probe sites, where a tactic might put other bytes.
 *
 * All questions of the form "does anything lead here?" are asked of a whole program at once, some of them at every byte
 * position. A map with a byte for each 64 bytes of address space answers nearly all of them with "no" in one load; what
 * is left is looked up exactly.
 */

import { type Vaddr, vaddr } from "../address.js";
import { countWhile } from "../sorted.js";

/**
 * How far before and after a site a tactic may reach: a short jump to padding, and one from there to the next; or to a
 * short branch that leads to the site, and from there.
 */
export const REACH_BEFORE = 272;
export const REACH_BEHIND = 272;

const BLOCK_SHIFT = 6;

export class Neighbourhoods {
  /** Sorted, disjoint [start, end) intervals. */
  readonly intervals: readonly { readonly start: Vaddr; readonly end: Vaddr }[];
  /** Nonzero for each 64-byte block from `base` on that an interval touches; blocks are (address - base) >>> 6. */
  readonly blocks: Uint8Array;

  /**
   * @param sites link-time addresses of the sites
   * @param more further stretches of interest
   * @param base the lowest address of interest
   * @param span how many bytes of address space from there on are of interest
   */
  constructor(
    sites: readonly Vaddr[],
    more: readonly { readonly start: Vaddr; readonly end: Vaddr }[],
    readonly base: Vaddr,
    readonly span: number,
  ) {
    const intervals: { start: Vaddr; end: Vaddr }[] = [];
    const around = sites.map((site) => ({ start: site - REACH_BEFORE, end: site + REACH_BEHIND }));
    for (const wanted of [...around, ...more].sort((a, b) => a.start - b.start)) {
      const start = vaddr(Math.max(base, wanted.start));
      const end = vaddr(Math.min(base + span, wanted.end));
      const last = intervals.at(-1);
      if (last !== undefined && start <= last.end) last.end = vaddr(Math.max(last.end, end));
      else intervals.push({ start, end });
    }
    this.intervals = intervals;
    this.blocks = new Uint8Array((span >>> BLOCK_SHIFT) + 2);
    for (const { start, end } of intervals)
      this.blocks.fill(1, (start - base) >>> BLOCK_SHIFT, ((end - base) >>> BLOCK_SHIFT) + 1);
  }

  contains(address: number): boolean {
    const at = address - this.base;
    if (!(at >= 0 && at < this.span) || this.blocks[at >>> BLOCK_SHIFT] === 0) return false;
    return this.around(address) !== undefined;
  }

  /** Whether one interval holds all of [start, end). */
  covers(start: number, end: number): boolean {
    return end <= (this.around(start)?.end ?? 0);
  }

  private around(address: number): { readonly start: Vaddr; readonly end: Vaddr } | undefined {
    const { intervals } = this;
    const low = countWhile(intervals.length, (i) => intervals[i]!.start <= address);
    const interval = intervals[low - 1];
    return interval !== undefined && address < interval.end ? interval : undefined;
  }
}
