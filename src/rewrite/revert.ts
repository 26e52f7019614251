/**
 * The way back: the original of a rewritten file, or a clear refusal. A file that anything changed since is not what
 * the undo describes, so it must be exactly what rewrite wrote.
 */

import type { ElfImage } from "../elf/image.js";
import { InputError } from "../errors.js";
import { isUntouched, makeOriginal, readCarry } from "../rewritten/carry.js";
import { type SparseContent, wholeFile } from "../sparse-content.js";

/**
 * The original file, byte for byte.
 * @throws InputError where the file was not rewritten, or was changed since
 */
export function revert(image: ElfImage): SparseContent {
  const carry = readCarry(image);
  if (carry === undefined) throw new InputError("not a rewritten file: there is nothing to revert");
  if (!isUntouched(image))
    throw new InputError("changed since it was rewritten (by strip, for example): the original cannot be restored");
  return wholeFile(makeOriginal(image, carry));
}
