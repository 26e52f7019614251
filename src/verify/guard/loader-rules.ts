/**
 * What the dynamic loader makes of both files is the same, but for what a guard adds.
 *
 *     symbols       another import of the C library, in the place of one that the file can spare (imports.ts) or after all
 *                   others. So nothing is defined that was not, and nothing that was defined is another
 *     strings       the names of these; every other string is what it was
 *     versions      of the appended symbols, and an entry for the version of the C library that they want
 *     DT_HASH       every symbol is found by its name, in the order in which it was (DT_GNU_HASH knows defined ones only: its
 *                   bytes are compared with the rest of the file)
 *     relocations   those of new words, in the place of a spared symbol's or after all others; the addend that leads to the
 *                   first function of an array; and those of functions that are wrapped, which lead to new code, all of them
 *
 * All other bytes of these tables have to be what they were.
 */

import { type FileOffset, hex, type Interval, interval } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { offsetOf, sectionBytes } from "../../elf/image.js";
import { isImport } from "../../elf/symbols.js";
import { readDefinedVersions, readNeededVersions, sysvHash, VERNAUX_SIZE } from "../../elf/versions.js";
import { outside, union } from "../../intervals.js";
import {
  countOf,
  type LoaderView,
  nameOf,
  type RelocationEntry,
  relocationAt,
  stringAt,
  type Table,
  type TableName,
} from "../loader-view.js";
import { atAddress, type Finding, finding } from "../rest/findings.js";
import { differingRuns } from "../rest/runs.js";
import { C_LIBRARY, guardImports, spareSymbols, VERSION_MASK, wrappable } from "./imports.js";

/** A new word that can be written, and what the loader fills it with. */
export interface Word {
  /** Link-time address. */
  readonly at: number;
  /** The function whose address it holds, or a link-time address of the file. */
  readonly holds: string | number;
}

/** A use of a function that leads to new code now. */
export interface WrappedUse {
  readonly name: string;
  /** New code that stands for the function, or that tells the loader where that is. */
  readonly leadsTo: number;
  readonly isResolver: boolean;
}

export interface LoaderChanges {
  readonly findings: readonly Finding[];
  /** The original's tables, in file offsets. */
  readonly judged: readonly Interval<FileOffset>[];
  /** Symbols that were spared: their numbers. */
  readonly spared: ReadonlySet<number>;
  /** Imports after the symbols of the original. */
  readonly appended: number;
  readonly words: readonly Word[];
  readonly wrapped: readonly WrappedUse[];
}

/**
 * Compares the loader's tables.
 * @param newWords the addresses of words that the rewritten file has after its variables
 * @param heads where the arrays of functions begin whose first one is another now, with that one
 */
export function compareLoaderTables(
  original: LoaderView,
  rewritten: LoaderView,
  newWords: ReadonlySet<number>,
  heads: ReadonlyMap<number, number>,
): LoaderChanges {
  return new Comparison(original, rewritten, newWords, heads).run();
}

class Comparison {
  private readonly findings: Finding[] = [];
  private readonly spare: ReadonlySet<number>;
  private readonly spared = new Set<number>();
  private readonly words: Word[] = [];
  private readonly wrapped: WrappedUse[] = [];
  /** What appended strings have to be, in order of their place: the parts of the table's tail that somebody names. */
  private readonly namedTail: Interval[] = [];
  private readonly symbolsBefore: number;
  private readonly symbolsNow: number;

  constructor(
    private readonly original: LoaderView,
    private readonly rewritten: LoaderView,
    private readonly newWords: ReadonlySet<number>,
    private readonly heads: ReadonlyMap<number, number>,
  ) {
    this.spare = spareSymbols(original);
    this.symbolsBefore = countOf(original.tables.get("symbols"), elf.SYM_SIZE);
    this.symbolsNow = countOf(rewritten.tables.get("symbols"), elf.SYM_SIZE);
  }

  run(): LoaderChanges {
    const judged: Interval<FileOffset>[] = [];
    for (const [name, table] of this.original.tables)
      if (this.rewritten.tables.has(name)) judged.push(interval(table.offset, table.bytes.length));
    this.symbols();
    this.versions();
    this.strings();
    this.hash();
    this.relocations("relocations");
    this.relocations("pltRelocations");
    this.allWrapped();
    this.counts();
    return {
      findings: this.findings,
      judged,
      spared: this.spared,
      appended: this.symbolsNow - this.symbolsBefore,
      words: this.words,
      wrapped: this.wrapped,
    };
  }

  private say(at: number, what: string): void {
    this.findings.push(finding("loaded", atAddress(at), what));
  }

