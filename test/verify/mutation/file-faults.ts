/**
 * Faults in the rest of the file: a byte that is another in each kind of place, and edits of rewriting's own that were not
 * made. Some of them leave the program as it is when it runs; none leaves the file as rewriting makes it.
 */

import { vaddr } from "../../../src/address.js";
import * as elf from "../../../src/elf/constants.js";
import { type ElfImage, offsetOf, type Section, sectionNamed } from "../../../src/elf/image.js";
import { type Fault, number, type Patch, Random } from "./fault.js";
import type { Piece } from "./semantics.js";
import type { Range, Subject } from "./spots.js";

const [PHDR_FLAGS, PHDR_OFFSET, PHDR_VADDR, PHDR_FILESZ, PHDR_MEMSZ, PHDR_ALIGN] = [4, 8, 16, 32, 40, 48];
const isPlain = ({ facts }: Piece): boolean => !facts.leaves && facts.ripField === undefined && !facts.isNop;
const hex = (value: number): string => `0x${value.toString(16)}`;

/** A file may have hundreds of windows; from so many of them branches are looked for. */
const MOST_WINDOWS = 30;

/** Sections and how many bytes of each are changed, one at a time. */
const places: readonly (readonly [kind: string, names: readonly string[], count: number])[] = [
  ["a byte of text", [".text", ".init", ".plt"], 12],
  ["a byte of read-only data", [".rodata"], 4],
  ["a byte of data", [".data", ".data.rel.ro", ".probes", ".init_array", ".got"], 6],
  ["a byte of the dynamic section", [".dynamic"], 4],
  ["a byte of relocations", [".rela.dyn", ".rela.plt"], 4],
  ["a byte of unwind information", [".eh_frame", ".eh_frame_hdr", ".gcc_except_table"], 8],
  ["a byte of symbols", [".symtab", ".dynsym", ".strtab", ".dynstr", ".gnu.hash"], 10],
  ["a byte of a comment", [".comment", ".note.gnu.build-id"], 3],
];

export function fileFaults(subject: Subject, seed: number): Fault[] {
  return new FileFaults(subject, new Random(seed)).all();
}

class FileFaults {
  private readonly faults: Fault[] = [];

  constructor(
    private readonly subject: Subject,
    private readonly random: Random,
  ) {}

  all(): Fault[] {
    const { image } = this.subject;
    for (const [kind, names, count] of places) {
      const sections = names.flatMap((name) => sectionNamed(image, name) ?? []).filter((s) => s.sh_size > 0);
      for (let i = 0; i < count && sections.length > 0; i++) this.anyByte(kind, sections[i % sections.length]!);
    }
    this.header();
    this.programHeaders(image);
    this.sectionHeaders(image);
    this.undescribed(image);
    this.windowFill();
    this.newCodeFill();
    this.ledIntoWindow();
    this.otherOrder();
    this.notMade(image);
    return this.faults;
  }

  private add(kind: string, what: string, patches: readonly Patch[]): void {
    this.faults.push({ subject: this.subject, kind, tactic: "file", note: undefined, what, patches });
  }

  private byte(kind: string, what: string, offset: number, value: number): void {
    if (this.subject.rewritten.bytes[offset] === value) return;
    this.add(kind, `${what}, offset ${hex(offset)}`, [{ offset, bytes: Buffer.of(value) }]);
  }

  private flip(kind: string, what: string, offset: number, mask: number): void {
    this.byte(kind, what, offset, this.subject.rewritten.bytes[offset]! ^ mask);
  }

  private anyByte(kind: string, section: Section): void {
    const offset = section.sh_offset + this.random.below(section.sh_size);
    this.flip(kind, section.name, offset, 1 << this.random.below(8));
  }

  private header(): void {
    this.flip("the ELF header", "e_type", 16, 1);
    this.flip("the ELF header", "e_entry", 24, 4);
    this.flip("the ELF header", "e_flags", 48, 1);
    this.flip("the ELF header", "e_ident", 9, 1);
  }

  private programHeaders({ header, programHeaders }: ElfImage): void {
    for (const p of programHeaders) {
      const at = header.e_phoff + p.index * elf.PHDR_SIZE;
      const name = `program header ${p.index}`;
      if (p.p_type === elf.PT_LOAD) {
        if (p.p_flags & elf.PF_X) this.flip("writable code", name, at + PHDR_FLAGS, elf.PF_W);
        if (p.p_flags & elf.PF_W) this.flip("executable data", name, at + PHDR_FLAGS, elf.PF_X);
        // Larger: a segment that is smaller in memory than in the file is none.
        this.add("a program header", `${name}: p_memsz`, [
          { offset: at + PHDR_MEMSZ, bytes: number(p.p_memsz + 8, 8) },
        ]);
        this.flip("a program header", `${name}: p_align`, at + PHDR_ALIGN + 1, 0x20);
      } else if (p.p_type === elf.PT_GNU_STACK) this.flip("an executable stack", name, at + PHDR_FLAGS, elf.PF_X);
      else if (p.p_type !== elf.PT_NULL) {
        this.flip("a program header", `${name}: p_vaddr`, at + PHDR_VADDR, 8);
        this.flip("a program header", `${name}: p_offset`, at + PHDR_OFFSET, 8);
        this.flip("a program header", `${name}: p_filesz`, at + PHDR_FILESZ, 8);
      }
      this.flip("a program header", `${name}: p_type`, at + 3, 0x10);
    }
  }

