/**
 * Unwind information for new code. The input's `.eh_frame` becomes longer, and `.eh_frame_hdr` as well, so that each
 * reader finds everything where it looks: by program header or by section header.
 *
 * New records before the old ones, where linkers put `.eh_frame_hdr` right before `.eh_frame`: the header moves after
 * the new code, and the new records take the end of its place. Old records stay where they are.
 *
 *     before   | .eh_frame_hdr                | .eh_frame: old records |
 *     after    | nothing | .eh_frame: new records and old ones         |    new code | .gcc_except_table.nop5 | .eh_frame_hdr
 *
 * New records after the old ones, where that is no way (another order, no room, something may lead to the header's
 * place): both tables move.
 *
 *     new code | .gcc_except_table.nop5 | .eh_frame_hdr | .eh_frame: the old records, the new ones, a zero length
 *
 * new-frames.ts says which records there are, records.ts and search-table.ts write the two tables.
 */

import { alignUp, type FileOffset, fileOffset, type Interval, interval, type Vaddr, vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import type { ProgramHeader, Section } from "../../elf/image.js";
import { InputError } from "../../errors.js";
import { EXCEPTIONS_SECTION, KEPT_SUFFIX } from "../../rewritten/section-names.js";
import type { Edit } from "../edits.js";
import type { OutputSection } from "../sections.js";
import type { MovedSection } from "../table-growth.js";
import type { Source } from "../undo.js";
import { type NewFrames, newFrames, type UnwoundCode } from "./new-frames.js";
import { alignmentOf, copyOfOld, type Records, recordsAfter, recordsBefore } from "./records.js";
import { copiesOfTable, encodeSearchTable, searchTableSize } from "./search-table.js";
import type { UnwindTables } from "./tables.js";

/** A section of the input that stands elsewhere or is longer now. */
interface UnwindSection extends MovedSection {
  readonly sh_size: number;
  /** Whether old content moved with it: else it begins earlier, and what it had is where it was. */
  readonly hasMoved: boolean;
}

export interface UnwindLayout {
  /** Where everything ends that comes after the new code. */
  readonly end: Vaddr;
  readonly sections: readonly UnwindSection[];
  /** All new content, in the new segment and before it. */
  readonly content: readonly { readonly offset: FileOffset; readonly bytes: Uint8Array }[];
  /**
   * Sections where the old tables stood. strip keeps no bytes that are in none, which some programs need; and it ends a
   * segment where its last section ends.
   */
  readonly kept: readonly OutputSection[];
  /** The section with language-specific data, where there is any. */
  readonly exceptions: OutputSection | undefined;
  /** PT_GNU_EH_FRAME as it is now. */
  readonly programHeader: ProgramHeader | undefined;
  /** How the old tables come out of the moved ones; empty where their bytes stay as well. */
  readonly copies: readonly Source[];
  /** Stretches of the file in which the old tables stood, and nothing stands now. */
  readonly vacated: readonly Interval<FileOffset>[];
  /** New code without an FDE although its origin has one, and why. */
  readonly without: NewFrames["without"];
}

/**
 * @param after where the new code ends
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
  const exceptionsAt = vaddr(alignUp(after, 4));
  const frames = newFrames(tables, code, exceptionsAt);
  if (typeof frames === "string") return frames;
  const headerAt = vaddr(alignUp(exceptionsAt + frames.exceptions.length, 4));
  const lay = (records: Records) => layoutWith(tables, frames, records, { exceptionsAt, headerAt, shift });
  const before = recordsBefore(tables, frames);
  const laid = before && lay(before);
  if (laid !== undefined) return laid;
  const ehFrameAt = alignUp(headerAt + searchTableSize(tables, frames.fdes.length), alignmentOf(tables));
  const records = recordsAfter(tables, frames, vaddr(ehFrameAt), edits);
  if (typeof records === "string") return records;
  return lay(records) ?? "its unwind tables are out of reach";
}

/** Where things stand after the new code. */
interface Places {
  readonly exceptionsAt: Vaddr;
  readonly headerAt: Vaddr;
  /** p_vaddr - p_offset there. */
  readonly shift: number;
}

/** Undefined where the search table cannot reach all that it has to name. */
function layoutWith(
  tables: UnwindTables,
  { fdes, exceptions, without }: NewFrames,
  records: Records,
  { exceptionsAt, headerAt, shift }: Places,
): UnwindLayout | undefined {
  const { section, header } = tables;
  const { sh_addr, sh_size } = records;
  const offsetAt = (address: Vaddr): FileOffset => fileOffset(address - shift);
  const hasMoved = records.side === "after";
  const sh_offset = hasMoved ? offsetAt(sh_addr) : fileOffset(section.sh_offset + sh_addr - section.sh_addr);
  const sections: UnwindSection[] = [{ section, sh_addr, sh_offset, sh_size, hasMoved }];
  const content = [{ offset: sh_offset, bytes: records.bytes }];
  if (exceptions.length > 0) content.push({ offset: offsetAt(exceptionsAt), bytes: exceptions });
  const offset = offsetAt(headerAt);
  if (header !== undefined) {
    const bytes = encodeSearchTable(tables, header, headerAt, records, fdes);
    if (bytes === undefined) return undefined;
    const place = { sh_addr: headerAt, sh_offset: offset, sh_size: bytes.length };
    sections.push({ section: header.section, ...place, hasMoved: true });
    content.push({ offset, bytes });
  }
  return {
    end: vaddr(Math.max(...content.map((c) => c.offset + c.bytes.length)) + shift),
    sections,
    content,
    exceptions: exceptions.length === 0 ? undefined : exceptionsSection(exceptionsAt, offsetAt, exceptions.length),
    programHeader: header && movedHeader(header.programHeader, sections[1]!),
    without,
    ...oldPlaces(tables, sections[0]!, header ? copiesOfTable(header, offset, fdes) : []),
  };
}

const movedHeader = (p: ProgramHeader, { sh_addr, sh_offset, sh_size }: UnwindSection): ProgramHeader => ({
  ...p,
  p_vaddr: sh_addr,
  p_paddr: p.p_paddr + sh_addr - p.p_vaddr,
  p_offset: sh_offset,
  p_filesz: sh_size,
  p_memsz: sh_size,
});

/**
 * What becomes of the places where the old tables stood.
 * @param copies where the new search table has the old one
 */
function oldPlaces(
  tables: UnwindTables,
  { sh_offset, hasMoved }: UnwindSection,
  copies: readonly Source[],
): Pick<UnwindLayout, "kept" | "copies" | "vacated"> {
  const { section, header } = tables;
  if (!hasMoved) return { kept: [], copies, vacated: [{ start: header!.section.sh_offset, end: sh_offset }] };
  const left: { readonly own: Section; readonly copies: readonly Source[] }[] = [
    { own: section, copies: [copyOfOld(tables, sh_offset)] },
  ];
  if (header !== undefined) left.push({ own: header.section, copies: header.isComplete ? copies : [] });
  const gone = tables.isReferenced() ? [] : left.filter((l) => l.copies.length > 0);
  return {
    kept: left.map(({ own }) => ({
      ...own,
      name: `${own.name}${KEPT_SUFFIX}`,
      sh_link: 0,
      sh_info: 0,
      origin: undefined,
    })),
    copies: gone.flatMap((l) => l.copies),
    vacated: gone.map(({ own }) => interval(own.sh_offset, own.sh_size)),
  };
}

function exceptionsSection(address: Vaddr, offsetAt: (address: Vaddr) => FileOffset, size: number): OutputSection {
  return {
    name: EXCEPTIONS_SECTION,
    sh_type: elf.SHT_PROGBITS,
    sh_flags: elf.SHF_ALLOC,
    sh_addr: address,
    sh_offset: offsetAt(address),
    sh_size: size,
    sh_link: 0,
    sh_info: 0,
    sh_addralign: 4,
    sh_entsize: 0,
    origin: undefined,
  };
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
