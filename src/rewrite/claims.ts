/**
 * Which bytes a plan has given away so far, asked for at every step of it: stretches by the blocks that they touch, so
 * that an answer takes as long with ten thousand of them as with one.
 */
import type { Interval, Vaddr } from "../address.js";
import { addTo } from "../grouped.js";

/** Bytes of a block: most stretches are shorter. */
const BLOCK = 64;

export class Claims<T extends Interval<Vaddr>> {
  private readonly blocks = new Map<number, T[]>();

  add(stretch: T): void {
    for (const block of blocksOf(stretch)) {
      addTo(this.blocks, block, stretch);
    }
  }

  delete(stretch: T): void {
    for (const block of blocksOf(stretch)) {
      const own = this.blocks.get(block) ?? [];
      own.splice(own.indexOf(stretch), 1);
    }
  }

  /** Whether any that shares a byte with a stretch passes a test. */
  some(stretch: Interval<Vaddr>, test: (other: T) => boolean = () => true): boolean {
    for (const block of blocksOf(stretch))
      for (const other of this.blocks.get(block) ?? [])
        if (other.start < stretch.end && stretch.start < other.end && test(other)) return true;
    return false;
  }
}

function* blocksOf({ start, end }: Interval<Vaddr>): Iterable<number> {
  for (let block = Math.floor(start / BLOCK); block * BLOCK < end; block++) yield block;
}
