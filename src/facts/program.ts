/**
 * The facts about a program that a plan rests on, gathered once: what the code around the sites is, and everything that
 * may lead into it. Read gatherFacts from top to bottom.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, sectionBytes } from "../elf/image.js";
import { InputError } from "../errors.js";
import { addressOf, type DecodedCode, Flow, indexAt, lengthOf } from "../x86/decode.js";
import { paddingLength } from "../x86/nops.js";
import { constantsOf, namedAddress } from "../x86/relocate.js";
import { Entries } from "./entries.js";
import { type CodeRange, FunctionIndex } from "./functions.js";
import { type Group, groupOf } from "./groups.js";
import { Neighbourhoods, REACH_BEFORE, REACH_BEHIND } from "./neighbourhoods.js";
import { addPointers } from "./pointers.js";
import { type CodeHit, type Link, possibleShortBranches, scanCode } from "./scan-code.js";
import { type BaseQuery, type DataHit, type DataRange, dataRanges, scanData } from "./scan-data.js";

/** How far a branch with an 8-bit distance reaches, its own length included. */
const SHORT_REACH = 130;

/** What is known of the code around one site. */
export interface SiteCode {
  /** The part of the function that holds the site. */
  readonly code: DecodedCode;
  readonly range: CodeRange;
}

export interface ProgramFacts {
  readonly image: ElfImage;
  readonly functions: FunctionIndex;
  readonly entries: Entries;
  /** The code around a site, or why nothing can be said of it. */
  siteCode(site: Vaddr): SiteCode | string;
  /** How many bytes of padding begin at `address`, in the gap behind a function: whole instructions, just enough for `need`. */
  paddingBehind(address: Vaddr, need: number): number;
}

/**
 * @param sites link-time addresses of all probe sites of the file that are worth rewriting
 * @throws InputError where a table that has to be trusted (.eh_frame, relocations, symbols) is damaged
 */
export function gatherFacts(image: ElfImage, sites: readonly Vaddr[]): ProgramFacts {
  const functions = FunctionIndex.of(image);
  const fixed = image.header.e_type === elf.ET_EXEC;
  const { base, span } = codeSpan(functions);
  const near = new Neighbourhoods(sites, base, span);
  const entries = new Entries();
  const ranges = siteRanges(sites, functions);
  const { hits, links } = scanCode(image, functions.codeSections, near, blocksOf([...ranges.values()], near), fixed);
  const incoming = linksByRange(links, ranges);
  const lowest = fixed ? lowestAddress(image) : undefined;
  const groups = new Map<number, Group>();
  for (const range of ranges.values()) groups.set(range.index, groupOf(range, functions, incoming, lowest));

  const seen = new Set<number>();
  for (const site of sites) addLocalBranches(image, site, functions, near, entries, seen);
  for (const hit of hits) settle(hit, functions, near, entries);
  addTables(image, sites, functions, groups, near, entries, fixed);
  addPointers(image, functions, near, entries);

  return {
    image,
    functions,
    entries,
    siteCode(site) {
      const range = functions.containing(site);
      if (range === undefined) return "no function is known here (.eh_frame and symbols do not say)";
      const code = functions.code(range);
      if (code.unclean !== undefined) return `its function at ${hex(range.start)} cannot be decoded: ${code.unclean}`;
      const group = groups.get(range.index);
      if (group?.unclean !== undefined) return `a part of its function cannot be decoded: ${group.unclean}`;
      return { code, range };
    },
    paddingBehind(address, need) {
      const gap = functions.gapAt(address);
      return gap === undefined ? 0 : functions.paddingAt(address, Math.min(gap.end, address + REACH_BEHIND), need);
    },
  };
}

function codeSpan(functions: FunctionIndex): { base: Vaddr; span: number } {
  let low = Number.POSITIVE_INFINITY;
  let high = 0;
  for (const s of functions.codeSections) {
    low = Math.min(low, s.sh_addr);
    high = Math.max(high, s.sh_addr + s.sh_size);
  }
  if (high === 0) return { base: vaddr(0), span: 0 };
  if (high - low >= 2 ** 31) throw new InputError("its code spans more than 2 GiB, which is not supported");
  return { base: vaddr(low), span: high - low };
}

function lowestAddress(image: ElfImage): Vaddr {
  return vaddr(Math.min(...image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD).map((p) => p.p_vaddr)));
}

/** The ranges that hold sites, by index. */
function siteRanges(sites: readonly Vaddr[], functions: FunctionIndex): ReadonlyMap<number, CodeRange> {
  const ranges = new Map<number, CodeRange>();
  for (const site of sites) {
    const range = functions.containing(site);
    if (range !== undefined) ranges.set(range.index, range);
  }
  return ranges;
}

