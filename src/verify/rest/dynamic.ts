/**
 * The dynamic section: every tag says the same, but for those that told where a section was which stands elsewhere now;
 * these tell its new place. A fork guard has other values for some, and takes unused entries for a few more.
 */
import { type FileOffset, hex, type Interval, interval } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { readDynamicTags } from "../../elf/dynamic.js";
import { type ElfImage, read64 } from "../../elf/image.js";
import type { Guard } from "../guard/guard.js";
import { atAddress, type Finding, finding, loadedBytes, type Ruling } from "./findings.js";
import { sectionTags } from "./left-places.js";
import { movedPairs } from "./moved.js";
import type { SectionPairs } from "./sections.js";

const TAG_SIZE = 16;

export function judgeDynamic(
  original: ElfImage,
  rewritten: ElfImage,
  pairs: SectionPairs,
  guard: Guard | undefined,
  asLaidOut: boolean,
): Ruling {
  const segment = original.programHeaders.find((p) => p.p_type === elf.PT_DYNAMIC);
  if (segment !== undefined && !asLaidOut && addressOf(rewritten) !== segment.p_vaddr)
    return { findings: compareTags(original, rewritten, pairs, guard), judged: [] };
  const now = segment && loadedBytes(rewritten, segment.p_vaddr, segment.p_filesz);
  if (segment === undefined || now === undefined) return { findings: [], judged: [] };
  const findings: Finding[] = [];
  const view = new DataView(now.buffer, now.byteOffset, now.byteLength);
  const movedTo = new Map(
    movedPairs(pairs).map(({ original: o, rewritten: r }) => [o.sh_addr as number, r.sh_addr as number]),
  );
  const whole = segment.p_filesz - (segment.p_filesz % TAG_SIZE);
  const added = [...(guard?.addedTags ?? [])];
  let ended = false;
  for (let at = 0; at < whole; at += TAG_SIZE) {
    const tag = read64(original.view, segment.p_offset + at);
    const value = read64(original.view, segment.p_offset + at + 8);
    const where = atAddress(segment.p_vaddr + at);
    const is = read64(view, at + 8);
    if (tag === elf.DT_NULL && value === 0 && added.length > 0) {
      // The table still has to end.
      const [number, wanted] = added.shift()!;
      const isLast = at + TAG_SIZE >= whole;
      if (read64(view, at) !== number || is !== wanted || isLast)
        findings.push(finding("loaded", where, `${nameOf(read64(view, at))} ${hex(is)} is new`));
      continue;
    }
    if (read64(view, at) !== tag) {
      findings.push(finding("loaded", where, `a dynamic tag is ${hex(read64(view, at))}, not ${hex(tag)}`));
      continue;
    }
    const elsewhere = sectionTags.has(tag) ? movedTo.get(value) : guard?.tagValues.get(tag);
    const expected = (ended ? undefined : elsewhere) ?? value;
    if (is !== expected) findings.push(finding("loaded", where, `${nameOf(tag)} is ${hex(is)}, not ${hex(expected)}`));
    ended ||= tag === elf.DT_NULL;
  }
  const judged: Interval<FileOffset>[] = [interval(segment.p_offset, whole)];
  return { findings, judged };
}

const addressOf = (image: ElfImage): number | undefined =>
  image.programHeaders.find((p) => p.p_type === elf.PT_DYNAMIC)?.p_vaddr;

/** The tags of a dynamic section that another tool has moved: each is there, in whatever order, and no other. */
function compareTags(
  original: ElfImage,
  rewritten: ElfImage,
  pairs: SectionPairs,
  guard: Guard | undefined,
): Finding[] {
  const movedTo = new Map(
    movedPairs(pairs).map(({ original: o, rewritten: r }) => [o.sh_addr as number, r.sh_addr as number]),
  );
  const open = [...readDynamicTags(rewritten)];
  const findings: Finding[] = [];
  for (const { d_tag, d_val } of readDynamicTags(original)) {
    const value = (sectionTags.has(d_tag) ? movedTo.get(d_val) : guard?.tagValues.get(d_tag)) ?? d_val;
    const at = open.findIndex((t) => t.d_tag === d_tag && t.d_val === value);
    if (at >= 0) open.splice(at, 1);
    else findings.push(finding("loaded", "the dynamic section", `${nameOf(d_tag)} ${hex(value)} is gone`));
  }
  for (const [tag, value] of guard?.addedTags ?? []) {
    const at = open.findIndex((t) => t.d_tag === tag && t.d_val === value);
    if (at >= 0) open.splice(at, 1);
  }
  for (const { d_tag, d_val } of open)
    findings.push(finding("loaded", "the dynamic section", `${nameOf(d_tag)} ${hex(d_val)} is new`));
  return findings;
}

const names: ReadonlyMap<number, string> = new Map([
  ...sectionTags,
  [1, "DT_NEEDED"],
  [10, "DT_STRSZ"],
  [elf.DT_INIT, "DT_INIT"],
  [elf.DT_FINI, "DT_FINI"],
  [elf.DT_RELASZ, "DT_RELASZ"],
  [elf.DT_PREINIT_ARRAY, "DT_PREINIT_ARRAY"],
  [elf.DT_PREINIT_ARRAYSZ, "DT_PREINIT_ARRAYSZ"],
  [14, "DT_SONAME"],
  [15, "DT_RPATH"],
  [29, "DT_RUNPATH"],
]);

const nameOf = (tag: number): string => names.get(tag) ?? `dynamic tag ${hex(tag)}`;
