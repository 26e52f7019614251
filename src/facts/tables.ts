/**
 * Jump tables, differences of labels and words relative to themselves: words that lead to a site's surroundings alone or
 * added to something.
 *
 * The question is asked broadly first (parts.ts: every base that may be made, every word that may be added), and what
 * turns up is settled by decoding the parts of the function in question.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import { type ElfImage, sectionBytes } from "../elf/image.js";
import { addressOf, indexAt, lengthOf } from "../x86/decode.js";
import { paddingLength } from "../x86/nops.js";
import { constantsOf } from "../x86/relocate.js";
import type { Entries } from "./entries.js";
import type { CodeRange, FunctionIndex } from "./functions.js";
import { type Group, groupOf } from "./groups.js";
import { type Neighbourhoods, REACH_BEFORE, REACH_BEHIND } from "./neighbourhoods.js";
import type { PartIndex } from "./parts.js";
import { type BaseQuery, type DataHit, type DataRange, dataRanges, scanData } from "./scan-data.js";

export interface TableContext {
  readonly image: ElfImage;
  readonly functions: FunctionIndex;
  readonly parts: PartIndex;
  readonly near: Neighbourhoods;
  readonly entries: Entries;
  /** For programs with fixed addresses (ET_EXEC), the lowest one. */
  readonly lowest: Vaddr | undefined;
}

export function addTables(context: TableContext, sites: readonly Vaddr[]): void {
  const { image, functions, parts, near, entries, lowest } = context;
  const basesOfRange = new Map<number, ReadonlySet<number>>();
  const among = new Map<number, CodeRange>();
  const queries: BaseQuery[] = [];
  for (const site of sites) {
    const range = functions.containing(site);
    if (range === undefined) continue;
    let bases = basesOfRange.get(range.index);
    if (bases === undefined) {
      const all = parts.partsOf(range);
      bases = new Set(all.flatMap((part) => parts.basesOf(part)));
      basesOfRange.set(range.index, bases);
      for (const part of all) among.set(part.index, part);
      // A base that is no function's start, among the code: the table may stand there.
      for (const base of bases) {
        const around = functions.containing(base);
        if (around !== undefined && around.start !== base) among.set(around.index, around);
      }
    }
    queries.push({ range, bases, start: vaddr(site - REACH_BEFORE), end: vaddr(site + REACH_BEHIND) });
  }
  // Words relative to themselves and absolute ones among the code have been found by scanCode already.
  const inCode = [...among.values()].map((r): DataRange => ({ bytes: functions.bytes(r), start: r.start, step: 1 }));
  const codeRanges = [...codeGaps(image, functions), ...inCode].map((r) => ({ ...r, onlyTables: true }));
  const groups = new Map<number, Group>();
  const groupAt = (range: CodeRange): Group => {
    const group = groups.get(range.index) ?? groupOf(range, functions, parts.incoming, lowest);
    groups.set(range.index, group);
    return group;
  };
  for (const hit of scanData([...dataRanges(image), ...codeRanges], near, queries, lowest !== undefined)) {
    if (hit.reading === "absolute") entries.add(hit.target, describe(hit));
    else
      entries.addQuestion(hit.target, () => {
        if (splitsInstruction(hit.target, functions)) return;
        if (hit.reading === "table" && !mayUse(groupAt(hit.query.range), hit, functions)) return;
        entries.add(hit.target, describe(hit));
      });
  }
}

/** Whether code of the group may add this word to that base and jump there. */
function mayUse(group: Group, hit: DataHit & { reading: "table" }, functions: FunctionIndex): boolean {
  if (group.unclean !== undefined) return true;
  if (!group.jumpsIndirectly || !group.bases.has(hit.base)) return false;
  const range = functions.containing(hit.at);
  const code = range && functions.code(range);
  if (code === undefined || code.unclean !== undefined) return true;
  // In code that decodes, a word is added to something only as a constant of an instruction.
  const index = indexAt(code, hit.at);
  const at = addressOf(code, index);
  const bytes = code.bytes.subarray(at - code.start, at - code.start + lengthOf(code, index));
  return constantsOf(bytes, at).some((c) => at + c.offset === hit.at);
}

/**
 * Whether an address lies inside an instruction of a function that decodes without a contradiction. A word that leads
 * there only by being added to something else is no table's entry, but other data.
 */
function splitsInstruction(address: Vaddr, functions: FunctionIndex): boolean {
  const range = functions.containing(address);
  const code = range && functions.code(range);
  return code !== undefined && code.unclean === undefined && addressOf(code, indexAt(code, address)) !== address;
}

function describe({ at, reading }: DataHit): string {
  if (reading === "absolute") return `the address in the data at ${hex(at)}`;
  if (reading === "table") return `what may be a jump table's entry or a difference of labels, at ${hex(at)},`;
  return `a word relative to its own address, at ${hex(at)},`;
}

/** The stretches of code sections that belong to no function and are no padding. */
function codeGaps(image: ElfImage, functions: FunctionIndex): DataRange[] {
  const gaps: DataRange[] = [];
  for (const section of functions.codeSections) {
    const bytes = sectionBytes(image, section);
    const end = section.sh_addr + section.sh_size;
    let at: number = section.sh_addr;
    const gap = (to: number): void => {
      const from = at - section.sh_addr;
      if (to - at >= 4 && paddingLength(bytes, from, to - section.sh_addr) < to - at)
        gaps.push({ bytes: bytes.subarray(from, to - section.sh_addr), start: vaddr(at), step: 1 });
    };
    for (let i = Math.max(0, functions.lastAtOrBelow(at)); i < functions.count; i++) {
      const range = functions.range(i);
      if (range.start >= end) break;
      if (range.start > at) gap(range.start);
      at = Math.max(at, range.end);
    }
    if (at < end) gap(end);
  }
  return gaps;
}
