/**
 * What an address space maps, page by page only when it is touched: a program of 24 MB costs the pages that it uses, a
 * stack of 8 MB those that it reaches, and a large allocation nothing until it is written.
 *
 * A region is a range of pages with one permission and one source of content. Its pages come into being by Memory's
 * `onMiss`. A page that somebody unmaps in Memory alone comes back with its first content: that is how a verification
 * starts again from a clean page.
 */
import { PAGE_SIZE, type RuntimeAddress, runtimeAddress } from "../address.js";
import { type Memory, Perm } from "./memory.js";

/** The first bytes of the page at a runtime address, at most PAGE_SIZE; the rest of it is zeros. */
type PageSource = (page: RuntimeAddress) => Uint8Array;

interface Region {
  /** Runtime addresses, multiples of PAGE_SIZE; `end` is after the last byte. */
  readonly start: RuntimeAddress;
  readonly end: RuntimeAddress;
  /** Bits of Perm. */
  readonly permissions: number;
  /** null: zeros. */
  readonly source: PageSource | null;
}

export class Regions {
  /** By address, none overlapping another. */
  private regions: readonly Region[] = [];

  /** Serves the misses of `memory`; what no region holds goes on to the `onMiss` that was there before. */
  constructor(readonly memory: Memory) {
    const before = memory.onMiss;
    memory.onMiss = (page, access) => this.bringIn(page) || (before?.(page, access) ?? false);
  }

  get all(): readonly Region[] {
    return this.regions;
  }

  /** The region that holds a runtime address. */
  at(address: RuntimeAddress): Region | undefined {
    let low = 0;
    let high = this.regions.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const region = this.regions[middle]!;
      if (address < region.start) high = middle;
      else if (address >= region.end) low = middle + 1;
      else return region;
    }
    return undefined;
  }

  /**
   * Maps a range; what was mapped there is replaced.
   * @param start runtime address, a multiple of PAGE_SIZE
   * @param size in bytes, rounded up to pages
   */
  map(start: RuntimeAddress, size: number, permissions: number, source: PageSource | null = null): void {
    if (size <= 0) return;
    const end = pageEnd(start + size);
    this.unmap(start, size);
    this.put({ start, end, permissions, source });
  }

  unmap(start: RuntimeAddress, size: number): void {
    const end = pageEnd(start + size);
    this.regions = this.regions.flatMap((region) => outside(region, start, end));
    this.memory.unmap(start, end - start);
  }

  /** Changes the permissions of what is mapped there; false where a page of the range is not mapped. */
  protect(start: RuntimeAddress, size: number, permissions: number): boolean {
    const end = pageEnd(start + size);
    if (!this.covers(start, end)) return false;
    this.regions = this.regions.flatMap((region) => {
      const inner = { ...region, ...common(region, start, end), permissions };
      return inner.start < inner.end ? [...outside(region, start, end), inner].sort(byStart) : [region];
    });
    this.memory.protect(start, end - start, permissions);
    return true;
  }

  /** Whether all of [start, end) is mapped. */
  covers(start: RuntimeAddress, end: RuntimeAddress): boolean {
    for (let at = start; at < end; ) {
      const region = this.at(at);
      if (region === undefined) return false;
      at = region.end;
    }
    return true;
  }

  isFree(start: RuntimeAddress, end: RuntimeAddress): boolean {
    return !this.regions.some((region) => region.start < end && start < region.end);
  }

  /** The highest free range of `size` bytes that ends at or below `top`, or undefined. */
  findFree(size: number, top: RuntimeAddress): RuntimeAddress | undefined {
    let end: number = top;
    for (const region of this.regions.toReversed()) {
      if (region.start >= end) continue;
      if (region.end <= end - size) break;
      end = region.start;
    }
    const start = end - pageEnd(size);
    return start > 0 ? runtimeAddress(start) : undefined;
  }

  private put(region: Region): void {
    this.regions = [...this.regions, region].sort(byStart);
  }

  private bringIn(page: RuntimeAddress): boolean {
    const region = this.at(page);
    if (region === undefined || region.permissions === 0) return false;
    this.memory.map(page, PAGE_SIZE, region.permissions);
    if (region.source !== null) this.memory.poke(page, region.source(page));
    return true;
  }
}

/**
 * Permissions as the hardware has them: a page that can be written or executed can be read as well.
 * @param flags bits of Perm, which are those of p_flags
 */
export const effective = (flags: number): number => (flags === 0 ? 0 : (flags & Perm.RWX) | Perm.R);

const byStart = (a: Region, b: Region): number => a.start - b.start;

const common = (region: Region, start: RuntimeAddress, end: RuntimeAddress): Pick<Region, "start" | "end"> => ({
  start: runtimeAddress(Math.max(region.start, start)),
  end: runtimeAddress(Math.min(region.end, end)),
});

/** What is left of a region without [start, end): nothing, one or two. */
function outside(region: Region, start: RuntimeAddress, end: RuntimeAddress): Region[] {
  if (region.end <= start || end <= region.start) return [region];
  return [
    { ...region, end: start },
    { ...region, start: end },
  ].filter((left) => left.start < left.end);
}

const pageEnd = (address: number): RuntimeAddress => runtimeAddress(Math.ceil(address / PAGE_SIZE) * PAGE_SIZE);
