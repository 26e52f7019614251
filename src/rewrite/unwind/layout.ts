/**
 * Unwind information for new code. The input's `.eh_frame` becomes longer, and `.eh_frame_hdr` as well, so that each reader
 * finds everything where it looks: by program header or by section header.
 *
 * In front, where linkers put `.eh_frame_hdr` right before `.eh_frame`: the header moves behind the new code, and the new
 * records take the end of its place. Old records stay where they are.
 *
 *     before   | .eh_frame_hdr                | .eh_frame: old records |
 *     after    | nothing | .eh_frame: new records and old ones         |    new code | .gcc_except_table.nop5 | .eh_frame_hdr
 *
 * Behind, where that is no way (another order, no room, something may lead to the header's place): both tables move.
 *
 *     new code | .gcc_except_table.nop5 | .eh_frame_hdr | .eh_frame: the old records, the new ones, a zero length
 *
 * A piece of new code has an FDE with the CIE of its origin, and so the same personality routine, encodings and flags (the S
 * of signal frames). Its rows say at every new instruction what the origin's say at the place that it came from
 * (frame-program.ts). Where the origin has language-specific data, so has it (exceptions.ts).
 *
 * What cannot be said with certainty is left out: such code has no FDE, and `without` says why.
 */

import { alignUp, type FileOffset, fileOffset, hex, type Vaddr, vaddr } from "../../address.js";
import type { CfaRows } from "../../elf/cfa-rows.js";
import * as elf from "../../elf/constants.js";
import { DW_EH_PE_application, DW_EH_PE_indirect, DW_EH_PE_omit, DW_EH_PE_pcrel } from "../../elf/eh-cursor.js";
import type { EhFrame } from "../../elf/eh-frame.js";
import { encodeEhFrameHdr, HDR_ENTRY_SIZE, HDR_TABLE_AT } from "../../elf/eh-frame-hdr.js";
import { encodeNumber, encodePointer, pointerSize } from "../../elf/eh-pointers.js";
import type { Cie } from "../../elf/eh-records.js";
import { type FrameState, type FrameTable, readFrameTable, stateAt } from "../../elf/frame-states.js";
import type { ProgramHeader, Section } from "../../elf/image.js";
import { encodeUleb } from "../../elf/leb128.js";
import { InputError } from "../../errors.js";
import { EXCEPTIONS_SECTION, KEPT_SUFFIX } from "../../rewritten/section-names.js";
import { type Edit, editAt } from "../edits.js";
import type { OutputSection } from "../sections.js";
import type { MovedSection } from "../table-growth.js";
import type { Source } from "../undo.js";
import { encodeExceptionTable, personalityObstacle } from "./exceptions.js";
import { encodeFrameProgram, loweredState, type ProgramRow } from "./frame-program.js";
import type { OriginStretch } from "./origins.js";
import type { UnwindTables } from "./tables.js";

/** New code that wants to be unwound. */
interface UnwoundCode {
  /** Pieces that come from functions of the input: their stretches, each piece without gaps. */
  readonly pieces: readonly (readonly OriginStretch[])[];
  /** Pieces that come from none. The return address is the only thing that is saved. */
  readonly own: readonly { readonly start: Vaddr; readonly end: Vaddr; readonly unwind: CfaRows }[];
}

export interface UnwindLayout {
  /** Everything from `start` on, which is behind the new code. */
  readonly start: Vaddr;
  readonly end: Vaddr;
  readonly moved: readonly MovedSection[];
  /** New records in front of the old ones, which stay where they are: then .eh_frame begins here. */
  readonly front: { readonly section: Section; readonly offset: FileOffset; readonly bytes: Uint8Array } | undefined;
  /** Bytes between two tables that are part of one now. */
  readonly edits: readonly Edit[];
  /** The whole content of the moved sections. */
  readonly content: ReadonlyMap<Section, Uint8Array>;
  /**
   * Sections where the old tables stood. strip keeps no bytes that are in none, which some programs need; and it ends a segment
   * where its last section ends.
   */
  readonly kept: readonly OutputSection[];
  /** The section with language-specific data, where there is any. */
  readonly exceptions: { readonly section: OutputSection; readonly bytes: Uint8Array } | undefined;
  /** PT_GNU_EH_FRAME of the input, and what it is now. */
  readonly programHeader: { readonly before: ProgramHeader; readonly now: ProgramHeader } | undefined;
  /** How the old tables come out of the moved ones; empty where their bytes stay as well. */
  readonly copies: readonly Source[];
  /** Stretches of the file in which the old tables stood, and nothing stands now. */
  readonly vacated: readonly { readonly start: FileOffset; readonly end: FileOffset }[];
  /** New code without an FDE although its origin has one, and why. */
  readonly without: readonly { readonly start: Vaddr; readonly reason: string }[];
}

