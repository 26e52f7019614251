/**
 * Symbol tables, read where they stand.
 *
 * A large library has tens of thousands of symbols and most questions concern a few hundred addresses. So no object is
 * made per symbol: a table is a view over the file's bytes, walked with a callback. Looking up functions takes all
 * addresses at once: they are sorted, and one walk over the symbols finds by binary search which of them a symbol
 * covers. That is cheaper than sorting the symbols, and needs no index that must be kept.
 */

import { hex, type Vaddr } from "../address.js";
import { InputError } from "../errors.js";
import { lowerBound } from "../sorted.js";
import * as elf from "./constants.js";
import { type ElfImage, type Section, words32 } from "./image.js";

/** A symbol table whose sizes have been checked. Symbol 0 is the null symbol of the specification. */
export interface SymbolTable {
  readonly image: ElfImage;
  readonly section: Section;
  readonly strings: Section;
  readonly count: number;
}

/**
 * Called for each symbol with the fields of Elf64_Sym. `st_value` is a link-time address for defined symbols of a
 * linked file, an offset for STT_TLS, and anything at all for SHN_ABS; above 2^53 it is no longer exact.
 */
type SymbolVisitor = (st_value: number, st_size: number, st_info: number, st_shndx: number, index: number) => void;

/**
 * The .symtab (SHT_SYMTAB) of a file, or null where it was stripped.
 * @throws InputError where its sizes or its string table are damaged
 */
export const symtab = (image: ElfImage): SymbolTable | null => tableOfType(image, elf.SHT_SYMTAB);

/**
 * The .dynsym (SHT_DYNSYM) of a file, or null where it has none.
 * @throws InputError where its sizes or its string table are damaged
 */
export const dynsym = (image: ElfImage): SymbolTable | null => tableOfType(image, elf.SHT_DYNSYM);

/** Walks all symbols but the null symbol, in the order of the table. */
export function forEachSymbol(table: SymbolTable, visit: SymbolVisitor): void {
  const words = wordsOf(table);
  for (let index = 1, at = SYM_WORDS; index < table.count; index++, at += SYM_WORDS) {
    const kind = words[at + 1]!;
    visit(valueIn(words, at), sizeIn(words, at), kind & 0xff, kind >>> 16, index);
  }
}

/** Elf64_Sym as words: st_name; st_info, st_other, st_shndx; st_value; st_size. */
const SYM_WORDS = elf.SYM_SIZE / 4;
const wordsOf = ({ image, section }: SymbolTable): Uint32Array => words32(image, section.sh_offset, section.sh_size);
const valueIn = (words: Uint32Array, at: number): number => words[at + 2]! + words[at + 3]! * 2 ** 32;
const sizeIn = (words: Uint32Array, at: number): number => words[at + 4]! + words[at + 5]! * 2 ** 32;

/**
 * The name of the symbol with that index; empty where it has none.
 * @throws InputError where there is no such symbol, or its name lies outside of the string table or is not terminated
 */
export function symbolName(table: SymbolTable, index: number): string {
  const { bytes, view } = table.image;
  const at = table.section.sh_offset + index * elf.SYM_SIZE;
  if ((index + 1) * elf.SYM_SIZE > table.section.sh_size)
    throw new InputError(
      `damaged: ${table.section.name} has no symbol ${index}`,
      `offset ${hex(table.section.sh_offset)}`,
    );
  const st_name = view.getUint32(at, true);
  if (st_name === 0) return "";
  const start = table.strings.sh_offset + st_name;
  const nul = st_name < table.strings.sh_size ? bytes.indexOf(0, start) : -1;
  if (nul < 0 || nul >= table.strings.sh_offset + table.strings.sh_size)
    throw new InputError(
      `damaged: the name of symbol ${index} in ${table.section.name} is outside of its string table`,
      `offset ${hex(at)}`,
    );
  return bytes.toString("utf8", start, nul);
}

/**
 * Whether the dynamic loader looks for a symbol in other files: it is not defined here, not local, and its visibility
 * is the default one. Of any other that is not defined here it takes the value that stands in the table.
 * @param at where its entry begins
 */
