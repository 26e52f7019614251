/**
 * The output file, put together from what is known by now.
 *
 *     [ what is loaded, in place, with its edits ][ hole ][ new segment ][ far jumps ][ what is not loaded ][ revert data ][ section headers ]
 *
 * Loaded bytes never move: addresses depend on them. What moves into the new segment all the same is found by headers
 * and dynamic tags alone (table-growth.ts, fork-guard/, unwind/); where large tables stood there are holes then. What
 * is not loaded (symbols, debug information, notes) follows in its old order after the new segment, and section headers
 * tell where. Where the file has bytes that no header describes, all of it stays in place (unloaded.ts).
 */

import { constants as bufferLimits } from "node:buffer";
import { alignUp, type FileOffset, fileOffset, type Interval, interval, PAGE_SIZE, type Vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, ProgramHeader, Section } from "../elf/image.js";
import { renumberSymbols } from "../elf/renumber-symbols.js";
import { InputError } from "../errors.js";
import { encodeCarry, sealCarry } from "../rewritten/carry.js";
import { digestOf } from "../rewritten/content-digest.js";
import { CARRY_SECTION, CODE_SECTION } from "../rewritten/section-names.js";
import type { SparseContent } from "../sparse-content.js";

import { applyEdits, type Edit, editAt, holesAfter, word } from "./edits.js";
import { type FarPiece, farPieces } from "./far-jumps.js";
import type { NewCode } from "./new-code.js";
import { oldPlaces } from "./old-places.js";
import { betweenHoles, Output, untouchedSections } from "./output-pieces.js";
import type { Place } from "./place.js";
import { encodeProgramHeaders, newProgramHeaders, programHeaderEdits, tagEdits } from "./program-headers.js";
import {
  codeSection,
  encodeSectionHeaders,
  farSection,
  type OutputSection,
  orderSections,
  renumbering,
} from "./sections.js";
import { type AddedSymbols, symbolsFor } from "./symbols.js";
import type { MovedSection } from "./table-growth.js";
import { undoFor } from "./undo.js";
import { loadedEnd, unloadedPart, writtenSections } from "./unloaded.js";
import type { UnwindLayout } from "./unwind/layout.js";
import { Unwritten } from "./unwritten.js";

export interface Assembly {
  /** Edits to bytes that stay in place, complete but for headers, which are made here. */
  readonly edits: readonly Edit[];
  /** Sections that are not loaded and get new content. */
  readonly replaced: ReadonlyMap<Section, Uint8Array>;
  readonly code: { readonly place: Place; readonly newCode: NewCode } | undefined;
  /** Unwind information for the new code, which is in a new segment then. */
  readonly unwind?: UnwindLayout;
  /** What comes after the content of sections that move to the new segment because they have grown. */
  readonly tails?: ReadonlyMap<Section, Uint8Array>;
  /** Loaded sections without content in the file, for which the program headers of `image` have room already. */
  readonly addedSections?: readonly OutputSection[];
  /** What to call new code of a site where no symbol says. */
  readonly probeName: (site: Vaddr) => string;
  /** JSON for the revert section, and what is claimed of the functions that changed. */
  readonly memo: Uint8Array;
  readonly certificates: Uint8Array;
  /** What revert has to come back to. */
  readonly original: ElfImage;
}

/** From there on e_phnum does not say how many there are. */
const PN_XNUM = 0xffff;

/** It is looked at once more as a file in memory; what is a hole in it costs nothing. */
function requirePlace(size: number): void {
  if (size > bufferLimits.MAX_LENGTH)
    throw new InputError(`the output would need ${size} bytes: more than this version of Node has place for`);
}

/** Where a section that is not loaded stands in the output. */
interface Placed {
  readonly offset: number;
  readonly size: number;
  /** A new sh_info, where it changes: the number of the first global symbol. */
  readonly info: number | undefined;
}