const isCall = ({ lastByte }: OriginStretch): boolean => lastByte > 0;

/** A new FDE, but for its place. */
interface NewFde {
  readonly start: Vaddr;
  readonly end: Vaddr;
  /** The input's CIE, or the number of one of our own. */
  readonly cie: Cie | number;
  readonly lsda: Vaddr | undefined;
  readonly program: Uint8Array;
}

/**
 * @param after the address behind the new code
 * @param shift p_vaddr - p_offset of the new segment
 * @param edits what changes in the input's tables themselves: the ends of functions that have grown
 * @returns the layout, or why there is none
 * @throws InputError where a table of the input is damaged
 */
export function layUnwind(
  tables: UnwindTables,
  code: UnwoundCode,
  after: Vaddr,
  shift: number,
  edits: readonly Edit[],
): UnwindLayout | string {
  const draft = new Draft(tables, vaddr(alignUp(after, 4)));
  for (const piece of code.pieces) draft.addPiece(piece);
  for (const { start, end, unwind } of code.own) draft.addOwn(start, end, unwind);
  return draft.finish(after, shift, edits);
}

class Draft {
  readonly #tables: UnwindTables;
  readonly #exceptionsAt: Vaddr;
  readonly #exceptions: number[] = [];
  readonly #fdes: NewFde[] = [];
  /** Contents of new CIEs, behind their id. */
  readonly #cies: Uint8Array[] = [];
  readonly #without: { start: Vaddr; reason: string }[] = [];
  readonly #frameTables = new Map<number, FrameTable>();
  /** Why there can be no layout. */
  #obstacle: string | undefined;

  constructor(tables: UnwindTables, exceptionsAt: Vaddr) {
    this.#tables = tables;
    this.#exceptionsAt = exceptionsAt;
  }

  /** FDEs for a piece: one for each run of stretches that come from one FDE. */
  addPiece(stretches: readonly OriginStretch[]): void {
    const { frames } = this.#tables;
    let from = 0;
    for (let i = 1; i <= stretches.length; i++) {
      const index = frames.indexAt(stretches[from]!.origin);
      if (i < stretches.length && frames.indexAt(stretches[i]!.origin) === index) continue;
      const run = stretches.slice(from, i);
      const problem = index < 0 ? "its origin has no unwind information" : this.#addRun(index, run);
      if (problem !== undefined) {
        // Where the origin has none nothing is missing.
        if (index >= 0) this.#without.push({ start: run[0]!.start, reason: problem });
        if (run.some(isCall)) this.#obstacle ??= `a call moved to ${hex(run[0]!.start)}, and ${problem}`;
      }
      from = i;
    }
  }

  #addRun(index: number, run: readonly OriginStretch[]): string | undefined {
    const { frames, image } = this.#tables;
    const { cie } = frames.record(index);
    const table = this.#frameTable(index);
    const rows: ProgramRow[] = [];
    const fde = frames.fde(index);
    for (const { start, origin, lower } of run) {
      const state = loweredState(stateAt(table, origin), lower, fde.lsda !== undefined);
      if (state === undefined) return `the unwind rule of ${hex(origin)} does not hold elsewhere`;
      rows.push({ start, state });
    }
    const program = encodeFrameProgram(rows, table.initial, cie);
    if (program === undefined) return "its unwind rules cannot be encoded";
    const common = { start: run[0]!.start, end: run.at(-1)!.end, program };
    if (fde.lsda === undefined) {
      this.#fdes.push({ ...common, cie, lsda: undefined });
      return undefined;
    }
    const obstacle = personalityObstacle(image, cie);
    const at = vaddr(this.#exceptionsAt + this.#exceptions.length);
    const bytes = obstacle ?? encodeExceptionTable(image, fde.start, fde.lsda, run, at);
    if (typeof bytes === "string") {
      if (run.some(isCall)) return bytes;
      // Frames can be found without it, and exceptions pass through: no call and nothing that a handler is for is here.
      this.#fdes.push({ ...common, cie: this.#plainCie(cie), lsda: undefined });
      return undefined;
    }
    this.#exceptions.push(...bytes);
    while (this.#exceptions.length % 4 !== 0) this.#exceptions.push(0);
    this.#fdes.push({ ...common, cie, lsda: at });
    return undefined;
  }

  #frameTable(index: number): FrameTable {
    const known = this.#frameTables.get(index) ?? readFrameTable(this.#tables.frames.program(index));
    this.#frameTables.set(index, known);
    return known;
  }

