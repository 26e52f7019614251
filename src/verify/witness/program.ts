/**
 * What the file says before any instruction is decoded: which bytes are code, which are data, what relocations write,
 * what stays as it is at run time, and which addresses of code somebody names.
 *
 * The witness shares nothing with the rewriter but the readers of the file's own tables (src/elf). All addresses are
 * link-time addresses.
 */
import type { Interval } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { forEachRelocation, readDynamicTags } from "../../elf/dynamic.js";
import { type EhFrame, readEhFrame } from "../../elf/eh-frame.js";
import { type ElfImage, isCode, read64, type Section } from "../../elf/image.js";
import { readCallSites } from "../../elf/lsda.js";
import { dynsym, forEachSymbol, symtab } from "../../elf/symbols.js";
import { Sources } from "./decode.js";
import { Namer, Names } from "./names.js";
import { lowerBound, type Span, span, spanAt } from "./spans.js";

/** A call-site record: an exception in the interval lands at `pad`. */
export interface Landing extends Interval {
  readonly pad: number;
}

export class Program {
  /** Addresses are what they will be: numbers may be addresses. */
  readonly isFixed: boolean;
  /** Executable sections, ascending. */
  readonly code: readonly Span[];
  /** What all who decode that code share. */
  readonly sources: Sources;
  /** Bytes of segments that are neither code nor one of the file's own tables. */
  readonly data: readonly Span[];
  readonly frames: EhFrame;
  readonly names = new Names();
  readonly landings: readonly Landing[];
  /** Sized function symbols. */
  readonly functions: readonly Interval[] = [];
  /** Where execution must not be moved from while it is there: restartable sequences. */
  readonly sequences: readonly Interval[];
  private readonly places: Float64Array;
  private readonly values = new Map<number, number>();
  private readonly constant: readonly Interval[];
  private readonly lowest: number;
  private readonly highest: number;

  constructor(readonly image: ElfImage) {
    const { bytes, programHeaders, sections, header } = image;
    this.isFixed = header.e_type === elf.ET_EXEC;
    this.code = sections
      .filter((s) => isCode(s) && s.sh_size > 0)
      .sort((a, b) => a.sh_addr - b.sh_addr)
      .map((s) => span(s.sh_addr, bytes.subarray(s.sh_offset, s.sh_offset + s.sh_size)));
    this.sources = new Sources(this.code);
    const loads = programHeaders.filter((p) => p.p_type === elf.PT_LOAD);
    this.lowest = Math.min(...loads.map((p) => p.p_vaddr));
    this.highest = Math.max(...loads.map((p) => p.p_vaddr + p.p_memsz));
    const headers = [
      { offset: 0, size: elf.EHDR_SIZE },
      { offset: header.e_phoff, size: header.e_phnum * elf.PHDR_SIZE },
    ];
    const tables = sections.filter((s) => s.sh_flags & elf.SHF_ALLOC && (isCode(s) || isStructured(s)));
    this.data = loads.flatMap(({ p_vaddr, p_filesz, p_offset }) =>
      outside(
        [
          ...tables.map((s) => ({ start: s.sh_addr as number, end: s.sh_addr + s.sh_size })),
          ...headers.map((h) => ({
            start: h.offset - p_offset + p_vaddr,
            end: h.offset - p_offset + p_vaddr + h.size,
          })),
        ],
        p_vaddr,
        p_vaddr + p_filesz,
      ).map(({ start, end }) => span(start, bytes.subarray(start - p_vaddr + p_offset, end - p_vaddr + p_offset))),
    );
    const fixed = programHeaders.filter(
      (p) => p.p_type === elf.PT_GNU_RELRO || (p.p_type === elf.PT_LOAD && !(p.p_flags & elf.PF_W)),
    );
    this.constant = fixed.map((p) => ({ start: p.p_vaddr, end: p.p_vaddr + p.p_memsz }));
    this.frames = readEhFrame(image);

    const patchTables = sections.filter((s) => /patchable_function_entries|xray_instr_map|mcount_loc/.test(s.name));
    const patchedBy = (place: number): Section | undefined =>
      patchTables.find((s) => place >= s.sh_addr && place < s.sh_addr + s.sh_size);
    const places: number[] = [];
    forEachRelocation(image, (place, value, type) => {
      places.push(place);
      if (POINTERS.has(type)) this.values.set(place, value);
      if (ADDRESSES.has(type)) this.name(value, patchedBy(place) ? Namer.PatchTable : Namer.Relocation, place);
    });
    this.places = Float64Array.from(places).sort();
    for (const s of patchTables) this.namePatched(s);
    this.nameSymbols(dynsym(image), Namer.Symbol);
    this.nameSymbols(symtab(image), Namer.LocalSymbol);
    this.name(header.e_entry, Namer.EntryPoint);
    for (const { d_tag, d_val } of readDynamicTags(image))
      if (d_tag === elf.DT_INIT || d_tag === elf.DT_FINI) this.name(d_val, Namer.InitOrFini);
    this.sequences = this.restartable();
    this.landings = this.readLandings();
    for (const { pad, start } of this.landings) this.name(pad, Namer.LandingPad, start);
  }

  private name(address: number, namer: number, place = 0): void {
    if (this.isCode(address)) this.names.add(address, namer, place);
  }

  isCode(address: number): boolean {
    return spanAt(this.code, address) !== undefined;
  }

  isImage(address: number): boolean {
    return address >= this.lowest && address < this.highest;
  }

