/**
 * How the original comes out of a rewritten file: nearly all of it is still there. In this order,
 *
 *     copies     stretches of the output are stretches of the original; what none makes is zero
 *     words      numbers are added to words of the original: tables that moved and whose pointers are relative to themselves
 *     literals   bytes of the original that stand nowhere
 *     trailing   so many bytes at the end of the output are the original's last ones
 *
 * Each list ascends by where it goes, and nothing in it overlaps: following it takes as long as the original is long,
 * whatever is in it, and the original is no longer than the output and the literals together.
 */
import type { Interval } from "../address.js";
import { InputError } from "../errors.js";
import { outside, union } from "../intervals.js";
import { type Cursor, varints } from "./varints.js";

export interface Undo {
  readonly originalSize: number;
  readonly trailing: number;
  /** Stretches of the output, from file offset `from` on, and where they go in the original. */
  readonly copies: readonly { readonly from: number; readonly to: number; readonly size: number }[];
  /** Words of 4 bytes, at multiples of 4 in the original; `add` goes to each, modulo 2^32. */
  readonly words: readonly { readonly add: number; readonly places: ArrayLike<number> }[];
  readonly literals: readonly { readonly to: number; readonly bytes: Uint8Array }[];
}

/** The bytes of an output, which is a file or becomes one. */
export interface ByteSource {
  readonly length: number;
  /** Copies bytes of the output, [from, from + size), to `at` in `into`. */
  copy(into: Buffer, at: number, from: number, size: number): void;
}

/** @param holes stretches of zeros that are not copied, ascending: whoever asks has zeros there already */
export const fileSource = (bytes: Buffer, holes: readonly Interval[] = []): ByteSource => ({
  length: bytes.length,
  copy: (into, at, from, size) => {
    for (const { start, end } of outside(holes, { start: from, end: from + size }))
      bytes.copy(into, at + start - from, start, end);
  },
});

/**
 * Long stretches of the original that are zeros since nothing makes them anything else, ascending; none where the output
 * has no holes.
 * @param length of the output
 * @param holes of the output, ascending
 */
export function zerosLeft(undo: Undo, length: number, holes: readonly Interval[]): readonly Interval[] {
  if (holes.length === 0) return [];
  const { originalSize, trailing, copies, words, literals } = undo;
  const tail = { from: length - trailing, to: originalSize - trailing, size: trailing };
  const made = [...copies, tail].flatMap(({ from, to, size }) =>
    outside(holes, { start: from, end: from + size }).map(({ start, end }) => ({
      start: start - from + to,
      end: end - from + to,
    })),
  );
  for (const { places } of words) for (const at of Array.from(places)) made.push({ start: at, end: at + 4 });
  for (const { to, bytes } of literals) made.push({ start: to, end: to + bytes.length });
  return outside(union(made), { start: 0, end: originalSize }).filter(({ start, end }) => end - start >= LONG_ZEROS);
}

/** Shorter ones are looked at like anything else. */
const LONG_ZEROS = 1 << 16;

/** Where a list begins anew, its places are told from 0. */
export function encodeUndo({ originalSize, trailing, copies, words, literals }: Undo): Uint8Array {
  const pieces: Uint8Array[] = [varints([originalSize, trailing, copies.length])];
  let end = 0;
  let source = 0;
  for (const { from, to, size } of copies) {
    pieces.push(varints([to - end, size, zigzag(from - source)]));
    end = to + size;
    source = from + size;
  }
  pieces.push(varints([words.length]));
  for (const { add, places } of words) pieces.push(varints([zigzag(add), ...gapsOf(places)]));
  pieces.push(varints([literals.length]));
  end = 0;
  for (const { to, bytes } of literals) {
    pieces.push(varints([to - end, bytes.length]), bytes);
    end = to + bytes.length;
  }
  return Buffer.concat(pieces);
}

/**
 * What it says of itself is believed no further than the bytes go that are there: neither memory nor time is spent on
 * more.
 * @param most how long the original can be: as long as the output and all that is carried
 * @throws InputError (the cursor's) where it is damaged
 */
export function decodeUndo(cursor: Cursor, most: number): Undo {
  const { damaged } = cursor;
  const [originalSize, trailing] = [cursor.number(), cursor.number()];
  if (originalSize > most || trailing > originalSize) throw damaged();
  const within = (end: number): number => {
    if (end > originalSize) throw damaged();
    return end;
  };
  let end = 0;
  let source = 0;
  const copies = cursor.list(() => {
    const to = end + cursor.number();
    const size = cursor.number();
    const from = source + unzigzag(cursor.number());
    if (from < 0) throw damaged();
    end = within(to + size);
    source = from + size;
    return { from, to, size };
  });
  // No word is in two of the lists.
  let left = Math.floor(originalSize / 4);
  const words = cursor.list(() => {
    const add = unzigzag(cursor.number());
    const places = placesOf(
      cursor.list(() => cursor.number()),
      originalSize,
      left,
    );
    if (places === undefined) throw damaged();
    left -= places.length;
    return { add, places };
  });
  end = 0;
  const literals = cursor.list(() => {
    const to = end + cursor.number();
    const bytes = cursor.bytes(cursor.number());
    end = within(to + bytes.length);
    return { to, bytes };
  });
  return { originalSize, trailing, copies, words, literals };
}

