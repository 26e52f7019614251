/**
 * Stretches of the file's memory with their bytes, and searches in lists of what is sorted by address.
 */
import type { Interval } from "../../address.js";

/** An interval of addresses with the file's bytes. */
export interface Span extends Interval {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

/** The span of these bytes, which stand at `start`. */
export const span = (start: number, bytes: Uint8Array): Span => ({
  start,
  end: start + bytes.length,
  bytes,
  view: new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength),
});

/** The span of a list, ascending and disjoint, that holds an address. */
export function spanAt<T extends Interval>(spans: readonly T[], address: number): T | undefined {
  const found = spans[lastNotAfter(spans, address)];
  return found !== undefined && address < found.end ? found : undefined;
}

/** The index of the last one that starts at an address or before it, or -1. */
export function lastNotAfter(spans: readonly { readonly start: number }[], address: number): number {
  let low = 0;
  let high = spans.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (spans[middle]!.start <= address) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}

/** The index of the first that is not below `value`. */
export function lowerBound(sorted: ArrayLike<number>, value: number): number {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle]! < value) low = middle + 1;
    else high = middle;
  }
  return low;
}