function blocksOf(ranges: readonly CodeRange[], near: Neighbourhoods): Uint8Array {
  const blocks = new Uint8Array(near.blocks.length);
  for (const { start, end } of ranges)
    blocks.fill(
      1,
      Math.max(0, (start - near.base) >>> 6),
      ((Math.min(end, near.base + near.span) - near.base) >>> 6) + 1,
    );
  return blocks;
}

function linksByRange(
  links: readonly Link[],
  ranges: ReadonlyMap<number, CodeRange>,
): ReadonlyMap<number, readonly Link[]> {
  const sorted = [...ranges.values()].sort((a, b) => a.start - b.start);
  const result = new Map<number, Link[]>();
  for (const link of links) {
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (sorted[middle]!.start <= link.to) low = middle + 1;
      else high = middle;
    }
    const range = sorted[low - 1];
    if (range === undefined || link.to >= range.end) continue;
    if (link.from >= range.start && link.from < range.end) continue;
    const list = result.get(range.index);
    if (list === undefined) result.set(range.index, [link]);
    else list.push(link);
  }
  return result;
}

/**
 * Branches that begin within the reach of a short one: all functions there are decoded, and in bytes that are in no
 * function, or in one that does not decode, every position that could be a short branch counts as one.
 */
function addLocalBranches(
  image: ElfImage,
  site: Vaddr,
  functions: FunctionIndex,
  near: Neighbourhoods,
  entries: Entries,
  seen: Set<number>,
): void {
  const section = functions.sectionAt(site);
  if (section === undefined) return;
  const low = Math.max(section.sh_addr, site - REACH_BEFORE - SHORT_REACH);
  const high = Math.min(section.sh_addr + section.sh_size, site + REACH_BEHIND + SHORT_REACH);
  let at = low;
  let index = Math.max(0, functions.lastAtOrBelow(low));
  const unknown = (start: number, end: number): void => {
    if (end <= start) return;
    const from = start + functions.paddingAt(start, end);
    const bytes = sectionBytes(image, section).subarray(from - section.sh_addr, end - section.sh_addr);
    possibleShortBranches(bytes, vaddr(from), (at, target) => {
      if (near.contains(target)) entries.add(target, `what may be a branch at ${hex(at)}, outside of known functions,`);
    });
  };
  for (; index < functions.count && at < high; index++) {
    const range = functions.range(index);
    if (range.end <= at) continue;
    if (range.start >= high) break;
    unknown(at, Math.min(range.start, high));
    const code = functions.code(range);
    if (code.unclean === undefined) {
      if (!seen.has(range.index)) addBranchesOf(code, near, entries);
      seen.add(range.index);
    } else unknown(Math.max(at, range.start), Math.min(range.end, high));
    at = Math.max(at, range.end);
  }
  unknown(at, high);
}

const kinds: readonly (readonly [number, string])[] = [
  [Flow.Jump, "the jmp"],
  [Flow.Conditional, "the branch"],
  [Flow.Call, "the call"],
  [Flow.Transaction, "the xbegin"],
  [Flow.Lea, "the address in the lea"],
];

function addBranchesOf(code: DecodedCode, near: Neighbourhoods, entries: Entries): void {
  for (let i = 0; i < code.count; i++) {
    if (code.flow[i]! & Flow.Landing && near.contains(addressOf(code, i)))
      entries.add(addressOf(code, i), "endbr64: an indirect branch may come; it");
    if (near.contains(code.targets[i]!)) addBranch(code, i, entries);
  }
}

/** What instruction `index`, whose target is near a site, adds to the entries. */
function addBranch(code: DecodedCode, index: number, entries: Entries): void {
  const flow = code.flow[index]!;
  const at = addressOf(code, index);
  const length = lengthOf(code, index);
  const kind = kinds.find(([bit]) => flow & bit)?.[1] ?? "the instruction";
  const jumps = (flow & (Flow.Jump | Flow.Conditional)) !== 0;
  const branch = jumps ? { at, end: vaddr(at + length), wide: length >= 5 } : undefined;
  entries.add(vaddr(code.targets[index]!), `${kind} at ${hex(at)}`, branch);
}

