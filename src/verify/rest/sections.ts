/**
 * Which section of the rewritten file is which of the original, and what the section headers say.
 *
 * Sections keep their names and their order. New are one `.text.nop5` at most, jumps to it in `.text.nop5.far`, its
 * exception tables, with a fork guard `.bss.nop5`, with a selector `.selector.nop5`, and `.usdt_nop5`; and sections where
 * tables stood that have moved. A section that is loaded may stand elsewhere (see moved.ts); one that is not keeps its
 * content, wherever in the file that is. Numbers of sections change where a new one stands before them, so every number is translated before it is
 * compared.
 */

import { hex, type Interval, type Vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { type ElfImage, type Section, segmentAt } from "../../elf/image.js";
import { groupBy } from "../../grouped.js";
import {
  CARRY_SECTION,
  CODE_SECTION,
  EXCEPTIONS_SECTION,
  FAR_SECTION,
  KEPT_SUFFIX,
  OLD_PLACE_SECTION,
  SELECTOR_SECTION,
  WORDS_SECTION,
} from "../../rewritten/section-names.js";

import type { Guard } from "../guard/guard.js";
import { atOffset, type Finding, finding } from "./findings.js";
import { isLeftPlace } from "./left-places.js";

const NOTE_SECTION = ".note.stapsdt";

export interface SectionPair {
  readonly original: Section;
  readonly rewritten: Section;
}

export interface SectionPairs {
  readonly pairs: readonly SectionPair[];
  /** The section with new code, where there is one. */
  readonly code: Section | undefined;
  /** Sections with jumps to it, far after it. */
  readonly far: readonly Section[];
  readonly carry: Section | undefined;
  /** The section with exception tables of new code, where there is one. */
  readonly exceptions: Section | undefined;
  /** Where tables stood that have moved: nothing else is there now, or bytes that have to stay. */
  readonly kept: readonly Section[];
  /** The section with a fork guard's words, where there is one. */
  readonly words: Section | undefined;
  /** The section with the selector's word, where there is one. */
  readonly selector: Section | undefined;
  /** Sections of the original that the rewritten file lacks, and sections of the latter that are not explained. */
  readonly gone: readonly Section[];
  readonly strange: readonly Section[];
  /** The number in the rewritten file of a section of the original, or undefined where it is gone. */
  numberOf(original: number): number | undefined;
}

/** Pairs sections by name; of several with one name those with the same address, then in their order. */
export function pairSections(original: ElfImage, rewritten: ElfImage): SectionPairs {
  const free = groupBy(rewritten.sections, (section) => section.name);
  const take = (name: string, which: (s: Section) => boolean): Section | undefined => {
    const candidates = free.get(name) ?? [];
    const at = candidates.findIndex(which);
    return at < 0 ? undefined : candidates.splice(at, 1)[0];
  };
  const partners = new Map<Section, Section>();
  // A revert section in the original belongs to an earlier rewriting and makes room for the new one.
  const wanted = original.sections.filter((s) => s.name !== CARRY_SECTION);
  const rules = [(a: Section, b: Section): boolean => a.sh_addr === b.sh_addr && a.sh_type === b.sh_type, () => true];
  for (const same of rules) {
    for (const section of wanted) {
      if (partners.has(section)) continue;
      const partner = take(section.name, (s) => same(section, s));
      if (partner !== undefined) partners.set(section, partner);
    }
  }
  const carry = take(CARRY_SECTION, () => true);
  const code = take(CODE_SECTION, () => true);
  const far = rewritten.sections.flatMap((s) => (s.name === FAR_SECTION ? (take(FAR_SECTION, () => true) ?? []) : []));
  const exceptions = take(EXCEPTIONS_SECTION, () => true);
  const kept: Section[] = [];
  // Where a table stood that moved there may be a section still: frames.ts and moved.ts judge its bytes.
  const moved = [...partners].filter(([o, r]) => o.sh_addr !== r.sh_addr);
  for (const [o] of moved)
    if (isUnwindTable(original, o)) {
      const found = take(`${o.name}${KEPT_SUFFIX}`, (s) => isKept(o, s));
      if (found !== undefined) kept.push(found);
    }
  const left = take(OLD_PLACE_SECTION, (s) => isLeftPlace(original, rewritten, moved, s));
  if (left !== undefined) kept.push(left);
  const words = take(WORDS_SECTION, () => true);
  const selector = take(SELECTOR_SECTION, () => true);
  const numbers = new Map([...partners].map(([from, to]) => [from.index, to.index]));
  return {
    pairs: wanted.flatMap((s) => {
      const partner = partners.get(s);
      return partner === undefined ? [] : [{ original: s, rewritten: partner }];
    }),
    code,
    far,
    carry,
    exceptions,
    kept,
    words,
    selector,
    gone: wanted.filter((s) => !partners.has(s)),
    strange: [...free.values()].flat().sort((a, b) => a.index - b.index),
    numberOf: (index) => numbers.get(index),
  };
}

/** Whether a table may have this size now: notes say more or less, symbols and names of new code are added. */
function mayHaveSize(original: ElfImage, s: Section, size: number): boolean {
  if (isUnwindTable(original, s)) return size > s.sh_size;
  if (s.sh_flags & elf.SHF_ALLOC) return false;
  if (s.sh_type === elf.SHT_NOTE) return s.name === NOTE_SECTION;
  return (
    size > s.sh_size && (s.sh_type === elf.SHT_SYMTAB || (s.sh_type === elf.SHT_STRTAB && isNameTable(original, s)))
  );
}

/** Whether a section is `.eh_frame`, or the table that PT_GNU_EH_FRAME leads to: new code has entries in them. */
export const isUnwindTable = (image: ElfImage, s: Section): boolean =>
  (s.sh_flags & elf.SHF_ALLOC) !== 0 &&
  (s.name === ".eh_frame" ||
    image.programHeaders.some((p) => p.p_type === elf.PT_GNU_EH_FRAME && p.p_vaddr === s.sh_addr && s.sh_size > 0));

/** Whether a section is where another was, with its header. */
function isKept(o: Section, r: Section): boolean {
  const fields = ["sh_type", "sh_flags", "sh_addr", "sh_offset", "sh_size", "sh_addralign", "sh_entsize"] as const;
  return fields.every((field) => o[field] === r[field]) && r.sh_link === 0 && r.sh_info === 0;
}

/** Whether a table holds the names of symbols that are not loaded, or of sections. */
export const isNameTable = (image: ElfImage, s: Section): boolean =>
  s.index === image.header.e_shstrndx ||
  image.sections.some((table) => table.sh_type === elf.SHT_SYMTAB && table.sh_link === s.index);

/** Whether sh_info of a section is a section's number. */
const infoIsSection = (s: Section): boolean =>
  (s.sh_flags & elf.SHF_INFO_LINK) !== 0 || s.sh_type === elf.SHT_RELA || s.sh_type === elf.SHT_REL;

/** Judges the section headers. */
export function judgeSections(
  original: ElfImage,
  rewritten: ElfImage,
  pairs: SectionPairs,
  guard: Guard | undefined,
  selector: Interval<Vaddr> | undefined,
  asLaidOut: boolean,
): Finding[] {
  const findings: Finding[] = [];
  const at = (s: Section): string => atOffset(rewritten.header.e_shoff + s.index * elf.SHDR_SIZE);
  const say = (s: Section, what: string): void => {
    findings.push(finding("described", at(s), `section ${s.name || s.index}: ${what}`));
  };
  if (pairs.gone.length > 0)
    findings.push(
      finding("described", "section headers", `gone: ${pairs.gone.map((s) => s.name || s.index).join(", ")}`),
    );
  for (const s of pairs.strange) say(s, "is not in the original");
  let last = -1;
  for (const { original: o, rewritten: r } of pairs.pairs) {
    if (r.sh_addr === o.sh_addr && asLaidOut) {
      if (r.index < last) say(r, "stands in another place among the section headers");
      last = Math.max(last, r.index);
    }
    if (asLaidOut && r.sh_name !== o.sh_name) say(r, changed("sh_name", r.sh_name, o.sh_name));
    const same: readonly (keyof Section)[] = ["sh_type", "sh_flags", "sh_addralign", "sh_entsize"];
    for (const field of same) if (o[field] !== r[field]) say(r, changed(field, r[field], o[field]));
    if (r.sh_size !== o.sh_size && r.sh_size !== guard?.sizes.get(o.index) && !mayHaveSize(original, o, r.sh_size))
      say(r, changed("sh_size", r.sh_size, o.sh_size));
    if (!isLoaded(o) && r.sh_addr !== o.sh_addr) say(r, changed("sh_addr", r.sh_addr, o.sh_addr));
    if (o.sh_type === elf.SHT_NULL && r.sh_offset !== o.sh_offset)
      say(r, changed("sh_offset", r.sh_offset, o.sh_offset));
    const number = (index: number): number => (index < original.sections.length ? (pairs.numberOf(index) ?? 0) : index);
    if (r.sh_link !== number(o.sh_link)) say(r, changed("sh_link", r.sh_link, number(o.sh_link)));
    const info = infoIsSection(o) ? number(o.sh_info) : o.sh_info;
    const grows = o.sh_type === elf.SHT_SYMTAB ? (r.sh_size - o.sh_size) / elf.SYM_SIZE : 0;
    if (r.sh_info !== info + grows) say(r, changed("sh_info", r.sh_info, info + grows));
    const offset = offsetInSegment(rewritten, r) ?? (isLoaded(o) && asLaidOut ? o.sh_offset : undefined);
    if (isLoaded(o) && offset !== undefined && offset !== r.sh_offset && agreed(original, o))
      say(r, `${changed("sh_offset", r.sh_offset, offset)}, where its segment has it`);
  }
  const { code, far, carry, exceptions } = pairs;
  if (exceptions !== undefined) {
    const { sh_type, sh_flags, sh_link, sh_info, sh_entsize, sh_addralign } = exceptions;
    if (
      sh_type !== elf.SHT_PROGBITS ||
      sh_flags !== elf.SHF_ALLOC ||
      sh_link + sh_info + sh_entsize !== 0 ||
      sh_addralign !== 4
    )
      say(exceptions, "has an unexpected header");
    if (offsetInSegment(rewritten, exceptions) !== exceptions.sh_offset)
      say(exceptions, "does not stand where its segment has it");
  }
  for (const [name, section, stretch] of [
    [WORDS_SECTION, pairs.words, guard?.words],
    [SELECTOR_SECTION, pairs.selector, selector],
  ] as const) {
    if (section === undefined && stretch !== undefined)
      findings.push(finding("described", "section headers", `${name} is missing`));
    if (section !== undefined && stretch === undefined) say(section, "is not in the original");
    if (section !== undefined && stretch !== undefined && !holdsWords(rewritten, section, stretch))
      say(section, "has an unexpected header");
  }
  for (const s of [...(code ? [code] : []), ...far]) {
    if (s.sh_type !== elf.SHT_PROGBITS || s.sh_flags !== (elf.SHF_ALLOC | elf.SHF_EXECINSTR))
      say(s, "is not plain code");
    if (offsetInSegment(rewritten, s) !== s.sh_offset) say(s, "does not stand where its segment has it");
    if (s.sh_link !== 0 || s.sh_info !== 0 || s.sh_entsize !== 0 || s.sh_addralign !== (s === code ? 16 : 1))
      say(s, "has an unexpected header");
  }
  if (carry !== undefined) {
    const { sh_type, sh_flags, sh_addr, sh_link, sh_info, sh_entsize, sh_addralign } = carry;
    const rest = [sh_flags, sh_addr, sh_link, sh_info, sh_entsize];
    if (sh_type !== elf.SHT_PROGBITS || rest.some((value) => value !== 0) || sh_addralign !== 1)
      say(carry, "has an unexpected header");
  }
  return findings;
}

/** Zeros that can be written, at the end of the segment that grew by them. */
function holdsWords(image: ElfImage, s: Section, words: Interval<Vaddr>): boolean {
  return (
    s.sh_type === elf.SHT_NOBITS &&
    s.sh_flags === (elf.SHF_ALLOC | elf.SHF_WRITE) &&
    s.sh_addr === words.start &&
    s.sh_size === words.end - words.start &&
    // It has nothing there: after what its segment has in the file, or what another one has.
    image.programHeaders.some((p) => p.p_type === elf.PT_LOAD && s.sh_offset === p.p_offset + p.p_filesz) &&
    [s.sh_link, s.sh_info, s.sh_entsize].every((value) => value === 0) &&
    s.sh_addralign === 8
  );
}

const changed = (field: string, now: string | number, before: string | number): string =>
  `${field} is ${typeof now === "number" ? hex(now) : now}, not ${typeof before === "number" ? hex(before) : before}`;

const isLoaded = (s: Section): boolean => (s.sh_flags & elf.SHF_ALLOC) !== 0;

/** Where in the file a loaded section has to stand, by its address; undefined where nothing says so. */
function offsetInSegment(image: ElfImage, s: Section): number | undefined {
  if (!isLoaded(s) || s.sh_type === elf.SHT_NOBITS || s.sh_size === 0) return undefined;
  const segment = segmentAt(image, s.sh_addr);
  return segment === undefined ? undefined : s.sh_addr - segment.p_vaddr + segment.p_offset;
}

/** Whether the original itself had the section where its segment says. */
const agreed = (original: ElfImage, s: Section): boolean => {
  const offset = offsetInSegment(original, s);
  return offset === undefined || offset === s.sh_offset;
};
