/**
 * The last look before anything is written: is all that was planned in the output, and does the output lead back?
 *
 * The output is parsed afresh and asked as a stranger would ask it, through src/elf and src/usdt: each note where the
 * report says that its probe is, the form's bytes there, every section of the input, those that are new, symbols and
 * frame records of new code. Then the recipe in the output is followed, and must end at the input. What is missing is a
 * mistake of this program, whatever the input is like: nothing is written then.
 */

import { hex, type Interval, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type EhFrame, readEhFrame } from "../elf/eh-frame.js";
import { HDR_ENCODINGS, HDR_ENTRY_SIZE, HDR_TABLE_AT } from "../elf/eh-frame-hdr.js";
import { isEhFrame, readCie } from "../elf/eh-records.js";
import { type ElfImage, offsetOf, type Section, sectionBytes, sectionNamed, segmentAt, words32 } from "../elf/image.js";
import { symtab } from "../elf/symbols.js";
import { InputError } from "../errors.js";
import { addTo } from "../grouped.js";
import { readCarry } from "../rewritten/carry.js";
import type { SiteReport } from "../rewritten/contract.js";
import { CARRY_SECTION, CODE_SECTION, FAR_SECTION } from "../rewritten/section-names.js";
import { leadsTo } from "../rewritten/undo.js";
import { countWhile } from "../sorted.js";
import type { SparseContent } from "../sparse-content.js";
import { forms } from "../usdt/forms.js";
import { NOTE_SECTION, readUsdtNotes } from "../usdt/notes.js";
import { codeFrom } from "../usdt/sites.js";
import { leading, near } from "../x86/distance.js";
import type { Assembly } from "./assemble.js";
import type { PlacedProbe } from "./proposal.js";
import { takesSymbols } from "./symbols.js";
import { Unwritten } from "./unwritten.js";
import { formOf, isUniversal, type SingleForm } from "./written-form.js";

/** What the output has to be. */
interface Planned {
  /** The input, byte for byte. */
  readonly original: ElfImage;
  /** The input with the edits that come before all others, and room for new words. */
  readonly image: ElfImage;
  readonly assembly: Assembly;
  /** The input's frame records, where it has any. */
  readonly frames: EhFrame | undefined;
  /** In the order of the input's notes. */
  readonly sites: readonly SiteReport[];
  /** The rewritten probes, by where they were. */
  readonly placed: ReadonlyMap<Vaddr, PlacedProbe>;
}

/** The output is not what was planned. It was not written. */
export class NotAsPlanned extends Error {
  override readonly name = "NotAsPlanned";
}

/** @throws NotAsPlanned */
export function checkPlaced(content: SparseContent, planned: Planned): void {
  const file = new Unwritten(content, planned.original.zeroTail);
  const output: Output = { file, image: parsed(file) };
  checkNotes(output, planned);
  checkSections(output, planned);
  checkSymbols(output, planned);
  checkFrames(output, planned);
  checkFar(output, planned);
  checkWayBack(output, planned);
}

interface Output {
  readonly file: Unwritten;
  readonly image: ElfImage;
}

function parsed(file: Unwritten): ElfImage {
  return orNotAsPlanned("the output would be no program", () => file.parse());
}

/** What the output's own bytes are read with finds damage in them, where there should be none. */
function orNotAsPlanned<T>(what: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (error instanceof InputError) throw new NotAsPlanned(`${what}: ${error.message}`);
    throw error;
  }
}

function checkNotes({ file, image: output }: Output, { image, sites, placed }: Planned): void {
  const before = readUsdtNotes(image);
  for (const section of output.sections) if (section.name === NOTE_SECTION) file.needSection(section);
  const notes = orNotAsPlanned("the output's notes would be damaged", () => readUsdtNotes(output));
  // The note of a universal probe's second place stands after that of the first.
  const expected = sites.flatMap((site, i) => {
    const first = { site, i, location: site.newLocation };
    return site.twin === null ? [first] : [first, { site, i, location: site.twin }];
  });
  if (notes.length !== expected.length)
    throw new NotAsPlanned(`the output would have ${notes.length} notes, not ${expected.length}`);
  expected.forEach(({ site, i, location }, at) => {
    const note = notes[at]!;
    const name = `${site.provider}:${site.name}`;
    if (note.provider !== site.provider || note.name !== site.name)
      throw new NotAsPlanned(`the note of ${name} would be one of ${note.provider}:${note.name}`);
    if (note.location !== location)
      throw new NotAsPlanned(`the note of ${name} would say ${hex(note.location)}, not ${hex(location)}`);
    if (note.semaphore !== before[i]!.semaphore)
      throw new NotAsPlanned(`the note of ${name} would have another semaphore`);
    if (!holdsProbe(file, output, image, site, location, placed.get(site.location)))
      throw new NotAsPlanned(`what stands at ${hex(location)} would not be the probe ${name}`);
  });
}

