/** What a file is to hold, told without the zeros between. */
import type { Interval } from "./address.js";
import { outside } from "./intervals.js";

/** A stretch of bytes and where in a file it goes. */
export interface Piece {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** The content of a file: pieces in ascending order; what lies between them, and up to `size`, is a hole (zeros). */
export interface SparseContent {
  readonly size: number;
  readonly pieces: readonly Piece[];
}

/**
 * A file in memory, with what is known of its zeros: stretches that need not be looked at, ascending, and how many follow
 * after `bytes`.
 */
export interface FileBytes {
  readonly bytes: Buffer;
  readonly holes: readonly Interval[];
  readonly zeroTail: number;
}

/** A whole file as content: what a plain copy writes. */
export const wholeFile = ({ bytes, holes, zeroTail }: FileBytes): SparseContent => ({
  size: bytes.length + zeroTail,
  pieces: outside(holes, { start: 0, end: bytes.length }).map(({ start, end }) => ({
    offset: start,
    bytes: bytes.subarray(start, end),
  })),
});

/** Whether a file with this content would be these bytes. */
export function isContent({ size, pieces }: SparseContent, { bytes, holes, zeroTail }: FileBytes): boolean {
  if (bytes.length + zeroTail !== size) return false;
  let at = 0;
  for (const { offset, bytes: piece } of [...pieces, { offset: bytes.length, bytes: new Uint8Array(0) }]) {
    for (const { start, end } of outside(holes, { start: at, end: offset }))
      if (!isZero(bytes.subarray(start, end))) return false;
    at = offset + piece.length;
    if (Buffer.compare(bytes.subarray(offset, at), piece) !== 0) return false;
  }
  return true;
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

/** Whether there is nothing but zeros. */
export const isZero = (bytes: Uint8Array): boolean => firstNonZero(bytes) < 0;