/** 0, -1, 1, -2, ... as 0, 1, 2, 3, ... */
const zigzag = (n: number): number => (n < 0 ? -2 * n - 1 : 2 * n);
const unzigzag = (n: number): number => (n % 2 === 1 ? -(n + 1) / 2 : n / 2);

/**
 * Where words are, as gaps in words: 2 * gap, or 2 * gap + 1 and how often it comes; the first number says how many
 * follow.
 */
function gapsOf(places: ArrayLike<number>): number[] {
  const numbers: number[] = [];
  let last = 0;
  for (let i = 0; i < places.length; ) {
    const gap = places[i]! - last;
    let times = 1;
    for (let at = places[i]!; i + times < places.length && places[i + times]! - at === gap; times++) at += gap;
    if (times < MOST_SINGLE) for (let n = 0; n < times; n++) numbers.push(gap / 2);
    else numbers.push(gap / 2 + 1, times);
    i += times;
    last = places[i - 1]!;
  }
  return [numbers.length, ...numbers];
}

const MOST_SINGLE = 3;

/** Undefined where a word does not end before `size`, or where there are more than `most`. */
function placesOf(numbers: readonly number[], size: number, most: number): Float64Array | undefined {
  const runs: { gap: number; times: number }[] = [];
  let [last, count] = [0, 0];
  for (let i = 0; i < numbers.length; i++) {
    const number = numbers[i]!;
    const times = number % 2 === 1 ? (numbers[++i] ?? Number.NaN) : 1;
    const gap = Math.floor(number / 2) * 4;
    last += gap * times;
    count += times;
    if (!(last + 4 <= size && count <= most) || (gap === 0 && times > 1)) return undefined;
    runs.push({ gap, times });
  }
  const places = new Float64Array(count);
  [last, count] = [0, 0];
  for (const { gap, times } of runs)
    for (let n = 0; n < times; n++) {
      last += gap;
      places[count++] = last;
    }
  return places;
}

/** It asks for what is not there, or leads elsewhere. */
export const misled = (): InputError => new InputError("what is carried for it does not lead to the original");

/** The whole original. @throws InputError where the undo asks for what is not there */
export function followAll(source: ByteSource, undo: Undo): Buffer {
  check(source, undo);
  const into = Buffer.alloc(undo.originalSize);
  new Way(source, undo).make(0, into);
  return into;
}

/** A multiple of 4: no word is cut. */
const WINDOW = 1 << 18;

/**
 * Whether an undo leads to these bytes. Whoever only compares needs no second copy of a large file.
 * @throws InputError where it asks for what is not there
 */
export function leadsTo(source: ByteSource, undo: Undo, expected: Buffer): boolean {
  if (undo.originalSize !== expected.length) return false;
  check(source, undo);
  const way = new Way(source, undo);
  const scratch = Buffer.alloc(Math.min(WINDOW, expected.length));
  for (let start = 0; start < expected.length; start += WINDOW) {
    const into = scratch.subarray(0, Math.min(WINDOW, expected.length - start));
    into.fill(0);
    way.make(start, into);
    if (into.compare(expected, start, start + into.length) !== 0) return false;
  }
  return true;
}

/** What an undo names lies in the output, and no more comes of it than is there. */
function check({ length }: ByteSource, { originalSize, trailing, copies, literals }: Undo): void {
  const known = literals.reduce((sum, { bytes }) => sum + bytes.length, length);
  if (originalSize > known || trailing > length || copies.some(({ from, size }) => from + size > length))
    throw misled();
}

/** Makes the original part by part, ascending. */
class Way {
  #copy = 0;
  #literal = 0;
  readonly #word: number[];

  constructor(
    private readonly source: ByteSource,
    private readonly undo: Undo,
  ) {
    this.#word = undo.words.map(() => 0);
  }

  /** The part that begins at `start`, after all that was made before; `into` is all zeros. */
  make(start: number, into: Buffer): void {
    const { source, undo } = this;
    const { copies, words, literals, originalSize, trailing } = undo;
    const end = start + into.length;
    for (; this.#copy < copies.length; this.#copy++) {
      const { from, to, size } = copies[this.#copy]!;
      const [low, high] = [Math.max(to, start), Math.min(to + size, end)];
      if (low < high) source.copy(into, low - start, from + low - to, high - low);
      if (to + size > end) break;
    }
    words.forEach(({ add, places }, group) => {
      let i = this.#word[group]!;
      for (; i < places.length && places[i]! < end; i++) {
        const at = places[i]! - start;
        into.writeInt32LE((into.readInt32LE(at) + add) | 0, at);
      }
      this.#word[group] = i;
    });
    for (; this.#literal < literals.length; this.#literal++) {
      const { to, bytes } = literals[this.#literal]!;
      const [low, high] = [Math.max(to, start), Math.min(to + bytes.length, end)];
      if (low < high) into.set(bytes.subarray(low - to, high - to), low - start);
      if (to + bytes.length > end) break;
    }
    const tail = Math.max(start, originalSize - trailing);
    if (tail < end) source.copy(into, tail - start, source.length - originalSize + tail, end - tail);
  }
}