export function assemble(image: ElfImage, assembly: Assembly): SparseContent {
  const { code } = assembly;
  const sections = outputSections(image, assembly);
  // From there on numbers of sections mean something else.
  if (sections.length >= elf.SHN_LORESERVE)
    throw new InputError(`the output would have ${sections.length} sections: more than 65,279 are not supported`);
  const numbers = renumbering(image, sections);
  const symbols = code && symbolsFor(image, code.newCode, assembly.probeName, sections.findIndex(isNewCode));
  const { patched, segment, holes, shared } = patch(image, assembly, numbers);
  const away = movedAway(code);
  const loaded = { patched, segment, vacated: [...away.map(oldPlaceOf), ...(assembly.unwind?.vacated ?? [])] };
  const names = sectionNames(image, sections, symbols);
  const kept = new Set(sections.map((s) => s.origin));
  const output = new Output(image.bytes, holes, shared);
  const inPlaceEnd = endOfLoaded(image, code);
  putLoaded(output, assembly, loaded, inPlaceEnd);
  const placed = new Map<Section, Placed>();
  const changes = (s: Section): boolean => assembly.replaced.has(s) || s === symbols?.table || s === symbols?.strings;
  for (const section of writtenSections(image, inPlaceEnd, changes)) {
    if (!kept.has(section)) continue;
    output.at = alignUp(output.at, Math.min(section.sh_addralign, PAGE_SIZE));
    const offset = output.at;
    const info = putUnloaded(output, section, takenFrom(patched, image, section, inPlaceEnd), assembly, symbols);
    if (section.index === image.header.e_shstrndx) output.put(names.added);
    placed.set(section, { offset, size: output.at - offset, info });
  }

  // The revert data describes all that stands before it; after it come only the section headers and trailing bytes.
  const trailing = patched.subarray(unloadedPart(image).trailingStart);
  for (const { section, sh_offset } of away)
    output.sources.push({ from: sh_offset, to: section.sh_offset, size: section.sh_size });
  output.sources.push(...(assembly.unwind?.copies ?? []));
  const { memo, certificates, original } = assembly;
  const { pieces } = output;
  requirePlace(output.at + trailing.length);
  const written = new Unwritten({ size: output.at, pieces });
  const undo = undoFor(original.bytes, written, output.sources, UNSETTLED, trailing.length);
  const originalHash = digestOf(original.bytes, original.holes, original.zeroTail);
  const carry = encodeCarry({ memo, originalHash, undo, certificates });
  const carryAt = output.at;
  output.put(carry);
  output.at = alignUp(output.at, 8);
  const e_shoff = output.at;
  const final = sections.map((s): OutputSection => {
    if (isNewCarry(s)) return { ...s, sh_offset: carryAt, sh_size: carry.length };
    const p = s.origin && placed.get(s.origin);
    return p === undefined ? s : { ...s, sh_offset: p.offset, sh_size: p.size, sh_info: p.info ?? s.sh_info };
  });
  output.put(encodeSectionHeaders(final, numbers, names.offsetOf));
  output.putPieces(trailing, unloadedPart(image).trailingStart);

  const header = new DataView(patched.buffer, patched.byteOffset);
  header.setBigUint64(40, BigInt(e_shoff), true);
  header.setUint16(60, final.length, true);
  header.setUint16(62, numbers[image.header.e_shstrndx]!, true);
  requirePlace(output.at);
  const content = { size: output.at + image.zeroTail, pieces };
  sealCarry(carry, carryAt, content);
  return content;
}

/** What is loaded. */
interface Loaded {
  /** The input's bytes, with all that changes in place. */
  readonly patched: Buffer;
  /** The new segment, where there is one. */
  readonly segment: Uint8Array | undefined;
  /** Bytes in place that hold nothing any more. */
  readonly vacated: readonly Interval<FileOffset>[];
}

