/**
 * What a rewritten file carries so that it can be taken back: section `.usdt_nop5`, which is not loaded.
 *
 *     "USDTNOP5"  u32 version
 *     32 bytes    SHA-256 of the whole file with these and the next 8 bytes zero: revert refuses where it does not fit
 *     8 bytes     first bytes of the SHA-256 of this section with these 8 zero: whether the section itself is whole
 *     u48, u48    where this section stands in the file, and the file's size: other tools change them
 *     32 bytes    SHA-256 of the original
 *     u32 size    memo: JSON, which options were used and what became of each site
 *     recipe      how to make the original from this file, as varints
 *     claims      what is claimed of the functions that changed (rewritten/certificate.ts): up to the section's end. Files that
 *                 were written before there were any have none, and who reads no more than the recipe is not disturbed
 *
 * The recipe is short since nearly all of the original is still there: `copies` say which stretch of the output is which
 * stretch of the original, `literals` are stretches that are nowhere in the output, `corrected` are tables that moved and whose
 * pointers changed with their place, `edits` are old bytes to put back, and `renumbered` symbol tables get their old section
 * numbers.
 */

import { createHash } from "node:crypto";
import { hex } from "../address.js";
import { type ElfImage, sectionBytes, sectionNamed } from "../elf/image.js";
import { InputError } from "../errors.js";
import type { SparseContent } from "../sparse-content.js";
import { type CorrectedCopy, type CorrectedWords, numbersToPlaces, placesToNumbers } from "./corrected.js";
import type { Recipe } from "./recipe.js";
import { CARRY_SECTION } from "./section-names.js";
import { fileSource, followAll, misled } from "./way-back.js";

const MAGIC = "USDTNOP5";
const VERSION = 3;
const HASH_SIZE = 32;
const CHECK_SIZE = 8;
const PLACE_SIZE = 6;
/** Where the hash of the output stands in the section. */
const HASH_AT = MAGIC.length + 4;
const CHECK_AT = HASH_AT + HASH_SIZE;
const PLACE_AT = CHECK_AT + CHECK_SIZE;
const ORIGINAL_HASH_AT = PLACE_AT + 2 * PLACE_SIZE;
const MEMO_AT = ORIGINAL_HASH_AT + HASH_SIZE;

/** What goes into the section. */
export interface CarryContent {
  readonly memo: string;
  readonly originalHash: Uint8Array;
  readonly recipe: Recipe;
  /** As rewritten/certificate.ts has it; empty where there are none. */
  readonly certificates: Uint8Array;
}

/** What a rewritten file carries. */
export interface Carry extends CarryContent {
  /** Whether the section stands where rewrite put it, in a file of the size that rewrite wrote. */
  readonly inPlace: boolean;
}

/** The section's content, but for what `sealCarry` fills in. */
export function encodeCarry({ memo, originalHash, recipe, certificates }: CarryContent): Buffer {
  const head = Buffer.alloc(MEMO_AT + 4);
  head.write(MAGIC, 0, "latin1");
  head.writeUInt32LE(VERSION, MAGIC.length);
  head.set(originalHash, ORIGINAL_HASH_AT);
  const memoBytes = Buffer.from(memo, "utf8");
  head.writeUInt32LE(memoBytes.length, MEMO_AT);
  const pieces: Uint8Array[] = [head, memoBytes];
  const numbers = (...values: number[]): void => {
    pieces.push(varints(values));
  };
  numbers(recipe.originalSize, recipe.trailing, recipe.copies.length);
  for (const { from, to, size } of recipe.copies) numbers(from, to, size);
  for (const list of [recipe.literals, recipe.edits]) {
    numbers(list.length);
    for (const { to, bytes } of list) {
      numbers(to, bytes.length);
      pieces.push(bytes);
    }
  }
  numbers(recipe.corrected.length);
  for (const { from, to, size, words } of recipe.corrected) {
    numbers(from, to, size, words.length);
    for (const w of words) {
      numbers(w.size, w.add < 0 ? 1 : 0, Math.abs(w.add));
      pieces.push(varints(placesToNumbers(w.places)));
    }
  }
  numbers(recipe.renumbered.length);
  for (const { to, size } of recipe.renumbered) numbers(to, size);
  const old = recipe.renumbered.length > 0 ? [...recipe.numbers] : [];
  numbers(old.length, ...old);
  pieces.push(certificates);
  return Buffer.concat(pieces);
}

function varints(values: readonly number[]): Uint8Array {
  const out: number[] = [];
  for (const value of values) {
    let rest = value;
    while (rest >= 128) {
      out.push((rest % 128) | 128);
      rest = Math.floor(rest / 128);
    }
    out.push(rest);
  }
  return Uint8Array.from(out);
}

/** Fills in what depends on the whole file: `carry` is the section's content at `offset` in `content`. */
export function sealCarry(carry: Buffer, offset: number, content: SparseContent): void {
  carry.writeUIntLE(offset, PLACE_AT, PLACE_SIZE);
  carry.writeUIntLE(content.size, PLACE_AT + PLACE_SIZE, PLACE_SIZE);
  carry.set(hashOf(content), HASH_AT);
  carry.set(checkOf(carry), CHECK_AT);
}

/** The digest of the section's own content. */
function checkOf(carry: Uint8Array): Buffer {
  const hash = createHash("sha256")
    .update(carry.subarray(0, CHECK_AT))
    .update(Buffer.alloc(CHECK_SIZE))
    .update(carry.subarray(CHECK_AT + CHECK_SIZE));
  return hash.digest().subarray(0, CHECK_SIZE);
}

