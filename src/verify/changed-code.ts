/**
 * Which bytes of code are not what they were: at the addresses that both files have, and at those that only the
 * rewritten one has.
 */

import { type FileOffset, fileOffset, type Interval, interval, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, isCode, type Section } from "../elf/image.js";
import { union, without } from "../intervals.js";
import { differingRuns } from "./rest/runs.js";

export interface ChangedCode {
  /**
   * Runs of bytes in sections of code of the original that are others, or missing, in the rewritten file; ascending.
   */
  readonly changed: readonly Interval<Vaddr>[];
  /**
   * What the rewritten file has in executable segments at addresses that belong to no segment of the original;
   * ascending.
   */
  readonly added: readonly Interval<Vaddr>[];
}

/** Compares the code of two files, by link-time addresses. */
export function compareCode(original: ElfImage, rewritten: ElfImage): ChangedCode {
  const changed = original.sections.filter(isCode).flatMap((section) => compareSection(original, rewritten, section));
  changed.sort((a, b) => a.start - b.start);
  return { changed, added: addedCode(original, rewritten) };
}

/** An interval that a segment holds, and where it stands in the file. */
interface Piece extends Interval<Vaddr> {
  readonly offset: FileOffset;
}

/** The segments that hold `[start, end)` in the file, piece by piece; what none holds is left out. */
function pieces(image: ElfImage, { start, end }: Interval<Vaddr>): Piece[] {
  return image.programHeaders.flatMap(({ p_type, p_vaddr, p_filesz, p_offset }) => {
    const from = vaddr(Math.max(start, p_vaddr));
    const size = Math.min(end, p_vaddr + p_filesz) - from;
    if (p_type !== elf.PT_LOAD || size <= 0) return [];
    return [{ ...interval(from, size), offset: fileOffset(from - p_vaddr + p_offset) }];
  });
}

function compareSection(
  original: ElfImage,
  rewritten: ElfImage,
  { sh_addr, sh_offset, sh_size }: Section,
): Interval<Vaddr>[] {
  const whole = interval(sh_addr, sh_size);
  const there = pieces(rewritten, whole);
  const runs = [...without([whole], union(there))];
  for (const { start, end, offset } of there) {
    const before = original.bytes.subarray(sh_offset + start - sh_addr, sh_offset + end - sh_addr);
    const after = rewritten.bytes.subarray(offset, offset + end - start);
    for (const run of differingRuns(before, after))
      runs.push({ start: vaddr(start + run.start), end: vaddr(start + run.end) });
  }
  return runs;
}

/** Executable bytes at addresses where the original has no segment, or none of its file. Other sections are no code. */
function addedCode(original: ElfImage, rewritten: ElfImage): readonly Interval<Vaddr>[] {
  const loads = (image: ElfImage) => image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD);
  const known = union(loads(original).map((p) => interval(p.p_vaddr, p.p_filesz)));
  const isData = ({ sh_flags, sh_type }: Section): boolean =>
    (sh_flags & elf.SHF_ALLOC) !== 0 && (sh_flags & elf.SHF_EXECINSTR) === 0 && sh_type !== elf.SHT_NOBITS;
  const data = union(rewritten.sections.filter(isData).map((s) => interval(s.sh_addr, s.sh_size)));
  const executable = loads(rewritten)
    .filter((p) => (p.p_flags & elf.PF_X) !== 0)
    .map((p) => interval(p.p_vaddr, p.p_filesz));
  return without(without(union(executable), known), data);
}
