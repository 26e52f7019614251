/**
 * The program headers: what the kernel and the dynamic loader make of the file.
 *
 * Every segment of the original is there, at its address, with its place in the file, its size and its permissions.
 * Three things may be more: a segment of code may end later, in the rest of its last page; there may be a new segment,
 * which is never writable, and others with nothing but jumps to it; and a fork guard and a selector have words in memory after all
 * variables. A segment that tells where a section is (PT_INTERP, PT_NOTE, PT_GNU_PROPERTY) may tell of another place
 * with the same content. The table itself must be found where kernels and loaders look for it.
 */

import { alignUp, type FileOffset, hex, type Interval, PAGE_SIZE, type Vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import type { ElfImage, ProgramHeader, Section } from "../../elf/image.js";
import { atAddress, atOffset, type Finding, finding } from "./findings.js";
import { unjudgedRuns } from "./runs.js";

export interface SegmentPairs {
  readonly pairs: readonly { readonly original: ProgramHeader; readonly rewritten: ProgramHeader }[];
  readonly gone: readonly ProgramHeader[];
  readonly added: readonly ProgramHeader[];
}

const names: Readonly<Record<number, string>> = {
  [elf.PT_LOAD]: "PT_LOAD",
  [elf.PT_DYNAMIC]: "PT_DYNAMIC",
  [elf.PT_INTERP]: "PT_INTERP",
  [elf.PT_NOTE]: "PT_NOTE",
  [elf.PT_PHDR]: "PT_PHDR",
  [elf.PT_TLS]: "PT_TLS",
  [elf.PT_GNU_EH_FRAME]: "PT_GNU_EH_FRAME",
  [elf.PT_GNU_STACK]: "PT_GNU_STACK",
  [elf.PT_GNU_RELRO]: "PT_GNU_RELRO",
  [elf.PT_GNU_PROPERTY]: "PT_GNU_PROPERTY",
};

const nameOf = ({ p_type, p_vaddr }: ProgramHeader): string =>
  `${names[p_type] ?? `segment type ${hex(p_type)}`} at ${hex(p_vaddr)}`;

/** Those that say where a section is, and nothing more. */
const tells = new Set<number>([elf.PT_INTERP, elf.PT_NOTE, elf.PT_GNU_PROPERTY]);

/** Pairs program headers by type and address; of those that stand elsewhere now, in their order. PT_NULL is room. */
export function pairSegments(original: ElfImage, rewritten: ElfImage): SegmentPairs {
  const wanted = original.programHeaders.filter((p) => p.p_type !== elf.PT_NULL);
  const free = rewritten.programHeaders.filter((p) => p.p_type !== elf.PT_NULL);
  const partners = new Map<ProgramHeader, ProgramHeader>();
  const rules = [
    (a: ProgramHeader, b: ProgramHeader): boolean => a.p_vaddr === b.p_vaddr && a.p_flags === b.p_flags,
    (a: ProgramHeader, b: ProgramHeader): boolean => a.p_vaddr === b.p_vaddr || a.p_type !== elf.PT_LOAD,
  ];
  for (const same of rules)
    for (const p of wanted) {
      if (partners.has(p)) continue;
      const at = free.findIndex((q) => q.p_type === p.p_type && same(p, q));
      if (at >= 0) partners.set(p, free.splice(at, 1)[0]!);
    }
  return {
    pairs: wanted.flatMap((p) => {
      const partner = partners.get(p);
      return partner === undefined ? [] : [{ original: p, rewritten: partner }];
    }),
    gone: wanted.filter((p) => !partners.has(p)),
    added: free,
  };
}

/**
 * Judges the program headers.
 * @param judged stretches of the original's file whose content others judge, wherever it is now
 * @param far sections with far jumps
 * @param words those of the fork guard, and the selector's: link-time addresses, ascending, no two that touch
 */
export function judgeSegments(
  original: ElfImage,
  rewritten: ElfImage,
  segments: SegmentPairs,
  judged: readonly Interval<FileOffset>[],
  words: readonly Interval<Vaddr>[],
  far: readonly Section[],
  asLaidOut: boolean,
): Finding[] {
  const findings: Finding[] = [];
  const at = (p: ProgramHeader): string => atOffset(rewritten.header.e_phoff + p.index * elf.PHDR_SIZE);
  const say = (p: ProgramHeader, what: string): void => {
    findings.push(finding("loaded", at(p), `${nameOf(p)}: ${what}`));
  };
  for (const p of segments.gone) findings.push(finding("loaded", "program headers", `${nameOf(p)} is gone`));
  let last = -1;
  for (const { original: o, rewritten: r } of segments.pairs) {
    if (asLaidOut && r.index < last) say(r, "stands in another place among the program headers");
    last = Math.max(last, r.index);
    if (r.p_flags !== o.p_flags) say(r, `has the permissions ${permissions(r)}, not ${permissions(o)}`);
    if (r.p_align !== o.p_align) say(r, `p_align is ${hex(r.p_align)}, not ${hex(o.p_align)}`);
    if (r.p_type === elf.PT_PHDR) continue;
    if (r.p_paddr - r.p_vaddr !== o.p_paddr - o.p_vaddr) say(r, `p_paddr is ${hex(r.p_paddr)}`);
    for (const problem of placeProblems(original, rewritten, o, r, judged, words, asLaidOut)) say(r, problem);
  }
  for (const p of segments.added) {
    if (p.p_type !== elf.PT_LOAD) say(p, "is not in the original");
    else for (const problem of newSegmentProblems(p, asLaidOut)) say(p, problem);
  }
  if (asLaidOut) for (const p of segments.added.slice(1)) if (!holdsFarJumps(p, far)) say(p, "is a second new segment");
  return [...findings, ...judgeOrder(original, rewritten, segments), ...judgeTable(original, rewritten)];
}

/** Jumps to new code, far after it, and nothing else: one section, which is judged with the sites. */
const holdsFarJumps = (p: ProgramHeader, far: readonly Section[]): boolean =>
  far.some((s) => s.sh_addr === p.p_vaddr && s.sh_size === p.p_filesz && s.sh_offset === p.p_offset);

const permissions = ({ p_flags }: ProgramHeader): string =>
  `${p_flags & elf.PF_R ? "R" : "-"}${p_flags & elf.PF_W ? "W" : "-"}${p_flags & elf.PF_X ? "X" : "-"}${p_flags > 7 ? ` (${hex(p_flags)})` : ""}`;

function* placeProblems(
  original: ElfImage,
  rewritten: ElfImage,
  o: ProgramHeader,
  r: ProgramHeader,
  judged: readonly Interval<FileOffset>[],
  words: readonly Interval<Vaddr>[],
  asLaidOut: boolean,
): Generator<string> {
  // Another tool may have moved the dynamic section: its tags are compared one by one then.
  if (o.p_type === elf.PT_DYNAMIC && !asLaidOut && r.p_vaddr !== o.p_vaddr) return;
  if (o.p_type === elf.PT_GNU_EH_FRAME && r.p_vaddr !== o.p_vaddr) {
    const table = rewritten.sections.find(
      (s) => s.sh_addr === r.p_vaddr && s.sh_offset === r.p_offset && s.sh_size > 0,
    );
    if (table === undefined || table.sh_size !== r.p_filesz || table.sh_size !== r.p_memsz)
      yield "does not tell where a section is";
    return;
  }
  const sameSize = r.p_filesz === o.p_filesz && r.p_memsz === o.p_memsz;
  if (!sameSize && !(o.p_type === elf.PT_LOAD && (growsInPage(o, r) || holdsWords(o, r, words))))
    yield `has ${hex(r.p_filesz)} bytes in the file and ${hex(r.p_memsz)} in memory, not ${hex(o.p_filesz)} and ${hex(o.p_memsz)}`;
  if (!tells.has(o.p_type)) {
    if (r.p_vaddr !== o.p_vaddr) yield `was at ${hex(o.p_vaddr)}`;
    if (r.p_offset !== o.p_offset) yield `p_offset is ${hex(r.p_offset)}, not ${hex(o.p_offset)}`;
    return;
  }
  if (!sameSize) return;
  const home = rewritten.programHeaders.find(
    (p) => p.p_type === elf.PT_LOAD && r.p_vaddr >= p.p_vaddr && r.p_vaddr + r.p_filesz <= p.p_vaddr + p.p_filesz,
  );
  if (home === undefined) {
    if (r.p_vaddr !== o.p_vaddr || r.p_offset !== o.p_offset) yield "tells of what is in no segment";
  } else if (r.p_vaddr === o.p_vaddr && r.p_offset === o.p_offset) {
    // As it was, even where that was wrong.
  } else if (r.p_offset - home.p_offset !== r.p_vaddr - home.p_vaddr)
    yield `p_offset is ${hex(r.p_offset)}, which is not where its address is in the file`;
  const [before, now] = [
    [original, o],
    [rewritten, r],
  ].map(([image, p]) => content(image as ElfImage, p as ProgramHeader)) as [Buffer, Buffer];
  for (const _ of unjudgedRuns(before, now, o.p_offset, judged)) {
    yield `what stands there is not what stood at ${hex(o.p_vaddr)}`;
    return;
  }
}

const content = (image: ElfImage, p: ProgramHeader): Buffer =>
  image.bytes.subarray(p.p_offset, p.p_offset + p.p_filesz);

/** New code in the rest of the last page of a segment of code. */
const growsInPage = (o: ProgramHeader, r: ProgramHeader): boolean =>
  (r.p_flags & elf.PF_X) !== 0 &&
  (r.p_flags & elf.PF_W) === 0 &&
  o.p_filesz === o.p_memsz &&
  r.p_filesz === r.p_memsz &&
  r.p_filesz > o.p_filesz &&
  r.p_vaddr + r.p_filesz <= alignUp(o.p_vaddr + o.p_filesz, PAGE_SIZE);

/** Words after the variables of a segment, in memory alone. */
const holdsWords = (o: ProgramHeader, r: ProgramHeader, words: readonly Interval<Vaddr>[]): boolean =>
  (r.p_flags & elf.PF_W) !== 0 &&
  r.p_filesz === o.p_filesz &&
  words.some(({ start, end }) => start === alignUp(o.p_vaddr + o.p_memsz, WORD) && end === r.p_vaddr + r.p_memsz);

function* newSegmentProblems(p: ProgramHeader, asLaidOut: boolean): Generator<string> {
  if (p.p_flags & elf.PF_W && (asLaidOut || p.p_flags & elf.PF_X)) yield "is new, and writable";
  if (asLaidOut && (p.p_flags | elf.PF_X) !== (elf.PF_R | elf.PF_X))
    yield `is new, and has the permissions ${permissions(p)}`;
  if (asLaidOut && p.p_filesz !== p.p_memsz) yield "is new, and its sizes in the file and in memory differ";
  if (asLaidOut && p.p_paddr !== p.p_vaddr) yield `p_paddr is ${hex(p.p_paddr)}`;
  if (asLaidOut ? p.p_align !== PAGE_SIZE : p.p_align < PAGE_SIZE) yield `is new, and p_align is ${hex(p.p_align)}`;
}

const WORD = 8;
const pageStart = (address: number): number => Math.floor(address / PAGE_SIZE) * PAGE_SIZE;

/** The loader wants PT_LOADs in ascending order; pages of a new one belong to no other. */
function judgeOrder(original: ElfImage, rewritten: ElfImage, { added }: SegmentPairs): Finding[] {
  const findings: Finding[] = [];
  const say = (p: ProgramHeader, what: string): void => {
    findings.push(
      finding("loaded", atOffset(rewritten.header.e_phoff + p.index * elf.PHDR_SIZE), `${nameOf(p)}: ${what}`),
    );
  };
  const loads = (image: ElfImage): ProgramHeader[] => image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD);
  const ordered = (list: readonly ProgramHeader[]): boolean =>
    list.every((p, i) => i === 0 || p.p_vaddr >= list[i - 1]!.p_vaddr + list[i - 1]!.p_memsz);
  const judgesOrder = ordered(loads(original));
  loads(rewritten).forEach((p, i, all) => {
    if ((p.p_vaddr - p.p_offset) % PAGE_SIZE !== 0 || (p.p_align > 1 && (p.p_vaddr - p.p_offset) % p.p_align !== 0))
      if (added.includes(p) || wasCongruent(original, p)) say(p, "its address and its place in the file do not agree");
    const before = all[i - 1];
    if (before === undefined) return;
    if (judgesOrder && p.p_vaddr < before.p_vaddr + before.p_memsz)
      say(p, "overlaps the one before it, or does not follow it");
    if (
      (added.includes(p) || added.includes(before)) &&
      pageStart(p.p_vaddr) < alignUp(before.p_vaddr + before.p_memsz, PAGE_SIZE)
    )
      say(p, "shares a page with the one before it");
  });
  return findings;
}