  /** Both sides of a table; a finding where one has none, or less than before. */
  private both(name: TableName): readonly [before: Table, now: Table] | undefined {
    const [before, now] = [this.original.tables.get(name), this.rewritten.tables.get(name)];
    if (before === undefined && now === undefined) return undefined;
    if (before !== undefined && now !== undefined && now.bytes.length >= before.bytes.length) return [before, now];
    this.say(now?.address ?? before!.address, `the table of ${name} is shorter, or new`);
    return undefined;
  }

  private symbols(): void {
    const both = this.both("symbols");
    if (both === undefined) return;
    const [before, now] = both;
    const length = before.bytes.length;
    const touched = new Set<number>();
    for (const { start, end } of differingRuns(before.bytes, now.bytes.subarray(0, length)))
      for (let i = Math.floor(start / elf.SYM_SIZE); i * elf.SYM_SIZE < end; i++) touched.add(i);
    // A spared symbol's name may have changed where it stands, in the table of strings.
    for (const i of this.spare) if (nameOf(this.original, i) !== nameOf(this.rewritten, i)) touched.add(i);
    for (const i of touched) {
      const at = i * elf.SYM_SIZE;
      // Numbers of sections, and addresses of what moved, are looked at with all symbols.
      const isImport = before.bytes.readUInt16LE(at + 6) === elf.SHN_UNDEF;
      if (!isImport && now.bytes.readUInt16LE(at + 6) !== elf.SHN_UNDEF) continue;
      if (this.spare.has(i) && this.isGuardImport(now, i)) {
        this.spared.add(i);
        if (now.bytes.readUInt32LE(at) !== before.bytes.readUInt32LE(at))
          this.say(now.address + at, `the name of import ${i} stands elsewhere`);
      } else this.say(now.address + at, `dynamic symbol ${i} is another, and it is none that the file can spare`);
    }
    for (let i = this.symbolsBefore; i < this.symbolsNow; i++) {
      if (!this.isGuardImport(now, i))
        this.say(now.address + i * elf.SYM_SIZE, `the new dynamic symbol ${i} is no function that a fork guard needs`);
      else this.nameInTail(now.bytes.readUInt32LE(i * elf.SYM_SIZE));
    }
    if (now.bytes.length % elf.SYM_SIZE !== 0) this.say(now.address, "dynamic symbols that are not whole");
  }

  /** A global function of the C library, not defined here. */
  private isGuardImport({ bytes }: Table, index: number): boolean {
    const at = index * elf.SYM_SIZE;
    return (
      guardImports.has(nameOf(this.rewritten, index) ?? "") &&
      bytes[at + 4] === ((elf.STB_GLOBAL << 4) | elf.STT_FUNC) &&
      bytes[at + 5] === 0 &&
      bytes.readUInt16LE(at + 6) === elf.SHN_UNDEF &&
      bytes.readBigUInt64LE(at + 8) === 0n &&
      bytes.readBigUInt64LE(at + 16) === 0n
    );
  }

  private nameInTail(offset: number): void {
    const length = stringAt(this.rewritten, offset)?.length ?? 0;
    this.namedTail.push(interval(offset, length + 1));
  }

  private versions(): void {
    const both = this.both("versions");
    if (both === undefined) return;
    const [before, now] = both;
    this.sameHead(before, now, [], "versions of symbols");
    if (now.bytes.length !== 2 * this.symbolsNow) this.say(now.address, "there is not one version for each symbol");
    const wanted = this.neededVersions();
    for (let i = this.symbolsBefore; i < this.symbolsNow && 2 * i + 2 <= now.bytes.length; i++) {
      const index = now.bytes.readUInt16LE(2 * i);
      const name = nameOf(this.rewritten, i) ?? "";
      if (index === 1) continue;
      const version = wanted.get(index);
      if (version === undefined || !guardImports.get(name)?.includes(version))
        this.say(now.address + 2 * i, `the new import ${name} is of the version ${version ?? index}`);
    }
  }

