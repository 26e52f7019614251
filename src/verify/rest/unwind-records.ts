/**
 * The original's unwind records in the rewritten file: each is there, with the same content, whether it has moved or
 * not. A pointer says the same if it leads to the same place from where it stands; everything else is the same byte for
 * byte.
 *
 * And `.eh_frame_hdr`: the table is in ascending order, has every FDE, and each entry leads to its own.
 */

import { type FileOffset, fileOffset, hex, type Interval, vaddr } from "../../address.js";
import {
  DW_EH_PE_application,
  DW_EH_PE_indirect,
  DW_EH_PE_omit,
  DW_EH_PE_pcrel,
  EhCursor,
} from "../../elf/eh-cursor.js";
import type { EhFrame } from "../../elf/eh-frame.js";
import { readEhFrameHdr } from "../../elf/eh-frame-hdr.js";
import { type Cie, type EhRecord, ehDataBase, ehRecords, readCie } from "../../elf/eh-records.js";
import { type ElfImage, type Section, sectionBytes } from "../../elf/image.js";
import { InputError } from "../../errors.js";
import { outside, union } from "../../intervals.js";
import { atAddress, type Finding, finding, shown } from "./findings.js";
import { differingRuns } from "./runs.js";
import type { SectionPair } from "./sections.js";

/** A pointer in a record, from the start of the section. */
interface Pointer {
  readonly at: number;
  readonly end: number;
  readonly encoding: number;
}

/** The pointers of a section that are relative to where they stand. */
function relativePointers(image: ElfImage, section: Section): Pointer[] {
  const { view } = image;
  const dataBase = ehDataBase(image);
  const cursor = new EhCursor(view, section, section.sh_offset, section.sh_offset + section.sh_size, dataBase);
  const cies = new Map<number, Cie>();
  const pointers: Pointer[] = [];
  const take = (written: number): void => {
    if (written === DW_EH_PE_omit) return;
    const encoding = written & ~DW_EH_PE_indirect;
    const { at } = cursor;
    cursor.number(encoding & 0x0f);
    if ((encoding & DW_EH_PE_application) === DW_EH_PE_pcrel)
      pointers.push({ at: at - section.sh_offset, end: cursor.at - section.sh_offset, encoding });
  };
  const takeAll = (record: EhRecord): void => {
    const at = record.cieAt ?? record.at;
    const cie = cies.get(at) ?? readCie(view, section, at, dataBase);
    cies.set(at, cie);
    if (record.cieAt === undefined) {
      if (cie.personality === undefined) return;
      cursor.at = cie.personality.at;
      take(cie.personality.encoding);
      return;
    }
    cursor.at = record.idAt + 4;
    take(cie.fdeEncoding);
    cursor.number(cie.fdeEncoding & 0x0f);
    if (cie.hasAugmentationData && cursor.uleb() > 0) take(cie.lsdaEncoding);
  };
  for (const record of ehRecords(view, section)) {
    try {
      takeAll(record);
    } catch (error) {
      // A record that cannot be read has to be the same, byte for byte.
      if (!(error instanceof InputError)) throw error;
    }
  }
  return pointers;
}

/** Whether the section ends where it did and begins earlier: the old records have not moved. */
export const isInFront = ({ original: o, rewritten: r }: SectionPair): boolean =>
  r.sh_addr < o.sh_addr && r.sh_addr + r.sh_size === o.sh_addr + o.sh_size;

/**
 * Compares the records that the original has.
 * @param judged stretches of the original's file whose content others judge: the ends of functions
 */
