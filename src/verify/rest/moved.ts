/**
 * Sections that stand elsewhere than in the original. Where the program header table grew in place, what stood after it
 * is in the new segment now, or further up after the longer table.
 *
 * That is harmless for a section which is found by a program header (.interp, notes) or by a dynamic tag, and by
 * nothing else: its content is the same, what pointed to it points to its new place (segments.ts, dynamic.ts,
 * symbols.ts look at that), and where it was the table stands now, or another moved section, or zeros.
 */

import { type FileOffset, type Interval, interval } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { type DynamicTag, readDynamicTags } from "../../elf/dynamic.js";
import { type ElfImage, type Section, sectionBytes, segmentAt } from "../../elf/image.js";
import { outside, union } from "../../intervals.js";
import { firstNonZero } from "../../sparse-content.js";
import { atAddress, type Finding, finding, type Ruling, shown } from "./findings.js";
import { sectionTags } from "./left-places.js";
import { unjudgedRuns } from "./runs.js";
import { isUnwindTable, type SectionPair, type SectionPairs } from "./sections.js";

export const movedPairs = ({ pairs }: SectionPairs): SectionPair[] =>
  pairs.filter(({ original: o, rewritten: r }) => o.sh_flags & elf.SHF_ALLOC && o.sh_addr !== r.sh_addr);

/** Where the program header table is in the file. */
export const tableStretch = ({ header }: ElfImage): Interval<FileOffset> =>
  interval(header.e_phoff, header.e_phnum * elf.PHDR_SIZE);

/**
 * Judges the sections that moved, and the place where they and the table stood.
 * @param judged stretches of the original's file whose content others judge, wherever it is now
 * @param grown numbers of sections that moved since a fork guard has made them longer
 */
export function judgeMoved(
  original: ElfImage,
  rewritten: ElfImage,
  pairs: SectionPairs,
  judged: readonly Interval<FileOffset>[],
  grown: ReadonlyMap<number, number>,
  asLaidOut: boolean,
): Ruling {
  const findings: Finding[] = [];
  const moved = movedPairs(pairs);
  const tags = readDynamicTags(original);
  for (const { original: o, rewritten: r } of moved) {
    const say = (what: string): void => {
      findings.push(finding("loaded", atAddress(r.sh_addr), `${o.name} ${what}`));
    };
    if (!mayMove(original, o, tags) && (asLaidOut || o.sh_type !== elf.SHT_DYNAMIC))
      say(`is not where it was (${atAddress(o.sh_addr)}), and nothing says that it may move`);
    if (o.sh_type === elf.SHT_NOBITS) continue;
    if (r.sh_addralign > 1 && r.sh_addr % r.sh_addralign !== 0) say("moved to an address that does not suit it");
    const segment = segmentAt(rewritten, r.sh_addr);
    if (segment === undefined || r.sh_addr + r.sh_size > segment.p_vaddr + segment.p_filesz)
      say("moved to where nothing is loaded");
    // A string table may be longer where another tool added to it; that its size is another is told elsewhere.
    const size = Math.min(o.sh_size, r.sh_size);
    const [before, now] = [sectionBytes(original, o).subarray(0, size), sectionBytes(rewritten, r).subarray(0, size)];
    if (o.sh_type === elf.SHT_DYNAMIC) continue;
    for (const { start, end } of unjudgedRuns(before, now, o.sh_offset, judged)) {
      const [is, was] = [now.subarray(start, end), before.subarray(start, end)];
      say(`moved, and its content is another: ${shown(is)}, not ${shown(was)}`);
    }
  }
  const vacated = judgeVacated(original, rewritten, moved, grown, asLaidOut);
  return { findings: [...findings, ...vacated.findings], judged: vacated.judged };
}

function mayMove(image: ElfImage, section: Section, tags: readonly DynamicTag[]): boolean {
  if (isUnwindTable(image, section)) return true;
  if (section.name === ".interp" || section.sh_type === elf.SHT_NOTE) return true;
  return (
    tags.filter((t) => t.d_val === section.sh_addr).every((t) => sectionTags.has(t.d_tag)) &&
    tags.some((t) => t.d_val === section.sh_addr)
  );
}