export const isImport = (entries: Buffer, at: number): boolean =>
  entries.readUInt16LE(at + 6) === elf.SHN_UNDEF &&
  entries[at + 4]! >> 4 !== elf.STB_LOCAL &&
  (entries[at + 5]! & VISIBILITY) === STV_DEFAULT;

const VISIBILITY = 3;
const STV_DEFAULT = 0;

/**
 * For each link-time address the name of the function symbol (STT_FUNC, STT_GNU_IFUNC) that contains it, or null.
 * The nearest start wins; of several names for one start a global one before a weak one before a local one, then the
 * first. A symbol without a size contains its own address only. .dynsym is asked for what .symtab does not know.
 * @param nameOf how to read a symbol's name
 * @throws InputError where a symbol table is damaged
 */
export function functionsAt(
  image: ElfImage,
  addresses: readonly Vaddr[],
  nameOf: (table: SymbolTable, index: number) => string | null = symbolName,
): (string | null)[] {
  const names = new Map<number, string | null>();
  for (const table of [symtab(image), dynsym(image)]) {
    const unknown = [...new Set(addresses)].filter((a) => !names.has(a));
    if (table === null || unknown.length === 0) continue;
    for (const [address, index] of functionIndexes(table, unknown)) names.set(address, nameOf(table, index));
  }
  return addresses.map((a) => names.get(a) ?? null);
}

/** `functionsAt` for one address. Ask for many at once where there are many: each call walks the tables anew. */
export const functionAt = (image: ElfImage, address: Vaddr): string | null => functionsAt(image, [address])[0] ?? null;

/** Global before weak before local. */
const bindingRank = (st_info: number): number => {
  const binding = st_info >> 4;
  return binding === elf.STB_LOCAL ? 0 : binding === 2 ? 1 : 2;
};

function functionIndexes(table: SymbolTable, addresses: readonly number[]): Map<number, number> {
  const sorted = Float64Array.from(addresses).sort();
  const best = new Float64Array(sorted.length).fill(-1);
  const bestRank = new Uint8Array(sorted.length);
  const bestIndex = new Uint32Array(sorted.length);
  const words = wordsOf(table);
  // As forEachSymbol, written out: most symbols are left after a look at their type, before their values are read.
  for (let index = 1, at = SYM_WORDS; index < table.count; index++, at += SYM_WORDS) {
    const st_info = words[at + 1]! & 0xff;
    const type = st_info & 0xf;
    if (type !== elf.STT_FUNC && type !== elf.STT_GNU_IFUNC) continue;
    if (words[at + 1]! >>> 16 === elf.SHN_UNDEF) continue;
    const st_value = valueIn(words, at);
    const end = st_value + Math.max(sizeIn(words, at), 1);
    for (let i = lowerBound(sorted, st_value); i < sorted.length && sorted[i]! < end; i++) {
      const rank = bindingRank(st_info);
      if (st_value < best[i]! || (st_value === best[i]! && rank <= bestRank[i]!)) continue;
      best[i] = st_value;
      bestRank[i] = rank;
      bestIndex[i] = index;
    }
  }
  const found = new Map<number, number>();
  sorted.forEach((address, i) => {
    if (bestIndex[i] !== 0) found.set(address, bestIndex[i]!);
  });
  return found;
}

function tableOfType(image: ElfImage, type: number): SymbolTable | null {
  const section = image.sections.find((s) => s.sh_type === type);
  if (section === undefined) return null;
  const damaged = (what: string): InputError =>
    new InputError(`damaged: symbol table ${section.name} ${what}`, `section header ${section.index}`);
  if (section.sh_entsize !== elf.SYM_SIZE)
    throw damaged(`has entries of ${section.sh_entsize} bytes, not ${elf.SYM_SIZE}`);
  if (section.sh_size % elf.SYM_SIZE !== 0) throw damaged("is not a whole number of symbols");
  const strings = image.sections[section.sh_link];
  if (strings === undefined || strings.sh_type !== elf.SHT_STRTAB) throw damaged("names no string table");
  return { image, section, strings, count: section.sh_size / elf.SYM_SIZE };
}
