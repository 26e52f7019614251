/**
 * Every address of code that something in the file names: relocations, symbols and, in programs with fixed addresses,
 * words of data; `lea` and constants in the code, found at every byte position, so that none escapes; and the functions
 * that are called directly.
 */

import type { Vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { forEachRelocation } from "../../elf/dynamic.js";
import { type ElfImage, isCode, type Section, sectionBytes } from "../../elf/image.js";
import { dynsym, forEachSymbol, symtab } from "../../elf/symbols.js";
import { lowerBound } from "../../sorted.js";

/** Pairs of numbers, by the second one. */
class Pairs {
  private places: Float64Array;
  private targets: Float64Array;
  private count = 0;

  constructor() {
    this.places = new Float64Array(1 << 12);
    this.targets = new Float64Array(1 << 12);
  }

  add(at: number, target: number): void {
    if (this.count === this.places.length) {
      const [places, targets] = [new Float64Array(this.count * 2), new Float64Array(this.count * 2)];
      places.set(this.places);
      targets.set(this.targets);
      this.places = places;
      this.targets = targets;
    }
    this.places[this.count] = at;
    this.targets[this.count++] = target;
  }

  sort(): void {
    // Address and index in one number: below 2^53, as both are small.
    const keys = Float64Array.from(
      { length: this.count },
      (_, i) => this.targets[i]! * 2 ** 18 + Math.min(i, 2 ** 18 - 1),
    );
    const order =
      this.count < 2 ** 18 && this.targets.every((t) => t < 2 ** 34)
        ? Array.from(keys.sort(), (key) => key % 2 ** 18)
        : Array.from({ length: this.count }, (_, i) => i).sort((a, b) => this.targets[a]! - this.targets[b]!);
    this.places = Float64Array.from(order, (i) => this.places[i]!);
    this.targets = Float64Array.from(order, (i) => this.targets[i]!);
  }

  /** Those with start <= target < end. */
  within(start: number, end: number): { at: number; target: number }[] {
    let low = lowerBound(this.targets, start);
    const found: { at: number; target: number }[] = [];
    for (; low < this.targets.length && this.targets[low]! < end; low++)
      found.push({ at: this.places[low]!, target: this.targets[low]! });
    return found;
  }

  /** All, in the order of their places. */
  *all(): Iterable<{ readonly at: number; readonly target: number }> {
    for (let i = 0; i < this.targets.length; i++) yield { at: this.places[i]!, target: this.targets[i]! };
  }
}

export class NameIndex {
  /** The place of a word of data or of a symbol (then NaN), and the address of code in it. */
  private readonly data = new Pairs();
  /** Where the word of a lea or a constant stands, and the address of code that it makes. */
  private readonly made = new Pairs();
  private readonly called = new Set<number>();
  /** Where code makes the address of the global offset table. */
  private readonly offsetTable: number[] = [];
  /**
   * Where code makes an address of this file's memory that is in no section: only with something added it is one of
   * anything.
   */
  private readonly strays: number[] = [];
  /** Addresses of data that code or data names, from which words lead to code if they are added to it. */
  private readonly tables = new Set<number>();
  /** Its words may be addresses that no relocation tells of. */
  private readonly fixed: boolean;

  /** @throws InputError where a table is damaged */
  constructor(image: ElfImage) {
    const sections = image.sections.filter(isCode);
    const isInCode = containment(sections);
    const fixed = image.header.e_type === elf.ET_EXEC;
    this.fixed = fixed;
    const isTable = tableTest(image, isInCode);
    forEachRelocation(image, (place, value) => {
      if (isInCode(value)) this.data.add(place, value);
      else if (isTable(value)) this.tables.add(value);
    });
    for (const table of [symtab(image), dynsym(image)])
      if (table !== null)
        forEachSymbol(table, (value, _size, info, shndx) => {
          const type = info & 0xf;
          if (shndx === elf.SHN_UNDEF || type === elf.STT_TLS || type === elf.STT_FILE || type === elf.STT_SECTION)
            return;
          if (isInCode(value)) this.data.add(Number.NaN, value);
        });
    if (isInCode(image.header.e_entry)) this.data.add(Number.NaN, image.header.e_entry);
    if (fixed) this.addWords(image, isInCode, isTable);
    const gots = image.sections.filter((s) => /^\.got(\.plt)?$/.test(s.name)).map((s) => s.sh_addr as number);
    const [isStray, memory] = [strayTest(image), memoryOf(image)];
    for (const section of sections)
      this.addCode(sectionBytes(image, section), section.sh_addr, isInCode, fixed, isTable, gots, isStray, memory);
    this.strays.sort((a, b) => a - b);
    this.data.sort();
    this.made.sort();
  }

  byData(start: number, end: number): readonly number[] {
    return this.data.within(start, end).map((p) => p.target);
  }

  /**
   * As byData, and whether it is certain that an address is meant. Without words of data of fixed programs that are at
   * no multiple of 8: nobody keeps a pointer there but in packed structures.
   */
  byPointers(start: number, end: number): readonly { readonly target: number; readonly isCertain: boolean }[] {
    return this.data.within(start, end).flatMap(({ at, target }) => {
      const isCertain = !this.fixed && !Number.isNaN(at);
      return isCertain || at % 8 === 0 || Number.isNaN(at) ? [{ target, isCertain }] : [];
    });
  }

  byCode(start: number, end: number): readonly { readonly at: number; readonly target: number }[] {
    return this.made.within(start, end);
  }

  /** All addresses of code that code makes, by the address that is made. */
  allMade(): Iterable<{ readonly at: number; readonly target: number }> {
    return this.made.all();
  }

  /** Whether code in a stretch makes the address of the global offset table. */
  usesOffsetTable(start: number, end: number): boolean {
    return this.offsetTable.some((at) => at >= start && at < end);
  }

  /** Whether code in a stretch makes an address that is in no section. */
  makesStray(start: number, end: number): boolean {
    const low = lowerBound(this.strays, start);
    return low < this.strays.length && this.strays[low]! < end;
  }

  /** Tables of words that are relative to the table, as far as their first word tells. */
  get relativeTables(): ReadonlySet<number> {
    return this.tables;
  }

  /** Whether bytes look like a direct call of this address. */
  isCalled(address: number): boolean {
    return this.called.has(address);
  }

  /** Words of data that are addresses of code, or of tables: 8 bytes at every position. */
  private addWords(
    image: ElfImage,
    isInCode: (address: number) => boolean,
    isTable: (address: number) => boolean,
  ): void {
    for (const section of image.sections) {
      if ((section.sh_flags & elf.SHF_ALLOC) === 0 || isCode(section)) continue;
      const bytes = sectionBytes(image, section);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
      for (let p = 0; p + 8 <= bytes.length; p++) {
        if (view.getUint32(p + 4, true) !== 0) continue;
        const value = view.getUint32(p, true);
        if (isInCode(value)) this.data.add(section.sh_addr + p, value);
        else if (isTable(value)) this.tables.add(value);
      }
    }
  }

  private addCode(
    buffer: Buffer,
    start: Vaddr,
    isInCode: (address: number) => boolean,
    fixed: boolean,
    isTable: (address: number) => boolean,
    gots: readonly number[],
    isStray: (address: number) => boolean,
    memory: readonly [low: number, high: number],
  ): void {
    const bytes = new Uint8Array(buffer.buffer, buffer.byteOffset, buffer.length);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const last = bytes.length - 4;
    const [low, high] = memory;
    for (let p = 1; p <= last; p++) {
      const before = bytes[p - 1]!;
      if (before === 0xe8) {
        const target = start + p + 4 + view.getInt32(p, true);
        if (isInCode(target)) this.called.add(target);
      } else if ((before & 0xc7) === 0x05 && p > 1 && bytes[p - 2] === 0x8d) {
        const target = start + p + 4 + view.getInt32(p, true);
        if (isInCode(target)) this.made.add(start + p, target);
        else if (isTable(target)) this.tables.add(target);
        else if (gots.includes(target)) this.offsetTable.push(start + p);
        else if (isStray(target)) this.strays.push(start + p);
      }
      if (!fixed) continue;
      const value = view.getUint32(p, true);
      if (isInCode(value)) this.made.add(start + p, value);
      else if (isTable(value)) this.tables.add(value);
      else if (value >= low && value < high && isStray(value)) this.strays.push(start + p);
    }
  }
}

/** Whether an address is in the file's memory, or close to it, and neither in a section nor at the end of one. */
function strayTest(image: ElfImage): (address: number) => boolean {
  const loaded = image.sections
    .filter((s) => (s.sh_flags & elf.SHF_ALLOC) !== 0)
    .map((s) => ({ start: s.sh_addr as number, end: s.sh_addr + s.sh_size }))
    .sort((a, b) => a.start - b.start);
  const [low, high] = memoryOf(image);
  // A few sections are asked for most: they are found again at once.
  let last = loaded[0];
  return (address) => {
    if (address < low - NEAR || address > high + NEAR) return false;
    if (last !== undefined && address >= last.start && address <= last.end) return false;
    const own = loaded.find((s) => address >= s.start && address <= s.end);
    if (own === undefined) return true;
    last = own;
    return false;
  };
}

/** Where the file's memory begins and ends. */
function memoryOf(image: ElfImage): readonly [low: number, high: number] {
  const segments = image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD);
  return [Math.min(...segments.map((p) => p.p_vaddr)), Math.max(...segments.map((p) => p.p_vaddr + p.p_memsz))];
}

