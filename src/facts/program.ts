/**
 * The facts about a program that a plan rests on, gathered once: what the code around the sites is, and everything that
 * may lead into it. Read gatherFacts from top to bottom.
 */

import { hex, type Interval, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage } from "../elf/image.js";
import { InputError } from "../errors.js";
import { addTo } from "../grouped.js";
import { union } from "../intervals.js";
import { countWhile } from "../sorted.js";
import type { DecodedCode } from "../x86/decode.js";
import { addLocalBranches, LOCAL_REACH, settleHit } from "./branches.js";
import type { Asked, ComputedTargets } from "./computed-targets.js";
import { Entries } from "./entries.js";
import type { FileFacts } from "./file-facts.js";
import type { CodeRange, FunctionIndex } from "./functions.js";
import { gapsNear, TrustedGaps } from "./gaps.js";
import { Neighbourhoods, REACH_BEFORE, REACH_BEHIND } from "./neighbourhoods.js";
import { addPointers } from "./pointers.js";
import { type Link, scanCode } from "./scan-code.js";
import { addTables } from "./tables.js";

/** What is known of the code around one site. */
interface SiteCode {
  /** The part of the function that holds the site. */
  readonly code: DecodedCode;
  readonly range: CodeRange;
}

export interface ProgramFacts {
  /** What is known of the file wherever one looks; its image and its functions are here as well, for all who read. */
  readonly file: FileFacts;
  readonly image: ElfImage;
  readonly functions: FunctionIndex;
  readonly entries: Entries;
  /** Whether everything that leads into [start, end) is among the entries: not so far from all sites. */
  covers(start: Vaddr, end: Vaddr): boolean;
  /** The code around a site, or why nothing can be said of it. */
  siteCode(site: Vaddr): SiteCode | string;
  /**
   * Why nothing is known of what enters [start, end), in a function or in the padding after it; undefined where it is
   * known.
   */
  unknown(start: Vaddr, end: Vaddr): string | undefined;
  readonly computed: ComputedTargets;
  /** What looks like a jmp or jcc, by its bytes, from elsewhere into a range that holds a site. */
  links(range: CodeRange): readonly Link[];
  /** Whether code looks as if it made the address of the table that PT_GNU_EH_FRAME leads to. */
  readonly makesUnwindHeader: boolean;
  /**
   * How many bytes of padding begin at `address`, in the gap after a function: whole instructions, just enough for
   * `need`.
   */
  paddingBehind(address: Vaddr, need: number): number;
}

/**
 * @param sites link-time addresses of all probe sites of the file that are worth rewriting
 * @param asked of which functions it is asked where they may jump to: by default of all
 * @throws InputError where a table that has to be trusted (.eh_frame, relocations, symbols) is damaged
 */
export function gatherFacts(file: FileFacts, sites: readonly Vaddr[], asked: Asked = "all functions"): ProgramFacts {
  const { image, functions } = file;
  const fixed = image.header.e_type === elf.ET_EXEC;
  const { base, span } = codeSpan(functions);
  const openGaps = gapsNear(functions, sites, LOCAL_REACH);
  const near = new Neighbourhoods(sites, openGaps, base, span);
  const entries = new Entries();
  addPointers(image, functions, near, entries);
  const ranges = siteRanges(sites, functions);
  const blocks = blocksOf([...ranges.values()], near);
  const unwindHeader = image.programHeaders.find((p) => p.p_type === elf.PT_GNU_EH_FRAME)?.p_vaddr;
  const { hits, links, makesAsked } = scanCode(image, functions.codeSections, near, blocks, fixed, unwindHeader);
  const incoming = linksByRange(links, ranges);
  const searched = searchedByRange(sites, functions);

  const gaps = new TrustedGaps(functions, openGaps, hits, entries);
  const context = { image, functions, gaps, near, entries };
  addLocalBranches(context, sites);
  entries.addQuestions(hits.allTargets, (index) => settleHit(context, hits.hit(index)));
  const computed = file.computed(asked);
  addTables({ image, functions, computed, near, entries }, sites);

  return {
    file,
    image,
    functions,
    entries,
    covers(start, end) {
      if (!near.covers(start, end)) return false;
      const range = functions.containing(start);
      return range === undefined || hasTables(searched.get(range.index) ?? [], start, Math.min(end, range.end));
    },
    siteCode(site) {
      const range = functions.containing(site);
      if (range === undefined) return "no function is known here (.eh_frame and symbols do not say)";
      const code = functions.code(range);
      if (code.unclean !== undefined) return `its function at ${hex(range.start)} cannot be decoded: ${code.unclean}`;
      return computed.unknown(range) ?? { code, range };
    },
    unknown(start, end) {
      for (
        let i = Math.max(0, functions.lastAtOrBelow(start));
        i < functions.count && functions.range(i).start < end;
        i++
      ) {
        const why = computed.unknown(functions.range(i));
        if (why !== undefined) return why;
      }
      return undefined;
    },
    computed,
    links: (range) => incoming.get(range.index) ?? [],
    makesUnwindHeader: makesAsked,
    paddingBehind(address, need) {
      const gap = functions.gapAt(address);
      return gap === undefined ? 0 : functions.paddingAt(address, Math.min(gap.end, address + REACH_BEHIND), need);
    },
  };
}

/** Where the jump tables of each range have been looked for, around its own sites; by the range's index. */
function searchedByRange(
  sites: readonly Vaddr[],
  functions: FunctionIndex,
): ReadonlyMap<number, readonly Interval<number>[]> {
  const found = new Map<number, Interval<number>[]>();
  for (const site of sites) {
    const range = functions.containing(site);
    if (range !== undefined) addTo(found, range.index, { start: site - REACH_BEFORE, end: site + REACH_BEHIND });
  }
  return new Map([...found].map(([index, around]) => [index, union(around)]));
}

/** Whether jump tables of a range that lead into [start, end) have been looked for. */
function hasTables(searched: readonly Interval<number>[], start: Vaddr, end: number): boolean {
  const around = searched[countWhile(searched.length, (i) => searched[i]!.start <= start) - 1];
  return end <= Math.max(start, around?.end ?? start);
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
    const low = countWhile(sorted.length, (i) => sorted[i]!.start <= link.to);
    const range = sorted[low - 1];
    if (range === undefined || link.to >= range.end) continue;
    if (link.from >= range.start && link.from < range.end) continue;
    addTo(result, range.index, link);
  }
  return result;
}
