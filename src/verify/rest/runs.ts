/**
 * Where two stretches of bytes differ. Nearly all of a file is the same on both sides, and files have tens of
 * megabytes: blocks are compared by the runtime's own comparison, and only what is in a block that differs is looked at
 * byte by byte.
 */
import { type FileOffset, fileOffset, type Interval } from "../../address.js";
import { outside } from "../../intervals.js";

const BLOCK = 4096;

/** The runs of bytes that differ, in ascending order, counted from where both begin. Both have the same length. */
export function* differingRuns(a: Uint8Array, b: Uint8Array): Generator<Interval> {
  let start = -1;
  for (let block = 0; block < a.length; block += BLOCK) {
    const end = Math.min(block + BLOCK, a.length);
    if (Buffer.compare(a.subarray(block, end), b.subarray(block, end)) === 0) {
      if (start >= 0) yield { start, end: block };
      start = -1;
      continue;
    }
    for (let at = block; at < end; at++) {
      if (a[at] !== b[at]) {
        if (start < 0) start = at;
      } else if (start >= 0) {
        yield { start, end: at };
        start = -1;
      }
    }
  }
  if (start >= 0) yield { start, end: a.length };
}

/**
 * The runs of bytes that differ and that no rule has judged, counted from where both begin.
 * @param offset where `before` stands in the original
 * @param judged of the original's file, ascending and disjoint
 */
export function* unjudgedRuns(
  before: Uint8Array,
  now: Uint8Array,
  offset: FileOffset,
  judged: readonly Interval<FileOffset>[],
): Generator<Interval> {
  for (const run of differingRuns(before, now))
    for (const { start, end } of outside(judged, {
      start: fileOffset(offset + run.start),
      end: fileOffset(offset + run.end),
    }))
      yield { start: start - offset, end: end - offset };
}
