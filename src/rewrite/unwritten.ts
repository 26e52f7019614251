/**
 * An output that is not written yet, as a file: parsed from its own bytes, of which only those are put in place that
 * somebody reads. A large file has one copy of itself in memory already, and memory that is touched costs more than to
 * copy it.
 */

import * as elf from "../elf/constants.js";
import { type ElfImage, parseElf, read64, type Section } from "../elf/image.js";
import type { ByteSource } from "../rewritten/undo.js";
import { countWhile } from "../sorted.js";
import { isZero, type SparseContent } from "../sparse-content.js";

export class Unwritten implements ByteSource {
  readonly length: number;
  readonly #pieces: SparseContent["pieces"];
  /** Of the file's size; zeros where nobody asked. */
  readonly #bytes: Buffer;

  /** @param zeroTail how many zeros at its end are no part of what is parsed */
  constructor(
    { size, pieces }: SparseContent,
    private readonly zeroTail = 0,
  ) {
    this.length = size - zeroTail;
    this.#pieces = pieces;
    this.#bytes = Buffer.alloc(this.length);
  }

  /** Parses it. What sections hold has to be asked for. @throws InputError where it is no program */
  parse(): ElfImage {
    const bytes = this.#bytes;
    this.need(0, elf.EHDR_SIZE);
    if (this.length >= elf.EHDR_SIZE) {
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      this.need(read64(view, 32), view.getUint16(56, true) * elf.PHDR_SIZE);
      const e_shoff = read64(view, 40);
      this.need(e_shoff, view.getUint16(60, true) * elf.SHDR_SIZE);
      const names = e_shoff + view.getUint16(62, true) * elf.SHDR_SIZE;
      if (names + elf.SHDR_SIZE <= this.length) this.need(read64(view, names + 24), read64(view, names + 32));
    }
    return parseElf(bytes, { holes: [], zeroTail: this.zeroTail });
  }

  /** Puts bytes in place, as far as they are in the file. */
  need(offset: number, size: number): void {
    const start = Math.max(0, offset);
    const end = Math.min(offset + size, this.length);
    if (start < end) this.copy(this.#bytes, start, start, end - start);
  }

  needSection({ sh_type, sh_offset, sh_size }: Section): void {
    if (sh_type !== elf.SHT_NOBITS) this.need(sh_offset, sh_size);
  }

  copy(into: Buffer, at: number, from: number, size: number): void {
    const end = from + size;
    for (let i = this.#firstBehind(from); i < this.#pieces.length; i++) {
      const { offset, bytes } = this.#pieces[i]!;
      if (offset >= end) break;
      const low = Math.max(offset, from);
      const high = Math.min(offset + bytes.length, end);
      into.set(bytes.subarray(low - offset, high - offset), at + low - from);
    }
  }

  /** Bytes of the output: a view where they stand in one piece. */
  read(from: number, size: number): Uint8Array {
    const piece = this.#pieces[this.#firstBehind(from)];
    if (piece !== undefined && piece.offset <= from && from + size <= piece.offset + piece.bytes.length)
      return piece.bytes.subarray(from - piece.offset, from - piece.offset + size);
    const bytes = Buffer.alloc(size);
    this.copy(bytes, 0, from, size);
    return bytes;
  }

  /** Whether these bytes stand at `from`. */
  holds(from: number, expected: Uint8Array): boolean {
    if (from + expected.length > this.length) return false;
    const end = from + expected.length;
    let at = from;
    for (let i = this.#firstBehind(from); i < this.#pieces.length && at < end; i++) {
      const { offset, bytes } = this.#pieces[i]!;
      if (offset >= end) break;
      if (offset > at && !isZero(expected.subarray(at - from, offset - from))) return false;
      at = Math.max(at, offset);
      const high = Math.min(offset + bytes.length, end);
      if (Buffer.compare(bytes.subarray(at - offset, high - offset), expected.subarray(at - from, high - from)) !== 0)
        return false;
      at = high;
    }
    return isZero(expected.subarray(at - from));
  }

  /** The index of the first piece that ends after an offset. */
  #firstBehind(offset: number): number {
    return countWhile(this.#pieces.length, (i) => {
      const { offset: start, bytes } = this.#pieces[i]!;
      return start + bytes.length <= offset;
    });
  }
}
