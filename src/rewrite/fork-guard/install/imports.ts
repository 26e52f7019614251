/**
 * Another import for a finished file: a word that the loader fills with the address of a function of the C library.
 *
 * What that takes is an undefined symbol and a relocation that names it; the cheapest source of each is taken:
 *
 *     there already    the file imports the function: the word that the loader fills for it is as good as another, unless it
 *                      is filled by the first call only (lazy binding). Such a word leads into code that expects to be
 *                      reached by the linker's own stub, which with mold hands on the function's number in r11: so another
 *                      relocation is added then, for a word that is filled when the file is loaded
 *     spare            a weak import of the start files that no process ever finds (spare.ts): renamed where it stands,
 *                      of no version, which the loader takes for the default one
 *     appended         a symbol after the others, with its name and version; .dynsym, .dynstr, .gnu.version,
 *                      .gnu.version_r and .hash have to grow and so to move. A relocation: .rela.dyn
 *
 * An undefined symbol is never looked up: a file's .gnu.hash has no chain for it wherever it stands after the symbols
 * that it orders, and a search ends at the last bit of a chain, not at a count. DT_HASH says how many symbols there are
 * (nchain), so an entry is appended there, and the symbol is linked into the chain of its name.
 *
 * An import can be wrapped: a word of ours then holds the function's address, and every word that held it before leads
 * to new code. Its relocation becomes R_X86_64_RELATIVE, or in the PLT's table, which lazy binding does not read for
 * that, R_X86_64_IRELATIVE: the loader calls new code at once, whether it binds lazily or early, and stores what it
 * answers.
 *
 * Relocations are appended after those that DT_RELACOUNT counts. For a relocation of a place whose value is known at
 * link time R_X86_64_RELATIVE is used, which the loader handles anywhere in the table.
 */
import type { Vaddr } from "../../../address.js";
import * as elf from "../../../elf/constants.js";
import type { ElfImage } from "../../../elf/image.js";
import { isImport } from "../../../elf/symbols.js";
import {
  addNeededVersion,
  readDefinedVersions,
  readNeededVersions,
  sysvHash,
  VERNAUX_SIZE,
  VERSYM_INDEX,
} from "../../../elf/versions.js";
import {
  type DynamicTables,
  type Relocation,
  relocationsBySymbol,
  sizeOf,
  stringAt,
  type TableDraft,
} from "../../start/tables.js";
import { type SpareImports, type SpareSymbol, spareImports } from "./spare.js";

export const C_LIBRARY = "libc.so.6";

/** How an import came about, for a report. */
type ImportSource = "there already" | "spare" | "appended";

export interface Import {
  readonly name: string;
  readonly source: ImportSource;
  /** The word that holds the function's address once the file is loaded. */
  readonly slot: Vaddr;
}

/** An import whose every use leads to new code. */
export interface WrappedImport {
  readonly name: string;
  /** The word that holds the address of the function itself. */
  readonly slot: Vaddr;
  /** Leads all uses to the code at `wrapper`; the function at `resolver` answers with that address. */
  lead(wrapper: Vaddr, resolver: Vaddr): void;
}

/** Draws up imports and relocations for one file; `tables` is what it changes. */
export class ImportDrafts {
  #symbols: readonly SpareSymbol[];
  #relocations: readonly Relocation[];

  constructor(
    image: ElfImage,
    readonly tables: DynamicTables,
  ) {
    const spare: SpareImports = spareImports(image, tables);
    this.#symbols = spare.symbols;
    this.#relocations = spare.relocations;
  }

  /** How many relocations can be had without a longer table; any number where the table grows anyway. */
  get cheapRelocations(): number {
    const { relocations } = this.tables;
    if (relocations !== undefined && relocations.tail.length > 0) return Number.POSITIVE_INFINITY;
    return this.#relocations.length;
  }

