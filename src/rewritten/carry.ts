/**
 * What a rewritten file carries so that it can be taken back: section `.usdt_nop5`, which is not loaded.
 *
 *     "USDTNOP5"  u32 version
 *     32 bytes    digest (content-digest.ts) of the whole file with these and the next 8 bytes zero: revert refuses where it does not fit
 *     8 bytes     first bytes of the SHA-256 of this section with these 8 zero: whether the section itself is whole
 *     u48, u48    where this section stands in the file, and the file's size: other tools change them
 *     32 bytes    digest of the original
 *     u32 size    memo: JSON, which options were used and what became of each site
 *     undo        how to make the original from this file (undo.ts)
 *     claims      what is claimed of the functions that changed (rewritten/certificate.ts): up to the section's end. Files that
 *                 were written before there were any have none, and who reads no more than the undo is not disturbed
 */

import { createHash } from "node:crypto";
import { hex } from "../address.js";
import { type ElfImage, fileSize, sectionBytes, sectionNamed } from "../elf/image.js";
import { InputError } from "../errors.js";
import { union } from "../intervals.js";
import type { FileBytes, SparseContent } from "../sparse-content.js";
import { ContentDigest, digestOf } from "./content-digest.js";
import { CARRY_SECTION } from "./section-names.js";
import { decodeUndo, encodeUndo, fileSource, followAll, misled, type Undo, zerosLeft } from "./undo.js";
import { Cursor } from "./varints.js";

const MAGIC = "USDTNOP5";
const VERSION = 4;
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
interface CarryContent {
  /** UTF-8, as memo.ts has it. */
  readonly memo: Uint8Array;
  readonly originalHash: Uint8Array;
  readonly undo: Undo;
  /** As rewritten/certificate.ts has it; empty where there are none. */
  readonly certificates: Uint8Array;
}

/** What a rewritten file carries. */
export interface Carry extends CarryContent {
  /** Whether the section stands where rewrite put it, in a file of the size that rewrite wrote. */
  readonly inPlace: boolean;
}

/** The section's content, but for what `sealCarry` fills in. */
export function encodeCarry({ memo, originalHash, undo, certificates }: CarryContent): Buffer {
  const head = Buffer.alloc(MEMO_AT + 4);
  head.write(MAGIC, 0, "latin1");
  head.writeUInt32LE(VERSION, MAGIC.length);
  head.set(originalHash, ORIGINAL_HASH_AT);
  head.writeUInt32LE(memo.length, MEMO_AT);
  return Buffer.concat([head, memo, encodeUndo(undo), certificates]);
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
  const version = bytes.readUInt32LE(MAGIC.length);
  if (version !== VERSION)
    throw new InputError(
      `${CARRY_SECTION} was written by ${version > VERSION ? "a newer" : "an older"} version of this program (format ${version}; this one reads ${VERSION})`,
    );
  if (!checkOf(bytes).equals(bytes.subarray(CHECK_AT, CHECK_AT + CHECK_SIZE))) throw damaged();
  const memoEnd = MEMO_AT + 4 + bytes.readUInt32LE(MEMO_AT);
  if (memoEnd > bytes.length) throw damaged();
  const cursor = new Cursor(bytes, memoEnd, damaged);
  const undo = decodeUndo(cursor, image.bytes.length + bytes.length);
  return {
    memo: bytes.subarray(MEMO_AT + 4, memoEnd),
    originalHash: bytes.subarray(ORIGINAL_HASH_AT, ORIGINAL_HASH_AT + HASH_SIZE),
    undo,
    certificates: bytes.subarray(cursor.at),
    inPlace:
      bytes.readUIntLE(PLACE_AT, PLACE_SIZE) === section.sh_offset &&
      bytes.readUIntLE(PLACE_AT + PLACE_SIZE, PLACE_SIZE) === fileSize(image),
  };
}

/** Whether the file is, byte for byte, what rewrite wrote. */
export function isUntouched(image: ElfImage): boolean {
  const section = sectionNamed(image, CARRY_SECTION);
  if (section === undefined) return false;
  const at = section.sh_offset + HASH_AT;
  const unhashed = [...image.holes, { start: at, end: at + HASH_SIZE + CHECK_SIZE }];
  return digestOf(image.bytes, union(unhashed), image.zeroTail).equals(image.bytes.subarray(at, at + HASH_SIZE));
}

/** The digest of a file that is not written yet. */
function hashOf({ size, pieces }: SparseContent): Buffer {
  const digest = new ContentDigest();
  let at = 0;
  for (const { offset, bytes } of pieces) {
    digest.zeros(offset - at);
    digest.bytes(bytes);
    at = offset + bytes.length;
  }
  digest.zeros(size - at);
  return digest.digest();
}

/** What following an undo leads to. */
interface Restored extends FileBytes {
  /** Whether that is the original: its digest says so. */
  readonly isOriginal: boolean;
}

/**
 * Makes the original.
 * @throws InputError where what is carried does not lead to it
 */
export function makeOriginal(image: ElfImage, carry: Carry): FileBytes {
  const restored = restore(image, carry);
  if (!restored.isOriginal) throw misled();
  return restored;
}

/**
 * Makes what the undo leads to. Where bytes were changed that rewriting had left alone, that is not the original. Zeros
 * at the end of the file were at the original's.
 * @throws InputError where it asks for what is not there
 */
export function restore(image: ElfImage, { undo, originalHash }: Carry): Restored {
  const { zeroTail } = image;
  const bytes = followAll(fileSource(image.bytes, image.holes), undo);
  const holes = zerosLeft(undo, image.bytes.length, image.holes);
  return { bytes, holes, zeroTail, isOriginal: digestOf(bytes, holes, zeroTail).equals(originalHash) };
}
