/** Bytes that must be neither moved nor overwritten: collected in any order, and then asked about by ranges. */
import type { Vaddr } from "../address.js";
import { countWhile } from "../sorted.js";

export interface FrozenRange {
  readonly start: Vaddr;
  readonly end: Vaddr;
  readonly reason: string;
}

interface Ordered {
  readonly range: FrozenRange;
  /** Of several that touch what is asked about the one that was told first is the answer. */
  readonly turn: number;
  /** How far this one and all that begin before it reach. */
  readonly reach: number;
}

export class FrozenRanges {
  readonly #told: FrozenRange[] = [];
  /** By their starts, from one question to the next range. */
  #ordered: readonly Ordered[] | undefined;

  add(range: FrozenRange): void {
    this.#told.push(range);
    this.#ordered = undefined;
  }

  /** The first that was told and touches [start, end). */
  within(start: number, end: number): FrozenRange | undefined {
    this.#ordered ??= inOrder(this.#told);
    const ordered = this.#ordered;
    let found: Ordered | undefined;
    for (let i = countWhile(ordered.length, (k) => ordered[k]!.range.start < end) - 1; i >= 0; i--) {
      const one = ordered[i]!;
      if (one.reach <= start) break;
      if (one.range.end > start && (found === undefined || one.turn < found.turn)) found = one;
    }
    return found?.range;
  }
}

function inOrder(told: readonly FrozenRange[]): readonly Ordered[] {
  let reach = Number.NEGATIVE_INFINITY;
  return told
    .map((range, turn) => ({ range, turn }))
    .sort((a, b) => a.range.start - b.range.start)
    .map(({ range, turn }) => {
      reach = Math.max(reach, range.end);
      return { range, turn, reach };
    });
}
