/**
 * Every word of data that leads to where a tactic might write.
 *
 * Asked of a 32-bit word v at address p:
 *   v            an absolute address (programs with fixed addresses; with others a relocation tells)
 *   p + v        a word relative to its own place: `.long x - .`, xray_instr_map
 *   B + v        an entry of a jump table or a difference of labels, for each base B that the site's function makes
 * Words are taken at every byte position, for structures may be packed. Sections whose
 * structure is known and read elsewhere (symbols, relocations, unwind tables, notes) are left out.
 */

import { type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, Section } from "../elf/image.js";
import { addTo } from "../grouped.js";
import type { CodeRange } from "./functions.js";
import type { Neighbourhoods } from "./neighbourhoods.js";
import { AddressFilter, sweepAddresses, sweepDistances } from "./sweep.js";

/**
 * Bases of one site's function, and the site's surroundings: a word is of interest if base + word lies in [start, end).
 */
export interface BaseQuery {
  readonly range: CodeRange;
  readonly bases: ReadonlySet<number>;
  readonly start: Vaddr;
  readonly end: Vaddr;
}

export type DataHit = {
  readonly at: Vaddr;
  readonly target: Vaddr;
} & (
  | { readonly reading: "absolute" | "self-relative" }
  | { readonly reading: "table"; readonly base: number; readonly query: BaseQuery }
);

/** A stretch of bytes to ask: a data section, or a gap among the code. */
export interface DataRange {
  readonly bytes: Uint8Array;
  readonly start: Vaddr;
  /** Only words that are added to a base are of interest: the others have been asked elsewhere. */
  readonly onlyTables?: boolean;
}

const structured = new Set<number>([
  elf.SHT_NULL,
  elf.SHT_NOBITS,
  elf.SHT_DYNSYM,
  elf.SHT_SYMTAB,
  elf.SHT_STRTAB,
  elf.SHT_RELA,
  elf.SHT_REL,
  elf.SHT_RELR,
  elf.SHT_HASH,
  elf.SHT_GNU_HASH,
  elf.SHT_GNU_VERDEF,
  elf.SHT_GNU_VERNEED,
  elf.SHT_GNU_VERSYM,
  elf.SHT_NOTE,
]);
const structuredNames = new Set([".eh_frame", ".eh_frame_hdr", ".gcc_except_table", ".interp"]);

/** The data sections of a file that are worth asking. */
export function dataRanges(image: ElfImage): readonly DataRange[] {
  return image.sections.filter(isData).map((s) => ({
    bytes: image.bytes.subarray(s.sh_offset, s.sh_offset + s.sh_size),
    start: s.sh_addr,
  }));
}

const isData = (s: Section): boolean =>
  (s.sh_flags & elf.SHF_ALLOC) !== 0 &&
  (s.sh_flags & elf.SHF_EXECINSTR) === 0 &&
  !structured.has(s.sh_type) &&
  !structuredNames.has(s.name) &&
  !s.name.startsWith(".gcc_except_table.");

/** Differences base -> site, by blocks of 64. */
class DifferenceIndex {
  private readonly byBlock = new Map<number, { base: number; start: number; end: number; query: BaseQuery }[]>();

  /** @param filter gets all of them */
  constructor(queries: readonly BaseQuery[], filter: AddressFilter) {
    for (const query of queries) {
      const { bases, start, end } = query;
      for (const base of bases) {
        const low = start - base;
        const high = end - base;
        if (low < -(2 ** 31) || high > 2 ** 31) continue;
        for (let block = low >> 6; block <= (high - 1) >> 6; block++) {
          filter.add(block * 64);
          const difference = { base, start: low, end: high, query };
          addTo(this.byBlock, block, difference);
        }
      }
    }
  }

  get isEmpty(): boolean {
    return this.byBlock.size === 0;
  }

  forEach(v: number, visit: (base: number, query: BaseQuery) => void): void {
    const list = this.byBlock.get(v >> 6);
    if (list === undefined) return;
    for (const { base, start, end, query } of list) if (v >= start && v < end) visit(base, query);
  }
}

/** @param fixed the program runs at its link-time addresses (ET_EXEC) */
export function scanData(
  ranges: readonly DataRange[],
  near: Neighbourhoods,
  queries: readonly BaseQuery[],
  fixed: boolean,
): DataHit[] {
  const hits: DataHit[] = [];
  const places = new AddressFilter();
  const words = new AddressFilter();
  const differences = new DifferenceIndex(queries, words);
  for (const { start, end } of near.intervals)
    for (let at: number = start; at < end + 63; at += 64) {
      const address = Math.min(at, end - 1);
      places.add(address);
      if (fixed) words.add(address);
    }
  for (const { bytes, start, onlyTables = false } of ranges) {
    if (onlyTables && differences.isEmpty) continue;
    const own: DataHit[] = [];
    if (!onlyTables)
      sweepDistances(bytes, vaddr(start - 4), places, (p, v) => {
        if (near.contains(start + p + v))
          own.push({ at: vaddr(start + p), target: vaddr(start + p + v), reading: "self-relative" });
      });
    if (fixed || !differences.isEmpty)
      sweepAddresses(bytes, words, (p, v) => {
        if (fixed && !onlyTables && near.contains(v >>> 0))
          own.push({ at: vaddr(start + p), target: vaddr(v >>> 0), reading: "absolute" });
        differences.forEach(v, (base, query) => {
          own.push({ at: vaddr(start + p), target: vaddr(base + v), reading: "table", base, query });
        });
      });
    for (const hit of own.sort((a, b) => a.at - b.at)) hits.push(hit);
  }
  return hits;
}
