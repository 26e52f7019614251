/**
 * Where functions begin and end, as far as the binary says so.
 *
 * `.eh_frame` is the first witness: nearly every compiler writes it and strip keeps it. Sized function symbols tell of
 * the rest (assembly without unwind information). A function that was split has several ranges, one for each part. What
 * no range covers is a gap: padding, or code about which nothing is known.
 */

import { hex, type Vaddr, vaddr } from "../address.js";
import { type CfaRows, readCfaRows } from "../elf/cfa-rows.js";
import * as elf from "../elf/constants.js";
import { type EhFrame, type Fde, readEhFrame } from "../elf/eh-frame.js";
import { type ElfImage, isCode, offsetOf, type Section, sectionBytes } from "../elf/image.js";
import { dynsym, forEachSymbol, symtab } from "../elf/symbols.js";
import { InputError } from "../errors.js";
import { countWhile, upperBound } from "../sorted.js";
import { type DecodedCode, decode, Flow } from "../x86/decode.js";
import { paddingLength } from "../x86/nops.js";

/** A contiguous range of code that belongs to one function. */
export interface CodeRange {
  readonly index: number;
  readonly start: Vaddr;
  readonly end: Vaddr;
}

export class FunctionIndex {
  private readonly decoded = new Map<number, DecodedCode>();
  /** The sections' bytes as plain arrays: views on a Buffer are slow to make, and there will be many. */
  private readonly contents: ReadonlyMap<Section, Uint8Array>;
  private readonly fdes = new Map<number, Fde>();
  private readonly gaps = new Map<number, DecodedCode>();

  private constructor(
    image: ElfImage,
    readonly codeSections: readonly Section[],
    readonly ehFrame: EhFrame,
    private readonly starts: Float64Array,
    private readonly ends: Float64Array,
    /** Which FDE a range comes from, or -1. */
    private readonly fdeOf: Int32Array,
    /** Ranges that overlap another one: their decoding proves nothing. */
    private readonly overlapping: ReadonlySet<number>,
  ) {
    this.contents = new Map(
      codeSections.map((s) => {
        const { buffer, byteOffset, length } = sectionBytes(image, s);
        return [s, new Uint8Array(buffer, byteOffset, length)];
      }),
    );
  }

  /**
   * The functions of an image, looked for anew: who asks twice asks FileFacts.
   * @throws InputError where .eh_frame or a symbol table is damaged, or headers contradict each other
   */
  static of(image: ElfImage): FunctionIndex {
    for (const section of image.sections) requireLoaded(image, section);
    const ehFrame = readEhFrame(image);
    const { starts, ends, fdeOf } = merge(ehFrame, symbolRanges(image, ehFrame));
    const overlapping = new Set<number>();
    let reach = 0;
    for (let i = 0; i < starts.length; i++) {
      if (starts[i]! < reach) {
        overlapping.add(i);
        for (let j = i - 1; j >= 0 && ends[j]! > starts[i]!; j--) overlapping.add(j);
      }
      reach = Math.max(reach, ends[i]!);
    }
    return new FunctionIndex(image, image.sections.filter(isCode), ehFrame, starts, ends, fdeOf, overlapping);
  }

  get count(): number {
    return this.starts.length;
  }

  range(index: number): CodeRange {
    return { index, start: vaddr(this.starts[index]!), end: vaddr(this.ends[index]!) };
  }

  /** The index of the last range that begins at or below the address, or -1. */
  lastAtOrBelow(address: number): number {
    return upperBound(this.starts, address) - 1;
  }

  /** The range that contains the address. */
  containing(address: number): CodeRange | undefined {
    const index = this.lastAtOrBelow(address);
    return index >= 0 && address < this.ends[index]! ? this.range(index) : undefined;
  }

  /** The range's bytes, or none where they are not in the file as a whole or in no section of code. */
  bytes(range: CodeRange): Uint8Array {
    const section = this.sectionAt(range.start);
    if (section === undefined || range.end > section.sh_addr + section.sh_size) return new Uint8Array(0);
    const all = this.contents.get(section)!;
    return all.subarray(range.start - section.sh_addr, range.end - section.sh_addr);
  }