  private sectionHeaders({ header, sections }: ElfImage): void {
    for (const s of sections) {
      // What says that the file was rewritten is not touched, and has to be found: by its name.
      if (s.index === 0 || s.name === ".usdt_nop5") continue;
      const at = header.e_shoff + s.index * elf.SHDR_SIZE;
      const fields = [
        ["sh_name", 0],
        ["sh_flags", 8],
        ["sh_addr", 16],
        ["sh_type", 4],
        ["sh_offset", 24],
        ["sh_size", 32],
        ["sh_link", 40],
        ["sh_info", 44],
        ["sh_entsize", 56],
        ["sh_addralign", 48],
      ] as const;
      for (let i = 0; i < 3; i++) {
        const [field, offset] = fields[this.random.below(fields.length)]!;
        if (s.index !== header.e_shstrndx || field !== "sh_offset") this.sectionHeader(s, at, field, offset);
      }
    }
  }

  private sectionHeader(s: Section, at: number, field: string, offset: number): void {
    const { sh_addralign } = s;
    if (field === "sh_addralign")
      this.add("a section header", `${s.name}: ${field}`, [
        { offset: at + offset, bytes: number(sh_addralign === 0 ? 1 : 2 * sh_addralign, 8) },
      ]);
    else this.flip("a section header", `${s.name}: ${field}`, at + offset, field === "sh_flags" ? 4 : 1);
  }

  /** Bytes that are mapped with code and belong to no section: between sections, and in the rest of the last page. */
  private undescribed({ programHeaders, sections, bytes }: ElfImage): void {
    const isIn = (offset: number): boolean =>
      sections.some((s) => s.sh_type !== elf.SHT_NOBITS && offset >= s.sh_offset && offset < s.sh_offset + s.sh_size);
    for (const p of programHeaders) {
      if (p.p_type !== elf.PT_LOAD || (p.p_flags & elf.PF_X) === 0) continue;
      const end = p.p_offset + p.p_filesz;
      for (const offset of [end, end + 17, ...this.gaps(p.p_offset, end)])
        if (offset < bytes.length && !isIn(offset) && !this.isHeader(offset))
          this.flip("a byte that belongs to nothing", `program header ${p.index}`, offset, 0x90);
    }
  }

  /** Where sections in [start, end) have bytes between them: the first of these. */
  private gaps(start: number, end: number): number[] {
    const ends = this.subject.image.sections.map((s) => s.sh_offset + s.sh_size).filter((e) => e > start && e < end);
    return ends.slice(0, 4);
  }

  private isHeader(offset: number): boolean {
    const { e_phoff, e_phnum, e_shoff, e_shnum } = this.subject.image.header;
    const within = (start: number, size: number): boolean => offset >= start && offset < start + size;
    return (
      within(0, elf.EHDR_SIZE) || within(e_phoff, e_phnum * elf.PHDR_SIZE) || within(e_shoff, e_shnum * elf.SHDR_SIZE)
    );
  }

  /** Bytes of a window that its jump or the moved block has left over. */
  private *leftOver(): Generator<Range> {
    for (const { window } of this.subject.spots) {
      let start: number | undefined;
      for (let at = window.start; at <= window.end; at++) {
        const isFill = at < window.end && this.subject.bytes(at, at + 1)[0] === 0xcc;
        if (isFill) start ??= at;
        else if (start !== undefined) {
          // A byte of a distance may be 0xcc as well.
          if (at === window.end && this.isBehindJump(start)) yield { start, end: at };
          start = undefined;
        }
      }
    }
  }

  private isBehindJump(address: number): boolean {
    return this.subject.spots.some(
      ({ entry }) => entry !== undefined && entry.address + entry.bytes.length === address,
    );
  }

  /** Nothing runs these bytes, but they are to be int3. */
  private windowFill(): void {
    const { original } = this.subject.rewritten;
    // The original's own byte would be no change.
    for (const { start } of this.leftOver())
      for (const value of [0x90, 0xcd])
        if (value !== original.bytes[offsetOf(original, vaddr(start))!])
          this.byte("a byte behind a window's jump", hex(start), this.subject.offset(start), value);
  }

  private newCodeFill(): void {
    for (const { end, free } of this.subject.spots)
      if (free > 0) this.byte("a byte between pieces of new code", hex(end), this.subject.offset(end), 0x90);
  }