  /** The versions of the C library that the rewritten file asks for, by their number; judges what is new among them. */
  private neededVersions(): ReadonlyMap<number, string> {
    const wanted = new Map<number, string>();
    const both = this.both("needed");
    if (both === undefined) return wanted;
    const [before, now] = both;
    const filesBefore = readNeededVersions(before.bytes);
    const files = readNeededVersions(now.bytes);
    const places = new Set<number>();
    const record = (table: Table, at: number): Buffer => table.bytes.subarray(at, at + VERNAUX_SIZE - 4);
    files.forEach((file, i) => {
      const name = stringAt(this.rewritten, file.vn_file) ?? "";
      const old = filesBefore[i];
      places.add(file.at);
      const isSame = old !== undefined && old.vn_file === file.vn_file && now.bytes[file.at] === before.bytes[old.at];
      if (!isSame) this.say(now.address + file.at, `other versions are needed: of ${name}`);
      // In their order, with one in between.
      let k = 0;
      for (const { at, vna_name, vna_other } of file.versions) {
        places.add(at);
        const version = stringAt(this.rewritten, vna_name) ?? "";
        if (name === C_LIBRARY) wanted.set(vna_other & VERSION_MASK, version);
        const next = old?.versions[k];
        if (next !== undefined && record(before, next.at).equals(record(now, at))) {
          k++;
          continue;
        }
        // A number of its own, and the hash of its name.
        const isWhole =
          now.bytes.readUInt32LE(at) === sysvHash(version) &&
          now.bytes.readUInt16LE(at + 4) === 0 &&
          this.isNewNumber(vna_other);
        if (name !== C_LIBRARY || !isWhole) this.say(now.address + at, `the version ${version} of ${name} is new`);
        this.nameInTail(vna_name);
      }
      if (old !== undefined && k < old.versions.length) this.say(now.address + file.at, `versions of ${name} are gone`);
    });
    const count = (all: typeof files): number => all.reduce((n, f) => n + 1 + f.versions.length, 0);
    if (files.length !== filesBefore.length || count(files) > count(filesBefore) + 1)
      this.say(now.address, "more versions are needed");
    if (places.size !== count(files) || now.bytes.length !== count(files) * VERNAUX_SIZE)
      this.say(now.address, "the needed versions have bytes that nothing explains");
    return wanted;
  }

  /** Whether no symbol of the original has a version of that number. */
  private isNewNumber(number: number): boolean {
    const versions = this.original.tables.get("versions")?.bytes;
    for (let at = 0; versions !== undefined && at + 2 <= versions.length; at += 2)
      if ((versions.readUInt16LE(at) & VERSION_MASK) === number) return false;
    return number > 1 && number <= VERSION_MASK;
  }

  private strings(): void {
    const both = this.both("strings");
    if (both === undefined) return;
    const [before, now] = both;
    const symbols = this.original.tables.get("symbols")!.bytes;
    const room: Interval[] = [];
    for (const i of this.spared) {
      const start = symbols.readUInt32LE(i * elf.SYM_SIZE);
      const end = start + (nameOf(this.original, i)?.length ?? 0);
      room.push({ start, end });
      const name = nameOf(this.rewritten, i) ?? "";
      const rest = now.bytes.subarray(start + name.length, end);
      if (name.length > end - start || rest.some((byte) => byte !== 0))
        this.say(now.address + start, "the name of an import takes more than its room, or leaves something there");
    }
    this.sameHead(before, now, union(room), "strings");
    for (const offset of this.otherStrings()) {
      if (
        !room.some(
          ({ start, end }) => offset <= end && offset + (stringAt(this.original, offset)?.length ?? 0) >= start,
        )
      )
        continue;
      if (stringAt(this.original, offset) !== stringAt(this.rewritten, offset))
        this.say(now.address + offset, `"${stringAt(this.original, offset)}" is another string now`);
    }
    const length = before.bytes.length;
    if (length > 0 && before.bytes[length - 1] !== 0) this.say(now.address, "the strings did not end with a NUL");
    for (const { start } of outside(union(this.namedTail), { start: length, end: now.bytes.length }))
      this.say(now.address + start, "a string that nothing names");
    for (const { start, end } of this.namedTail)
      if (end > now.bytes.length) this.say(now.address + start, "a string that does not end");
  }

  /** Where strings begin that anything but a spared symbol names. */
  private *otherStrings(): Generator<number> {
    const { tags, tables } = this.original;
    const symbols = tables.get("symbols")!.bytes;
    for (let i = 1; i < this.symbolsBefore; i++) if (!this.spared.has(i)) yield symbols.readUInt32LE(i * elf.SYM_SIZE);
    for (const { d_tag, d_val } of tags) if (stringTags.has(d_tag)) yield d_val;
    const needed = tables.get("needed")?.bytes;
    if (needed !== undefined)
      for (const { vn_file, versions } of readNeededVersions(needed)) {
        yield vn_file;
        for (const { vna_name } of versions) yield vna_name;
      }
    const definitions = this.original.image.sections.find((d) => d.sh_type === elf.SHT_GNU_VERDEF && d.sh_size > 0);
    if (definitions !== undefined)
      for (const { names } of readDefinedVersions(sectionBytes(this.original.image, definitions))) yield* names;
  }