/** So far from its memory an address may still be meant as a part of one. */
const NEAR = 1 << 20;

/** Whether the word at an address of data that is only read leads to code if it is added to that address. */
function tableTest(image: ElfImage, isInCode: (address: number) => boolean): (address: number) => boolean {
  const sections = image.sections.filter(
    (s) => (s.sh_flags & elf.SHF_ALLOC) !== 0 && s.sh_type === elf.SHT_PROGBITS && !isCode(s) && s.sh_size >= 4,
  );
  const low = Math.min(...sections.map((s) => s.sh_addr));
  const high = Math.max(...sections.map((s) => s.sh_addr + s.sh_size));
  return (address) => {
    if (address < low || address >= high) return false;
    const section = sections.find((s) => address >= s.sh_addr && address + 4 <= s.sh_addr + s.sh_size);
    if (section === undefined) return false;
    return isInCode(address + image.view.getInt32(section.sh_offset + address - section.sh_addr, true));
  };
}

/** A quick answer to whether an address lies in one of some sections. */
function containment(sections: readonly Section[]): (address: number) => boolean {
  const ranges = sections.map((s) => ({ start: s.sh_addr as number, end: s.sh_addr + s.sh_size }));
  const low = Math.min(...ranges.map((r) => r.start));
  const high = Math.max(...ranges.map((r) => r.end));
  return (address) => address >= low && address < high && ranges.some((r) => address >= r.start && address < r.end);
}
