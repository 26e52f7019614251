/**
 * The input's unwind tables, and whether they can move into a new segment with records after them.
 *
 * Unwinders of other programs find `.eh_frame` by its section header (gdb, perf, elfutils), those of the program itself
 * by PT_GNU_EH_FRAME and the table that it leads to (libgcc, libunwind). Both want one table. There is no room after
 * it, so all of it moves, where there is none before it either. What is relative to its own place is corrected by the
 * distance: where functions begin, personality routines, language-specific data. Call frame instructions and lengths
 * stay.
 *
 * Why a file does without: something writes there when it is loaded, or its encodings are none that linkers write.
 */
import { hex, type Vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { forEachRelocation } from "../../elf/dynamic.js";
import {
  DW_EH_PE_application,
  DW_EH_PE_datarel,
  DW_EH_PE_indirect,
  DW_EH_PE_omit,
  DW_EH_PE_pcrel,
  EhCursor,
} from "../../elf/eh-cursor.js";
import type { EhFrame } from "../../elf/eh-frame.js";
import { type EhFrameHdr, HDR_ENTRY_SIZE, HDR_TABLE_AT, readEhFrameHdr } from "../../elf/eh-frame-hdr.js";
import { pointerSize } from "../../elf/eh-pointers.js";
import { type Cie, ehDataBase, ehRecords, isEhFrame, readCie } from "../../elf/eh-records.js";
import { type ElfImage, offsetOf, type ProgramHeader, type Section } from "../../elf/image.js";
import { InputError } from "../../errors.js";
import type { ProgramFacts } from "../../facts/program.js";
import { leadsInto } from "../../facts/unwind-references.js";
import type { OriginFrames } from "./origin-frames.js";

/** Places of words that are relative to where they stand, in bytes from the start of the section. */
interface RelativeWords {
  readonly four: Uint32Array;
  readonly eight: Uint32Array;
}

export interface UnwindTables {
  readonly image: ElfImage;
  readonly frames: OriginFrames;
  readonly section: Section;
  /** What has to be corrected where the records move, or why they cannot. */
  relative(): RelativeWords | string;
  /** What DW_EH_PE_datarel in it is relative to; that does not move. */
  readonly dataBase: number | undefined;
  /** Whether a zero length stands at its end. */
  isTerminated(): boolean;
  /** The table that PT_GNU_EH_FRAME leads to, where there is one. */
  readonly header: HeaderTable | undefined;
  /** Why unwinders that run in the process may not find records of new code, or undefined where they do. */
  readonly unseen: string | undefined;
  /** Whether something else may lead to where a table stands: then its bytes have to stay there as well. */
  isReferenced(): boolean;
  readonly headerIsReferenced: boolean;
}

export interface HeaderTable {
  readonly section: Section;
  readonly programHeader: ProgramHeader;
  readonly content: EhFrameHdr;
  /** Whether it is as linkers write it: ascending, and with every FDE in it. Else it is made anew. */
  readonly isComplete: boolean;
}

/**
 * The input's tables, or why new code does without; undefined where the file has none itself, and so nothing is
 * missing.
 */
export type Unwindable = UnwindTables | string | undefined;

/** @param frames the same file's */
export function readUnwindTables({ image, makesUnwindHeader }: ProgramFacts, frames: OriginFrames): Unwindable {
  const own = image.sections.filter((s) => isEhFrame(s) && s.sh_size > 4);
  const section = own[0];
  if (section === undefined || frames.records.count === 0) return undefined;
  if (own.length > 1) return `there are ${own.length} .eh_frame sections`;
  try {
    const placed = placeProblem(image, section);
    if (placed !== undefined) return placed;
    const header = readHeader(image, frames.records);
    if (typeof header === "string") return header;
    const dataBase = ehDataBase(image);
    const parts = header === undefined ? [section] : [section, header.section];
    const headerIsReferenced = header !== undefined && leadsInto(image, header.section, makesUnwindHeader);
    const written = relocated(image, parts);
    if (written !== undefined) return written;
    return {
      image,
      frames,
      section,
      // Asked for only where the records move.
      relative: once(() => relativeWords(image, section, dataBase)),
      dataBase,
      isTerminated: once(() => endsWithZero(image, section)),
      header,
      unseen: unseenBecause(image, header),
      isReferenced: once(() => headerIsReferenced || leadsInto(image, section)),
      headerIsReferenced,
    };
  } catch (error) {
    if (error instanceof InputError) return error.message;
    throw error;
  }
}

function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

/**
 * Static programs register their own table when they start. Where glibc has _dl_find_object (2.35), libgcc asks it for
 * everything else, and in a static program it answered for no address (seen in 2.36).
 */
function unseenBecause({ programHeaders }: ElfImage, header: HeaderTable | undefined): string | undefined {
  if (header === undefined) return "no program header leads to the table";
  return programHeaders.some((p) => p.p_type === elf.PT_DYNAMIC) ? undefined : "it is static";
}

function placeProblem(image: ElfImage, section: Section): string | undefined {
  const { name, sh_flags, sh_addr, sh_offset } = section;
  if (sh_flags & elf.SHF_WRITE) return `${name} is writable`;
  if (offsetOf(image, sh_addr) !== sh_offset) return `${name} and the program headers disagree on where it is loaded`;
  return undefined;
}

function readHeader(image: ElfImage, frames: EhFrame): HeaderTable | string | undefined {
  const programHeader = image.programHeaders.find((p) => p.p_type === elf.PT_GNU_EH_FRAME);
  const named = image.sections.find((s) => s.name === ".eh_frame_hdr");
  if (programHeader === undefined) return named && ".eh_frame_hdr is not what a program header leads to";
  const section = image.sections.find(
    (s) => s.sh_addr === programHeader.p_vaddr && s.sh_flags & elf.SHF_ALLOC && s.sh_type !== elf.SHT_NOBITS,
  );
  if (section === undefined || section.sh_size !== programHeader.p_filesz || section.sh_flags & elf.SHF_EXECINSTR)
    return "PT_GNU_EH_FRAME leads to no section";
  const placed = placeProblem(image, section);
  if (placed !== undefined) return placed;
  const content = readEhFrameHdr(image, section);
  return { section, programHeader, content, isComplete: isComplete(content, section, frames) };
}

function isComplete(hdr: EhFrameHdr, section: Section, { starts, count }: EhFrame): boolean {
  const listed = hdr.starts;
  // A null pointer would become one that leads somewhere.
  if (listed.includes(0) || hdr.fdes.includes(0)) return false;
  if (!hdr.isUsual || !hdr.isSorted || listed.length === 0) return false;
  if (section.sh_size !== HDR_TABLE_AT + listed.length * HDR_ENTRY_SIZE) return false;
  let at = 0;
  for (let i = 0; i < count; i++) {
    const start = starts[i]!;
    while (at < listed.length && listed[at]! < start) at++;
    if (listed[at] !== start) return false;
  }
  return true;
}

function endsWithZero({ view }: ElfImage, section: Section): boolean {
  let end: number = section.sh_offset;
  for (const record of ehRecords(view, section)) end = record.end;
  const sectionEnd = section.sh_offset + section.sh_size;
  return sectionEnd - end >= 4 && view.getUint32(sectionEnd - 4, true) === 0;
}

/** Where words stand that say how far it is from themselves to something. */
function relativeWords(image: ElfImage, section: Section, dataBase: number | undefined): RelativeWords | string {
  const { view } = image;
  const four: number[] = [];
  const eight: number[] = [];
  const cies = new Map<number, Cie>();
  const cursor = new EhCursor(view, section, section.sh_offset, section.sh_offset + section.sh_size, dataBase);
  let problem: string | undefined;
  /** Takes down the pointer at the cursor, if it is relative to its place, and goes on after it. */
  const pointer = (encoding: number): void => {
    if (encoding === DW_EH_PE_omit) return;
    const { at } = cursor;
    const isNull = cursor.number(encoding & 0x0f) === 0;
    const application = encoding & DW_EH_PE_application;
    if (isNull || application === 0 || application === DW_EH_PE_datarel) return;
    const size = pointerSize(encoding);
    if (application !== DW_EH_PE_pcrel || (size !== 4 && size !== 8))
      problem ??= `.eh_frame has pointers in encoding ${hex(encoding)}`;
    else (size === 4 ? four : eight).push(at - section.sh_offset);
  };
  for (const record of ehRecords(view, section)) {
    if (record.cieAt === undefined) {
      const cie = readCie(view, section, record.at, dataBase);
      cies.set(record.at, cie);
      if (cie.personality !== undefined) {
        cursor.at = cie.personality.at;
        pointer(cie.personality.encoding & ~DW_EH_PE_indirect);
      }
      if (movesLocation(view, cie.instructions, cie.end)) return SET_LOC;
      continue;
    }
    let cie = cies.get(record.cieAt);
    if (cie === undefined) {
      cie = readCie(view, section, record.cieAt, dataBase);
      cies.set(record.cieAt, cie);
    }
    cursor.at = record.idAt + 4;
    pointer(cie.fdeEncoding);
    cursor.number(cie.fdeEncoding & 0x0f);
    if (cie.hasAugmentationData) {
      const size = cursor.uleb();
      const instructions = cursor.at + size;
      if (cie.lsdaEncoding !== DW_EH_PE_omit && size > 0) pointer(cie.lsdaEncoding & ~DW_EH_PE_indirect);
      cursor.at = instructions;
    }
    if (movesLocation(view, cursor.at, record.end)) return SET_LOC;
  }
  return problem ?? { four: Uint32Array.from(four).sort(), eight: Uint32Array.from(eight).sort() };
}

const SET_LOC = ".eh_frame uses DW_CFA_set_loc";

/** Whether call frame instructions name an address. Wherever this cannot tell it says yes: no compiler writes that. */
function movesLocation(view: DataView, start: number, end: number): boolean {
  let at = start;
  const leb = (): void => {
    while (at < end && view.getUint8(at++) >= 0x80);
  };
  const block = (): void => {
    let size = 0;
    for (let scale = 1; at < end; scale *= 128) {
      const byte = view.getUint8(at++);
      size += (byte & 0x7f) * scale;
      if (byte < 0x80) break;
    }
    at += size;
  };
  while (at < end) {
    const op = view.getUint8(at++);
    if (op >= 0xc0 || (op >= 0x40 && op < 0x80)) continue;
    if (op >= 0x80) {
      leb();
      continue;
    }
    switch (op) {
      case 0x00:
      case 0x0a:
      case 0x0b:
      case 0x2d:
        break;
      case 0x02:
        at += 1;
        break;
      case 0x03:
        at += 2;
        break;
      case 0x04:
        at += 4;
        break;
      case 0x06:
      case 0x07:
      case 0x08:
      case 0x0d:
      case 0x0e:
      case 0x13:
      case 0x2e:
        leb();
        break;
      case 0x05:
      case 0x09:
      case 0x0c:
      case 0x11:
      case 0x12:
      case 0x14:
      case 0x15:
      case 0x2f:
        leb();
        leb();
        break;
      case 0x0f:
        block();
        break;
      case 0x10:
      case 0x16:
        leb();
        block();
        break;
      default:
        // DW_CFA_set_loc, and what is not known.
        return true;
    }
  }
  return false;
}

function relocated(image: ElfImage, parts: readonly Section[]): string | undefined {
  let found: Vaddr | undefined;
  const low = Math.min(...parts.map((s) => s.sh_addr)) - 7;
  const high = Math.max(...parts.map((s) => s.sh_addr + s.sh_size));
  forEachRelocation(image, (place) => {
    if (place < low || place >= high) return;
    if (parts.some((s) => place + 7 >= s.sh_addr && place < s.sh_addr + s.sh_size)) found = place;
  });
  return found === undefined ? undefined : `a relocation writes to its unwind tables, at ${hex(found)}`;
}
