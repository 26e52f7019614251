/**
 * What the dynamic loader will do to this file: the tags of .dynamic, and every dynamic relocation.
 *
 * Relocations matter twice: the address that one writes is an address somebody may jump to, and the bytes it writes to
 * must not be moved. They are found by the section headers and by the tags, since each may be incomplete: a static
 * program has IRELATIVE relocations but no .dynamic.
 *
 * Specification: gABI "Dynamic Section", "Relocation", SHT_RELR ("Relative Relocation Table"); x86-64 psABI 4.4.
 */
import { type FileOffset, hex, type Vaddr, vaddr } from "../address.js";
import { InputError } from "../errors.js";
import * as elf from "./constants.js";
import { type ElfImage, offsetOf, type Relocations, read64, words32 } from "./image.js";

export interface DynamicTag {
  readonly d_tag: number;
  readonly d_val: number;
  /** Where the tag's value stands in the file. */
  readonly valueOffset: FileOffset;
}

/**
 * The tags of PT_DYNAMIC up to DT_NULL; none in a static program. @throws InputError where it leads outside of the file
 */
export function readDynamicTags(image: ElfImage): readonly DynamicTag[] {
  const segment = image.programHeaders.find((p) => p.p_type === elf.PT_DYNAMIC);
  if (segment === undefined) return [];
  const tags: DynamicTag[] = [];
  for (let at: number = segment.p_offset; at + 16 <= segment.p_offset + segment.p_filesz; at += 16) {
    const d_tag = read64(image.view, at);
    if (d_tag === elf.DT_NULL) break;
    tags.push({ d_tag, d_val: read64(image.view, at + 8), valueOffset: (at + 8) as FileOffset });
  }
  return tags;
}

/** Whether it says that it is a program, as static PIEs do, which have no interpreter to tell them from libraries. */
export const isMarkedPie = (image: ElfImage): boolean =>
  readDynamicTags(image).some(({ d_tag, d_val }) => d_tag === elf.DT_FLAGS_1 && (d_val & elf.DF_1_PIE) !== 0);

/**
 * Whether it is a dynamic program and nothing else. An interpreter does not tell: some libraries name one so that they
 * can be run as well (libc.so.6, libcap.so.2). A position-independent program is marked as one; linkers that do not do
 * that give DT_DEBUG to programs only.
 */
export function startsProcesses(image: ElfImage): boolean {
  if (image.programHeaders.every((p) => p.p_type !== elf.PT_INTERP)) return false;
  if (image.header.e_type === elf.ET_EXEC || isMarkedPie(image)) return true;
  const tags = readDynamicTags(image);
  return tags.some((t) => t.d_tag === elf.DT_DEBUG) && tags.every((t) => t.d_tag !== elf.DT_SONAME);
}

const withRoom = (count: number): Relocations => ({
  places: new Float64Array(count),
  values: new Float64Array(count),
  types: new Uint32Array(count),
});

/**
 * Calls back for every dynamic relocation with the place it writes to and the link-time address that it writes there.
 * The value is NaN where it is not an address of this file (a symbol of another one).
 * @throws InputError where a relocation table is damaged
 */
export function forEachRelocation(image: ElfImage, visit: (place: Vaddr, value: number, type: number) => void): void {
  image.relocations.read ??= readRelocations(image);
  const { places, values, types } = image.relocations.read;
  for (let i = 0; i < places.length; i++) visit(places[i] as Vaddr, values[i]!, types[i]!);
}

function readRelocations(image: ElfImage): Relocations {
  let count = 0;
  let all = withRoom(1 << 14);
  visitTables(image, (place, value, type) => {
    if (count === all.places.length) {
      const larger = withRoom(count * 4);
      larger.places.set(all.places);
      larger.values.set(all.values);
      larger.types.set(all.types);
      all = larger;
    }
    all.places[count] = place;
    all.values[count] = value;
    all.types[count++] = type;
  });
  return {
    places: all.places.slice(0, count),
    values: all.values.slice(0, count),
    types: all.types.slice(0, count),
  };
}

