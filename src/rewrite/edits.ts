/**
 * Edits: what changes in the bytes that stay where they are, as (offset, old bytes, new bytes).
 */
import { type FileOffset, fileOffset, hex, type Interval, type Vaddr } from "../address.js";
import { type ElfImage, offsetOf } from "../elf/image.js";
import { outside, union, without } from "../intervals.js";

export interface Edit {
  readonly offset: FileOffset;
  readonly old: Uint8Array;
  readonly new: Uint8Array;
}

/** An edit at a file offset; `bytes` replace as many. */
export function editAt(image: ElfImage, offset: number, bytes: Uint8Array): Edit {
  return { offset: fileOffset(offset), old: image.bytes.subarray(offset, offset + bytes.length), new: bytes };
}

/**
 * An edit at a link-time address. @throws Error where the bytes there are not in the file: the caller has proved they
 * are
 */
export function editAtAddress(image: ElfImage, address: Vaddr, bytes: Uint8Array): Edit {
  const offset = offsetOf(image, address);
  if (offset === undefined) throw new Error(`${hex(address)} is not in the file`);
  return editAt(image, offset, bytes);
}

/** `value` as a little-endian word of 4 or 8 bytes. */
export function word(value: number, size: 4 | 8): Uint8Array {
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  if (size === 4) view.setInt32(0, value | 0, true);
  else view.setBigInt64(0, BigInt(value), true);
  return bytes;
}

/**
 * A copy of the file's bytes with all edits. What is a hole takes no memory.
 * @param uncopied stretches that are zeros in the copy, for nobody asks it for them; ascending, and without edits
 * @throws Error where two edits overlap: no two parts of a plan may change the same byte
 */
export function applyEdits(
  { bytes, holes }: Pick<ElfImage, "bytes" | "holes">,
  edits: readonly Edit[],
  uncopied: readonly Interval[] = [],
): Buffer {
  const left = union([...holes, ...uncopied]);
  const result = left.length === 0 ? Buffer.from(bytes) : Buffer.alloc(bytes.length);
  if (left.length > 0)
    for (const { start, end } of outside(left, { start: 0, end: bytes.length })) bytes.copy(result, start, start, end);
  let reach = 0;
  for (const edit of [...edits].sort((a, b) => a.offset - b.offset)) {
    if (edit.offset < reach) throw new Error(`two edits overlap at offset ${hex(edit.offset)}`);
    result.set(edit.new, edit.offset);
    reach = edit.offset + edit.new.length;
  }
  return result;
}

/** The holes that are left where bytes are put into some. */
export const holesAfter = (
  holes: readonly Interval[],
  put: readonly { readonly offset: number; readonly size: number }[],
): readonly Interval[] =>
  holes.length === 0
    ? holes
    : without(holes, union(put.map(({ offset, size }) => ({ start: offset, end: offset + size }))));