  /** Chains of symbols whose names have the same hash. */
  private hash(): void {
    const both = this.both("hash");
    if (both === undefined) return;
    const [before, now] = both;
    const [buckets, symbols] = [before.bytes.readUInt32LE(0), before.bytes.readUInt32LE(4)];
    const wholeSize = 4 * (2 + buckets + this.symbolsNow);
    if (
      now.bytes.readUInt32LE(0) !== buckets ||
      now.bytes.readUInt32LE(4) !== this.symbolsNow ||
      now.bytes.length !== wholeSize
    ) {
      this.say(now.address, "DT_HASH is of another size, or not for all symbols");
      return;
    }
    const linked = new Set<number>();
    const linkedBefore = new Set<number>();
    for (let bucket = 0; bucket < buckets; bucket++) {
      const old = chainOf(before.bytes, bucket, symbols, linkedBefore);
      const chain = chainOf(now.bytes, bucket, this.symbolsNow, linked);
      const kept = (all: readonly number[]): string => all.filter((i) => i < symbols && !this.spared.has(i)).join();
      const others = chain?.filter((i) => i >= symbols || this.spared.has(i)) ?? [];
      const isRight = others.every((i) => sysvHash(nameOf(this.rewritten, i) ?? "") % buckets === bucket);
      if (old === undefined || chain === undefined || kept(old) !== kept(chain) || !isRight)
        this.say(now.address + 4 * (2 + bucket), `chain ${bucket} of DT_HASH is another`);
    }
    for (let i = 0; i < this.symbolsNow; i++) {
      const at = 4 * (2 + buckets + i);
      if (linked.has(i)) continue;
      // What was found is found; what is in no chain keeps its word.
      const mayBeNowhere = i < symbols && (!this.spared.has(i) || !linkedBefore.has(i));
      if (!mayBeNowhere || now.bytes.readUInt32LE(at) !== before.bytes.readUInt32LE(at))
        this.say(now.address + at, `dynamic symbol ${i} is in no chain of DT_HASH`);
    }
  }

  private relocations(name: "relocations" | "pltRelocations"): void {
    const both = this.both(name);
    if (both === undefined) return;
    const [before, now] = both;
    const [countBefore, count] = [countOf(before, elf.RELA_SIZE), countOf(now, elf.RELA_SIZE)];
    const changed = new Set<number>();
    const head = before.bytes.length;
    for (const { start, end } of differingRuns(before.bytes, now.bytes.subarray(0, head)))
      for (let i = Math.floor(start / elf.RELA_SIZE); i * elf.RELA_SIZE < end; i++) changed.add(i);
    for (const i of changed) {
      const [a, b] = [relocationAt(before, i), relocationAt(now, i)];
      const isHead =
        a.type === elf.R_X86_64_RELATIVE && b.type === a.type && a.place === b.place && a.symbol === b.symbol;
      if (isHead && this.heads.get(b.place) === Number(b.addend)) continue;
      if (this.wraps(a, b)) continue;
      if (!this.isSpare(a.type, a.symbol, a.addend, a.place))
        this.say(now.address + i * elf.RELA_SIZE, `the relocation of ${hex(a.place)} is another`);
      else this.word(now, i);
    }
    for (let i = countBefore; i < count; i++) this.word(now, i);
    if (now.bytes.length % elf.RELA_SIZE !== 0) this.say(now.address, "relocations that are not whole");
    if (this.spared.size === 0) return;
    for (let i = 0; i < countBefore; i++)
      if (!changed.has(i) && this.spared.has(before.bytes.readUInt32LE(i * elf.RELA_SIZE + 12)))
        this.say(now.address + i * elf.RELA_SIZE, "a relocation names an import that is another now");
  }

  /**
   * Whether a relocation writes nothing in any process: its symbol is never found, and its word is zero in the file.
   */
  private isSpare(type: number, symbol: number, addend: bigint, place: number): boolean {
    if (type !== elf.R_X86_64_GLOB_DAT || addend !== 0n || !this.spare.has(symbol)) return false;
    const { image } = this.original;
    const stored = offsetOf(image, place as never);
    return stored === undefined || image.bytes.subarray(stored, stored + 8).every((byte) => byte === 0);
  }

  /** Takes down a use of a function that leads to new code now. */
  private wraps(a: RelocationEntry, b: RelocationEntry): boolean {
    const name = nameOf(this.original, a.symbol) ?? "";
    const uses = [elf.R_X86_64_GLOB_DAT, elf.R_X86_64_JUMP_SLOT, elf.R_X86_64_64];
    const isResolver = b.type === elf.R_X86_64_IRELATIVE;
    if (!wrappable.has(name) || !uses.includes(a.type) || a.addend !== 0n || !this.isImport(a.symbol)) return false;
    if (b.place !== a.place || b.symbol !== 0 || (!isResolver && b.type !== elf.R_X86_64_RELATIVE)) return false;
    this.wrapped.push({ name, leadsTo: Number(b.addend), isResolver });
    return true;
  }