/**
 * The first byte of [start, end) that nobody may have left behind, in file offsets; or -1. It is zero, so that nobody
 * takes it for what it was. Where a table stood that is longer now it may be what it was, or what the table is now.
 */
function firstLeft(
  original: ElfImage,
  rewritten: ElfImage,
  grown: readonly SectionPair[],
  { start, end }: Interval<FileOffset>,
): number {
  for (let at = start; at < end; at++) {
    const byte = rewritten.bytes[at];
    if (byte === 0) continue;
    const pair = grown.find(({ original: o }) => at >= o.sh_offset && at < o.sh_offset + o.sh_size);
    const now = pair && rewritten.bytes[pair.rewritten.sh_offset + at - pair.original.sh_offset];
    if (pair === undefined || (byte !== original.bytes[at] && byte !== now)) return at;
  }
  return -1;
}

/** The bytes where moved sections stood, and those that the longer table and the sections that slid up stand on now. */
function judgeVacated(
  original: ElfImage,
  rewritten: ElfImage,
  moved: readonly SectionPair[],
  grown: ReadonlyMap<number, number>,
  asLaidOut: boolean,
): Ruling {
  const findings: Finding[] = [];
  const oldTable = tableStretch(original);
  const table = tableStretch(rewritten);
  const grew = table.start === oldTable.start && table.end > oldTable.end;
  const vacated = moved
    .filter(({ original: o }) => o.sh_type !== elf.SHT_NOBITS && !isUnwindTable(original, o))
    .map(({ original: o }) => interval(o.sh_offset, o.sh_size));
  const growth: Interval<FileOffset>[] = grew ? [{ start: oldTable.end, end: table.end }] : [];
  const segment = original.programHeaders.find(
    (p) => p.p_type === elf.PT_LOAD && p.p_offset <= oldTable.start && oldTable.end <= p.p_offset + p.p_filesz,
  );
  const border = segment === undefined ? table.end : segment.p_offset + segment.p_filesz;
  // Sections that slid stand after the table, where others moved away or padding was: what they cover is judged below.
  const slid = moved
    .filter(({ rewritten: r }) => grew && r.sh_offset >= table.end && r.sh_offset < border)
    // Where unwind tables may stand frames.ts says.
    .filter(({ original: o }) => !isUnwindTable(original, o))
    .map(({ rewritten: r }) => interval(r.sh_offset, r.sh_size));
  const occupied = [...growth, ...slid].sort((a, b) => a.start - b.start);
  occupied.forEach((place, i) => {
    if (i > 0 && place.start < occupied[i - 1]!.end)
      findings.push(finding("loaded", `offset 0x${place.start.toString(16)}`, "two things stand in one place"));
  });
  const free = union(vacated);
  // Nothing that stays may be overwritten.
  for (const place of occupied)
    for (const { start, end } of outside(free, place)) {
      const owner = original.sections.find(
        (s) =>
          s.sh_type !== elf.SHT_NULL &&
          s.sh_type !== elf.SHT_NOBITS &&
          s.sh_offset < end &&
          s.sh_offset + s.sh_size > start,
      );
      if (owner !== undefined || firstNonZero(original.bytes.subarray(start, end)) >= 0)
        findings.push(
          finding(
            "loaded",
            `offset 0x${start.toString(16)}`,
            `the program header table, or what moved, covers ${owner?.name ?? "bytes that were no padding"}`,
          ),
        );
    }
  const taken = union(occupied);
  const longer = moved.filter(({ original: o }) => grown.has(o.index));
  if (asLaidOut)
    for (const place of free)
      for (const left of outside(taken, place)) {
        const at = firstLeft(original, rewritten, longer, left);
        if (at >= 0)
          findings.push(
            finding("loaded", `offset 0x${at.toString(16)}`, "a byte that is not zero where a section was moved away"),
          );
      }
  const judged = [...vacated, ...occupied, ...(table.start === oldTable.start ? [oldTable] : [])];
  return { findings, judged };
}
