/**
 * The new content of `.eh_frame`. New records stand on one side of the old ones:
 *
 *     before    old records stay where they are, and the section begins earlier. An FDE cannot name a CIE that comes after
 *               it, so the new ones have copies of the CIEs that they need.
 *     after     all of it moves. Old records are corrected for the distance, and the new ones name their CIEs.
 */
import { alignUp, type FileOffset, type Vaddr, vaddr } from "../../address.js";
import { DW_EH_PE_application, DW_EH_PE_indirect, DW_EH_PE_omit, DW_EH_PE_pcrel } from "../../elf/eh-cursor.js";
import { encodeNumber, encodePointer, pointerSize } from "../../elf/eh-pointers.js";
import type { Cie } from "../../elf/eh-records.js";
import type { Edit } from "../edits.js";
import type { Source } from "../undo.js";
import { type NewFde, type NewFrames, OWN_FDE_ENCODING } from "./new-frames.js";
import type { UnwindTables } from "./tables.js";

export interface Records {
  readonly side: "before" | "after";
  /** Where the section begins now, and how long it is. */
  readonly sh_addr: Vaddr;
  readonly sh_size: number;
  /** What is written from there on: the new records, or all of them. */
  readonly bytes: Uint8Array;
  /** By how much the old records have moved. */
  readonly moved: number;
  /** Where the new FDEs are, in the order of `fdes`. */
  readonly fdes: readonly Vaddr[];
}

/** Sections of records are aligned to so much at least. */
export const alignmentOf = ({ section }: UnwindTables): number => Math.max(section.sh_addralign, 8);

/**
 * New records before the old ones, in the place of the search table and what is between.
 * @returns undefined where there is no room, or something else needs that place
 */
export function recordsBefore(tables: UnwindTables, frames: NewFrames): Records | undefined {
  const { section } = tables;
  const room = roomBefore(tables);
  if (room === undefined) return undefined;
  // How long they are does not depend on where they stand: no linker writes pointers in LEB128.
  const size = encodedBefore(tables, frames, section.sh_addr)?.bytes.length;
  if (size === undefined || size > room) return undefined;
  const sh_addr = vaddr(section.sh_addr - size);
  const records = encodedBefore(tables, frames, sh_addr);
  if (records === undefined || records.bytes.length !== size) return undefined;
  return { side: "before", sh_addr, sh_size: size + section.sh_size, moved: 0, ...records };
}

/** How many bytes before the old records are free once the search table has moved. */
function roomBefore(tables: UnwindTables): number | undefined {
  const { image, section, header, headerIsReferenced } = tables;
  if (header === undefined || headerIsReferenced || !header.isComplete) return undefined;
  const own = header.section;
  const gap = section.sh_addr - (own.sh_addr + own.sh_size);
  if (gap < 0 || gap > 64 || section.sh_offset - own.sh_offset !== section.sh_addr - own.sh_addr) return undefined;
  if (image.bytes.subarray(own.sh_offset + own.sh_size, section.sh_offset).some((byte) => byte !== 0)) return undefined;
  return section.sh_addr % alignmentOf(tables) === 0 ? section.sh_addr - own.sh_addr : undefined;
}

/** The last record is as much longer as alignment asks for. */
function encodedBefore(tables: UnwindTables, frames: NewFrames, from: Vaddr): Encoded | undefined {
  const run = new RecordRun(from);
  const copied = new Map<Cie, Vaddr>();
  const fdes = encodeRecords(run, frames, tables.dataBase, (cie) => {
    const known = copied.get(cie);
    if (known !== undefined) return known;
    const copy = copyOf(tables, cie, run.next);
    if (copy === undefined) return undefined;
    const at = run.append(copy);
    copied.set(cie, at);
    return at;
  });
  if (fdes === undefined) return undefined;
  run.padLast(alignmentOf(tables));
  return { bytes: Buffer.concat(run.pieces), fdes };
}

/**
 * All records in a new place, the new ones after the old ones, and the zero length that was there.
 * @param edits what changes in the old records themselves
 * @returns the records, or why they cannot stand there
 */
export function recordsAfter(
  tables: UnwindTables,
  frames: NewFrames,
  sh_addr: Vaddr,
  edits: readonly Edit[],
): Records | string {
  const { section, dataBase } = tables;
  const moved = sh_addr - section.sh_addr;
  const old = movedRecords(tables, moved, edits);
  if (typeof old === "string") return old;
  // An odd end, which no linker leaves, would put the new ones at odd places.
  if (old.length % 4 !== 0) return "its unwind tables end at an odd place";
  const run = new RecordRun(vaddr(sh_addr + old.length));
  const fdes = encodeRecords(run, frames, dataBase, ({ at }) => vaddr(at - section.sh_offset + sh_addr));
  if (fdes === undefined) return "its unwind tables have encodings in which new code is out of reach";
  const end = new Uint8Array(section.sh_size - old.length);
  const bytes = Buffer.concat([old, ...run.pieces, end]);
  return { side: "after", sh_addr, sh_size: bytes.length, bytes, moved, fdes };
}

/** How many bytes of records the input has: all but the zero length at the end. */
const sizeOfOld = ({ section, isTerminated }: UnwindTables): number => section.sh_size - (isTerminated() ? 4 : 0);

/** Where the output has the old records, if they moved to `from`. */
export const copyOfOld = (tables: UnwindTables, from: FileOffset): Source => ({
  from,
  to: tables.section.sh_offset,
  size: sizeOfOld(tables),
});

