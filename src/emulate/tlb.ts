/**
 * A software TLB: pages that may be accessed without any side effect, directly mapped by their address. Who accesses
 * memory compares the tags in place (memory.ts), since that is the whole cost of an access.
 */
import { PAGE_SIZE } from "../address.js";

export const TLB_SIZE = 1024;
/** The bits of an address that are the offset in its page. */
export const OFFSET = PAGE_SIZE - 1;
/** No page's address has its lowest bit set. */
const NO_PAGE = 1;

export class Tlb {
  readonly lo = new Int32Array(TLB_SIZE).fill(NO_PAGE);
  readonly hi = new Int32Array(TLB_SIZE);
  readonly frame = new Int32Array(TLB_SIZE);

  clear(): void {
    this.lo.fill(NO_PAGE);
  }

  drop(lo: number): void {
    this.lo[(lo >>> 12) & (TLB_SIZE - 1)] = NO_PAGE;
  }

  /** Where the page's bytes are in the arena, or -1. */
  frameOf(lo: number, hi: number): number {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    return this.lo[i] === (lo & ~OFFSET) && this.hi[i] === hi ? this.frame[i]! : -1;
  }

  set(lo: number, hi: number, frame: number): void {
    const i = (lo >>> 12) & (TLB_SIZE - 1);
    this.lo[i] = lo & ~OFFSET;
    this.hi[i] = hi;
    this.frame[i] = frame;
  }
}