const wasCongruent = (original: ElfImage, { p_vaddr }: ProgramHeader): boolean =>
  original.programHeaders.some(
    (p) =>
      p.p_type === elf.PT_LOAD &&
      p.p_vaddr === p_vaddr &&
      (p.p_vaddr - p.p_offset) % PAGE_SIZE === 0 &&
      (p.p_align <= 1 || (p.p_vaddr - p.p_offset) % p.p_align === 0),
  );

/**
 * Where the table is found: a program reads it at AT_PHDR, which kernels before 5.18 compute as the address of the
 * first segment's file start + e_phoff, and later ones take from the segment that holds the table; the dynamic loader
 * also trusts PT_PHDR.
 */
function judgeTable(original: ElfImage, rewritten: ElfImage): Finding[] {
  const findings: Finding[] = [];
  const where = atOffset(32);
  const [before, now] = [tableAddresses(original), tableAddresses(rewritten)];
  if (before.loaded !== undefined && now.loaded === undefined)
    findings.push(finding("loaded", where, "the program header table is in no segment"));
  if (before.loaded !== undefined && before.loaded === before.computed && now.loaded !== now.computed)
    findings.push(finding("loaded", where, "kernels before 5.18 do not find the program header table where it is"));
  const phdr = rewritten.programHeaders.find((p) => p.p_type === elf.PT_PHDR);
  const phdrBefore = original.programHeaders.find((p) => p.p_type === elf.PT_PHDR);
  const agrees = ({ header }: ElfImage, p: ProgramHeader, loaded: number | undefined): boolean =>
    p.p_offset === header.e_phoff &&
    p.p_vaddr === loaded &&
    p.p_filesz === header.e_phnum * elf.PHDR_SIZE &&
    p.p_memsz === p.p_filesz;
  if (phdr !== undefined && !agrees(rewritten, phdr, now.loaded))
    if (phdrBefore === undefined || agrees(original, phdrBefore, before.loaded))
      findings.push(finding("loaded", atAddress(phdr.p_vaddr), "PT_PHDR does not tell where the table is"));
  if (
    phdr !== undefined &&
    phdrBefore !== undefined &&
    phdr.p_paddr - phdr.p_vaddr !== phdrBefore.p_paddr - phdrBefore.p_vaddr
  )
    findings.push(finding("loaded", atAddress(phdr.p_vaddr), `PT_PHDR: p_paddr is ${hex(phdr.p_paddr)}`));
  return findings;
}

function tableAddresses({ header, programHeaders }: ElfImage): { loaded: number | undefined; computed: number } {
  const size = header.e_phnum * elf.PHDR_SIZE;
  const loads = programHeaders.filter((p) => p.p_type === elf.PT_LOAD);
  const home = loads.find((p) => header.e_phoff >= p.p_offset && header.e_phoff + size <= p.p_offset + p.p_filesz);
  const first = loads[0];
  return {
    loaded: home && header.e_phoff - home.p_offset + home.p_vaddr,
    computed: first === undefined ? -1 : first.p_vaddr - first.p_offset + header.e_phoff,
  };
}