/** Reads the section; undefined where the file carries none. @throws InputError where it is damaged */
export function readCarry(image: ElfImage): Carry | undefined {
  const section = sectionNamed(image, CARRY_SECTION);
  if (section === undefined) return undefined;
  const bytes = sectionBytes(image, section);
  const damaged = (): InputError => new InputError(`damaged ${CARRY_SECTION}`, `offset ${hex(section.sh_offset)}`);
  if (bytes.length < MEMO_AT + 4 || bytes.toString("latin1", 0, MAGIC.length) !== MAGIC) throw damaged();
  if (bytes.readUInt32LE(MAGIC.length) !== VERSION)
    throw new InputError(`${CARRY_SECTION} was written by another version of this program`);
  if (!checkOf(bytes).equals(bytes.subarray(CHECK_AT, CHECK_AT + CHECK_SIZE))) throw damaged();
  const memoEnd = MEMO_AT + 4 + bytes.readUInt32LE(MEMO_AT);
  let at = memoEnd;
  const number = (): number => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined || scale > 2 ** 49) throw damaged();
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  const take = (size: number): Uint8Array => {
    if (size > bytes.length - at) throw damaged();
    at += size;
    return bytes.subarray(at - size, at);
  };
  const list = <T>(read: () => T): T[] => {
    const length = number();
    if (length > bytes.length) throw damaged();
    return Array.from({ length }, read);
  };
  const stretch = (): { to: number; bytes: Uint8Array } => {
    const to = number();
    return { to, bytes: take(number()) };
  };
  if (memoEnd > bytes.length) throw damaged();
  const originalSize = number();
  const trailing = number();
  const copies = list(() => ({ from: number(), to: number(), size: number() }));
  const literals = list(stretch);
  const edits = list(stretch);
  const correctedWords = (size: number): CorrectedWords => {
    const wordSize = number();
    const sign = number();
    const add = number();
    const places = numbersToPlaces(list(number), size);
    if (places === undefined || (wordSize !== 4 && wordSize !== 8)) throw damaged();
    return { size: wordSize, add: sign === 1 ? -add : add, places };
  };
  const corrected = list((): CorrectedCopy => {
    const [from, to, size] = [number(), number(), number()];
    return { from, to, size, words: list(() => correctedWords(size)) };
  });
  const renumbered = list(() => ({ to: number(), size: number() }));
  const numbers = Uint16Array.from(list(number));
  return {
    memo: bytes.toString("utf8", MEMO_AT + 4, memoEnd),
    originalHash: bytes.subarray(ORIGINAL_HASH_AT, ORIGINAL_HASH_AT + HASH_SIZE),
    recipe: { originalSize, trailing, copies, literals, corrected, edits, renumbered, numbers },
    certificates: bytes.subarray(at),
    inPlace:
      bytes.readUIntLE(PLACE_AT, PLACE_SIZE) === section.sh_offset &&
      bytes.readUIntLE(PLACE_AT + PLACE_SIZE, PLACE_SIZE) === image.bytes.length,
  };
}

/** Whether the file is, byte for byte, what rewrite wrote. */
export function isUntouched(image: ElfImage): boolean {
  const section = sectionNamed(image, CARRY_SECTION);
  if (section === undefined) return false;
  const at = section.sh_offset + HASH_AT;
  const stretches = [...image.holes, { start: at, end: at + HASH_SIZE + CHECK_SIZE }];
  const pieces: { offset: number; bytes: Buffer }[] = [];
  let from = 0;
  for (const { start, end } of [...stretches, { start: image.bytes.length, end: 0 }].sort(
    (a, b) => a.start - b.start,
  )) {
    if (start > from) pieces.push({ offset: from, bytes: image.bytes.subarray(from, start) });
    from = Math.max(from, end);
  }
  return hashOf({ size: image.bytes.length, pieces }).equals(image.bytes.subarray(at, at + HASH_SIZE));
}

/** SHA-256 of a file that is not written yet; holes are zeros. */
function hashOf({ size, pieces }: SparseContent): Buffer {
  const hash = createHash("sha256");
  const zeros = Buffer.alloc(1 << 16);
  let at = 0;
  const skipTo = (end: number): void => {
    for (; at < end; at += Math.min(zeros.length, end - at))
      hash.update(zeros.subarray(0, Math.min(zeros.length, end - at)));
  };
  for (const { offset, bytes } of pieces) {
    skipTo(offset);
    hash.update(bytes);
    at = offset + bytes.length;
  }
  skipTo(size);
  return hash.digest();
}

/** What following a recipe leads to. */
export interface Restored {
  readonly bytes: Buffer;
  /** Whether that is the original: its SHA-256 says so. */
  readonly isOriginal: boolean;
}

/**
 * Makes the original.
 * @throws InputError where the recipe does not lead to it
 */
export function followRecipe(image: ElfImage, carry: Carry): Buffer {
  const { bytes, isOriginal } = restore(image, carry);
  if (!isOriginal) throw misled();
  return bytes;
}

/**
 * Makes what the recipe leads to. Where bytes were changed that rewriting had left alone, that is not the original.
 * @throws InputError where the recipe asks for what is not there
 */
export function restore(image: ElfImage, { recipe, originalHash }: Carry): Restored {
  const bytes = followAll(fileSource(image.bytes), recipe);
  return { bytes, isOriginal: createHash("sha256").update(bytes).digest().equals(originalHash) };
}
