/**
 * One question to the word at every byte position of a stretch of code: does it lead to one of these addresses?
 *
 * Nearly always the answer is no, so what counts is how quickly it is given. A table of bits answers first, one for 64
 * bytes of address space and small enough for the processor's nearest cache; addresses far from each other share bits,
 * and whoever asks looks again. Four words that overlap come from two that do not, and are asked at once: it is the
 * guesses of the processor that take time, and this makes one of four.
 */
import type { Vaddr } from "../address.js";

const BLOCK_SHIFT = 6;
const BITS = 18;
const WORDS = (1 << (BITS - 5)) - 1;

/** A set of addresses, by blocks of 64 bytes, that answers "maybe" or "no". */
export class AddressFilter {
  readonly bits = new Int32Array(WORDS + 1);

  /** Adds the block that contains an address. */
  add(address: number): void {
    const block = Math.floor(address / (1 << BLOCK_SHIFT));
    this.bits[(block >>> 5) & WORDS]! |= 1 << (block & 31);
  }
}

/**
 * Calls back for the words that may lead to the addresses of the filter: words that, added to the address after them,
 * make one of them.
 * @param start the address of the first byte
 * @param visit gets the index of the word, and the word
 */
export function sweepDistances(
  bytes: Uint8Array,
  start: Vaddr,
  filter: AddressFilter,
  visit: (p: number, v: number) => void,
): void {
  sweep(bytes, (start + 4) | 0, 1, filter.bits, visit);
}

/** As `sweepDistances`, for words that are such an address themselves. */
export function sweepAddresses(bytes: Uint8Array, filter: AddressFilter, visit: (p: number, v: number) => void): void {
  sweep(bytes, 0, 0, filter.bits, visit);
}

function sweep(
  { buffer, byteOffset, length }: Uint8Array,
  shift: number,
  step: 0 | 1,
  bits: Int32Array,
  visit: (p: number, v: number) => void,
): void {
  const view = new DataView(buffer, byteOffset, length);
  const askAt = (p: number): void => {
    const v = view.getInt32(p, true);
    const block = (p * step + shift + v) >>> BLOCK_SHIFT;
    if ((bits[(block >>> 5) & WORDS]! >>> block) & 1) visit(p, v);
  };
  let p = 0;
  while (p + 8 <= length) {
    const end = Math.min(p + PORTION, length);
    p = nextGroup(view, p, end, shift, step, bits);
    if (p + 8 > end) continue;
    for (const last = p + 4; p < last; p++) askAt(p);
  }
  for (; p + 4 <= length; p++) askAt(p);
}

/** So much is asked in one call: engines optimize functions that are called more readily than loops that go on. */
const PORTION = 1 << 14;

/**
 * The inner loop, apart from everything else so that the engine optimizes it alone: the index from `p` on, in steps of
 * 4, of the first of four words one of which may lead there; or the first index whose words do not all end 4 bytes
 * before `end`.
 */
function nextGroup(view: DataView, p: number, end: number, shift: number, step: 0 | 1, bits: Int32Array): number {
  let at = p;
  let word = view.getInt32(at, true);
  for (; at + 8 <= end; at += 4) {
    const next = view.getInt32(at + 4, true);
    const from = (at * step + shift) | 0;
    const b0 = (from + word) >>> BLOCK_SHIFT;
    const b1 = (from + step + ((word >>> 8) | (next << 24))) >>> BLOCK_SHIFT;
    const b2 = (from + 2 * step + ((word >>> 16) | (next << 16))) >>> BLOCK_SHIFT;
    const b3 = (from + 3 * step + ((word >>> 24) | (next << 8))) >>> BLOCK_SHIFT;
    const first = (bits[(b0 >>> 5) & WORDS]! >>> b0) | (bits[(b1 >>> 5) & WORDS]! >>> b1);
    const second = (bits[(b2 >>> 5) & WORDS]! >>> b2) | (bits[(b3 >>> 5) & WORDS]! >>> b3);
    if (((first | second) & 1) !== 0) return at;
    word = next;
  }
  return at;
}