function patch(
  image: ElfImage,
  assembly: Assembly,
  numbers: Uint16Array,
): Pick<Loaded, "patched" | "segment"> & { readonly holes: readonly Interval[]; readonly shared: readonly Interval[] } {
  const { code, tails, unwind } = assembly;
  const contentEdits = [...assembly.edits, ...(code ? tagEdits(image, code.place) : [])];
  const shared = untouchedSections(image, contentEdits, endOfCode(image, code));
  const patched = applyEdits(image, contentEdits, shared);
  for (const { sh_offset, sh_size } of symbolTables(image))
    renumberSymbols(patched.subarray(sh_offset, sh_offset + sh_size), numbers);
  // Sections that move take their new content along; then the headers are written over where they stood.
  const contentOf = (section: Section): Uint8Array => {
    const { sh_offset, sh_size } = section;
    return Buffer.concat([patched.subarray(sh_offset, sh_offset + sh_size), tails?.get(section) ?? new Uint8Array(0)]);
  };
  const segment = code && segmentContent(image, assembly, contentOf);
  const headers = headerEdits(image, assembly, contentOf);
  for (const edit of headers) patched.set(edit.new, edit.offset);
  for (const { start, end } of unwind?.vacated ?? []) patched.fill(0, start, end);
  const frames = unwindContent(assembly, false);
  for (const { offset, bytes } of frames) patched.set(bytes, offset);
  const put = [...contentEdits, ...headers].map((edit) => ({ offset: edit.offset, size: edit.new.length }));
  const framesPut = frames.map(({ offset, bytes }) => ({ offset, size: bytes.length }));
  return { patched, segment, holes: holesAfter(image.holes, [...put, ...framesPut]), shared };
}

/** What stays in place, without its holes, and the new segments. */
function putLoaded(
  output: Output,
  assembly: Assembly,
  { patched, segment, vacated }: Loaded,
  inPlaceEnd: number,
): void {
  const { code } = assembly;
  for (const { start, end } of betweenHoles(patched, inPlaceEnd, vacated)) {
    output.at = start;
    output.put(patched.subarray(start, end), start);
  }
  output.at = inPlaceEnd;
  if (code?.place.kind !== "new segment") return;
  output.at = code.place.p_offset;
  output.put(segment ?? new Uint8Array(0));
  for (const { offset, bytes } of farIn(assembly)) {
    output.at = offset;
    output.put(bytes);
  }
}

/**
 * A section that is not loaded, with what is added to it or takes its place.
 * @param bytes what it holds in the input, with all edits
 * @returns its new sh_info, where that changes
 */
function putUnloaded(
  output: Output,
  section: Section,
  bytes: Uint8Array,
  { replaced }: Assembly,
  symbols: AddedSymbols | undefined,
): number | undefined {
  const { sh_offset, sh_info } = section;
  if (section === symbols?.table) {
    // Local symbols come before global ones; sh_info says where those begin.
    const border = Math.min(bytes.length, sh_info * elf.SYM_SIZE);
    output.put(bytes.subarray(0, border), sh_offset);
    output.put(symbols.entries);
    output.put(bytes.subarray(border), sh_offset + border);
    return sh_info + symbols.entries.length / elf.SYM_SIZE;
  }
  const content = replaced.get(section);
  output.put(content ?? bytes, content === undefined ? sh_offset : undefined);
  if (section === symbols?.strings) output.put(symbols.names);
  return undefined;
}

/** e_phoff to e_shstrndx: where the section headers are is not known yet. */
const UNSETTLED = { start: 32, end: elf.EHDR_SIZE };

const isNewCode = (s: OutputSection): boolean => s.name === CODE_SECTION && s.origin === undefined;
const isNewCarry = (s: OutputSection): boolean => s.name === CARRY_SECTION && s.origin === undefined;

