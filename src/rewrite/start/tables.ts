/**
 * The tables that the dynamic loader reads, as sections: where tags and section headers say the same, and only there, a
 * table may be changed or moved. A file in which they differ is refused, since nobody could tell which of the two its
 * users go by.
 *
 * A change is drafted: `head` is a copy of the table with changes in place, `tail` is what comes after it. A table with
 * a tail cannot stay where it is, for the next one begins where it ends.
 */
import { type FileOffset, fileOffset, hex, type Vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { type DynamicTag, readDynamicTags } from "../../elf/dynamic.js";
import { type ElfImage, read64, type Section, sectionBytes } from "../../elf/image.js";
import { readNeededVersions } from "../../elf/versions.js";
import { type Edit, editAt, word } from "../edits.js";

export interface TableDraft {
  readonly section: Section;
  /** The dynamic tag that holds its address. */
  readonly tag: DynamicTag;
  readonly head: Buffer;
  readonly tail: Buffer[];
}

export interface DynamicTables {
  readonly tags: readonly DynamicTag[];
  /** Where unused entries of the dynamic section stand; the DT_NULL that ends it is not among them. */
  readonly spareTags: readonly FileOffset[];
  readonly symbols: TableDraft;
  readonly strings: TableDraft;
  readonly versions: TableDraft | undefined;
  readonly neededVersions: TableDraft | undefined;
  readonly definedVersions: TableDraft | undefined;
  readonly hash: TableDraft | undefined;
  readonly relocations: TableDraft | undefined;
  readonly pltRelocations: TableDraft | undefined;
}

const kinds = {
  symbols: { tag: elf.DT_SYMTAB, type: elf.SHT_DYNSYM, size: undefined },
  strings: { tag: elf.DT_STRTAB, type: elf.SHT_STRTAB, size: elf.DT_STRSZ },
  versions: { tag: elf.DT_VERSYM, type: elf.SHT_GNU_VERSYM, size: undefined },
  neededVersions: { tag: elf.DT_VERNEED, type: elf.SHT_GNU_VERNEED, size: undefined },
  definedVersions: { tag: elf.DT_VERDEF, type: elf.SHT_GNU_VERDEF, size: undefined },
  hash: { tag: elf.DT_HASH, type: elf.SHT_HASH, size: undefined },
  relocations: { tag: elf.DT_RELA, type: elf.SHT_RELA, size: elf.DT_RELASZ },
  pltRelocations: { tag: elf.DT_JMPREL, type: elf.SHT_RELA, size: elf.DT_PLTRELSZ },
} as const;

/** The tables of a dynamic file, nothing changed yet, or why they cannot be told. */
export function dynamicTables(image: ElfImage): DynamicTables | string {
  const tags = readDynamicTags(image);
  const drafts = new Map<string, TableDraft>();
  for (const [name, kind] of Object.entries(kinds)) {
    const draft = draftOf(image, tags, kind);
    if (typeof draft === "string") return draft;
    if (draft !== undefined) drafts.set(name, draft);
  }
  const symbols = drafts.get("symbols");
  const strings = drafts.get("strings");
  if (symbols === undefined || strings === undefined) return "it has no dynamic symbols";
  const count = symbols.head.length / elf.SYM_SIZE;
  const versions = drafts.get("versions");
  if (versions !== undefined && versions.head.length !== count * 2) return "it has not one version for each symbol";
  const hash = drafts.get("hash");
  if (hash !== undefined && !isWhole(hash.head, count)) return "its DT_HASH does not fit its symbols";
  return {
    tags,
    spareTags: spareTagsOf(image),
    symbols,
    strings,
    versions,
    neededVersions: drafts.get("neededVersions"),
    definedVersions: drafts.get("definedVersions"),
    hash,
    relocations: drafts.get("relocations"),
    pltRelocations: drafts.get("pltRelocations"),
  };
}

function draftOf(
  image: ElfImage,
  tags: readonly DynamicTag[],
  kind: (typeof kinds)[keyof typeof kinds],
): TableDraft | string | undefined {
  const tag = tags.find((t) => t.d_tag === kind.tag);
  if (tag === undefined) return undefined;
  const size = tags.find((t) => t.d_tag === kind.size)?.d_val;
  if (size === 0) return undefined;
  const section = image.sections.find(
    (s) => s.sh_addr === tag.d_val && s.sh_type === kind.type && (s.sh_flags & elf.SHF_ALLOC) !== 0 && s.sh_size > 0,
  );
  if (section === undefined || (size !== undefined && section.sh_size !== size))
    return `the table at ${hex(tag.d_val)} is not described alike by its dynamic tags and its section header`;
  return { section, tag, head: Buffer.from(sectionBytes(image, section)), tail: [] };
}

/** nbucket, nchain, and as many words, each the number of a symbol; a chain entry for each symbol, which is in one chain. */
function isWhole(hash: Buffer, symbols: number): boolean {
  if (hash.length < 8 || hash.readUInt32LE(0) === 0 || hash.readUInt32LE(4) !== symbols) return false;
  const buckets = hash.readUInt32LE(0);
  if (hash.length !== 4 * (2 + buckets + symbols)) return false;
  for (let at = 8; at < hash.length; at += 4) if (hash.readUInt32LE(at) >= symbols) return false;
  const seen = new Uint8Array(symbols);
  for (let bucket = 0; bucket < buckets; bucket++)
    for (let symbol = hash.readUInt32LE(8 + 4 * bucket); symbol !== 0; ) {
      if (seen[symbol] === 1) return false;
      seen[symbol] = 1;
      symbol = hash.readUInt32LE(8 + 4 * (buckets + symbol));
    }
  return true;
}

function spareTagsOf(image: ElfImage): FileOffset[] {
  const segment = image.programHeaders.find((p) => p.p_type === elf.PT_DYNAMIC);
  const section = image.sections.find((s) => s.sh_type === elf.SHT_DYNAMIC);
  if (segment === undefined || section === undefined) return [];
  const end = Math.min(segment.p_offset + segment.p_filesz, section.sh_offset + section.sh_size);
  const nulls: FileOffset[] = [];
  for (let at: number = segment.p_offset; at + 16 <= end; at += 16) {
    const isNull = read64(image.view, at) === elf.DT_NULL;
    if (isNull && read64(image.view, at + 8) === 0) nulls.push(fileOffset(at));
    else if (nulls.length > 0) return []; // something else stands after DT_NULL: nobody knows for whom
  }
  return nulls.slice(0, -1);
}

/** The string at `offset` of the string table; undefined where it does not end in it. */
export function stringAt({ strings }: DynamicTables, offset: number): string | undefined {
  const end = strings.head.indexOf(0, offset);
  return offset < strings.head.length && end >= 0 ? strings.head.toString("latin1", offset, end) : undefined;
}

/** Whether it names a version of glibc's symbols that it needs. @throws InputError where its table of them is damaged */
export function needsGlibcVersions(tables: DynamicTables): boolean {
  if (tables.neededVersions === undefined) return false;
  const versions = readNeededVersions(tables.neededVersions.head).flatMap((file) => file.versions);
  return versions.some((v) => stringAt(tables, v.vna_name)?.startsWith("GLIBC_"));
}

export const sizeOf = ({ head, tail }: TableDraft): number =>
  tail.reduce((size, bytes) => size + bytes.length, head.length);

/** All drafts of a file's tables. */
export const draftsOf = (tables: DynamicTables): TableDraft[] =>
  [
    tables.symbols,
    tables.strings,
    tables.versions,
    tables.neededVersions,
    tables.hash,
    tables.relocations,
    tables.pltRelocations,
  ].filter((draft) => draft !== undefined);

/** What changed in the heads of the tables, as edits of the bytes in which they differ. */
export function headEdits(image: ElfImage, tables: DynamicTables): Edit[] {
  return draftsOf(tables).flatMap(({ section, head }) => differences(image, section.sh_offset, head));
}

function differences(image: ElfImage, offset: number, bytes: Buffer): Edit[] {
  const old = image.bytes.subarray(offset, offset + bytes.length);
  const edits: Edit[] = [];
  for (let block = 0; block < bytes.length; block += BLOCK) {
    const end = Math.min(block + BLOCK, bytes.length);
    if (old.compare(bytes, block, end, block, end) === 0) continue;
    for (let at = block; at < end; at++) {
      if (old[at] === bytes[at]) continue;
      const start = at;
      while (at < end && old[at] !== bytes[at]) at++;
      edits.push(editAt(image, offset + start, bytes.subarray(start, at)));
    }
  }
  return edits;
}

/** Large tables are compared by blocks first, since nearly all of them is as it was. */
const BLOCK = 4096;

/** New values for the tags that say how large a table is. */
export function sizeTagEdits(image: ElfImage, tables: DynamicTables): Edit[] {
  return draftsOf(tables).flatMap((draft) => {
    const kind = Object.values(kinds).find((k) => k.tag === draft.tag.d_tag);
    const tag = tables.tags.find((t) => t.d_tag === kind?.size);
    if (draft.tail.length === 0 || tag === undefined) return [];
    return [editAt(image, tag.valueOffset, word(sizeOf(draft), 8))];
  });
}

/** A relocation as the tables hold it. */
export interface Relocation {
  readonly table: TableDraft;
  /** Where it stands in the table, in bytes. */
  readonly at: number;
  readonly r_offset: Vaddr;
  readonly type: number;
  readonly symbol: number;
  readonly addend: bigint;
}

/**
 * The relocations that are spelled out (RELR has none that name a symbol) and are asked for: there may be 100,000
 * others.
 */
function spelled(
  { relocations, pltRelocations }: DynamicTables,
  isAskedFor: (view: DataView, at: number) => boolean,
): Relocation[] {
  const found: Relocation[] = [];
  for (const table of [relocations, pltRelocations]) {
    if (table === undefined) continue;
    const { buffer, byteOffset, length } = table.head;
    const view = new DataView(buffer, byteOffset, length);
    for (let at = 0; at + elf.RELA_SIZE <= length; at += elf.RELA_SIZE)
      if (isAskedFor(view, at))
        found.push({
          table,
          at,
          r_offset: read64(view, at) as Vaddr,
          type: view.getUint32(at + 8, true),
          symbol: view.getUint32(at + 12, true),
          addend: view.getBigInt64(at + 16, true),
        });
  }
  return found;
}

/** The relocations that name one of the symbols. */
export const relocationsBySymbol = (tables: DynamicTables, symbols: { has(index: number): boolean }): Relocation[] =>
  spelled(tables, (view, at) => {
    const symbol = view.getUint32(at + 12, true);
    return symbol !== 0 && symbols.has(symbol);
  });

/** The relocations that write to a place. */
export const relocationsOf = (tables: DynamicTables, place: Vaddr): Relocation[] =>
  spelled(tables, (view, at) => read64(view, at) === place);
