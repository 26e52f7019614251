/**
 * Stretches of the original that stand elsewhere in the output, with some of their words changed by a constant: tables whose
 * pointers are relative to their own place. Taking them back costs little: the words' places, and by how much.
 *
 * Places are told as gaps, a varint each: 2 * gap, or 2 * gap + 1 and how often it comes. A gap of an FDE to the next one is
 * one byte or two; a table of pairs is a few bytes in all.
 */

/** Words of one size that are changed by one constant. */
export interface CorrectedWords {
  readonly size: 4 | 8;
  /** What is added to the output's word to make the original's, modulo the word's size. */
  readonly add: number;
  /** Ascending, in bytes from the start of the stretch; the words do not overlap. */
  readonly places: ArrayLike<number>;
}

export interface CorrectedCopy {
  /** In the output. */
  readonly from: number;
  /** In the original. */
  readonly to: number;
  readonly size: number;
  readonly words: readonly CorrectedWords[];
}

const MOST_SINGLE = 3;

/** The places of words as numbers for the recipe; the first says how many numbers follow. */
export function placesToNumbers(places: ArrayLike<number>): number[] {
  const numbers: number[] = [];
  let last = 0;
  for (let i = 0; i < places.length; ) {
    const gap = places[i]! - last;
    let times = 1;
    for (let at = places[i]!; i + times < places.length && places[i + times]! - at === gap; times++) at += gap;
    if (times < MOST_SINGLE) {
      for (let n = 0; n < times; n++) numbers.push(2 * gap);
    } else numbers.push(2 * gap + 1, times);
    i += times;
    last = places[i - 1]!;
  }
  return [numbers.length, ...numbers];
}

/**
 * The places again, or undefined where the numbers are damaged.
 * @param size of the stretch: no place lies behind it
 */
export function numbersToPlaces(numbers: readonly number[], size: number): Uint32Array | undefined {
  let last = 0;
  let count = 0;
  for (let i = 0; i < numbers.length; i++) {
    const number = numbers[i]!;
    const times = number % 2 === 1 ? numbers[++i] : 1;
    if (times === undefined || times > size) return undefined;
    last += Math.floor(number / 2) * times;
    count += times;
    if (last > size || count > size) return undefined;
  }
  const places = new Uint32Array(count);
  last = 0;
  count = 0;
  for (let i = 0; i < numbers.length; i++) {
    const number = numbers[i]!;
    const gap = Math.floor(number / 2);
    const times = number % 2 === 1 ? numbers[++i]! : 1;
    for (let n = 0; n < times; n++) {
      last += gap;
      places[count++] = last;
    }
  }
  return places;
}

/** Changes the words in `bytes`, the stretch. Returns false where one does not lie in it. */
export function correctWords(bytes: Buffer, words: readonly CorrectedWords[]): boolean {
  for (const { size, add, places } of words) {
    // Tables of words, which there may be 100,000 of, stand at multiples of 4.
    if (size === 4 && bytes.byteOffset % 4 === 0) {
      const whole = new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
      let unaligned = 0;
      for (let i = 0; i < places.length; i++) {
        const at = places[i]!;
        if ((at & 3) !== 0) unaligned++;
        else if (at >>> 2 < whole.length) whole[at >>> 2]! += add;
        else return false;
      }
      if (unaligned === 0) continue;
      for (let i = 0; i < places.length; i++) {
        const at = places[i]!;
        if ((at & 3) === 0) continue;
        if (at + size > bytes.length) return false;
        bytes.writeInt32LE((bytes.readInt32LE(at) + add) | 0, at);
      }
      continue;
    }
    for (let i = 0; i < places.length; i++) {
      const at = places[i]!;
      if (at + size > bytes.length) return false;
      if (size === 4) bytes.writeInt32LE((bytes.readInt32LE(at) + add) | 0, at);
      else bytes.writeBigUInt64LE(BigInt.asUintN(64, bytes.readBigUInt64LE(at) + BigInt(add)), at);
    }
  }
  return true;
}