  /** Whether nothing may write there at run time but the loader. */
  isConstant(address: number): boolean {
    const segment = this.image.programHeaders.some(
      (p) => p.p_type === elf.PT_LOAD && address >= p.p_vaddr && address < p.p_vaddr + p.p_memsz,
    );
    return segment && this.constant.some(({ start, end }) => address >= start && address < end);
  }

  /** Whether a relocation fills some of [address, address + size). */
  isRelocated(address: number, size: number): boolean {
    const i = lowerBound(this.places, address - 7);
    return i < this.places.length && this.places[i]! < address + size;
  }

  /**
   * What the loader writes at a place: an address; NaN where it is no address of this file; undefined where it writes
   * none.
   */
  pointerAt(place: number): number | undefined {
    return this.values.get(place) ?? (this.isRelocated(place, 8) ? Number.NaN : undefined);
  }

  /**
   * Addresses of data that data holds, and where: what the loader writes, and words of fixed programs at multiples of
   * 8.
   */
  *dataPointers(): Iterable<readonly [value: number, place: number]> {
    const isData = (value: number): boolean => this.isImage(value) && !this.isCode(value);
    for (const [place, value] of this.values) if (isData(value)) yield [value, place];
    if (!this.isFixed) return;
    for (const { start, end, view } of this.data)
      for (let at = (8 - (start % 8)) % 8; start + at + 8 <= end; at += 8) {
        const value = read64(view, at);
        if (isData(value)) yield [value, start + at];
      }
  }

  /** The span of code or unstructured data that holds an address. */
  spanOf(address: number): Span | undefined {
    return spanAt(this.code, address) ?? this.data.find((s) => address >= s.start && address < s.end);
  }

  private namePatched({ sh_addr, sh_offset, sh_size }: Section): void {
    const { view } = this.image;
    for (let at = 0; at + 8 <= sh_size; at += 8) {
      const word = Number(view.getBigInt64(sh_offset + at, true));
      for (const address of [word, sh_addr + at + word])
        if (Number.isSafeInteger(address)) this.name(address, Namer.PatchTable, sh_addr + at);
    }
  }

  private nameSymbols(table: ReturnType<typeof symtab>, namer: number): void {
    if (table === null) return;
    const functions = this.functions as { start: number; end: number }[];
    forEachSymbol(table, (value, size, info, shndx) => {
      const type = info & 0xf;
      if (shndx === elf.SHN_UNDEF || type === elf.STT_TLS || type === elf.STT_FILE || type === elf.STT_SECTION) return;
      if (!this.isCode(value)) return;
      this.name(value, namer);
      if ((type === elf.STT_FUNC || type === elf.STT_GNU_IFUNC) && size > 0)
        functions.push({ start: value, end: value + size });
    });
  }

  /** struct rseq_cs: version, flags; start, length, where to abort to. */
  private restartable(): { start: number; end: number }[] {
    const { view, sections } = this.image;
    return sections
      .filter((s) => s.name === "__rseq_cs" && s.sh_type !== elf.SHT_NOBITS)
      .flatMap(({ sh_addr, sh_offset, sh_size }) => {
        const found: { start: number; end: number }[] = [];
        for (let at = 0; at + 32 <= sh_size; at += 32) {
          const word = (field: number): number =>
            this.values.get(sh_addr + at + field) ?? read64(view, sh_offset + at + field);
          found.push({ start: word(8), end: word(8) + read64(view, sh_offset + at + 16) });
          this.name(word(24), Namer.Sequence);
        }
        return found;
      });
  }

  private readLandings(): Landing[] {
    const { frames, image } = this;
    const landings: Landing[] = [];
    for (let i = 0; frames.hasLsda && i < frames.count; i++) {
      const fde = frames.fde(i);
      for (const { start, end, landingPad } of fde.lsda === undefined ? [] : readCallSites(image, fde))
        if (landingPad !== undefined) landings.push({ start, end, pad: landingPad });
    }
    return landings;
  }
}

/** Relocations that make a pointer of eight bytes which a load may find; those that hand an address over. */
const POINTERS = new Set([elf.R_X86_64_64, elf.R_X86_64_GLOB_DAT, elf.R_X86_64_RELATIVE]);
const ADDRESSES = new Set([...POINTERS, elf.R_X86_64_JUMP_SLOT, elf.R_X86_64_IRELATIVE, elf.R_X86_64_32, 2, 11]);

const STRUCTURED = new Set([
  elf.SHT_SYMTAB,
  elf.SHT_STRTAB,
  elf.SHT_RELA,
  elf.SHT_HASH,
  elf.SHT_DYNAMIC,
  elf.SHT_NOTE,
  elf.SHT_REL,
  elf.SHT_DYNSYM,
  elf.SHT_RELR,
  elf.SHT_GNU_HASH,
  elf.SHT_GNU_VERDEF,
  elf.SHT_GNU_VERNEED,
  elf.SHT_GNU_VERSYM,
  elf.SHT_NOBITS,
]);

/** The file's own tables, whose words are something else than addresses that code could add up. */
const isStructured = ({ sh_type, name }: Section): boolean =>
  STRUCTURED.has(sh_type) || /^\.(eh_frame|eh_frame_hdr|gcc_except_table.*|interp)$/.test(name);

/** What of [start, end) is in none of the ranges, which may come in any order. */
function outside(ranges: readonly Interval[], start: number, end: number): { start: number; end: number }[] {
  const left: { start: number; end: number }[] = [];
  let at = start;
  for (const range of [...ranges].sort((a, b) => a.start - b.start)) {
    if (range.end <= at || range.start >= end) continue;
    if (range.start > at) left.push({ start: at, end: range.start });
    at = range.end;
  }
  if (at < end) left.push({ start: at, end });
  return left;
}
