/**
 * Jump tables, differences of labels and words relative to themselves: words that lead to a site's surroundings alone or
 * added to something.
 *
 * Words are added to bases only by functions that jump through a register. Which may be such functions is read off the
 * bytes first (parts.ts), and settled by decoding the parts of those that are left (groups.ts).
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

/**
 * @returns why nothing can be proved of a range that holds sites, because of a jump that is not understood; undefined for
 * most
 */
export function addTables(context: TableContext, sites: readonly Vaddr[]): (range: CodeRange) => string | undefined {
  const { image, functions, near, entries, lowest } = context;
  const jumpers = functionsWithTables(context, sites);
  const queries = sites.flatMap((site): BaseQuery[] => {
    const range = functions.containing(site);
    const found = range && jumpers.get(range.index);
    if (range === undefined || found === undefined) return [];
    return [{ range, bases: found.bases, start: vaddr(site - REACH_BEFORE), end: vaddr(site + REACH_BEHIND) }];
  });
  for (const hit of scanData(
    [...dataRanges(image), ...codeRanges(context, jumpers)],
    near,
    queries,
    lowest !== undefined,
  )) {
    if (hit.reading === "absolute") entries.suspect(hit.target, describe(hit));
    else
      entries.addQuestion(hit.target, () => {
        if (splitsInstruction(hit.target, functions)) return;
        if (hit.reading === "table" && !mayAdd(hit.at, functions)) return;
        entries.suspect(hit.target, describe(hit));
      });
  }
  return ({ index }) => {
    const unknownJump = jumpers.get(index)?.group.unknownJump;
    return unknownJump === undefined
      ? undefined
      : `the jump at ${hex(unknownJump)} may lead anywhere in its function: how it gets its target is not understood`;
  };
}

/** A function that jumps through a register, and so may add a word to one of its bases and jump there. */
interface Jumper {
  readonly group: Group;
  readonly bases: ReadonlySet<number>;
  /** Its parts, as far as they are known. */
  readonly parts: readonly CodeRange[];
}

/** The functions that hold sites and jump through a register, by the index of the site's range. */
function functionsWithTables(
  { functions, parts, lowest }: TableContext,
  sites: readonly Vaddr[],
): ReadonlyMap<number, Jumper> {
  const jumpers = new Map<number, Jumper>();
  const seen = new Set<number>();
  for (const site of sites) {
    const range = functions.containing(site);
    if (range === undefined || seen.has(range.index)) continue;
    seen.add(range.index);
    const all = parts.partsOf(range);
    // No byte of any part looks like such a jump: nothing has to be decoded.
    if (!all.some((part) => parts.jumpsByRegister(part))) continue;
    const group = groupOf(range, functions, parts.incoming, lowest);
    if (group.unclean !== undefined)
      jumpers.set(range.index, { group, parts: all, bases: new Set(all.flatMap((part) => parts.basesOf(part))) });
    else if (group.jumpsByRegister) jumpers.set(range.index, { group, parts: group.parts, bases: group.bases });
  }
  return jumpers;
}

/** Where tables may stand among the code: gaps, the functions in question themselves, and what their bases lie in. */
function codeRanges({ image, functions }: TableContext, jumpers: ReadonlyMap<number, Jumper>): DataRange[] {
  if (jumpers.size === 0) return [];
  const among = new Map<number, CodeRange>();
  for (const { parts, bases } of jumpers.values()) {
    for (const part of parts) among.set(part.index, part);
    for (const base of bases) {
      const around = functions.containing(base);
      if (around !== undefined && around.start !== base) among.set(around.index, around);
    }
  }
  const inFunctions = [...among.values()].map(
    (r): DataRange => ({ bytes: functions.bytes(r), start: r.start, step: 1 }),
  );
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