  /** The bytes of a section of code. */
  sectionBytes(section: Section): Uint8Array {
    return this.contents.get(section)!;
  }

  /** The range's instructions; decoded once, until they are let go. */
  code(range: CodeRange): DecodedCode {
    let code = this.decoded.get(range.index);
    if (code === undefined) {
      const bytes = this.bytes(range);
      code = decode(bytes, range.start);
      if (bytes.length === 0) code = { ...code, unclean: "its bytes are not in the file" };
      if (this.overlapping.has(range.index)) code = { ...code, unclean: "it overlaps another function" };
      this.decoded.set(range.index, code);
    }
    return code;
  }

  /** Lets go of all that was decoded: after a look at the whole program, of which little is asked for again. */
  forget(): void {
    this.decoded.clear();
  }

  /** The FDE that a range comes from, or undefined where a symbol told of it. @throws InputError where it is damaged */
  fde(range: CodeRange): Fde | undefined {
    const index = this.fdeOf[range.index]!;
    if (index < 0) return undefined;
    let fde = this.fdes.get(index);
    if (fde === undefined) {
      fde = this.ehFrame.fde(index);
      this.fdes.set(index, fde);
    }
    return fde;
  }

  /**
   * The unwind table's rows for a range, or undefined where no FDE describes it. @throws InputError where it is damaged
   */
  cfaRows(range: CodeRange): CfaRows | undefined {
    const index = this.fdeOf[range.index]!;
    return index < 0 ? undefined : readCfaRows(this.ehFrame.program(index));
  }

  /**
   * How many bytes of padding begin at `address`, up to `end` or to the end of the section, in whole instructions; as
   * few as make `need` bytes.
   */
  paddingAt(address: number, end: number, need?: number): number {
    const section = this.sectionAt(address);
    if (section === undefined) return 0;
    const from = address - section.sh_addr;
    const to = Math.min(section.sh_size, end - section.sh_addr);
    return paddingLength(this.contents.get(section)!, from, to, need);
  }

  /** Whether a gap holds nothing but padding. */
  isPadding({ start, end }: { readonly start: Vaddr; readonly end: Vaddr }): boolean {
    return this.paddingAt(start, end) === end - start;
  }

  /**
   * Where the gap that contains `address`, in no range, begins and ends: between two ranges, or at a section's border.
   */
  gapAt(address: number): { readonly start: Vaddr; readonly end: Vaddr } | undefined {
    const section = this.sectionAt(address);
    if (section === undefined) return undefined;
    const before = this.lastAtOrBelow(address);
    const low = before >= 0 ? Math.max(section.sh_addr, this.ends[before]!) : section.sh_addr;
    const sectionEnd = section.sh_addr + section.sh_size;
    const high = before + 1 < this.count ? Math.min(sectionEnd, this.starts[before + 1]!) : sectionEnd;
    return address >= low && address < high ? { start: vaddr(low), end: vaddr(high) } : undefined;
  }

  /**
   * The code in the gap that contains `address`: start files, assembly without unwind information. Undefined outside of
   * gaps.
   */
  gapCode(address: number): DecodedCode | undefined {
    const gap = this.gapAt(address);
    const section = this.sectionAt(address);
    if (gap === undefined || section === undefined) return undefined;
    let code = this.gaps.get(gap.start);
    if (code === undefined) {
      const bytes = this.contents.get(section)!.subarray(gap.start - section.sh_addr, gap.end - section.sh_addr);
      code = decodeAroundZeros(bytes, gap.start);
      this.gaps.set(gap.start, code);
    }
    return code;
  }

  /** The section of code that contains the address. */
  sectionAt(address: number): Section | undefined {
    return this.codeSections.find((s) => address >= s.sh_addr && address < s.sh_addr + s.sh_size);
  }
}

