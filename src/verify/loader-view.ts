/**
 * What the dynamic loader reads of a file: the tables that its tags lead to. Nothing here knows what a guard may
 * change.
 *
 * The loader counts no symbols. It takes them by the numbers that relocations and hashes name; how many there are is
 * said by the section header, and by DT_HASH.
 */
import { type FileOffset, hex, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type DynamicTag, forEachRelocation, readDynamicTags } from "../elf/dynamic.js";
import { type ElfImage, offsetOf, read64 } from "../elf/image.js";
import { InputError } from "../errors.js";
import { loadedBytes } from "./rest/findings.js";

/** A table: where a tag says that it is, and what stands there in the file. */
export interface Table {
  readonly address: Vaddr;
  readonly offset: FileOffset;
  readonly bytes: Buffer;
}

export interface RelocationEntry {
  readonly place: number;
  readonly type: number;
  readonly symbol: number;
  readonly addend: bigint;
}

/** Where functions that the loader calls are told. The names are those of the tags. */
export const callers = ["DT_PREINIT_ARRAY", "DT_INIT", "DT_INIT_ARRAY", "DT_FINI", "DT_FINI_ARRAY"] as const;
export type Caller = (typeof callers)[number];
const arraySizes = {
  DT_PREINIT_ARRAY: elf.DT_PREINIT_ARRAYSZ,
  DT_INIT_ARRAY: elf.DT_INIT_ARRAYSZ,
  DT_FINI_ARRAY: elf.DT_FINI_ARRAYSZ,
} as const;

const tableTags = ["symbols", "strings", "versions", "needed", "hash", "relocations", "pltRelocations"] as const;
export type TableName = (typeof tableTags)[number];

export interface LoaderView {
  readonly image: ElfImage;
  readonly tags: readonly DynamicTag[];
  readonly tables: ReadonlyMap<TableName, Table>;
  /** The function that a tag leads to: for an array the first one in it. Undefined where there is none. */
  readonly called: ReadonlyMap<Caller, number>;
}

/** Reads what tags lead to. @throws InputError where they lead to what is not in the file */
export function readLoaderView(image: ElfImage): LoaderView {
  const tags = readDynamicTags(image);
  const tagValue = (tag: number): number | undefined => tags.find((t) => t.d_tag === tag)?.d_val;
  const sectionSize = (address: number, type: number): number | undefined =>
    image.sections.find((s) => s.sh_addr === address && s.sh_type === type && s.sh_flags & elf.SHF_ALLOC)?.sh_size;
  const tables = new Map<TableName, Table>();
  const add = (name: TableName, tag: number, size: number | undefined, type: number): void => {
    const address = tagValue(tag);
    if (address === undefined) return;
    const length = size ?? sectionSize(address, type);
    if (length === undefined) throw new InputError(`no section header tells of the ${name}`, `address ${hex(address)}`);
    const bytes = loadedBytes(image, address, length);
    if (length === 0) return;
    if (bytes === undefined) throw new InputError(`the table of ${name} is not in the file`, `address ${hex(address)}`);
    tables.set(name, { address: vaddr(address), offset: offsetOf(image, vaddr(address))!, bytes });
  };
  add("symbols", elf.DT_SYMTAB, undefined, elf.SHT_DYNSYM);
  add("strings", elf.DT_STRTAB, tagValue(elf.DT_STRSZ), elf.SHT_STRTAB);
  add("versions", elf.DT_VERSYM, undefined, elf.SHT_GNU_VERSYM);
  add("needed", elf.DT_VERNEED, undefined, elf.SHT_GNU_VERNEED);
  add("hash", elf.DT_HASH, undefined, elf.SHT_HASH);
  add("relocations", elf.DT_RELA, tagValue(elf.DT_RELASZ), elf.SHT_RELA);
  add("pltRelocations", elf.DT_JMPREL, tagValue(elf.DT_PLTRELSZ), elf.SHT_RELA);
  return { image, tags, tables, called: functionsCalled(image, tagValue) };
}

/** The functions that the loader calls; of an array the first. */
function functionsCalled(image: ElfImage, tagValue: (tag: number) => number | undefined): Map<Caller, number> {
  const called = new Map<Caller, number>();
  const heads = new Map<number, Caller>();
  for (const caller of callers) {
    const value = tagValue(elf[caller]);
    if (value === undefined || value === 0) continue;
    if (caller === "DT_INIT" || caller === "DT_FINI") {
      called.set(caller, value);
      continue;
    }
    if ((tagValue(arraySizes[caller]) ?? 0) < 8) continue;
    heads.set(value, caller);
    const stored = offsetOf(image, vaddr(value));
    if (stored !== undefined && stored + 8 <= image.bytes.length) {
      const word = read64(image.view, stored);
      if (word !== 0) called.set(caller, word);
    }
  }
  if (heads.size > 0)
    forEachRelocation(image, (place, value) => {
      const caller = heads.get(place);
      if (caller !== undefined) called.set(caller, value);
    });
  return called;
}

export const countOf = (table: Table | undefined, size: number): number =>
  table === undefined ? 0 : Math.floor(table.bytes.length / size);

export function relocationAt({ bytes }: Table, index: number): RelocationEntry {
  const at = index * elf.RELA_SIZE;
  return {
    place: bytes.readUInt32LE(at) + bytes.readUInt32LE(at + 4) * 2 ** 32,
    type: bytes.readUInt32LE(at + 8),
    symbol: bytes.readUInt32LE(at + 12),
    addend: bytes.readBigInt64LE(at + 16),
  };
}

/** The string at an offset of the string table, or undefined where none ends there. */
export function stringAt({ tables }: LoaderView, offset: number): string | undefined {
  const strings = tables.get("strings")?.bytes;
  const end = strings === undefined || offset >= strings.length ? -1 : strings.indexOf(0, offset);
  return end < 0 ? undefined : strings!.toString("latin1", offset, end);
}

/** The name of a dynamic symbol. */
export function nameOf(view: LoaderView, symbol: number): string | undefined {
  const bytes = view.tables.get("symbols")?.bytes;
  const at = symbol * elf.SYM_SIZE;
  return bytes === undefined || at + elf.SYM_SIZE > bytes.length ? undefined : stringAt(view, bytes.readUInt32LE(at));
}

/** Whether the loader fills the words of the PLT before any code of the file runs. */
export const isBoundEarly = ({ tags }: LoaderView): boolean =>
  tags.some(
    ({ d_tag, d_val }) =>
      d_tag === elf.DT_BIND_NOW ||
      (d_tag === elf.DT_FLAGS && (d_val & elf.DF_BIND_NOW) !== 0) ||
      (d_tag === elf.DT_FLAGS_1 && (d_val & elf.DF_1_NOW) !== 0),
  );
