/**
 * Where two stretches of bytes differ. Nearly all of a file is the same on both sides, and files have tens of megabytes:
 * blocks are compared by the runtime's own comparison, and only what is in a block that differs is looked at byte by byte.
 */
import { countWhile } from "../../sorted.js";

/** Bytes [start, end) of both stretches, each of which differs. */
export interface Run {
  readonly start: number;
  readonly end: number;
}

const BLOCK = 4096;

/** The runs of bytes that differ, in ascending order. Both have the same length. */
export function* differingRuns(a: Uint8Array, b: Uint8Array): Generator<Run> {
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

const zeros = Buffer.alloc(1 << 16);

/** The first byte that is not zero, or -1. */
export function firstNonZero(bytes: Uint8Array): number {
  for (let block = 0; block < bytes.length; block += zeros.length) {
    const part = bytes.subarray(block, block + zeros.length);
    if (Buffer.compare(part, zeros.subarray(0, part.length)) !== 0) return block + part.findIndex((byte) => byte !== 0);
  }
  return -1;
}

/** Stretches in ascending order that do not overlap: the union of those given. */
export function union<T extends Run>(stretches: readonly T[]): Run[] {
  const result: { start: number; end: number }[] = [];
  for (const { start, end } of [...stretches].sort((x, y) => x.start - y.start)) {
    const last = result.at(-1);
    if (end <= start) continue;
    if (last !== undefined && start <= last.end) last.end = Math.max(last.end, end);
    else result.push({ start, end });
  }
  return result;
}

/** What of [start, end) lies in none of the stretches, which are ascending and do not overlap. */
export function outside(stretches: readonly Run[], start: number, end: number): Run[] {
  const result: Run[] = [];
  const low = countWhile(stretches.length, (i) => stretches[i]!.end <= start);
  let at = start;
  for (let i = low; i < stretches.length && stretches[i]!.start < end; i++) {
    if (stretches[i]!.start > at) result.push({ start: at, end: stretches[i]!.start });
    at = Math.max(at, stretches[i]!.end);
  }
  if (at < end) result.push({ start: at, end });
  return result;
}