/** Whether the form stands where a rewritten probe is; any other begins as it did. */
function holdsProbe(
  file: Unwritten,
  output: ElfImage,
  image: ElfImage,
  site: SiteReport,
  at: Vaddr,
  probe: PlacedProbe | undefined,
): boolean {
  if (site.status !== "rewritten") {
    const byte = codeFrom(image, site.location)?.subarray(0, 1);
    const offset = offsetOf(output, site.location);
    return byte === undefined || (offset !== undefined && file.holds(offset, byte));
  }
  const { bytes, location } = formThere(probe!, at);
  const offset = offsetOf(output, vaddr(at - location));
  const isCode = ((segmentAt(output, at)?.p_flags ?? 0) & elf.PF_X) !== 0;
  return isCode && offset !== undefined && file.holds(offset, bytes);
}

/** What has to stand around a probe's place. */
function formThere({ form, twin }: PlacedProbe, at: Vaddr): Pick<SingleForm, "bytes" | "location"> {
  if (!isUniversal(form)) return form;
  if (at !== twin?.location) return formOf("nop,nop10", false);
  return form.keepsFlags ? { bytes: forms.nop5.bytes, location: 0 } : formOf("nop5", form.guard);
}

function checkSections({ file, image: output }: Output, { image, assembly }: Planned): void {
  const [before, now] = [unloadedOf(image), unloadedOf(output)];
  const names = (sections: readonly Section[]): string => sections.map((s) => `${s.name} ${s.sh_type}`).join();
  if (names(before) !== names(now)) throw new NotAsPlanned("sections would be missing, or stand in another order");
  before.forEach((section, i) => {
    const { sh_offset, sh_size } = now[i]!;
    const content = assembly.replaced.get(section);
    const was = content ?? sectionBytes(image, section);
    // Notes are looked at one by one, symbols as well; to tables of names something is added.
    const isRead = section.sh_type === elf.SHT_SYMTAB || (section.name === NOTE_SECTION && content === undefined);
    const fits = isRead || section.sh_type === elf.SHT_STRTAB ? sh_size >= was.length : sh_size === was.length;
    if (section.sh_type === elf.SHT_NOBITS) return;
    if (!fits || (!isRead && !file.holds(sh_offset, was)))
      throw new NotAsPlanned(`section ${section.name} would not have its content`);
  });
  const loaded = new Set(output.sections.filter(isLoaded).map(keyOf));
  for (const section of image.sections.filter(isLoaded))
    if (!loaded.has(keyOf(section))) throw new NotAsPlanned(`section ${section.name} would be missing`);
  for (const { name, sh_addr, sh_size } of addedBy(assembly))
    if (!output.sections.some((s) => s.name === name && s.sh_addr === sh_addr && s.sh_size === sh_size))
      throw new NotAsPlanned(`section ${name} would be missing`);
  for (const section of output.sections) {
    if (!isLoaded(section) || section.sh_type === elf.SHT_NOBITS || section.sh_size === 0) continue;
    const offset = offsetOf(output, section.sh_addr);
    const old = image.sections.find((s) => s.name === section.name && s.sh_addr === section.sh_addr);
    const agreed = old === undefined || offsetOf(image, old.sh_addr) === old.sh_offset;
    if (agreed && offset !== section.sh_offset)
      throw new NotAsPlanned(`section ${section.name} would not stand where its segment has it`);
  }
}

const isLoaded = (s: Section): boolean => (s.sh_flags & elf.SHF_ALLOC) !== 0 && s.sh_type !== elf.SHT_NULL;
const keyOf = ({ name, sh_type }: Section): string => `${name} ${sh_type}`;

/** What is not loaded, but for what this program carries, which is written anew. */
const unloadedOf = ({ sections }: ElfImage): Section[] =>
  sections.filter((s) => !isLoaded(s) && s.sh_type !== elf.SHT_NULL && s.name !== CARRY_SECTION);

function addedBy({ code, unwind, addedSections }: Assembly): { name: string; sh_addr: number; sh_size: number }[] {
  const added = [...(addedSections ?? []), ...(unwind?.kept ?? [])];
  if (unwind?.exceptions !== undefined) added.push(unwind.exceptions);
  const own =
    code === undefined
      ? []
      : [{ name: CODE_SECTION, sh_addr: code.newCode.start as number, sh_size: code.newCode.bytes.length }];
  return [...added, ...own];
}