/** The old records, with their edits and with pointers corrected for a move by so many bytes; or why that cannot be. */
function movedRecords(tables: UnwindTables, by: number, edits: readonly Edit[]): Buffer | string {
  const { image, section } = tables;
  const relative = tables.relative();
  if (typeof relative === "string") return relative;
  const end = section.sh_offset + sizeOfOld(tables);
  const old = Buffer.from(image.bytes.subarray(section.sh_offset, end));
  for (const { offset, new: bytes } of edits)
    if (offset >= section.sh_offset && offset + bytes.length <= end) old.set(bytes, offset - section.sh_offset);
  for (const at of relative.four) {
    const value = old.readInt32LE(at) - by;
    if (value !== (value | 0) || value === 0) return "its unwind tables cannot move so far";
    old.writeInt32LE(value, at);
  }
  for (const at of relative.eight) old.writeBigUInt64LE(BigInt.asUintN(64, old.readBigUInt64LE(at) - BigInt(by)), at);
  return old;
}

interface Encoded {
  readonly bytes: Buffer;
  readonly fdes: readonly Vaddr[];
}

/**
 * Appends the new records, those of our own CIEs first.
 * @param cieOf where the records to come find a CIE of the input
 * @returns where the FDEs are, or undefined where an encoding does not reach
 */
function encodeRecords(
  run: RecordRun,
  { fdes, cies }: NewFrames,
  dataBase: number | undefined,
  cieOf: (cie: Cie) => Vaddr | undefined,
): Vaddr[] | undefined {
  const own = cies.map((content) => run.append(Uint8Array.from([0, 0, 0, 0, ...content])));
  const places: Vaddr[] = [];
  for (const fde of fdes) {
    const cieAt = typeof fde.cie === "number" ? own[fde.cie] : cieOf(fde.cie);
    const body = cieAt === undefined ? undefined : encodeFde(fde, run.next, cieAt, dataBase);
    if (body === undefined) return undefined;
    places.push(run.append(body));
  }
  return places;
}

/** A CIE of the input from its id on, for a record at `to`. */
function copyOf({ image, section }: UnwindTables, { at, end, personality }: Cie, to: Vaddr): Uint8Array | undefined {
  if (image.view.getUint32(at, true) === 0xffffffff) return undefined;
  const bytes = Buffer.from(image.bytes.subarray(at + 4, end));
  if (personality === undefined || (personality.encoding & DW_EH_PE_application) !== DW_EH_PE_pcrel) return bytes;
  const place = personality.at - at - 4;
  const by = to - (section.sh_addr + at - section.sh_offset);
  const size = pointerSize(personality.encoding & ~DW_EH_PE_indirect);
  if (size !== 4 && size !== 8) return undefined;
  if (place + size > bytes.length) return undefined;
  if (size === 8) bytes.writeBigUInt64LE(BigInt.asUintN(64, bytes.readBigUInt64LE(place) - BigInt(by)), place);
  else {
    const moved = bytes.readInt32LE(place) - by;
    if (moved !== (moved | 0) || moved === 0) return undefined;
    bytes.writeInt32LE(moved, place);
  }
  return bytes;
}

/** Records, one after the other. */
class RecordRun {
  readonly pieces: Uint8Array[] = [];
  #next: Vaddr;

  constructor(start: Vaddr) {
    this.#next = start;
  }

  /** Where the next record will stand. */
  get next(): Vaddr {
    return this.#next;
  }

  /** @param body what comes after the length. Returns the record's address. */
  append(body: Uint8Array): Vaddr {
    const record = new Uint8Array(4 + alignUp(body.length, 4));
    new DataView(record.buffer).setUint32(0, record.length - 4, true);
    record.set(body, 4);
    const at = this.#next;
    this.pieces.push(record);
    this.#next = vaddr(at + record.length);
    return at;
  }

  /** Makes the last record longer, so that the run's length is a multiple of `unit`. Zeros are DW_CFA_nop. */
  padLast(unit: number): void {
    const size = this.pieces.reduce((sum, { length }) => sum + length, 0);
    const last = this.pieces.pop();
    if (last === undefined) return;
    const longer = new Uint8Array(last.length + alignUp(size, unit) - size);
    longer.set(last);
    new DataView(longer.buffer).setUint32(0, longer.length - 4, true);
    this.pieces.push(longer);
    this.#next = vaddr(this.#next + longer.length - last.length);
  }
}

/** An FDE from its id on; its length stands at `at`. */
function encodeFde(
  { start, end, cie, lsda, program }: NewFde,
  at: Vaddr,
  cieAt: Vaddr,
  dataBase: number | undefined,
): Uint8Array | undefined {
  const encoding = typeof cie === "number" ? OWN_FDE_ENCODING : cie.fdeEncoding;
  const first = encodePointer(encoding, start, at + 8, dataBase);
  const range = encodeNumber(encoding & 0x07, end - start);
  if (first === undefined || range === undefined) return undefined;
  const augmentation: number[] = [];
  if (typeof cie === "number") augmentation.push(0);
  else if (cie.hasAugmentationData) {
    const place = at + 8 + first.length + range.length + 1;
    const data = cie.lsdaEncoding === DW_EH_PE_omit ? [] : encodeLsda(cie.lsdaEncoding, lsda, place, dataBase);
    if (data === undefined) return undefined;
    augmentation.push(data.length, ...data);
  }
  const id = new Uint8Array(4);
  new DataView(id.buffer).setUint32(0, at + 4 - cieAt, true);
  return Uint8Array.from([...id, ...first, ...range, ...augmentation, ...program]);
}

function encodeLsda(
  encoding: number,
  lsda: Vaddr | undefined,
  place: number,
  dataBase: number | undefined,
): number[] | undefined {
  if (lsda !== undefined) {
    const pointer = encodePointer(encoding, lsda, place, dataBase);
    return pointer && [...pointer];
  }
  const none = encodeNumber(encoding & 0x07, 0);
  return none && [...none];
}
