/**
 * What leads into the code around the sites: a list of addresses with the reason why something may arrive there.
 *
 * An entry is either certain (a decoded branch, a relocation) or could not be ruled out (a word that looks like one, in
 * bytes that cannot be decoded). For a tactic both mean the same: this byte stays the start of an instruction.
 */
import { hex, type Vaddr } from "../address.js";

export interface Entry {
  readonly address: Vaddr;
  /** For people: what leads there. */
  readonly reason: string;
}

/** Bytes that must be neither moved nor overwritten. */
export interface FrozenRange {
  readonly start: Vaddr;
  readonly end: Vaddr;
  readonly reason: string;
}

/** Collects entries in any order and then answers questions about ranges. */
export class Entries {
  private readonly reasons = new Map<Vaddr, string>();
  private readonly frozenRanges: FrozenRange[] = [];
  private sorted: Vaddr[] | undefined;

  add(address: Vaddr, reason: string): void {
    if (this.reasons.has(address)) return;
    this.reasons.set(address, reason);
    this.sorted = undefined;
  }

  freeze(range: FrozenRange): void {
    this.frozenRanges.push(range);
  }

  /** The first entry with start <= address < end, or undefined where nothing arrives there. */
  within(start: number, end: number): Entry | undefined {
    this.sorted ??= [...this.reasons.keys()].sort((a, b) => a - b);
    const { sorted } = this;
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle]! < start) low = middle + 1;
      else high = middle;
    }
    const address = sorted[low];
    return address === undefined || address >= end ? undefined : { address, reason: this.reasons.get(address)! };
  }

  /** The first frozen range that touches [start, end). */
  frozenWithin(start: number, end: number): FrozenRange | undefined {
    return this.frozenRanges.find((f) => f.start < end && f.end > start);
  }
}

/** How an entry reads in a reason for skipping a site. */
export const describeEntry = (entry: Entry): string => `${entry.reason} leads to ${hex(entry.address)}`;
