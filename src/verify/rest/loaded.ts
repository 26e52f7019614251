/**
 * What is in memory: at every address where the original has bytes of its file the rewritten file has the same, unless
 * a rule has judged them; and at addresses that only the rewritten file has, there is nothing but what moved there, new
 * code and zeros.
 */

import { type FileOffset, fileOffset, type Interval, interval, type Vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { type ElfImage, type ProgramHeader, type Section, sectionBytes } from "../../elf/image.js";
import { outside, union } from "../../intervals.js";
import { firstNonZero } from "../../sparse-content.js";
import { atAddress, atOffset, type Finding, finding, sectionAt, shown } from "./findings.js";
import { tableStretch } from "./moved.js";
import { unjudgedRuns } from "./runs.js";
import type { SectionPairs } from "./sections.js";
import type { SegmentPairs } from "./segments.js";

/** Differences that are closer to each other are one. */
const CLOSE = 16;
/** Nobody reads more of one kind; the rest is counted. */
const MOST = 30;

/**
 * Compares what both files load.
 * @param judged stretches of the original's file that rules have judged, ascending and disjoint
 */
export function compareLoaded(
  original: ElfImage,
  rewritten: ElfImage,
  { pairs }: SegmentPairs,
  judged: readonly Interval<FileOffset>[],
): Finding[] {
  const findings: Finding[] = [];
  for (const { original: o, rewritten: r } of pairs) {
    if (o.p_type !== elf.PT_LOAD) continue;
    const size = Math.min(o.p_filesz, r.p_filesz);
    const [before, now] = [bytesAt(original, o, size), bytesAt(rewritten, r, size)];
    findings.push(
      ...describe(unjudgedRuns(before, now, o.p_offset, judged), (run) => {
        const section = sectionAt(original, o.p_offset + run.start);
        return finding("loaded", atAddress(o.p_vaddr + run.start), differs(section, before, now, run));
      }),
    );
  }
  return findings;
}

const bytesAt = (image: ElfImage, p: ProgramHeader, size: number): Buffer =>
  image.bytes.subarray(p.p_offset, p.p_offset + size);

/** Findings for runs that differ: those close to each other as one, and no more than anybody reads. */
export function describe(runs: Iterable<Interval>, say: (run: Interval) => Finding): Finding[] {
  const joined: { start: number; end: number }[] = [];
  for (const { start, end } of runs) {
    const last = joined.at(-1);
    if (last !== undefined && start - last.end < CLOSE) last.end = end;
    else joined.push({ start, end });
  }
  const findings = joined.slice(0, MOST).map(say);
  if (joined.length > MOST) {
    const { part, where } = say(joined[MOST]!);
    findings.push(finding(part, where, `and ${joined.length - MOST} more differences from here on`));
  }
  return findings;
}

export function differs(section: string, before: Uint8Array, now: Uint8Array, { start, end }: Interval): string {
  const [b, n] = [before.subarray(start, end), now.subarray(start, end)];
  return `${end - start === 1 ? "a byte differs" : `bytes differ within ${end - start} bytes`} in ${section}: ${shown(n)}, not ${shown(b)}`;
}

/** Judges what the rewritten file loads at addresses that the original has not. */
export function judgeAdded(
  original: ElfImage,
  rewritten: ElfImage,
  segments: SegmentPairs,
  { pairs, code, far, exceptions }: SectionPairs,
): Finding[] {
  const added = segments.added.filter((p) => p.p_type === elf.PT_LOAD).map((p) => interval(p.p_offset, p.p_filesz));
  for (const { original: o, rewritten: r } of segments.pairs)
    if (o.p_type === elf.PT_LOAD && r.p_filesz > o.p_filesz)
      added.push(interval(fileOffset(r.p_offset + o.p_filesz), r.p_filesz - o.p_filesz));
  const explained = pairs
    .filter(({ original: o, rewritten: r }) => o.sh_addr !== r.sh_addr && r.sh_type !== elf.SHT_NOBITS)
    .map(({ rewritten: r }) => interval(r.sh_offset, r.sh_size));
  for (const s of [code, exceptions, ...far]) if (s !== undefined) explained.push(interval(s.sh_offset, s.sh_size));
  if (original.header.e_phoff !== rewritten.header.e_phoff) explained.push(tableStretch(rewritten));
  const findings: Finding[] = [];
  const known = union(explained);
  for (const place of added)
    for (const { start, end } of outside(known, place)) {
      const at = firstNonZero(rewritten.bytes.subarray(start, end));
      if (at >= 0)
        findings.push(finding("loaded", atOffset(start + at), "something new is loaded that nothing explains"));
    }
  for (const s of [code, ...far])
    if (s !== undefined && outside(union(added), interval(s.sh_offset, s.sh_size)).length > 0)
      findings.push(finding("loaded", atAddress(s.sh_addr), `${s.name} covers what was there before`));
  return findings;
}

/**
 * New code that no probe leads to: there is only int3 between what they lead to.
 * @param explained stretches of the rewritten file's addresses that sites explain, ascending and disjoint
 */
export function judgeFill(
  rewritten: ElfImage,
  { code, far }: SectionPairs,
  explained: readonly Interval<Vaddr>[],
): Finding[] {
  return [...(code ? [code] : []), ...far].flatMap((s) => judgeFillOf(rewritten, s, explained));
}

function judgeFillOf(rewritten: ElfImage, code: Section, explained: readonly Interval<Vaddr>[]): Finding[] {
  const bytes = sectionBytes(rewritten, code);
  const runs: Interval[] = [];
  for (const { start, end } of outside(explained, interval(code.sh_addr, code.sh_size)))
    for (let at = start; at < end; at++)
      if (bytes[at - code.sh_addr] !== 0xcc) runs.push({ start: at - code.sh_addr, end: at - code.sh_addr + 1 });
  return describe(runs, (run) =>
    finding(
      "loaded",
      atAddress(code.sh_addr + run.start),
      `new code that no probe leads to: ${shown(bytes.subarray(run.start, run.end))}`,
    ),
  );
}