/** Every piece of new code has a symbol, and the symbols that were there keep their names and sections. */
function checkSymbols({ file, image: output }: Output, { image, assembly }: Planned): void {
  const [before, now] = [symtab(image), symtab(output)];
  if (before === null) return;
  if (now === null) throw new NotAsPlanned("the symbol table would be missing");
  const pieces = piecesOf(assembly);
  const added = takesSymbols(image) === null ? 0 : pieces.length;
  if (now.count !== before.count + added)
    throw new NotAsPlanned(`the output would have ${now.count} symbols, not ${before.count + added}`);
  const border = added === 0 ? before.count : Math.min(before.count, before.section.sh_info);
  const wordsIn = (from: number, count: number): Uint32Array => {
    const bytes = file.read(now.section.sh_offset + from * elf.SYM_SIZE, count * elf.SYM_SIZE);
    return words32({ bytes: Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length) }, 0, bytes.length);
  };
  const was = words32(image, before.section.sh_offset, before.section.sh_size);
  const own = wordsIn(border, added);
  const numbers = sectionNumbers(image, output);
  const compare = (is: Uint32Array, from: number): void => {
    for (let at = 0, old = from * SYM_WORDS; at < is.length; at += SYM_WORDS, old += SYM_WORDS) {
      const [kind, kindBefore] = [is[at + 1]!, was[old + 1]!];
      const number = kindBefore >>> 16;
      if (
        is[at] !== was[old] ||
        (kind & 0xffff) !== (kindBefore & 0xffff) ||
        kind >>> 16 !== (numbers[number] ?? number)
      )
        throw new NotAsPlanned(`symbol ${old / SYM_WORDS} would not be what it was`);
    }
  };
  compare(wordsIn(0, border), 0);
  compare(wordsIn(border + added, before.count - border), border);
  pieces.slice(0, added).forEach(({ start, end }, i) => {
    const at = i * SYM_WORDS;
    const [value, size] = [at + 2, at + 4].map((word) => own[word]! + own[word + 1]! * 2 ** 32);
    if (value !== start || size !== end - start)
      throw new NotAsPlanned(`the new code at ${hex(start)} would have no symbol`);
  });
}

/** Elf64_Sym as words: st_name; st_info, st_other, st_shndx; st_value; st_size. */
const SYM_WORDS = elf.SYM_SIZE / 4;

/**
 * The output's number of each section of the input: the next of that name and type, in the order in which they stand.
 */
function sectionNumbers(image: ElfImage, output: ElfImage): readonly number[] {
  const byKey = new Map<string, number[]>();
  for (const section of output.sections) {
    addTo(byKey, keyOf(section), section.index);
  }
  return image.sections.map((s) =>
    s.index === 0 || s.name === CARRY_SECTION ? 0 : (byKey.get(keyOf(s))?.shift() ?? 0),
  );
}

const piecesOf = ({ code }: Assembly): readonly { start: Vaddr; end: Vaddr }[] =>
  code === undefined ? [] : [...code.newCode.chunks, ...code.newCode.named];

/** New code that comes from code with a frame record has one, but where the report says that it has none. */
function checkFrames({ file, image: output }: Output, { frames, assembly: { code, unwind } }: Planned): void {
  if (code === undefined || unwind === undefined || frames === undefined) return;
  const covers = frameLookup(file, output);
  for (const { origins } of code.newCode.chunks)
    for (const { start, origin } of origins)
      if (frames.indexAt(origin) >= 0 && !covers(start) && !isWithout(unwind.without, origins))
        throw new NotAsPlanned(`the new code at ${hex(start)} would have no frame record`);
  for (const { name, start, unwind: rows } of code.newCode.named)
    if (rows !== undefined && !covers(start)) throw new NotAsPlanned(`${name} would have no frame record`);
}

/** Whether a frame record covers an address: by the search table, as the program itself looks, where there is one. */
function frameLookup(file: Unwritten, output: ElfImage): (address: Vaddr) => boolean {
  const section = output.sections.find(isEhFrame);
  if (section === undefined) return () => false;
  const table = searchTable(file, output);
  if (table === undefined) {
    file.needSection(section);
    const frames = orNotAsPlanned("the output's frame records would be damaged", () => readEhFrame(output));
    return (address) => frames.indexAt(address) >= 0;
  }
  const width = pointerWidths(file, output, section);
  return (address) => {
    const found = table(address);
    const offset = found && offsetOf(output, found.fde);
    if (offset === undefined || offset < section.sh_offset || offset + FDE_START > section.sh_offset + section.sh_size)
      return false;
    file.need(offset, FDE_START + 16);
    const bytes = width(offset + 4 - output.view.getUint32(offset + 4, true));
    if (bytes === undefined) return true;
    const at = offset + FDE_START;
    const [distance, length] =
      bytes === 4
        ? [output.view.getInt32(at, true), output.view.getUint32(at + 4, true)]
        : [Number(output.view.getBigInt64(at, true)), Number(output.view.getBigUint64(at + 8, true))];
    return found!.fde + FDE_START + distance === found!.start && address < found!.start + length;
  };
}