  /** A branch of the program's, elsewhere, that leads behind a window's jump. */
  private ledIntoWindow(): void {
    const { subject } = this;
    const text = sectionNamed(subject.image, ".text");
    if (text === undefined) return;
    const branches: { at: number; size: number; length: number }[] = [];
    for (const spot of subject.spots.slice(0, MOST_WINDOWS))
      for (let at = Math.max(text.sh_addr, spot.window.start - 64), n = 0; at < spot.window.start && n < 40; n++) {
        const piece = subject.read(at);
        if (piece === undefined) break;
        const { branchField, isConditional } = piece.facts;
        const isChanged = subject.changed.some((c) => c.start < at + piece.bytes.length && c.end > at);
        // Only what decodes from a function's start is known to be an instruction.
        if (branchField !== undefined && isConditional && !isChanged && this.isInstruction(at))
          branches.push({ at, size: branchField.size, length: piece.bytes.length });
        at += piece.bytes.length;
      }
    for (const { start } of this.leftOver())
      for (const { at, size, length } of branches) {
        const distance = start - (at + length);
        if (size === 1 && distance !== (distance << 24) >> 24) continue;
        this.add("a branch led behind a window's jump", `the one at ${hex(at)} to ${hex(start)}`, [
          { offset: subject.offset(at + length - size), bytes: number(distance, size) },
        ]);
        break;
      }
  }

  /** Whether the symbols' functions, decoded from their starts, have an instruction there. */
  private isInstruction(address: number): boolean {
    const { symbols } = this;
    const start = symbols.findLast((s) => s <= address);
    if (start === undefined || address - start > 4096) return false;
    for (let at = start; at <= address; ) {
      if (at === address) return true;
      const length = this.subject.read(at)?.bytes.length;
      if (length === undefined) return false;
      at += length;
    }
    return false;
  }

  private known: readonly number[] | undefined;
  private get symbols(): readonly number[] {
    if (this.known !== undefined) return this.known;
    const { image } = this.subject;
    const table = sectionNamed(image, ".symtab") ?? sectionNamed(image, ".dynsym");
    const found: number[] = [];
    if (table !== undefined)
      for (let at: number = table.sh_offset; at < table.sh_offset + table.sh_size; at += elf.SYM_SIZE)
        if ((image.bytes[at + 4]! & 15) === elf.STT_FUNC && image.bytes.readUInt16LE(at + 6) !== 0)
          found.push(Number(image.bytes.readBigUInt64LE(at + 8)));
    this.known = found.sort((a, b) => a - b);
    return this.known;
  }

  /** Code without a probe that does the same in another way: a nop of the program's and its neighbour change places. */
  private otherOrder(): void {
    const { subject } = this;
    for (const start of this.symbols.slice(0, 200)) {
      const pieces: Piece[] = [];
      for (let at = start; pieces.length < 40; ) {
        const piece = subject.read(at);
        if (piece === undefined) break;
        pieces.push(piece);
        at += piece.bytes.length;
        if (piece.facts.ends) break;
      }
      const size = pieces.reduce((sum, p) => sum + p.bytes.length, 0);
      const isNear = (p: { readonly start: number; readonly end: number }): boolean =>
        p.start < start + size && p.end > start;
      if (subject.changed.some(isNear) || subject.notes.some((n) => n.location >= start && n.location < start + size))
        continue;
      const i = pieces.findIndex(
        (p, n) => n > 0 && p.facts.isNop && pieces[n + 1] !== undefined && isPlain(pieces[n + 1]!),
      );
      const [nop, next] = [pieces[i], pieces[i + 1]];
      if (nop === undefined || next === undefined || pieces.some((p) => p.facts.target === next.address)) continue;
      this.add("code elsewhere, written in another way", `${next.facts.text} before the nop at ${hex(nop.address)}`, [
        { offset: subject.offset(nop.address), bytes: Buffer.concat([next.bytes, nop.bytes]) },
      ]);
    }
  }

  /** Edits of rewriting's own that were not made: the original's bytes in tables that say where things are. */
  private notMade(image: ElfImage): void {
    const { original } = this.subject.rewritten;
    const names = [".eh_frame", ".dynamic", ".symtab", ".dynsym", ".gnu.hash"];
    for (const name of names) {
      const [before, now] = [sectionNamed(original, name), sectionNamed(image, name)];
      if (before === undefined || now === undefined || before.sh_size !== now.sh_size) continue;
      for (let i = 0; i + 4 <= before.sh_size; i += 4) {
        const [a, b] = [before.sh_offset + i, now.sh_offset + i];
        const old = original.bytes.subarray(a, a + 4);
        // Section numbers of symbols change along with the section headers.
        if (old.equals(image.bytes.subarray(b, b + 4)) || (/sym/.test(name) && i % elf.SYM_SIZE < 8)) continue;
        this.add("an edit not made", `${name} + ${hex(i)}`, [{ offset: b, bytes: old }]);
      }
    }
    for (const { window, entry, site } of this.subject.spots) {
      if (entry === undefined) continue;
      const offset = offsetOf(original, vaddr(entry.address));
      if (offset === undefined) continue;
      // The whole window as it was: the probe that the note names is never passed.
      const size = Math.max(window.end, entry.address + entry.bytes.length) - entry.address;
      this.add("a window not made", site.name, [
        { offset: this.subject.offset(entry.address), bytes: original.bytes.subarray(offset, offset + size) },
      ]);
    }
  }
}