function visitTables(image: ElfImage, visit: (place: Vaddr, value: number, type: number) => void): void {
  const tables = new Map<number, { size: number; kind: "rela" | "rel" | "relr" }>();
  for (const section of image.sections) {
    if ((section.sh_flags & elf.SHF_ALLOC) === 0) continue;
    const kind =
      section.sh_type === elf.SHT_RELA
        ? "rela"
        : section.sh_type === elf.SHT_REL
          ? "rel"
          : section.sh_type === elf.SHT_RELR
            ? "relr"
            : undefined;
    if (kind !== undefined) tables.set(section.sh_offset, { size: section.sh_size, kind });
  }
  const tags = new Map(readDynamicTags(image).map((t) => [t.d_tag, t.d_val]));
  const byTag = (table: number, size: number, kind: "rela" | "rel" | "relr"): void => {
    const address = tags.get(table);
    const bytes = tags.get(size);
    if (address === undefined || bytes === undefined || bytes === 0) return;
    const offset = offsetOf(image, vaddr(address));
    if (offset === undefined)
      throw new InputError("damaged: a relocation table is not in the file", `address ${hex(address)}`);
    for (const [start, t] of tables) if (offset >= start && offset + bytes <= start + t.size) return;
    tables.set(offset, { size: Math.max(bytes, tables.get(offset)?.size ?? 0), kind });
  };
  byTag(elf.DT_RELA, elf.DT_RELASZ, "rela");
  byTag(elf.DT_JMPREL, elf.DT_PLTRELSZ, "rela");
  byTag(elf.DT_REL, elf.DT_RELSZ, "rel");
  byTag(elf.DT_RELR, elf.DT_RELRSZ, "relr");
  const symbols = dynamicSymbols(image);
  for (const [offset, { size, kind }] of tables) {
    if (offset + size > image.bytes.length)
      throw new InputError("damaged: a relocation table leads outside of the file", `offset ${hex(offset)}`);
    if (kind === "relr") visitRelr(image, offset, size, visit);
    else visitRela(image, offset, size, kind === "rel" ? 16 : elf.RELA_SIZE, symbols, visit);
  }
}

/** st_value of a dynamic symbol, or NaN where it is undefined here. */
function dynamicSymbols(image: ElfImage): (index: number) => number {
  const section = image.sections.find((s) => s.sh_type === elf.SHT_DYNSYM);
  if (section === undefined) return () => Number.NaN;
  const count = Math.floor(section.sh_size / elf.SYM_SIZE);
  return (index) => {
    if (index >= count) return Number.NaN;
    const at = section.sh_offset + index * elf.SYM_SIZE;
    return image.view.getUint16(at + 6, true) === elf.SHN_UNDEF ? Number.NaN : read64(image.view, at + 8);
  };
}

function visitRela(
  image: ElfImage,
  offset: number,
  size: number,
  entsize: number,
  symbolValue: (index: number) => number,
  visit: (place: Vaddr, value: number, type: number) => void,
): void {
  const { view } = image;
  const words = words32(image, offset, size);
  const step = entsize / 4;
  for (let at = 0; at + step <= words.length; at += step) {
    const place = (words[at]! + words[at + 1]! * 2 ** 32) as Vaddr;
    const type = words[at + 2]!;
    const symbol = words[at + 3]!;
    let addend: number;
    if (entsize === elf.RELA_SIZE) addend = words[at + 4]! + (words[at + 5]! | 0) * 2 ** 32;
    else {
      const stored = offsetOf(image, place);
      addend = stored === undefined || stored + 8 > image.bytes.length ? 0 : read64(view, stored);
    }
    const base = symbol === 0 ? 0 : symbolValue(symbol);
    visit(place, base + addend, type);
  }
}

/**
 * RELR: an even word is the place of a relocation, an odd one a bitmap of which of the 63 words that follow have one.
 */
function visitRelr(
  image: ElfImage,
  offset: number,
  size: number,
  visit: (place: Vaddr, value: number, type: number) => void,
): void {
  const { view } = image;
  const relocate = (place: number): void => {
    const stored = offsetOf(image, vaddr(place));
    if (stored === undefined || stored + 8 > image.bytes.length)
      throw new InputError("damaged: a RELR relocation is not in the file", `address ${hex(place)}`);
    visit(vaddr(place), read64(view, stored), elf.R_X86_64_RELATIVE);
  };
  let where = 0;
  for (let at = offset; at + 8 <= offset + size; at += 8) {
    const low = view.getUint32(at, true);
    if ((low & 1) === 0) {
      where = read64(view, at);
      relocate(where);
      where += 8;
      continue;
    }
    const high = view.getUint32(at + 4, true);
    for (let bit = 1; bit < 64; bit++) {
      const word = bit < 32 ? low >>> bit : high >>> (bit - 32);
      if (word & 1) relocate(where + (bit - 1) * 8);
    }
    where += 63 * 8;
  }
}
