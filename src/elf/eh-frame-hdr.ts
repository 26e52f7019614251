/**
 * `.eh_frame_hdr`: the table by which a running program finds the FDE of an address. PT_GNU_EH_FRAME leads to it.
 *
 *     u8   version, 1
 *     u8   encoding of the next pointer, of the count, of the table
 *     ...  where .eh_frame is; how many FDEs the table has
 *     ...  pairs: where a function begins, where its FDE is, in ascending order
 *
 * Linkers write pcrel sdata4, udata4 and datarel sdata4, relative to this header; libgcc searches no other. Where a
 * linker could not read its input there is no table, and unwinders walk through .eh_frame.
 *
 * Specification: LSB 5.0 "The .eh_frame_hdr section".
 */
import { DW_EH_PE_omit, damaged, EhCursor } from "./eh-cursor.js";
import { type ElfImage, type Section, words32 } from "./image.js";

export const HDR_TABLE_AT = 12;
export const HDR_ENTRY_SIZE = 8;

/** What linkers write. */
export const HDR_ENCODINGS = [0x1b, 0x03, 0x3b] as const;

export interface EhFrameHdr {
  /** Where it says that .eh_frame is. */
  readonly ehFrame: number | undefined;
  /** Whether its encodings are those that linkers write, so that entries have 8 bytes and begin at HDR_TABLE_AT. */
  readonly isUsual: boolean;
  /** Link-time addresses of functions and of their FDEs, in the table's order; empty where there is no table. */
  readonly starts: Float64Array;
  readonly fdes: Float64Array;
  readonly isSorted: boolean;
}

/** @throws InputError where it is damaged */
export function readEhFrameHdr(image: ElfImage, section: Section): EhFrameHdr {
  const { sh_offset, sh_size, sh_addr } = section;
  const cursor = new EhCursor(image.view, section, sh_offset, sh_offset + sh_size, sh_addr);
  const version = cursor.u8();
  if (version !== 1) throw damaged(`.eh_frame_hdr has version ${version}`, sh_offset);
  const encodings = [cursor.u8(), cursor.u8(), cursor.u8()] as const;
  const [pointer, countEncoding, table] = encodings;
  const ehFrame = cursor.pointer(pointer);
  const hasTable = countEncoding !== DW_EH_PE_omit && table !== DW_EH_PE_omit;
  const count = hasTable ? cursor.number(countEncoding & 0x0f) : 0;
  if (count < 0 || count > sh_size) throw damaged(".eh_frame_hdr has a table that is larger than itself", sh_offset);
  const starts = new Float64Array(count);
  const fdes = new Float64Array(count);
  const isUsual = HDR_ENCODINGS.every((encoding, i) => encodings[i] === encoding);
  if (isUsual && HDR_TABLE_AT + count * HDR_ENTRY_SIZE <= sh_size) {
    // What follows says the same, one pointer at a time; there may be 100,000.
    const words = words32(image, sh_offset + HDR_TABLE_AT, count * HDR_ENTRY_SIZE);
    for (let i = 0; i < count; i++) {
      starts[i] = relativeTo(sh_addr, words[2 * i]! | 0);
      fdes[i] = relativeTo(sh_addr, words[2 * i + 1]! | 0);
    }
  } else
    for (let i = 0; i < count; i++) {
      starts[i] = cursor.pointer(table) ?? 0;
      fdes[i] = cursor.pointer(table) ?? 0;
    }
  let isSorted = true;
  for (let i = 1; i < count; i++) if (starts[i]! <= starts[i - 1]!) isSorted = false;
  return { ehFrame, isUsual, starts, fdes, isSorted };
}

/** A null pointer leads nowhere. */
const relativeTo = (base: number, word: number): number => (word === 0 ? 0 : base + word);

/** The header in the encodings that linkers write; undefined where something is out of reach. */
export function encodeEhFrameHdr(
  address: number,
  ehFrame: number,
  starts: Float64Array,
  fdes: Float64Array,
): Buffer | undefined {
  const words = new Int32Array((HDR_TABLE_AT + starts.length * HDR_ENTRY_SIZE) / 4);
  const bytes = Buffer.from(words.buffer);
  bytes.set([1, ...HDR_ENCODINGS]);
  const distance = ehFrame - (address + 4);
  let isInReach = distance === (distance | 0);
  words[1] = distance;
  words[2] = starts.length;
  for (let i = 0, at = HDR_TABLE_AT / 4; i < starts.length; i++, at += 2) {
    const start = starts[i]! - address;
    const fde = fdes[i]! - address;
    if (start !== (start | 0) || fde !== (fde | 0)) isInReach = false;
    words[at] = start;
    words[at + 1] = fde;
  }
  return isInReach ? bytes : undefined;
}
