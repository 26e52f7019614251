/**
 * Jump tables, differences of labels and words relative to themselves: words that lead to a site's surroundings alone
 * or added to something.
 *
 * Which bases there are, and what their tables are, is known from following values (computed-targets.ts). A table that
 * code of any function uses is read from its first word on. For the functions that hold sites that is not relied upon:
 * every word of the file, at every byte position, counts that leads to a site's surroundings if it is added to one of
 * their bases.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import { type ElfImage, sectionBytes } from "../elf/image.js";
import { addressOf, indexAt, lengthOf } from "../x86/decode.js";
import { paddingLength } from "../x86/nops.js";
import { constantsOf } from "../x86/relocate.js";
import type { ComputedTargets, GroupFacts } from "./computed-targets.js";
import type { Entries } from "./entries.js";
import type { CodeRange, FunctionIndex } from "./functions.js";
import { knows } from "./knowledge.js";
import { type Neighbourhoods, REACH_BEFORE, REACH_BEHIND } from "./neighbourhoods.js";
import { type BaseQuery, type DataHit, type DataRange, dataRanges, scanData } from "./scan-data.js";

interface TableContext {
  readonly image: ElfImage;
  readonly functions: FunctionIndex;
  readonly computed: ComputedTargets;
  readonly near: Neighbourhoods;
  readonly entries: Entries;
}

/** Adds what words of tables, and words relative to themselves, lead to. */
export function addTables(context: TableContext, sites: readonly Vaddr[]): void {
  const { image, functions, computed, near, entries } = context;
  if (knows("tables"))
    for (const [target, at] of computed.program.entries)
      if (near.contains(target)) entries.suspectTable(vaddr(target), "the table of the sum at @", vaddr(at));
  if (knows("tables"))
    for (const [target, at] of computed.program.candidates)
      if (near.contains(target))
        entries.addQuestion(vaddr(target), () => {
          if (!splitsInstruction(target as Vaddr, functions))
            entries.suspectTable(vaddr(target), "what may be a table at @", vaddr(at));
        });
  for (const group of new Set(sites.map((site) => groupAround(context, site))))
    if (group !== undefined && knows("tables"))
      for (const [target, at] of computed.entriesOf(group))
        if (near.contains(target)) entries.suspectTable(vaddr(target), "the table of the sum at @", vaddr(at));
  if (knows("addresses in code"))
    for (const [target, at] of computed.program.made)
      if (near.contains(target)) entries.suspect(vaddr(target), "the address computed at @", vaddr(at));
  const jumpers = knows("tables") ? functionsWithTables(context, sites) : new Map<number, GroupFacts>();
  const queries = sites.flatMap((site): BaseQuery[] => {
    const range = functions.containing(site);
    const group = range && jumpers.get(range.index);
    if (range === undefined || group === undefined) return [];
    return [{ range, bases: basesOf(group), start: vaddr(site - REACH_BEFORE), end: vaddr(site + REACH_BEHIND) }];
  });
  for (const hit of scanData(
    [...dataRanges(image), ...codeRanges(context, jumpers)],
    near,
    queries,
    computed.memory.fixed,
  )) {
    if (hit.reading === "absolute") {
      if (knows("absolute words")) entries.suspect(hit.target, describe(hit));
      continue;
    }
    if (hit.reading === "self-relative" && !knows("self-relative words")) continue;
    // What the loader fills nobody reads as it stands in the file.
    if (computed.memory.isRelocated(hit.at, 4)) continue;
    entries.addQuestion(hit.target, () => {
      if (splitsInstruction(hit.target, functions)) return;
      if (hit.reading === "table" && !mayAdd(hit.at, functions)) return;
      if (hit.reading === "table") entries.suspectTable(hit.target, describe(hit));
      else entries.suspect(hit.target, describe(hit));
    });
  }
}

/** The functions that hold sites and add words to bases, by the index of the site's range. */
function functionsWithTables(context: TableContext, sites: readonly Vaddr[]): ReadonlyMap<number, GroupFacts> {
  const { functions } = context;
  const jumpers = new Map<number, GroupFacts>();
  for (const site of sites) {
    const range = functions.containing(site);
    const group = groupAround(context, site);
    if (range !== undefined && group !== undefined && basesOf(group).size > 0) jumpers.set(range.index, group);
  }
  return jumpers;
}

function groupAround({ functions, computed }: TableContext, site: Vaddr): GroupFacts | undefined {
  const range = functions.containing(site);
  return range && computed.groupOf(range);
}

/** The addresses that a function adds words to. */
const basesOf = ({ flow }: GroupFacts): ReadonlySet<number> =>
  new Set(flow?.formations.filter((f) => f.base !== 0).map((f) => f.base));

/** Where tables may stand among the code: gaps, the functions in question themselves, and what their bases lie in. */
function codeRanges({ image, functions }: TableContext, jumpers: ReadonlyMap<number, GroupFacts>): DataRange[] {
  if (jumpers.size === 0) return [];
  const among = new Map<number, CodeRange>();
  for (const group of jumpers.values()) {
    for (const part of group.parts) among.set(part.index, part);
    for (const base of basesOf(group)) {
      const around = functions.containing(base);
      if (around !== undefined && around.start !== base) among.set(around.index, around);
    }
  }
  const inFunctions = [...among.values()].map((r): DataRange => ({ bytes: functions.bytes(r), start: r.start }));
  // Words relative to themselves and absolute ones among the code have been found by scanCode already.
  return [...codeGaps(image, functions), ...inFunctions].map((r) => ({ ...r, onlyTables: true }));
}

/** Whether a word may be added to a base: in code that decodes, only as a constant of an instruction. */
function mayAdd(address: Vaddr, functions: FunctionIndex): boolean {
  const range = functions.containing(address);
  const code = range && functions.code(range);
  if (code === undefined || code.unclean !== undefined) return true;
  const index = indexAt(code, address);
  const at = addressOf(code, index);
  const bytes = code.bytes.subarray(at - code.start, at - code.start + lengthOf(code, index));
  return constantsOf(bytes, at).some((c) => at + c.offset === address);
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
        gaps.push({ bytes: bytes.subarray(from, to - section.sh_addr), start: vaddr(at) });
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