  addOwn(start: Vaddr, end: Vaddr, { starts, registers, offsets }: CfaRows): void {
    const rows = starts.map((at, i): ProgramRow => {
      const state: FrameState = {
        cfa: { kind: "register", register: registers[i]!, offset: offsets[i]! },
        rules: new Map(ownInitial.rules),
        argsSize: 0,
      };
      return { start: at, state };
    });
    const program = encodeFrameProgram(rows, ownInitial, OWN_FACTORS)!;
    this.#fdes.push({ start, end, cie: this.#newCie(OWN_CIE), lsda: undefined, program });
  }

  /** The same CIE without a personality routine. */
  #plainCie(cie: Cie): number {
    const { bytes } = this.#tables.image;
    const letters = cie.augmentation.includes("S") ? "zRS" : "zR";
    return this.#newCie([
      1,
      ...Buffer.from(`${letters}\0`, "latin1"),
      ...encodeUleb(cie.codeAlignment),
      ...signedByte(cie.dataAlignment),
      cie.returnColumn,
      1,
      FDE_ENCODING,
      ...bytes.subarray(cie.instructions, cie.end),
    ]);
  }

  #newCie(content: readonly number[]): number {
    const bytes = Uint8Array.from(content);
    const known = this.#cies.findIndex((c) => Buffer.compare(c, bytes) === 0);
    return known >= 0 ? known : this.#cies.push(bytes) - 1;
  }

  finish(after: Vaddr, shift: number, edits: readonly Edit[]): UnwindLayout | string {
    if (this.#obstacle !== undefined) return this.#obstacle;
    const fdes = this.#fdes.sort((a, b) => a.start - b.start);
    if (fdes.length === 0) return this.#without[0]?.reason ?? "no new code has a frame";
    const inFront = this.#finishInFront(fdes, after, shift, edits);
    return inFront ?? this.#finishBehind(fdes, after, shift, edits);
  }

  /** Undefined where there is no room in front of the old records. */
  #finishInFront(
    fdes: readonly NewFde[],
    after: Vaddr,
    shift: number,
    edits: readonly Edit[],
  ): UnwindLayout | undefined {
    const { image, section, header, headerIsReferenced } = this.#tables;
    if (header === undefined || headerIsReferenced || !header.isComplete) return undefined;
    const own = header.section;
    const gap = section.sh_addr - (own.sh_addr + own.sh_size);
    if (gap < 0 || gap > 64 || section.sh_offset - own.sh_offset !== section.sh_addr - own.sh_addr) return undefined;
    const gapAt = fileOffset(own.sh_offset + own.sh_size);
    if (image.bytes.subarray(gapAt, section.sh_offset).some((byte) => byte !== 0)) return undefined;
    if (section.sh_addr % this.#alignment !== 0) return undefined;
    // How long they are does not depend on where they stand: no linker writes pointers in LEB128.
    const size = this.#frontRecords(section.sh_addr, fdes)?.bytes.length;
    if (size === undefined || size > section.sh_addr - own.sh_addr) return undefined;
    const ehFrameAt = vaddr(section.sh_addr - size);
    const records = this.#frontRecords(ehFrameAt, fdes);
    if (records === undefined || records.bytes.length !== size) return undefined;
    const ehFrameOffset = fileOffset(section.sh_offset - size);

    const exceptions = Uint8Array.from(this.#exceptions);
    const hdrAt = vaddr(alignUp(this.#exceptionsAt + exceptions.length, 4));
    const at = (address: Vaddr): FileOffset => fileOffset(address - shift);
    const bytes = this.#encodeHeader(hdrAt, ehFrameAt, 0, fdes, records.addresses);
    if (bytes === undefined) return undefined;
    const old = Buffer.from(image.bytes.subarray(section.sh_offset, section.sh_offset + section.sh_size));
    for (const { offset, new: change } of edits)
      if (offset >= section.sh_offset && offset + change.length <= section.sh_offset + section.sh_size)
        old.set(change, offset - section.sh_offset);
    const before = header.programHeader;
    const place = { p_vaddr: hdrAt, p_offset: at(hdrAt), p_filesz: bytes.length, p_memsz: bytes.length };
    return {
      start: after,
      end: vaddr(hdrAt + bytes.length),
      moved: [
        { section, sh_addr: ehFrameAt, sh_offset: ehFrameOffset },
        { section: own, sh_addr: hdrAt, sh_offset: at(hdrAt) },
      ],
      front: { section, offset: ehFrameOffset, bytes: records.bytes },
      edits: gap === 0 ? [] : [editAt(image, gapAt, records.bytes.subarray(size - gap))],
      content: new Map<Section, Uint8Array>([
        [section, Buffer.concat([records.bytes, old])],
        [own, bytes],
      ]),
      kept: [],
      exceptions: exceptions.length === 0 ? undefined : exceptionsSection(this.#exceptionsAt, at, exceptions),
      programHeader: { before, now: { ...before, ...place, p_paddr: before.p_paddr + hdrAt - before.p_vaddr } },
      copies: this.#headerCopies(at(hdrAt), fdes),
      vacated: [{ start: own.sh_offset, end: ehFrameOffset }],
      without: this.#without,
    };
  }

  get #alignment(): number {
    return Math.max(this.#tables.section.sh_addralign, 8);
  }

  /**
   * The new records from `from` on. They have CIEs of their own: a record cannot name one that comes behind it. The last one
   * is as much longer as alignment asks for.
   */
  #frontRecords(from: Vaddr, fdes: readonly NewFde[]): { bytes: Buffer; addresses: readonly number[] } | undefined {
    const { dataBase } = this.#tables;
    const run = new RecordRun(from);
    const cies = this.#cies.map((content) => run.append(Uint8Array.from([0, 0, 0, 0, ...content])));
    const copied = new Map<Cie, number>();
    const addresses: number[] = [];
    for (const fde of fdes) {
      let cieAt = typeof fde.cie === "number" ? cies[fde.cie] : copied.get(fde.cie);
      if (cieAt === undefined && typeof fde.cie !== "number") {
        const copy = this.#copyOf(fde.cie, run.next);
        if (copy === undefined) return undefined;
        cieAt = run.append(copy);
        copied.set(fde.cie, cieAt);
      }
      const body = encodeFde(fde, run.next, cieAt!, dataBase);
      if (body === undefined) return undefined;
      addresses.push(run.append(body));
    }
    run.padLast(this.#alignment);
    return { bytes: Buffer.concat(run.pieces), addresses };
  }

  /** A CIE of the input behind its length, for a record at `to`. */
  #copyOf(cie: Cie, to: Vaddr): Uint8Array | undefined {
    const { image, section } = this.#tables;
    const { at, end, personality } = cie;
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

  #finishBehind(fdes: readonly NewFde[], after: Vaddr, shift: number, edits: readonly Edit[]): UnwindLayout | string {
    const { section, header } = this.#tables;
    const exceptions = Uint8Array.from(this.#exceptions);
    const hdrAt = vaddr(alignUp(this.#exceptionsAt + exceptions.length, 4));
    const hdrSize = header === undefined ? 0 : this.#headerSize(fdes.length);
    const ehFrameAt = vaddr(alignUp(hdrAt + hdrSize, Math.max(section.sh_addralign, 8)));
    const records = this.#encodeRecords(ehFrameAt, fdes, edits);
    if (typeof records === "string") return records;
    const at = (address: Vaddr): FileOffset => fileOffset(address - shift);

    const moved: MovedSection[] = [{ section, sh_addr: ehFrameAt, sh_offset: at(ehFrameAt) }];
    const content = new Map<Section, Uint8Array>([[section, records.bytes]]);
    const copies: Source[] = [];
    const vacated: { start: FileOffset; end: FileOffset }[] = [];
    const kept: OutputSection[] = [];
    const leave = (own: Section, ...copied: readonly Source[]): void => {
      kept.push({ ...own, name: `${own.name}${KEPT_SUFFIX}`, sh_link: 0, sh_info: 0, origin: undefined });
      if (copied.length === 0) return;
      copies.push(...copied);
      vacated.push({ start: own.sh_offset, end: fileOffset(own.sh_offset + own.sh_size) });
    };
    const stays = this.#tables.isReferenced();
    leave(section, ...(stays ? [] : [records.copy(at(ehFrameAt))]));
    let programHeader: UnwindLayout["programHeader"];
    if (header !== undefined) {
      const bytes = this.#encodeHeader(hdrAt, ehFrameAt, ehFrameAt - section.sh_addr, fdes, records.addresses);
      if (bytes === undefined) return "its unwind tables are out of reach";
      moved.unshift({ section: header.section, sh_addr: hdrAt, sh_offset: at(hdrAt) });
      content.set(header.section, bytes);
      const before = header.programHeader;
      const now = { p_vaddr: hdrAt, p_offset: at(hdrAt), p_filesz: bytes.length, p_memsz: bytes.length };
      programHeader = { before, now: { ...before, ...now, p_paddr: before.p_paddr + hdrAt - before.p_vaddr } };
      const back = this.#headerCopies(at(hdrAt), fdes);
      leave(header.section, ...(header.isComplete && !stays ? back : []));
    }
    return {
      start: after,
      end: vaddr(ehFrameAt + records.bytes.length),
      moved,
      front: undefined,
      edits: [],
      content,
      kept,
      exceptions: exceptions.length === 0 ? undefined : exceptionsSection(this.#exceptionsAt, at, exceptions),
      programHeader,
      copies,
      vacated,
      without: this.#without,
    };
  }

  /** The old records with their pointers corrected, the new ones, and the zero length that was there. */
  #encodeRecords(to: Vaddr, fdes: readonly NewFde[], edits: readonly Edit[]) {
    const { image, section, dataBase } = this.#tables;
    const relative = this.#tables.relative();
    if (typeof relative === "string") return relative;
    const isTerminated = this.#tables.isTerminated();
    const kept = section.sh_size - (isTerminated ? 4 : 0);
    const by = to - section.sh_addr;
    const old = Buffer.from(image.bytes.subarray(section.sh_offset, section.sh_offset + kept));
    for (const { offset, new: bytes } of edits)
      if (offset >= section.sh_offset && offset + bytes.length <= section.sh_offset + kept)
        old.set(bytes, offset - section.sh_offset);
    for (const at of relative.four) {
      const value = old.readInt32LE(at) - by;
      if (value !== (value | 0) || value === 0) return "its unwind tables cannot move so far";
      old.writeInt32LE(value, at);
    }
    for (const at of relative.eight) old.writeBigUInt64LE(BigInt.asUintN(64, old.readBigUInt64LE(at) - BigInt(by)), at);

    const run = new RecordRun(vaddr(to + kept));
    // An odd end, which no linker leaves, would put the new ones at odd places.
    if (kept % 4 !== 0) return "its unwind tables end at an odd place";
    const cies = this.#cies.map((content) => run.append(Uint8Array.from([0, 0, 0, 0, ...content])));
    const addresses: number[] = [];
    for (const fde of fdes) {
      const cieAt = typeof fde.cie === "number" ? cies[fde.cie]! : fde.cie.at - section.sh_offset + to;
      const body = encodeFde(fde, run.next, cieAt, dataBase);
      if (body === undefined) return "its unwind tables have encodings in which new code is out of reach";
      addresses.push(run.append(body));
    }
    const pieces = [old, ...run.pieces];
    if (isTerminated) pieces.push(new Uint8Array(4));
    const copy = (from: FileOffset): Source => ({ from, to: section.sh_offset, size: kept });
    return { bytes: Buffer.concat(pieces), addresses, copy };
  }

  #headerSize(added: number): number {
    const { header, frames } = this.#tables;
    const count = header!.isComplete ? header!.content.starts.length : distinct(frames.starts);
    return HDR_TABLE_AT + (count + added) * HDR_ENTRY_SIZE;
  }

  #encodeHeader(
    hdrAt: Vaddr,
    ehFrameAt: Vaddr,
    /** By how much the old records have moved. */
    byFrames: number,
    fdes: readonly NewFde[],
    addresses: readonly number[],
  ): Buffer | undefined {
    const { header, frames, section } = this.#tables;
    const { content, isComplete } = header!;
    const list = isComplete ? content : listOf(frames, section);
    const count = list.starts.length;
    const starts = new Float64Array(count + fdes.length);
    const entries = new Float64Array(count + fdes.length);
    // New code is behind everything else nearly always, but for jumps in padding.
    let from = 0;
    let to = 0;
    const take = (until: number): void => {
      for (; from < count && list.starts[from]! <= until; from++, to++) {
        starts[to] = list.starts[from]!;
        entries[to] = list.fdes[from]! + byFrames;
      }
    };
    fdes.forEach((fde, i) => {
      take(fde.start);
      starts[to] = fde.start;
      entries[to++] = addresses[i]!;
    });
    take(Number.POSITIVE_INFINITY);
    return encodeEhFrameHdr(hdrAt, ehFrameAt, starts, entries);
  }

  /** Where the new header has the old one: a stretch for each run of old entries between new ones. */
  #headerCopies(from: FileOffset, fdes: readonly NewFde[]): Source[] {
    const { section: own, content } = this.#tables.header!;
    const { starts } = content;
    const copies: Source[] = [{ from, to: own.sh_offset, size: HDR_TABLE_AT }];
    let first = 0;
    for (let added = 0; first < starts.length; added++) {
      const next = fdes[added]?.start ?? Number.POSITIVE_INFINITY;
      let last = first;
      while (last < starts.length && starts[last]! <= next) last++;
      const begin = HDR_TABLE_AT + first * HDR_ENTRY_SIZE;
      if (last > first)
        copies.push({
          from: from + begin + added * HDR_ENTRY_SIZE,
          to: own.sh_offset + begin,
          size: (last - first) * HDR_ENTRY_SIZE,
        });
      first = last;
    }
    return copies;
  }
}

/** Records, one behind the other. */
class RecordRun {
  readonly pieces: Uint8Array[] = [];
  #next: number;

  constructor(start: Vaddr) {
    this.#next = start;
  }

  get next(): Vaddr {
    return vaddr(this.#next);
  }

  /** @param body what comes behind the length. Returns the record's address. */
  append(body: Uint8Array): number {
    const record = new Uint8Array(4 + alignUp(body.length, 4));
    new DataView(record.buffer).setUint32(0, record.length - 4, true);
    record.set(body, 4);
    const at = this.#next;
    this.pieces.push(record);
    this.#next += record.length;
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
    this.#next += longer.length - last.length;
  }
}

/** The table that a linker would have made, in ascending order: where functions begin, and where their FDEs are. */
function listOf(frames: EhFrame, section: Section): { starts: Float64Array; fdes: Float64Array } {
  const first = (i: number): boolean => i === 0 || frames.starts[i] !== frames.starts[i - 1];
  const indices = Uint32Array.from(frames.starts.keys()).filter(first);
  return {
    starts: Float64Array.from(indices, (i) => frames.starts[i]!),
    fdes: Float64Array.from(indices, (i) => frames.record(i).at - section.sh_offset + section.sh_addr),
  };
}

const distinct = (starts: Float64Array): number => starts.filter((s, i) => i === 0 || s !== starts[i - 1]).length;

/** DW_EH_PE_pcrel, sdata4. */
const FDE_ENCODING = 0x1b;
const OWN_FACTORS = { codeAlignment: 1, dataAlignment: -8 };
const RETURN_COLUMN = 16;
const RSP = 7;

/** Version 1, "zR", factors 1 and -8, the return address in column 16; CFA = rsp + 8, the return address at CFA - 8. */
const OWN_CIE = [1, 0x7a, 0x52, 0, 1, 0x78, RETURN_COLUMN, 1, FDE_ENCODING, 0x0c, RSP, 8, 0x80 | RETURN_COLUMN, 1];
const ownInitial: FrameState = {
  cfa: { kind: "register", register: RSP, offset: 8 },
  rules: new Map([[RETURN_COLUMN, { kind: "offset", offset: -8 }]]),
  argsSize: 0,
};

/** A factor such as -8, as LEB128. */
const signedByte = (value: number): number[] => (value >= -64 && value < 64 ? [value & 0x7f] : []);

/** An FDE from its id on, standing at `at` with its length in front. */
function encodeFde(
  { start, end, cie, lsda, program }: NewFde,
  at: Vaddr,
  cieAt: number,
  dataBase: number | undefined,
): Uint8Array | undefined {
  const encoding = typeof cie === "number" ? FDE_ENCODING : cie.fdeEncoding;
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

function exceptionsSection(
  address: Vaddr,
  at: (address: Vaddr) => FileOffset,
  bytes: Uint8Array,
): NonNullable<UnwindLayout["exceptions"]> {
  const section: OutputSection = {
    name: EXCEPTIONS_SECTION,
    sh_type: elf.SHT_PROGBITS,
    sh_flags: elf.SHF_ALLOC,
    sh_addr: address,
    sh_offset: at(address),
    sh_size: bytes.length,
    sh_link: 0,
    sh_info: 0,
    sh_addralign: 4,
    sh_entsize: 0,
    origin: undefined,
  };
  return { section, bytes };
}

/** Damaged tables are a reason to do without where the input is good enough for everything else. */
export function unlessDamaged<T>(lay: () => T | string): T | string {
  try {
    return lay();
  } catch (error) {
    if (error instanceof InputError) return error.message;
    throw error;
  }
}