export function compareRecords(
  original: ElfImage,
  rewritten: ElfImage,
  pair: SectionPair,
  judged: readonly Interval<FileOffset>[],
): Finding[] {
  const { original: o } = pair;
  // Those that stay stand in the same section as if nothing stood in front of them.
  const inFront = isInFront(pair) ? o.sh_addr - pair.rewritten.sh_addr : 0;
  const r: Section = {
    ...pair.rewritten,
    sh_addr: vaddr(pair.rewritten.sh_addr + inFront),
    sh_offset: fileOffset(pair.rewritten.sh_offset + inFront),
    sh_size: pair.rewritten.sh_size - inFront,
  };
  const findings: Finding[] = [];
  const say = (at: number, what: string): void => {
    findings.push(finding("loaded", atAddress(r.sh_addr + at), what));
  };
  const before = sectionBytes(original, o);
  // A zero length at the end stands after the new records now.
  const isTerminated = before.length >= 4 && before.readUInt32LE(before.length - 4) === 0;
  const size = before.length - (isTerminated ? 4 : 0);
  const now = sectionBytes(rewritten, r);
  if (now.length < before.length) return [finding("loaded", atAddress(r.sh_addr), `${o.name} is shorter than it was`)];
  if (isTerminated && now.readUInt32LE(now.length - 4) !== 0) say(now.length - 4, `${o.name} has no zero at its end`);
  const pointers = relativePointers(original, o);
  const target = (image: ElfImage, section: Section, { at, encoding }: Pointer): number | undefined => {
    const end = section.sh_offset + section.sh_size;
    return new EhCursor(image.view, section, section.sh_offset + at, end).pointer(encoding);
  };
  for (const pointer of pointers) {
    const [was, is] = [target(original, o, pointer), target(rewritten, r, pointer)];
    if (was !== is)
      say(
        pointer.at,
        `an unwind record leads to ${is === undefined ? "nothing" : hex(is)}, not to ${was === undefined ? "nothing" : hex(was)}`,
      );
  }
  const known = union<number>([
    ...pointers.map(({ at, end }) => ({ start: at, end })),
    ...judged.map(({ start, end }) => ({ start: start - o.sh_offset, end: end - o.sh_offset })),
  ]);
  for (const run of differingRuns(before.subarray(0, size), now.subarray(0, size)))
    for (const { start, end } of outside(known, run))
      say(
        start,
        `bytes differ in ${o.name}: ${shown(now.subarray(start, end))}, not ${shown(before.subarray(start, end))}`,
      );
  return findings;
}

/** Judges the table that leads to the FDEs of the rewritten file. */
export function judgeHeader(
  original: ElfImage,
  rewritten: ElfImage,
  { original: o, rewritten: r }: SectionPair,
  frames: SectionPair,
  before: EhFrame,
  now: EhFrame,
): Finding[] {
  const findings: Finding[] = [];
  const say = (what: string): void => {
    findings.push(finding("loaded", atAddress(r.sh_addr), `${r.name} ${what}`));
  };
  const table = readEhFrameHdr(rewritten, r);
  if (table.ehFrame !== frames.rewritten.sh_addr)
    say(`says that .eh_frame is at ${hex(table.ehFrame ?? 0)}, not at ${hex(frames.rewritten.sh_addr)}`);
  if (!table.isUsual) say("is in encodings in which libgcc does not search");
  if (!table.isSorted) say("is not in ascending order");
  const size = 12 + 8 * table.starts.length;
  if (r.sh_size !== size) say(`has ${hex(r.sh_size)} bytes, not ${hex(size)}`);
  const addressOf = (image: ElfImage, index: number): number => {
    const { at, section } = (image === original ? before : now).record(index);
    return at - section.sh_offset + section.sh_addr;
  };
  const own = new Map<string, boolean>();
  for (let i = 0; i < now.count; i++) own.set(`${now.starts[i]},${addressOf(rewritten, i)}`, false);
  // What the original's table names beside FDEs that have a length it may name still.
  const old = readEhFrameHdr(original, o);
  const by = isInFront(frames) ? 0 : frames.rewritten.sh_addr - frames.original.sh_addr;
  const known = new Set(Array.from(old.starts, (start, i) => `${start},${old.fdes[i]! + by}`));
  // By this table the program itself finds its frames: what it led to it leads to.
  const listed = new Set(Array.from(table.starts, (start, i) => `${start},${table.fdes[i]}`));
  const { sh_offset, sh_addr } = frames.original;
  const places = new Set(Array.from(before.places, (at) => at - sh_offset + sh_addr));
  old.starts.forEach((start, i) => {
    const fde = old.fdes[i]!;
    if (start !== 0 && places.has(fde) && !listed.has(`${start},${fde + by}`))
      say(`no longer leads from ${hex(start)} to the record at ${hex(fde + by)}`);
  });
  for (let i = 0; i < table.starts.length; i++) {
    const key = `${table.starts[i]},${table.fdes[i]}`;
    if (own.has(key)) own.set(key, true);
    else if (!known.has(key))
      say(`leads from ${hex(table.starts[i]!)} to ${hex(table.fdes[i]!)}, where its FDE is not`);
  }
  const starts = new Set(table.starts);
  for (let i = 0; i < now.count; i++)
    if (!starts.has(now.starts[i]!)) say(`has no entry for the function part at ${hex(now.starts[i]!)}`);
  return findings.slice(0, MOST);
}

const MOST = 30;
