/**
 * One question to the word at every byte position of a stretch of code: does it lead to one of these addresses?
 *
 * Nearly always the answer is no, so what counts is how quickly it is given. A table of bits answers first, one for 64 bytes of
 * address space, from the lowest of the addresses to the highest: for 14 MB of code it fits into the processor's nearest cache.
 * Four words that overlap come from two that do not, and are asked at once: it is the guesses of the processor that take
 * time, and this makes one of four.
 */
import type { Vaddr } from "../address.js";

const BLOCK_SHIFT = 6;
const BLOCK_SIZE = 1 << BLOCK_SHIFT;
/** More bits are folded: addresses far from each other share one, and whoever asks looks again. */
const MOST_BITS = 1 << 20;

/** A set of addresses, by blocks of 64 bytes, that answers "maybe" or "no". */
export class AddressFilter {
  private readonly blocks: number[] = [];
  private table: BlockTable | undefined;

  /** Adds the block that contains an address. */
  add(address: number): void {
    this.blocks.push(Math.floor(address / BLOCK_SIZE));
    this.table = undefined;
  }

  /** What has been added so far. */
  get blockTable(): BlockTable {
    this.table ??= tableOf(this.blocks);
    return this.table;
  }
}

/** Bits of blocks: bit n of the table is that of the block at base + 64 * n, modulo 2^32. */
interface BlockTable {
  readonly base: number;
  /** The last word is zero: it stands for everything behind the highest block. */
  readonly bits: Int32Array;
  /** What remains of a word's index: all of it, or where bits are folded its lowest bits. */
  readonly mask: number;
}

function tableOf(blocks: readonly number[]): BlockTable {
  let low = blocks[0] ?? 0;
  let high = low;
  for (const block of blocks) {
    if (block < low) low = block;
    if (block > high) high = block;
  }
  const isFolded = high - low >= MOST_BITS;
  const words = isFolded ? MOST_BITS >>> 5 : ((high - low) >>> 5) + 1;
  const bits = new Int32Array(words + 1);
  const mask = isFolded ? words - 1 : -1;
  for (const block of blocks) {
    const n = block - low;
    bits[(n >>> 5) & mask]! |= 1 << (n & 31);
  }
  return { base: low * BLOCK_SIZE, bits, mask };
}

/**
 * Calls back for the words that may lead to the addresses of the filter: words that, added to the address behind them, make
 * one of them.
 * @param start the address of the first byte
 * @param visit gets the index of the word, and the word
 */
export function sweepDistances(
  bytes: Uint8Array,
  start: Vaddr,
  filter: AddressFilter,
  visit: (p: number, v: number) => void,
): void {
  sweep(bytes, start + 4, 1, filter.blockTable, visit);
}

/** As `sweepDistances`, for words that are such an address themselves. */
export function sweepAddresses(bytes: Uint8Array, filter: AddressFilter, visit: (p: number, v: number) => void): void {
  sweep(bytes, 0, 0, filter.blockTable, visit);
}

function sweep(
  { buffer, byteOffset, length }: Uint8Array,
  start: number,
  step: 0 | 1,
  { base, bits, mask }: BlockTable,
  visit: (p: number, v: number) => void,
): void {
  const view = new DataView(buffer, byteOffset, length);
  const shift = (start - base) | 0;
  const last = bits.length - 1;
  const askAt = (p: number): void => {
    const v = view.getInt32(p, true);
    const block = (p * step + shift + v) >>> BLOCK_SHIFT;
    if ((bits[Math.min((block >>> 5) & mask, last)]! >>> block) & 1) visit(p, v);
  };
  let p = 0;
  while (p + 8 <= length) {
    const end = Math.min(p + PORTION, length);
    p = nextGroup(view, p, end, shift, step, bits, mask);
    if (p + 8 > end) continue;
    for (const behind = p + 4; p < behind; p++) askAt(p);
  }
  for (; p + 4 <= length; p++) askAt(p);
}

/** So much is asked in one call: engines optimize functions that are called more readily than loops that go on. */
const PORTION = 1 << 14;

/**
 * The inner loop, apart from everything else so that the engine optimizes it alone: the index from `p` on, in steps of 4, of
 * the first of four words one of which may lead there; or the first index whose words do not all end 4 bytes before `end`.
 */
function nextGroup(
  view: DataView,
  p: number,
  end: number,
  shift: number,
  step: 0 | 1,
  bits: Int32Array,
  mask: number,
): number {
  const last = bits.length - 1;
  let at = p;
  let word = view.getInt32(at, true);
  for (; at + 8 <= end; at += 4) {
    const next = view.getInt32(at + 4, true);
    const from = (at * step + shift) | 0;
    const b0 = (from + word) >>> BLOCK_SHIFT;
    const b1 = (from + step + ((word >>> 8) | (next << 24))) >>> BLOCK_SHIFT;
    const b2 = (from + 2 * step + ((word >>> 16) | (next << 16))) >>> BLOCK_SHIFT;
    const b3 = (from + 3 * step + ((word >>> 24) | (next << 8))) >>> BLOCK_SHIFT;
    const w0 = bits[Math.min((b0 >>> 5) & mask, last)]!;
    const w1 = bits[Math.min((b1 >>> 5) & mask, last)]!;
    const w2 = bits[Math.min((b2 >>> 5) & mask, last)]!;
    const w3 = bits[Math.min((b3 >>> 5) & mask, last)]!;
    if ((((w0 >>> b0) | (w1 >>> b1) | (w2 >>> b2) | (w3 >>> b3)) & 1) !== 0) return at;
    word = next;
  }
  return at;
}