/** Is a word that was found by the byte-wise scan what it looks like? Decoding the function around it tells. */
function settle(hit: CodeHit, functions: FunctionIndex, near: Neighbourhoods, entries: Entries): void {
  const range = functions.containing(hit.at);
  const code = range === undefined ? undefined : functions.code(range);
  if (code === undefined || code.unclean !== undefined) {
    // Padding is made of nops with zero displacements, which look like distances: they branch nowhere.
    if (range === undefined && isPadding(hit.at, functions)) return;
    entries.add(hit.target, `what may be a branch or an address at ${hex(hit.at)}, in code that cannot be decoded,`);
    return;
  }
  const index = indexAt(code, hit.at);
  const at = addressOf(code, index);
  const bytes = code.bytes.subarray(at - code.start, at - code.start + lengthOf(code, index));
  if (near.contains(code.targets[index]!)) addBranch(code, index, entries);
  else {
    const named = namedAddress(bytes, at);
    if (named !== undefined && near.contains(named))
      entries.add(vaddr(named), `the operand of the instruction at ${hex(at)}`);
  }
  if (hit.reading !== "absolute") return;
  if (constantsOf(bytes, at).some((c) => at + c.offset === hit.at && c.value === hit.target))
    entries.add(hit.target, `the constant in the instruction at ${hex(at)}`);
}

function isPadding(address: Vaddr, functions: FunctionIndex): boolean {
  const gap = functions.gapAt(address);
  return gap !== undefined && functions.paddingAt(gap.start, gap.end) === gap.end - gap.start;
}

/** Jump tables, label differences and words relative to themselves, in data and in the gaps among the code. */
function addTables(
  image: ElfImage,
  sites: readonly Vaddr[],
  functions: FunctionIndex,
  groups: ReadonlyMap<number, Group>,
  near: Neighbourhoods,
  entries: Entries,
  fixed: boolean,
): void {
  const queries: BaseQuery[] = [];
  const embedded: DataRange[] = [];
  for (const site of sites) {
    const range = functions.containing(site);
    const group = range && groups.get(range.index);
    if (group === undefined || !group.jumpsIndirectly) continue;
    const query = { bases: group.bases, start: vaddr(site - REACH_BEFORE), end: vaddr(site + REACH_BEHIND) };
    queries.push(query);
    addConstantDifferences(group, query, entries);
    // A base that is no function's start, among the code: the table stands there.
    for (const b of group.bases) {
      const around = functions.containing(b);
      if (around !== undefined && around.start !== b) embedded.push(rangeOf(functions.code(around)));
    }
  }
  // Words relative to themselves and absolute ones among the code have been found by scanCode already.
  const among = queries.length > 0 ? [...codeGaps(image, functions), ...new Set(embedded)] : [];
  const ranges = [...dataRanges(image), ...among];
  for (const hit of scanData(ranges, near, queries, fixed))
    if (hit.reading === "absolute" || !splitsInstruction(hit.target, functions))
      entries.add(hit.target, describeData(hit));
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

const rangeOf = (code: DecodedCode): DataRange => ({ bytes: code.bytes, start: code.start, step: 1 });

const describeData = ({ at, reading }: DataHit): string =>
  reading === "absolute"
    ? `the address in the data at ${hex(at)}`
    : reading === "table"
      ? `what may be a jump table's entry at ${hex(at)}`
      : `a word relative to its own address, at ${hex(at)},`;

/** `lea label(%rip), %rax; add $(other - label), %rax; jmp *%rax`: the difference is in the code itself. */
function addConstantDifferences(group: Group, { bases, start, end }: BaseQuery, entries: Entries): void {
  for (const code of group.parts) {
    for (let i = 0; i < code.count; i++) {
      const at = addressOf(code, i);
      if (lengthOf(code, i) < 6 || code.flow[i]! & Flow.Nop) continue;
      const bytes = code.bytes.subarray(at - code.start, at - code.start + lengthOf(code, i));
      for (const { value } of constantsOf(bytes, at))
        for (const base of bases) {
          const target = base + (value | 0);
          if (target >= start && target < end)
            entries.add(vaddr(target), `a constant in the instruction at ${hex(at)}, added to a label's address,`);
        }
    }
  }
}

/** The stretches of code sections that belong to no function and are no padding. */
function codeGaps(image: ElfImage, functions: FunctionIndex): DataRange[] {
  const gaps: DataRange[] = [];
  for (const section of functions.codeSections) {
    const bytes = sectionBytes(image, section);
    const end = section.sh_addr + section.sh_size;
    let at: number = section.sh_addr;
    const gap = (to: number): void => {
      if (to - at >= 4 && paddingLength(bytes, at - section.sh_addr, to - section.sh_addr) < to - at)
        gaps.push({ bytes: bytes.subarray(at - section.sh_addr, to - section.sh_addr), start: vaddr(at), step: 1 });
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