/**
 * By the file offset of a CIE, how many bytes its FDEs have for where a function begins, relative to themselves, and
 * for its length; undefined for other encodings, which are left to verify.
 */
function pointerWidths(file: Unwritten, { view }: ElfImage, section: Section): (cie: number) => 4 | 8 | undefined {
  const known = new Map<number, 4 | 8 | undefined>();
  return (cie) => {
    if (known.has(cie)) return known.get(cie);
    file.need(cie, 4);
    file.need(cie, 4 + view.getUint32(cie, true));
    const { fdeEncoding } = orNotAsPlanned("a frame record would have no CIE", () => readCie(view, section, cie));
    const width = fdeEncoding === PCREL_4 ? 4 : fdeEncoding === PCREL_8 ? 8 : undefined;
    known.set(cie, width);
    return width;
  };
}

/** After the length and the id. */
const FDE_START = 8;
/** DW_EH_PE_pcrel with DW_EH_PE_sdata4 or sdata8. */
const [PCREL_4, PCREL_8] = [0x1b, 0x1c];

/**
 * The last entry of .eh_frame_hdr that is not after an address. Undefined where there is no table in the usual
 * encodings.
 */
function searchTable(
  file: Unwritten,
  { sections, programHeaders, view }: ElfImage,
): ((address: Vaddr) => { readonly start: number; readonly fde: Vaddr } | undefined) | undefined {
  const header = programHeaders.find((p) => p.p_type === elf.PT_GNU_EH_FRAME);
  const section = sections.find((s) => s.name === ".eh_frame_hdr" && s.sh_addr === header?.p_vaddr);
  if (section === undefined || section.sh_size < HDR_TABLE_AT) return undefined;
  const { sh_offset, sh_addr, sh_size } = section;
  file.needSection(section);
  const count = view.getUint32(sh_offset + 8, true);
  const isUsual = [1, ...HDR_ENCODINGS].every((byte, i) => view.getUint8(sh_offset + i) === byte);
  if (!isUsual || HDR_TABLE_AT + count * HDR_ENTRY_SIZE > sh_size) return undefined;
  const word = (entry: number, at: number): number =>
    sh_addr + view.getInt32(sh_offset + HDR_TABLE_AT + entry * HDR_ENTRY_SIZE + at, true);
  return (address) => {
    const low = countWhile(count, (i) => word(i, 0) <= address);
    return low === 0 ? undefined : { start: word(low - 1, 0), fde: vaddr(word(low - 1, 4)) };
  };
}

const isWithout = (without: readonly { readonly start: Vaddr }[], origins: readonly Interval<Vaddr>[]): boolean =>
  without.some((w) => origins.some(({ start, end }) => w.start >= start && w.start < end));

/** `jmp rel32`, which reaches: else nothing had been linked. */
const jumpAt = (from: Vaddr, to: Vaddr): Uint8Array => leading([near([0xe9])], from, to)!;

/** A jump over bytes of other instructions leads, by these bytes in the output, to one that leads to new code. */
function checkFar({ file, image: output }: Output, { assembly: { code } }: Planned): void {
  for (const { far, proposal, start } of code?.newCode.chunks ?? []) {
    if (far === undefined) continue;
    const { site } = proposal;
    const [near, away] = [offsetOf(output, site), offsetOf(output, far.at)];
    const isCode = ((segmentAt(output, far.at)?.p_flags ?? 0) & elf.PF_X) !== 0;
    if (
      near === undefined ||
      !file.holds(near, jumpAt(site, far.at)) ||
      !isCode ||
      !file.holds(away!, jumpAt(far.at, start))
    )
      throw new NotAsPlanned(`the jump at ${hex(site)} would not lead to new code by way of ${hex(far.at)}`);
    if (!output.sections.some((s) => s.name === FAR_SECTION && far.at >= s.sh_addr && far.at < s.sh_addr + s.sh_size))
      throw new NotAsPlanned(`the jump at ${hex(far.at)} would be in no section`);
  }
}

function checkWayBack({ file, image: output }: Output, { original }: Planned): void {
  const section = sectionNamed(output, CARRY_SECTION);
  if (section === undefined) throw new NotAsPlanned(`section ${CARRY_SECTION} would be missing`);
  file.needSection(section);
  const leads = orNotAsPlanned("the output could not be reverted", () => {
    const { inPlace, undo } = readCarry(output)!;
    return inPlace && leadsTo(file, undo, original.bytes);
  });
  if (!leads) throw new NotAsPlanned("the output would not revert to the input");
}