function outputSections(image: ElfImage, assembly: Assembly): OutputSection[] {
  const { code, unwind, addedSections } = assembly;
  const added: OutputSection[] = [carrySection, ...(addedSections ?? [])];
  added.push(...(unwind?.kept ?? []));
  if (code?.place.kind === "new segment") added.push(...oldPlaces(image, code.place));
  if (unwind?.exceptions !== undefined) added.push(unwind.exceptions);
  if (code !== undefined) {
    const { place, newCode } = code;
    const offset =
      place.kind === "rest of page" ? place.offset : fileOffset(newCode.start - place.p_vaddr + place.p_offset);
    added.push(codeSection(newCode.start, offset, newCode.bytes.length));
    for (const far of farIn(assembly)) added.push(farSection(far.start, far.offset, far.bytes.length));
  }
  const moved: MovedSection[] = code?.place.kind === "new segment" ? [...code.place.growth.moved] : [];
  moved.push(...(unwind?.sections ?? []));
  // A revert section that is there already belongs to a file that was changed since: it is of no use any more.
  return orderSections(image, moved, added)
    .filter((s) => s.name !== CARRY_SECTION || isNewCarry(s))
    .map((s) => ({ ...s, sh_size: sizeNow(s, assembly) }));
}

function sizeNow({ origin, sh_size }: OutputSection, { tails, unwind }: Assembly): number {
  if (origin === undefined) return sh_size;
  const table = unwind?.sections.find(({ section }) => section === origin);
  return table?.sh_size ?? sh_size + (tails?.get(origin)?.length ?? 0);
}

const carrySection: OutputSection = {
  name: CARRY_SECTION,
  sh_type: elf.SHT_PROGBITS,
  sh_flags: 0,
  sh_addr: 0,
  sh_offset: 0,
  sh_size: 0,
  sh_link: 0,
  sh_info: 0,
  sh_addralign: 1,
  sh_entsize: 0,
  origin: undefined,
};

/** Edits to the ELF header, the program headers, and what points to moved sections. */
function headerEdits(image: ElfImage, assembly: Assembly, contentOf: (section: Section) => Uint8Array): Edit[] {
  const { code } = assembly;
  // e_phoff to e_shstrndx as one edit; the fields about section headers are filled in when these are placed.
  const fields = Buffer.from(image.bytes.subarray(32, elf.EHDR_SIZE));
  const edits: Edit[] = [editAt(image, 32, fields)];
  if (code === undefined) return edits;
  const { place, newCode } = code;
  const headers = programHeaders(image, assembly);
  if (headers.length >= PN_XNUM)
    throw new InputError(`the output would have ${headers.length} program headers: more than 65,534 are not supported`);
  fields.writeUInt16LE(headers.length, 56 - 32);
  if (place.kind === "new segment") fields.set(word(place.growth.e_phoff, 8), 0);
  else edits.push(editAt(image, place.offset, newCode.bytes));
  return [...edits, ...programHeaderEdits(image, place, headers, contentOf)];
}

const endOfLoaded = (image: ElfImage, code: Assembly["code"]): number =>
  Math.max(unloadedPart(image).keptEnd, endOfCode(image, code));

/** The end of what is loaded in place, with new code in the rest of a page. */
const endOfCode = (image: ElfImage, code: Assembly["code"]): number =>
  Math.max(loadedEnd(image), code?.place.kind === "rest of page" ? code.place.offset + code.newCode.bytes.length : 0);

/** The program headers of the output. */
function programHeaders(image: ElfImage, assembly: Assembly): readonly ProgramHeader[] {
  const { place } = assembly.code!;
  const { unwind } = assembly;
  const size = newEnd(assembly) - place.start;
  return newProgramHeaders(image, place, size, unwind?.programHeader && [unwind.programHeader], farIn(assembly));
}

/** Where the new code ends, and what stands after it. */
const newEnd = ({ code, unwind }: Assembly): number => unwind?.end ?? code!.newCode.start + code!.newCode.bytes.length;

