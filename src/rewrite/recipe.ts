/**
 * How the input comes out of the output again: what was copied, what is nowhere any more, and the old bytes of the edits.
 */

import type { ElfImage, Section } from "../elf/image.js";
import type { CorrectedCopy } from "../rewritten/corrected.js";
import type { Recipe } from "../rewritten/recipe.js";
import type { Edit } from "./edits.js";

/** A stretch of the output: bytes, and where they stood in the input if they are from there. */
export interface Piece {
  readonly offset: number;
  readonly bytes: Uint8Array;
  readonly origin: number | undefined;
}

/** The numbers of the input's sections, by those of the output. */
export function invert(numbers: Uint16Array, count: number): Uint16Array {
  const inverse = new Uint16Array(count);
  numbers.forEach((to, from) => {
    inverse[to] = from;
  });
  inverse[0] = 0;
  return inverse;
}

/**
 * The recipe for the input.
 * @param trailing how many bytes at the end of both are the same
 * @param numbers the numbers of the input's sections, by those of the output
 */
export function recipeFor(
  image: ElfImage,
  pieces: readonly Piece[],
  corrected: readonly CorrectedCopy[],
  trailing: number,
  edits: readonly Edit[],
  renumbered: readonly Section[],
  numbers: Uint16Array,
): Recipe {
  const copies = pieces.flatMap(({ offset, bytes, origin }) =>
    origin === undefined ? [] : [{ from: offset, to: origin, size: bytes.length }],
  );
  const literals: { to: number; bytes: Uint8Array }[] = [];
  const end = image.bytes.length - trailing;
  let at = 0;
  for (const { to, size } of [...copies, ...corrected, { to: end, size: 0 }].sort((a, b) => a.to - b.to)) {
    if (to > at) literals.push({ to: at, bytes: image.bytes.subarray(at, to) });
    at = Math.max(at, to + size);
  }
  return {
    originalSize: image.bytes.length,
    trailing,
    copies,
    literals,
    corrected,
    edits: edits.map(({ offset, old }) => ({ to: offset, bytes: old })),
    renumbered: renumbered.map((s) => ({ to: s.sh_offset, size: s.sh_size })),
    numbers,
  };
}
