/**
 * Following a recipe: from the bytes of an output to those of its input, all of them or a part at a time.
 *
 * revert and verify want the whole input. Whoever only compares needs no second copy of a large file: he follows the recipe
 * window by window, in one small buffer. Stretches whose words change are not cut by a window.
 */

import { renumberSymbols } from "../elf/renumber-symbols.js";
import { InputError } from "../errors.js";
import { correctWords } from "./corrected.js";
import type { Recipe } from "./recipe.js";
import { CARRY_SECTION } from "./section-names.js";

/** The bytes of an output, which is a file or becomes one. */
export interface ByteSource {
  readonly length: number;
  /** Copies bytes of the output, [from, from + size), to `at` in `into`. */
  copy(into: Buffer, at: number, from: number, size: number): void;
}

export const fileSource = (bytes: Buffer): ByteSource => ({
  length: bytes.length,
  copy: (into, at, from, size) => void bytes.copy(into, at, from, from + size),
});

/** The recipe asks for what is not there, or leads elsewhere. */
export const misled = (): InputError => new InputError(`damaged ${CARRY_SECTION}: it does not lead to the original`);

/** The whole input. @throws InputError where the recipe asks for what is not there */
export function followAll(source: ByteSource, recipe: Recipe): Buffer {
  checkStretches(source, recipe);
  const into = Buffer.alloc(recipe.originalSize);
  follow(source, recipe, 0, into);
  return into;
}

const WINDOW = 1 << 18;

/**
 * Whether a recipe leads to these bytes.
 * @throws InputError where it asks for what is not there
 */
export function leadsTo(source: ByteSource, recipe: Recipe, expected: Buffer): boolean {
  if (recipe.originalSize !== expected.length) return false;
  checkStretches(source, recipe);
  const whole = [
    ...recipe.corrected,
    ...recipe.renumbered,
    ...recipe.edits.map(({ to, bytes }) => ({ to, size: bytes.length })),
  ].sort((a, b) => a.to - b.to);
  const covered = coversAll(recipe);
  let scratch = Buffer.alloc(WINDOW);
  let next = 0;
  for (let start = 0; start < expected.length; ) {
    let end = Math.min(start + WINDOW, expected.length);
    for (; next < whole.length && whole[next]!.to < end; next++)
      end = Math.max(end, whole[next]!.to + whole[next]!.size);
    if (end - start > scratch.length) scratch = Buffer.alloc(end - start);
    const into = scratch.subarray(0, end - start);
    if (!covered) into.fill(0);
    follow(source, recipe, start, into);
    if (into.compare(expected, start, end) !== 0) return false;
    start = end;
  }
  return true;
}

/** Whether no byte of the original is left out, so that it would be zero. */
function coversAll({ originalSize, trailing, copies, literals, corrected }: Recipe): boolean {
  let at = 0;
  const stretches = [
    ...copies,
    ...corrected,
    ...literals.map(({ to, bytes }) => ({ to, size: bytes.length })),
    { to: originalSize - trailing, size: trailing },
  ].sort((a, b) => a.to - b.to);
  for (const { to, size } of stretches) {
    if (to > at) return false;
    at = Math.max(at, to + size);
  }
  return at >= originalSize;
}

/** Everything that a recipe names lies in the output, and in the original. */
function checkStretches(source: ByteSource, recipe: Recipe): void {
  const { originalSize, trailing, copies, literals, corrected, edits, renumbered } = recipe;
  const known = literals.reduce((sum, l) => sum + l.bytes.length, source.length);
  const fits = (to: number, size: number): boolean => to + size <= originalSize;
  const isThere = (from: number, size: number): boolean => from + size <= source.length;
  const whole =
    originalSize <= known &&
    trailing <= Math.min(source.length, originalSize) &&
    [...copies, ...corrected].every(({ from, to, size }) => fits(to, size) && isThere(from, size)) &&
    [...literals, ...edits].every(({ to, bytes }) => fits(to, bytes.length)) &&
    renumbered.every(({ to, size }) => fits(to, size));
  if (!whole) throw misled();
}

/** Makes the part of the original that begins at `start` and is as long as `into`, which is all zeros where the recipe has gaps. */
function follow(source: ByteSource, recipe: Recipe, start: number, into: Buffer): void {
  const { originalSize, trailing, copies, literals, corrected, edits, renumbered, numbers } = recipe;
  const end = start + into.length;
  const tail = { from: source.length - trailing, to: originalSize - trailing, size: trailing };
  for (const { from, to, size } of [...copies, tail]) {
    const low = Math.max(to, start);
    const high = Math.min(to + size, end);
    if (low < high) source.copy(into, low - start, from + low - to, high - low);
  }
  const set = ({ to, bytes }: { readonly to: number; readonly bytes: Uint8Array }): void => {
    const low = Math.max(to, start);
    const high = Math.min(to + bytes.length, end);
    if (low < high) into.set(bytes.subarray(low - to, high - to), low - start);
  };
  for (const literal of literals) set(literal);
  // Windows cut none of these.
  const isHere = ({ to, size }: { readonly to: number; readonly size: number }): boolean =>
    to >= start && to + size <= end;
  for (const { from, to, size, words } of corrected.filter(isHere)) {
    source.copy(into, to - start, from, size);
    if (!correctWords(into.subarray(to - start, to - start + size), words)) throw misled();
  }
  for (const { to, size } of renumbered.filter(isHere))
    renumberSymbols(into.subarray(to - start, to - start + size), numbers);
  for (const edit of edits) set(edit);
}