/** The far jumps, which stand after the new segment in the file. */
function farIn(assembly: Assembly): readonly FarPiece[] {
  if (assembly.code?.place.kind !== "new segment") return [];
  const { place, newCode } = assembly.code;
  return farPieces(newCode.chunks, newEnd(assembly) - place.p_vaddr + place.p_offset);
}

/**
 * What a new segment holds: the sections that moved into it, or the table, the new code, and its unwind information.
 */
function segmentContent(
  image: ElfImage,
  assembly: Assembly,
  contentOf: (section: Section) => Uint8Array,
): Uint8Array | undefined {
  const { place, newCode } = assembly.code!;
  if (place.kind !== "new segment") return undefined;
  const content = new Uint8Array(newEnd(assembly) - place.p_vaddr);
  if (place.growth.kind === "at end") content.set(encodeProgramHeaders(programHeaders(image, assembly)));
  for (const { section, sh_addr } of place.growth.moved)
    if (sh_addr >= place.p_vaddr) content.set(contentOf(section), sh_addr - place.p_vaddr);
  content.set(newCode.bytes, newCode.start - place.p_vaddr);
  for (const { offset, bytes } of unwindContent(assembly, true)) content.set(bytes, offset - place.p_offset);
  return content;
}

/** Unwind information that stands in the new segment, or that which stands before it. */
function unwindContent({ code, unwind }: Assembly, inSegment: boolean): UnwindLayout["content"] {
  if (unwind === undefined || code?.place.kind !== "new segment") return [];
  const { p_offset } = code.place;
  return unwind.content.filter(({ offset }) => offset >= p_offset === inSegment);
}

/** The sections that made room for a longer program header table, and stand in the new segment. */
function movedAway(code: Assembly["code"]): MovedSection[] {
  if (code?.place.kind !== "new segment") return [];
  const { growth, p_vaddr } = code.place;
  const { cleared } = growth;
  if (cleared === undefined) return [];
  return growth.moved.filter(
    ({ section: s, sh_addr }) =>
      sh_addr >= p_vaddr && s.sh_offset >= cleared.start && s.sh_offset + s.sh_size <= cleared.end,
  );
}

/** Where it stood in the input. */
const oldPlaceOf = ({ section }: MovedSection): Interval<FileOffset> => interval(section.sh_offset, section.sh_size);

/**
 * A section's new bytes, to be written elsewhere. Where its old ones stay, which belong to nothing then, they are as
 * they were.
 */
function takenFrom(patched: Buffer, image: ElfImage, { sh_offset, sh_size }: Section, keptEnd: number): Uint8Array {
  const bytes = patched.subarray(sh_offset, sh_offset + sh_size);
  if (sh_offset >= keptEnd) return bytes;
  const taken = Buffer.from(bytes);
  image.bytes.copy(patched, sh_offset, sh_offset, Math.min(sh_offset + sh_size, keptEnd));
  return taken;
}

const symbolTables = (image: ElfImage): Section[] =>
  image.sections.filter((s) => s.sh_type === elf.SHT_SYMTAB || s.sh_type === elf.SHT_DYNSYM);

/** New names after those that .shstrtab has. */
function sectionNames(
  image: ElfImage,
  sections: readonly OutputSection[],
  symbols: AddedSymbols | undefined,
): { added: Uint8Array; offsetOf: (section: OutputSection) => number } {
  const table = image.sections[image.header.e_shstrndx]!;
  let at = table.sh_size + (symbols?.strings === table ? symbols.names.length : 0);
  const names: Buffer[] = [];
  const offsets = new Map<string, number>();
  for (const { name, origin } of sections) {
    if (origin !== undefined) continue;
    const bytes = Buffer.from(`${name}\0`, "latin1");
    offsets.set(name, at);
    names.push(bytes);
    at += bytes.length;
  }
  return {
    added: Buffer.concat(names),
    offsetOf: ({ name, origin }) => (origin === undefined ? offsets.get(name)! : origin.sh_name),
  };
}
