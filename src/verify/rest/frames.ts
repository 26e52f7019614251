/**
 * `.eh_frame`: a function may end later than before, since its last block moved up into the padding after it. Then the
 * length in its FDE says so. And new code has records of its own: after the others, and then the section and
 * `.eh_frame_hdr` have moved; or in front of the others, which stay, where the header stood. Nothing else of them is
 * another (unwind-records.ts, new-frames.ts).
 *
 * Where they stood there are zeros now, or, where something else may lead there, what was there.
 */

import { type FileOffset, fileOffset, hex, type Interval, interval, type Vaddr, vaddr } from "../../address.js";
import { type EhFrame, readEhFrame } from "../../elf/eh-frame.js";
import { type ElfImage, type Section, sectionBytes } from "../../elf/image.js";
import { InputError } from "../../errors.js";
import { leadsInto } from "../../facts/unwind-references.js";
import { outside, union } from "../../intervals.js";
import { firstNonZero } from "../../sparse-content.js";
import { codeFrom } from "../../usdt/sites.js";
import { LONGEST_INSTRUCTION } from "../../x86/bytes.js";
import { paddingLength } from "../../x86/nops.js";
import type { FrameOrigin } from "../same-code.js";
import { atAddress, atOffset, type Finding, finding, type Ruling } from "./findings.js";
import { judgeNewFrames } from "./new-frames.js";
import { unjudgedRuns } from "./runs.js";
import { isUnwindTable, type SectionPair, type SectionPairs } from "./sections.js";
import { compareRecords, isInFront, judgeHeader } from "./unwind-records.js";

/** A function part that ends later than before. */
export interface Growth {
  readonly start: Vaddr;
  readonly oldEnd: Vaddr;
  readonly newEnd: Vaddr;
}

interface FrameRuling extends Ruling {
  readonly growths: readonly Growth[];
}

/**
 * @param explained the stretches of the original's addresses that sites explain, ascending and disjoint
 * @param origins for each instruction of new code, where the original is then
 * @param asLaidOut whether the file has the layout that rewrite gave it
 */