  /** Whether the import of a function takes no longer table. */
  isCheap(name: string): boolean {
    const known = this.#existing(name);
    if (known?.slot !== undefined) return true;
    return this.cheapRelocations > 0 && (known !== undefined || this.#symbols.some((s) => s.room >= name.length));
  }

  /** Whether the file asks for a version of the C library from 2.`minor` on, and so never runs with an older one. */
  needsGlibc(minor: number): boolean {
    const { neededVersions } = this.tables;
    if (neededVersions === undefined) return false;
    const library = readNeededVersions(neededVersions.head).find((f) => stringAt(this.tables, f.vn_file) === C_LIBRARY);
    return (library?.versions ?? []).some((v) => {
      const version = /^GLIBC_2\.(\d+)$/.exec(stringAt(this.tables, v.vna_name) ?? "");
      return version !== null && Number(version[1]) >= minor;
    });
  }

  /** Whether the file has this import. */
  has(name: string): boolean {
    return this.#existing(name) !== undefined;
  }

  /**
   * The import of a function, or why there is none.
   * @param version the version that the C library gives it, for a symbol that is appended
   * @param newSlot gives the address of a word that nothing uses; asked only where one is needed
   */
  import(name: string, version: string, newSlot: () => Vaddr): Import | string {
    const known = this.#existing(name);
    if (known?.slot !== undefined) return { name, source: "there already", slot: known.slot };
    const spare = known === undefined ? this.#symbols.find((s) => s.room >= name.length) : undefined;
    if (this.#relocations.length === 0 && this.tables.relocations === undefined)
      return "it has no table of relocations to which one could be added";
    const slot = newSlot();
    const index = known?.symbol ?? (spare === undefined ? this.#append(name, version) : this.#rename(spare, name));
    this.#relocate(slot, elf.R_X86_64_GLOB_DAT, index, 0n, spare?.relocation);
    return { name, source: known !== undefined ? "there already" : spare !== undefined ? "spare" : "appended", slot };
  }

  /** Wraps an import; undefined where the file does not use it, or why it cannot be done. */
  wrap(name: string, newSlot: () => Vaddr): WrappedImport | string | undefined {
    const symbols = this.#undefined(name);
    const uses = relocationsBySymbol(this.tables, new Set(symbols));
    const [symbol] = symbols;
    if (symbol === undefined || uses.length === 0) return undefined;
    if (symbols.length > 1) return `it imports ${name} in several versions`;
    if (this.tables.symbols.head.readBigUInt64LE(symbol * elf.SYM_SIZE + 8) !== 0n)
      return `it hands out the address of ${name} in its own linkage table`;
    const strange = uses.find((r) => !plain.has(r.type) || r.addend !== 0n);
    if (strange !== undefined) return `it uses ${name} by a relocation of type ${strange.type}`;
    if (this.#relocations.length === 0 && this.tables.relocations === undefined)
      return "it has no table of relocations to which one could be added";
    const slot = newSlot();
    this.#relocate(slot, elf.R_X86_64_GLOB_DAT, symbol, 0n, undefined);
    return {
      name,
      slot,
      lead: (wrapper, resolver) => {
        for (const { table, at } of uses) {
          const isLazy = table === this.tables.pltRelocations;
          table.head.writeUInt32LE(isLazy ? elf.R_X86_64_IRELATIVE : elf.R_X86_64_RELATIVE, at + 8);
          table.head.writeUInt32LE(0, at + 12);
          table.head.writeBigInt64LE(BigInt(isLazy ? resolver : wrapper), at + 16);
        }
      },
    };
  }

  /**
   * The loader writes load address + a target to `place`; the target is told later, by calling what comes back. Ask for
   * it only where there is a table, or a cheap relocation.
   */
  relative(place: Vaddr): (target: Vaddr) => void {
    const entry = this.#relocate(place, elf.R_X86_64_RELATIVE, 0, 0n, undefined);
    return (target) => {
      entry.writeBigInt64LE(BigInt(target), 16);
    };
  }

  /** The symbol of an import that the file has, and a word that holds its address as soon as the file is loaded. */
  #existing(name: string): { symbol: number; slot: Vaddr | undefined } | undefined {
    const [symbol] = this.#undefined(name);
    if (symbol === undefined) return undefined;
    const eager = isBoundEarly(this.tables);
    const filling = relocationsBySymbol(this.tables, new Set([symbol])).find(
      ({ type, addend }) =>
        addend === 0n && (type === elf.R_X86_64_GLOB_DAT || (eager && type === elf.R_X86_64_JUMP_SLOT)),
    );
    return { symbol, slot: filling?.r_offset };
  }

  /** The numbers of the imported symbols of that name. */
  #undefined(name: string): number[] {
    const { head } = this.tables.symbols;
    const found: number[] = [];
    for (let at = elf.SYM_SIZE; at < head.length; at += elf.SYM_SIZE)
      if (isImport(head, at) && stringAt(this.tables, head.readUInt32LE(at)) === name) found.push(at / elf.SYM_SIZE);
    return found;
  }

  #rename(spare: SpareSymbol, name: string): number {
    const { symbols, strings, hash } = this.tables;
    const at = spare.index * elf.SYM_SIZE;
    const start = symbols.head.readUInt32LE(at);
    if (hash !== undefined) unlink(hash, spare.index, sysvHash(stringAt(this.tables, start)!));
    strings.head.fill(0, start, start + spare.room);
    strings.head.write(name, start, "latin1");
    symbols.head[at + 4] = (elf.STB_GLOBAL << 4) | elf.STT_FUNC;
    if (hash !== undefined) link(hash, spare.index, sysvHash(name));
    this.#symbols = this.#symbols.filter((s) => s !== spare);
    return spare.index;
  }

  #append(name: string, version: string): number {
    const { symbols, versions, hash } = this.tables;
    const index = sizeOf(symbols) / elf.SYM_SIZE;
    const entry = Buffer.alloc(elf.SYM_SIZE);
    entry.writeUInt32LE(this.#appendString(name), 0);
    entry[4] = (elf.STB_GLOBAL << 4) | elf.STT_FUNC;
    symbols.tail.push(entry);
    if (versions !== undefined) versions.tail.push(half(this.#versionIndex(version)));
    if (hash !== undefined) {
      hash.head.writeUInt32LE(index + 1, 4);
      hash.tail.push(Buffer.alloc(4));
      link(hash, index, sysvHash(name));
    }
    return index;
  }

  #appendString(text: string): number {
    const { strings } = this.tables;
    const at = sizeOf(strings);
    strings.tail.push(Buffer.from(`${text}\0`, "latin1"));
    return at;
  }

  /** The number of a version of the C library in this file, a new one where it was not asked for yet; 1 means any. */
  #versionIndex(version: string): number {
    const { neededVersions, definedVersions } = this.tables;
    if (neededVersions === undefined || neededVersions.tail.length > 0) return 1;
    const files = readNeededVersions(neededVersions.head);
    const library = files.find((f) => stringAt(this.tables, f.vn_file) === C_LIBRARY);
    if (library === undefined) return 1;
    const known = library.versions.find((v) => stringAt(this.tables, v.vna_name) === version);
    if (known !== undefined) return known.vna_other & VERSYM_INDEX;
    const defined = definedVersions === undefined ? [] : readDefinedVersions(definedVersions.head);
    const taken = [
      ...files.flatMap((f) => f.versions.map((v) => v.vna_other & VERSYM_INDEX)),
      ...defined.map((d) => d.vd_ndx),
    ];
    const index = Math.max(1, ...taken) + 1;
    const entry = Buffer.alloc(VERNAUX_SIZE);
    entry.writeUInt32LE(sysvHash(version), 0);
    entry.writeUInt16LE(index, 6);
    entry.writeUInt32LE(this.#appendString(version), 8);
    const longer = addNeededVersion(neededVersions.head, files, library, entry);
    longer.copy(neededVersions.head);
    neededVersions.tail.push(longer.subarray(neededVersions.head.length));
    return index;
  }

  #relocate(place: Vaddr, type: number, symbol: number, addend: bigint, own: Relocation | undefined): Buffer {
    const spare =
      own ?? this.#relocations.find((r) => this.#symbols.every((s) => s.relocation !== r)) ?? this.#relocations[0];
    const entry = Buffer.alloc(elf.RELA_SIZE);
    entry.writeBigUInt64LE(BigInt(place), 0);
    entry.writeUInt32LE(type, 8);
    entry.writeUInt32LE(symbol, 12);
    entry.writeBigInt64LE(addend, 16);
    if (spare === undefined) {
      this.tables.relocations!.tail.push(entry);
      return entry;
    }
    spare.table.head.set(entry, spare.at);
    this.#relocations = this.#relocations.filter((r) => r !== spare);
    // A symbol whose relocation has gone has lost its use, and can be spared all the more.
    this.#symbols = this.#symbols.map((s) => (s.relocation === spare ? { ...s, relocation: undefined } : s));
    return spare.table.head.subarray(spare.at, spare.at + elf.RELA_SIZE);
  }
}

/** Relocations that write a function's address and nothing else. */
const plain = new Set<number>([elf.R_X86_64_64, elf.R_X86_64_GLOB_DAT, elf.R_X86_64_JUMP_SLOT]);

/** Whether the loader fills the words of the PLT before any code of the file runs. */
const isBoundEarly = ({ tags }: DynamicTables): boolean =>
  tags.some(
    ({ d_tag, d_val }) =>
      d_tag === elf.DT_BIND_NOW ||
      (d_tag === elf.DT_FLAGS && (d_val & elf.DF_BIND_NOW) !== 0) ||
      (d_tag === elf.DT_FLAGS_1 && (d_val & elf.DF_1_NOW) !== 0),
  );

function half(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16LE(value);
  return bytes;
}

/** DT_HASH: nbucket, nchain, buckets, chains. The word of a chain, in the head or in the tail. */
function chainWord({ head, tail }: TableDraft, index: number): { bytes: Buffer; at: number } {
  const at = 4 * (2 + head.readUInt32LE(0) + index);
  return at < head.length ? { bytes: head, at } : { bytes: tail[(at - head.length) / 4]!, at: 0 };
}

/** Puts a symbol in front of the chain of its hash. */
function link(hash: TableDraft, index: number, value: number): void {
  const bucket = 4 * (2 + (value % hash.head.readUInt32LE(0)));
  const chain = chainWord(hash, index);
  chain.bytes.writeUInt32LE(hash.head.readUInt32LE(bucket), chain.at);
  hash.head.writeUInt32LE(index, bucket);
}

/** Takes a symbol out of the chain of its hash, where it is in it. */
function unlink(hash: TableDraft, index: number, value: number): void {
  const next = chainWord(hash, index);
  const following = next.bytes.readUInt32LE(next.at);
  let word = { bytes: hash.head, at: 4 * (2 + (value % hash.head.readUInt32LE(0))) };
  for (let steps = hash.head.readUInt32LE(4); steps > 0; steps--) {
    const to = word.bytes.readUInt32LE(word.at);
    if (to === 0) return;
    if (to === index) {
      word.bytes.writeUInt32LE(following, word.at);
      return;
    }
    word = chainWord(hash, to);
  }
}