  private isImport(symbol: number): boolean {
    const at = symbol * elf.SYM_SIZE;
    const { bytes } = this.original.tables.get("symbols")!;
    return isImport(bytes, at) && bytes.readBigUInt64LE(at + 8) === 0n;
  }

  /** No use of a wrapped function is left out, its own word apart. */
  private allWrapped(): void {
    const names = new Set(this.wrapped.map((w) => w.name));
    for (const { holds } of this.words) if (typeof holds === "string" && wrappable.has(holds)) names.add(holds);
    if (names.size === 0) return;
    for (const table of ["relocations", "pltRelocations"] as const) {
      const now = this.rewritten.tables.get(table);
      for (let i = 0; i < countOf(now, elf.RELA_SIZE); i++) {
        const name = nameOf(this.rewritten, now!.bytes.readUInt32LE(i * elf.RELA_SIZE + 12)) ?? "";
        if (names.has(name) && !this.newWords.has(relocationAt(now!, i).place))
          this.say(now!.address + i * elf.RELA_SIZE, `a use of ${name} goes around the fork guard`);
      }
    }
  }

  private isLookedUp(symbol: number): boolean {
    const bytes = this.rewritten.tables.get("symbols")?.bytes;
    const at = symbol * elf.SYM_SIZE;
    return bytes !== undefined && at + elf.SYM_SIZE <= bytes.length && isImport(bytes, at);
  }

  /** A relocation that fills a new word. */
  private word(table: Table, index: number): void {
    const at = table.address + index * elf.RELA_SIZE;
    const { place, type, symbol, addend } = relocationAt(table, index);
    const name = nameOf(this.rewritten, symbol) ?? "";
    const isWanted = guardImports.has(name) || wrappable.has(name);
    if (!this.newWords.has(place) || this.words.some((w) => w.at === place))
      this.say(at, `a new relocation writes to ${hex(place)}, which is no new word, or has one`);
    else if (type === elf.R_X86_64_RELATIVE && symbol === 0) this.words.push({ at: place, holds: Number(addend) });
    else if (type === elf.R_X86_64_GLOB_DAT && addend === 0n && isWanted && this.isLookedUp(symbol))
      this.words.push({ at: place, holds: name });
    else this.say(at, `a new relocation of type ${type} for "${name}"`);
  }

  /** The first DT_RELACOUNT relocations are taken for RELATIVE ones, whatever they say. */
  private counts(): void {
    const table = this.rewritten.tables.get("relocations");
    const relative = this.rewritten.tags.find((t) => t.d_tag === elf.DT_RELACOUNT)?.d_val ?? 0;
    for (let i = 0; i < Math.min(relative, countOf(table, elf.RELA_SIZE)); i++)
      if (table!.bytes.readUInt32LE(i * elf.RELA_SIZE + 8) !== elf.R_X86_64_RELATIVE) {
        this.say(table!.address + i * elf.RELA_SIZE, "DT_RELACOUNT counts a relocation that is not RELATIVE");
        return;
      }
  }

  /** What both have is the same outside of some stretches. */
  private sameHead(before: Table, now: Table, may: readonly Interval[], what: string): void {
    const allowed = union(may);
    for (const run of differingRuns(before.bytes, now.bytes.subarray(0, before.bytes.length)))
      for (const { start } of outside(allowed, run)) this.say(now.address + start, `${what} differ`);
  }
}

const stringTags = new Set<number>([
  elf.DT_NEEDED,
  elf.DT_SONAME,
  elf.DT_RPATH,
  elf.DT_RUNPATH,
  elf.DT_CONFIG,
  elf.DT_DEPAUDIT,
  elf.DT_AUDIT,
  elf.DT_AUXILIARY,
  elf.DT_FILTER,
]);

/** The symbols of a chain in their order, or undefined where it does not end. */
function chainOf(hash: Buffer, bucket: number, symbols: number, linked: Set<number>): number[] | undefined {
  const buckets = hash.readUInt32LE(0);
  const chain: number[] = [];
  for (let i = hash.readUInt32LE(4 * (2 + bucket)); i !== 0; i = hash.readUInt32LE(4 * (2 + buckets + i))) {
    if (i >= symbols || linked.has(i)) return undefined;
    linked.add(i);
    chain.push(i);
  }
  return chain;
}
