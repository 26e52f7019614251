/**
 * What is not loaded: sections that only section headers lead to have the content they had, wherever it stands now;
 * after it everything stand the same trailing bytes; and where nothing is said to be, there is nothing but what was
 * there before.
 */

import { type FileOffset, fileOffset, type Interval, interval } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { type ElfImage, sectionBytes } from "../../elf/image.js";
import { outside, union } from "../../intervals.js";
import { firstNonZero } from "../../sparse-content.js";
import { atOffset, type Finding, finding } from "./findings.js";
import { describe, differs } from "./loaded.js";
import { tableStretch } from "./moved.js";
import { differingRuns, unjudgedRuns } from "./runs.js";
import { isNameTable, type SectionPairs } from "./sections.js";

/**
 * Compares the content of sections that are not loaded.
 * @param judged stretches of the original's file that rules have judged, ascending and disjoint
 */
export function compareUnloaded(
  original: ElfImage,
  rewritten: ElfImage,
  { pairs }: SectionPairs,
  judged: readonly Interval<FileOffset>[],
  asLaidOut: boolean,
): Finding[] {
  const findings: Finding[] = [];
  for (const { original: o, rewritten: r } of pairs) {
    // Other tools write tables of names anew; section headers and symbols name the same all the same.
    if (!asLaidOut && o.sh_type === elf.SHT_STRTAB && isNameTable(original, o)) continue;
    if (o.sh_flags & elf.SHF_ALLOC || o.sh_type === elf.SHT_NULL) continue;
    const [before, now] = [sectionBytes(original, o), sectionBytes(rewritten, r)];
    const size = Math.min(before.length, now.length);
    const runs = unjudgedRuns(before.subarray(0, size), now.subarray(0, size), o.sh_offset, judged);
    findings.push(
      ...describe(runs, (run) =>
        finding("described", atOffset(r.sh_offset + run.start), differs(o.name || "a section", before, now, run)),
      ),
    );
  }
  return findings;
}

/** Everything in a file that its headers describe, in file offsets. */
function describedStretches(image: ElfImage): Interval<FileOffset>[] {
  const { header, programHeaders, sections } = image;
  return [
    interval(fileOffset(0), elf.EHDR_SIZE),
    tableStretch(image),
    interval(header.e_shoff, header.e_shnum * elf.SHDR_SIZE),
    ...programHeaders.filter((p) => p.p_type !== elf.PT_NULL).map((p) => interval(p.p_offset, p.p_filesz)),
    ...sections
      .filter((s) => s.sh_type !== elf.SHT_NULL && s.sh_type !== elf.SHT_NOBITS)
      .map((s) => interval(s.sh_offset, s.sh_size)),
  ];
}

/** Judges the bytes that no header describes: between what is described, and after it. */
export function judgeUndescribed(original: ElfImage, rewritten: ElfImage): Finding[] {
  const findings: Finding[] = [];
  const described = union(describedStretches(rewritten));
  const end = described.at(-1)?.end ?? fileOffset(0);
  const endBefore = union(describedStretches(original)).at(-1)?.end ?? 0;
  const say = (at: number, what: string): void => {
    findings.push(finding("described", atOffset(at), what));
  };
  const [before, now] = [original.bytes.subarray(endBefore), rewritten.bytes.subarray(end)];
  if (original.zeroTail !== rewritten.zeroTail)
    say(rewritten.bytes.length, `${rewritten.zeroTail} zeros at the end of the file, not ${original.zeroTail}`);
  if (before.length !== now.length)
    say(end, `${now.length} bytes stand after everything that headers describe, not ${before.length}`);
  else
    findings.push(
      ...describe(differingRuns(before, now), (run) =>
        finding("described", atOffset(end + run.start), differs("what is appended", before, now, run)),
      ),
    );
  // Who knows of it by an offset finds it where it was.
  if (!rewritten.bytes.subarray(endBefore, endBefore + before.length).equals(before))
    say(endBefore, "what is appended to the original does not stand here any more");
  const loaded = Math.max(
    ...original.programHeaders.filter((p) => p.p_type === elf.PT_LOAD).map((p) => p.p_offset + p.p_filesz),
  );
  // In holes there is nothing.
  for (const gap of outside(union([...described, ...rewritten.holes]), { start: fileOffset(0), end })) {
    const bytes = rewritten.bytes.subarray(gap.start, gap.end);
    if (firstNonZero(bytes) < 0) continue;
    // What is left of the original where it was is no news: padding, appended data, what a section was that grew.
    const was = original.bytes.subarray(gap.start, gap.end);
    const size = Math.min(was.length, bytes.length);
    // Zeros are what is left where tables stood that have moved; after what is loaded there is no such place.
    const isWhole = gap.start >= loaded && before.length > 0;
    for (const run of differingRuns(was.subarray(0, size), bytes.subarray(0, size)))
      if (isWhole || firstNonZero(bytes.subarray(run.start, run.end)) >= 0)
        say(gap.start + run.start, "bytes that no header describes, and that were not there");
    if (firstNonZero(bytes.subarray(size)) >= 0)
      say(gap.start + size, "bytes that no header describes, and that were not there");
  }
  return findings;
}
