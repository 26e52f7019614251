/**
 * Which bytes of code are not what they were: at the addresses that both files have, and at those that only the rewritten
 * one has.
 */

import { type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, isCode, type Section } from "../elf/image.js";
import { countWhile } from "../sorted.js";
import { differingRuns, outside, union } from "./rest/runs.js";

/** Link-time addresses, [start, end). */
export interface Stretch {
  readonly start: Vaddr;
  readonly end: Vaddr;
}

export interface ChangedCode {
  /** Runs of bytes in sections of code of the original that are others, or missing, in the rewritten file; ascending. */
  readonly changed: readonly Stretch[];
  /** What the rewritten file has in executable segments at addresses that belong to no segment of the original; ascending. */
  readonly added: readonly Stretch[];
}

/** Compares the code of two files, by link-time addresses. */
export function compareCode(original: ElfImage, rewritten: ElfImage): ChangedCode {
  const runs: { start: number; end: number }[] = [];
  for (const section of original.sections.filter(isCode)) compareSection(original, rewritten, section, runs);
  runs.sort((a, b) => a.start - b.start);
  return { changed: runs.map(stretch), added: addedCode(original, rewritten) };
}

export const stretch = ({ start, end }: { start: number; end: number }): Stretch => ({
  start: vaddr(start),
  end: vaddr(end),
});

/** Whether [start, end) and any of the stretches, which ascend and are disjoint, have a byte in common. */
export function touches(stretches: readonly Stretch[], start: number, end: number): boolean {
  const low = countWhile(stretches.length, (i) => stretches[i]!.end <= start);
  const found = stretches[low];
  return found !== undefined && found.start < end;
}

/** Stretches in any order, as ascending disjoint ones. */
export const united = (stretches: Iterable<{ readonly start: number; readonly end: number }>): readonly Stretch[] =>
  union([...stretches]).map(stretch);

/** What is left of `whole` without `parts`, both ascending and disjoint. */
export const without = (whole: readonly Stretch[], parts: readonly Stretch[]): readonly Stretch[] =>
  whole.flatMap(({ start, end }) => outside(parts, start, end)).map(stretch);

/** The segments that hold `[start, end)` in the file, piece by piece; what none holds is left out. */
function pieces(image: ElfImage, start: number, end: number): { start: number; end: number; offset: number }[] {
  return image.programHeaders.flatMap(({ p_type, p_vaddr, p_filesz, p_offset }) => {
    const from = Math.max(start, p_vaddr);
    const to = Math.min(end, p_vaddr + p_filesz);
    return p_type === elf.PT_LOAD && to > from ? [{ start: from, end: to, offset: from - p_vaddr + p_offset }] : [];
  });
}

function compareSection(
  original: ElfImage,
  rewritten: ElfImage,
  { sh_addr, sh_offset, sh_size }: Section,
  runs: { start: number; end: number }[],
): void {
  const whole = [stretch({ start: sh_addr, end: sh_addr + sh_size })];
  const there = pieces(rewritten, sh_addr, sh_addr + sh_size);
  for (const missing of without(whole, united(there))) runs.push({ ...missing });
  for (const { start, end, offset } of there) {
    const before = original.bytes.subarray(sh_offset + start - sh_addr, sh_offset + end - sh_addr);
    const after = rewritten.bytes.subarray(offset, offset + end - start);
    for (const run of differingRuns(before, after)) runs.push({ start: start + run.start, end: start + run.end });
  }
}

/** Executable bytes at addresses where the original has no segment, or none of its file. Other sections are no code. */
function addedCode(original: ElfImage, rewritten: ElfImage): readonly Stretch[] {
  const loads = (image: ElfImage) => image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD);
  const known = united(loads(original).map((p) => ({ start: p.p_vaddr, end: p.p_vaddr + p.p_filesz })));
  const isData = ({ sh_flags, sh_type }: Section): boolean =>
    (sh_flags & elf.SHF_ALLOC) !== 0 && (sh_flags & elf.SHF_EXECINSTR) === 0 && sh_type !== elf.SHT_NOBITS;
  const data = united(rewritten.sections.filter(isData).map((s) => ({ start: s.sh_addr, end: s.sh_addr + s.sh_size })));
  const executable = loads(rewritten)
    .filter((p) => (p.p_flags & elf.PF_X) !== 0)
    .map((p) => ({ start: p.p_vaddr, end: p.p_vaddr + p.p_filesz }));
  return without(without(united(executable), known), data);
}
