/**
 * The facts about a program that a plan rests on, gathered once: what the code around the sites is, and everything that
 * may lead into it. Read gatherFacts from top to bottom.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, sectionBytes } from "../elf/image.js";
import { InputError } from "../errors.js";
import { addressOf, type DecodedCode, Flow, indexAt, lengthOf } from "../x86/decode.js";
import { constantsOf, namedAddress } from "../x86/relocate.js";
import { Entries } from "./entries.js";
import { type CodeRange, FunctionIndex } from "./functions.js";
import { Neighbourhoods, REACH_BEFORE, REACH_BEHIND } from "./neighbourhoods.js";
import { PartIndex } from "./parts.js";
import { addPointers } from "./pointers.js";
import { type CodeHit, type Link, possibleShortBranches, scanCode } from "./scan-code.js";
import { addTables } from "./tables.js";

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
  /** What looks like a jmp or jcc, by its bytes, from elsewhere into a range that holds a site. */
  links(range: CodeRange): readonly Link[];
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
  const fixedSpan = fixed ? imageSpan(image) : undefined;
  const parts = new PartIndex(functions, incoming, fixedSpan);

  const seen = new Set<number>();
  for (const site of sites) addLocalBranches(image, site, functions, near, entries, seen);
  for (const hit of hits) entries.addQuestion(hit.target, () => settle(hit, functions, near, entries));
  const unknownJump = addTables({ image, functions, parts, near, entries, lowest: fixedSpan?.low }, sites);
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
      const obstacle = unknownJump(range);
      return obstacle ?? { code, range };
    },
    links: (range) => incoming.get(range.index) ?? [],
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

/** The addresses that a program with fixed ones occupies. */
function imageSpan(image: ElfImage): { low: Vaddr; high: Vaddr } {
  const loads = image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD);
  return {
    low: vaddr(Math.min(...loads.map((p) => p.p_vaddr))),
    high: vaddr(Math.max(...loads.map((p) => p.p_vaddr + p.p_memsz))),
  };
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
    const inGap = functions.gapCode(start);
    if (inGap !== undefined && inGap.unclean === undefined) {
      addBranchesOf(inGap, near, entries);
      return;
    }
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
  // Padding is made of nops with zero displacements, which look like distances: they branch nowhere.
  if (range === undefined && isPadding(hit.at, functions)) return;
  const code = range === undefined ? functions.gapCode(hit.at) : functions.code(range);
  if (code === undefined || code.unclean !== undefined) {
    entries.add(hit.target, `what may be a branch or an address at ${hex(hit.at)}, in code that cannot be decoded,`);
    return;
  }
  // Among instructions no word stands for itself.
  if (hit.reading === "self-relative") return;
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