export function judgeFrames(
  original: ElfImage,
  rewritten: ElfImage,
  sections: SectionPairs,
  explained: readonly Interval<Vaddr>[],
  origins: readonly FrameOrigin[],
  asLaidOut: boolean,
): FrameRuling {
  const { pairs } = sections;
  const own = pairs.filter(({ original: o }) => o.name === ".eh_frame");
  const same = ({ original: o, rewritten: r }: (typeof own)[number]): boolean =>
    Buffer.compare(sectionBytes(original, o), sectionBytes(rewritten, r)) === 0;
  // Nothing is wrong with what is the same; and what is not needed is not read.
  if (own.every(same)) return { findings: [], judged: [], growths: [] };
  const findings: Finding[] = [];
  const judged: Interval<FileOffset>[] = [];
  const growths: Growth[] = [];
  let before: EhFrame;
  let now: EhFrame;
  try {
    before = readEhFrame(original);
    now = readEhFrame(rewritten);
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return { findings: [finding("loaded", error.where ?? ".eh_frame", error.what)], judged, growths };
  }
  // Where this does not fit, bytes differ that nobody judges.
  if (now.count < before.count) return { findings, judged, growths };
  // New records may stand between the old ones, and several may be about one address.
  for (let i = 0, at = 0; i < before.count; i++, at++) {
    const [start, oldEnd] = [before.starts[i]!, before.ends[i]!];
    while (at < now.count && now.starts[at]! < start) at++;
    const newEnd = now.ends[at];
    if (now.starts[at] !== start || newEnd === undefined || newEnd === oldEnd) continue;
    const offset = before.fde(i).rangeOffset;
    if (offset === undefined) continue;
    judged.push(interval(offset, 4));
    const growth: Growth = { start: vaddr(start), oldEnd: vaddr(oldEnd), newEnd: vaddr(newEnd) };
    const problem =
      newEnd < oldEnd ? "ends earlier than before" : growthProblem(original, growth, explained, before, i);
    if (problem === undefined) growths.push(growth);
    else findings.push(finding("loaded", atOffset(offset), `the function part at ${hex(start)} ${problem}`));
  }
  const frames = own.find(({ original: o, rewritten: r }) => o.sh_addr !== r.sh_addr);
  if (frames === undefined) {
    if (now.count > before.count) findings.push(finding("loaded", ".eh_frame", "there are new unwind records"));
    return { findings, judged, growths };
  }
  const header = pairs.find((p) => p !== frames && isUnwindTable(original, p.original));
  try {
    findings.push(
      ...compareRecords(original, rewritten, frames, judged),
      ...(header === undefined ? [] : judgeHeader(original, rewritten, header, frames, before, now)),
      ...judgeNewFrames(original, rewritten, before, now, sections.code, origins),
    );
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    findings.push(finding("loaded", error.where ?? ".eh_frame", error.what));
  }
  const moved: readonly SectionPair[] = header === undefined ? [frames] : [frames, header];
  if (isInFront(frames)) {
    // The new records are judged above; what is left of the header's place is nothing.
    const { original: o, rewritten: r } = frames;
    const from = header?.original.sh_offset ?? r.sh_offset;
    const left = { ...o, name: ".eh_frame_hdr", sh_offset: from, sh_size: Math.max(0, r.sh_offset - from) };
    if (asLaidOut && header !== undefined)
      findings.push(...judgeLeft(original, rewritten, left, judged, leadsInto(original, header.original)));
    judged.push({ start: fileOffset(Math.min(from, r.sh_offset)), end: fileOffset(o.sh_offset + o.sh_size) });
    return { findings, judged, growths };
  }
  const isReferenced = moved.some(({ original: o }) => leadsInto(original, o));
  for (const { original: o } of moved) {
    if (asLaidOut) findings.push(...judgeLeft(original, rewritten, o, judged, isReferenced));
  }
  judged.push(...moved.map(({ original: o }) => interval(o.sh_offset, o.sh_size)));
  return { findings, judged, growths };
}

/** What stands where a table stood: zeros, unless something may lead there; then what stood there. */
function judgeLeft(
  original: ElfImage,
  rewritten: ElfImage,
  { sh_offset, sh_size, name }: Pick<Section, "sh_offset" | "sh_size" | "name">,
  judged: readonly Interval<FileOffset>[],
  isReferenced: boolean,
): Finding[] {
  const [before, now] = [original, rewritten].map((i) => i.bytes.subarray(sh_offset, sh_offset + sh_size)) as [
    Buffer,
    Buffer,
  ];
  if (!isReferenced && firstNonZero(now) < 0) return [];
  for (const { start } of unjudgedRuns(before, now, sh_offset, union(judged)))
    return [
      finding("loaded", atOffset(sh_offset + start), `where ${name} stood there is neither what it was nor nothing`),
    ];
  return [];
}

/** Why a function cannot end at `newEnd`, or undefined. */
function growthProblem(
  original: ElfImage,
  { oldEnd, newEnd }: Growth,
  explained: readonly Interval<Vaddr>[],
  frames: EhFrame,
  index: number,
): string | undefined {
  const next = frames.starts[index + 1];
  if (next !== undefined && next < newEnd) return `would reach into the one ${atAddress(next)}`;
  return paddingProblem(original, { start: oldEnd, end: newEnd }, explained);
}

/** Why an interval is no padding into which a block may have moved, or undefined. */
export function paddingProblem(
  original: ElfImage,
  place: Interval<Vaddr>,
  explained: readonly Interval<Vaddr>[],
): string | undefined {
  const { start, end } = place;
  // The last nop of the padding may have been longer than what the block takes of it.
  const bytes = codeFrom(original, start)?.subarray(0, end - start + LONGEST_INSTRUCTION);
  if (bytes === undefined || paddingLength(bytes, 0, bytes.length, end - start) < end - start)
    return `ends at ${hex(end)}, where no padding was`;
  if (outside(explained, place).length > 0) return `ends at ${hex(end)}, and no probe explains that`;
  return undefined;
}