/**
 * Decodes a gap. Zeros, which are instructions too (`00 00` is an addition to memory that no compiler writes), are
 * padding after the end of a block, as some linkers fill with them, and data anywhere else, which makes the gap
 * unclean.
 */
function decodeAroundZeros(bytes: Uint8Array, start: Vaddr): DecodedCode {
  const isZero = ({ bytes: b, offsets }: DecodedCode, i: number): boolean =>
    b[offsets[i]!] === 0 && b[offsets[i]! + 1] === 0;
  const filled = Uint8Array.from(bytes);
  for (;;) {
    const code = decode(filled, start);
    let zeros = 0;
    while (zeros < code.count && !isZero(code, zeros)) zeros++;
    if (zeros === code.count) return { ...code, bytes };
    const ends = Flow.Jump | Flow.IndirectJump | Flow.Return | Flow.Trap;
    if (zeros > 0 && (code.flow[zeros - 1]! & ends) === 0)
      return { ...code, bytes, unclean: "data between instructions" };
    // Seen as int3, it is padding for everybody.
    for (let at = code.offsets[zeros]!; at < filled.length && filled[at] === 0; at++) filled[at] = 0xcc;
  }
}

/**
 * What is looked at goes by section headers, what runs goes by program headers: for loaded sections they must agree.
 * @throws InputError where they do not
 */
function requireLoaded(image: ElfImage, section: Section): void {
  if ((section.sh_flags & elf.SHF_ALLOC) === 0 || section.sh_type === elf.SHT_NOBITS || section.sh_size === 0) return;
  if (offsetOf(image, section.sh_addr) === section.sh_offset) return;
  throw new InputError(
    `section ${section.name} and the program headers disagree on where it is loaded`,
    `address ${hex(section.sh_addr)}`,
  );
}

/** All ranges in ascending order, and which FDE each is. */
function merge(
  ehFrame: EhFrame,
  fromSymbols: readonly { start: number; end: number }[],
): { starts: Float64Array; ends: Float64Array; fdeOf: Int32Array } {
  const total = ehFrame.count + fromSymbols.length;
  const starts = new Float64Array(total);
  const ends = new Float64Array(total);
  const fdeOf = new Int32Array(total);
  let fde = 0;
  let symbol = 0;
  for (let i = 0; i < total; i++) {
    const other = fromSymbols[symbol];
    if (fde === ehFrame.count || (other !== undefined && other.start < ehFrame.starts[fde]!)) {
      starts[i] = other!.start;
      ends[i] = other!.end;
      fdeOf[i] = -1;
      symbol++;
    } else {
      starts[i] = ehFrame.starts[fde]!;
      ends[i] = ehFrame.ends[fde]!;
      fdeOf[i] = fde++;
    }
  }
  return { starts, ends, fdeOf };
}

/** Sized function symbols whose start lies in no FDE. */
function symbolRanges(image: ElfImage, ehFrame: EhFrame): { start: number; end: number }[] {
  const found = new Map<number, number>();
  const { starts, ends, count } = ehFrame;
  for (const table of [symtab(image), dynsym(image)]) {
    if (table === null) continue;
    forEachSymbol(table, (value, size, info, shndx) => {
      const type = info & 0xf;
      if ((type !== elf.STT_FUNC && type !== elf.STT_GNU_IFUNC) || size === 0 || shndx === elf.SHN_UNDEF) return;
      const low = countWhile(count, (i) => starts[i]! <= value);
      if (low > 0 && value < ends[low - 1]!) return;
      // A symbol may promise more than its FDEs: the nearest FDE bounds it.
      const end = low < count ? Math.min(value + size, starts[low]!) : value + size;
      if (end > value && end > (found.get(value) ?? 0)) found.set(value, end);
    });
  }
  const sorted = [...found].map(([start, end]) => ({ start, end })).sort((a, b) => a.start - b.start);
  // Symbols within symbols (assembly entry points) bound one another.
  for (let i = 0; i + 1 < sorted.length; i++) sorted[i]!.end = Math.min(sorted[i]!.end, sorted[i + 1]!.start);
  return sorted;
}
