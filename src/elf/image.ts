/**
 * An ELF file as immutable records, under the names of the specification.
 *
 * elfy does the parsing. Every size and offset that it would follow is checked here first, so that a hostile file gets
 * our error and not an exception of the library's own, and four things it gets wrong or drops on ELF64 are read by
 * ourselves (test/elfy.test.ts shows each against readelf): sh_addralign and sh_entsize (it reads them two bytes
 * early), types it has no name for, and flag bits it has no name for.
 */
import { createRequire } from "node:module";
import { type FileOffset, fileOffset, hex, type Interval, type Vaddr, vaddr } from "../address.js";
import { InputError } from "../errors.js";
import * as elf from "./constants.js";

interface ElfHeader {
  readonly e_type: number;
  readonly e_entry: Vaddr;
  readonly e_phoff: FileOffset;
  readonly e_shoff: FileOffset;
  readonly e_phnum: number;
  readonly e_shnum: number;
  readonly e_shstrndx: number;
}

export interface ProgramHeader {
  readonly index: number;
  readonly p_type: number;
  readonly p_flags: number;
  readonly p_offset: FileOffset;
  readonly p_vaddr: Vaddr;
  readonly p_paddr: number;
  readonly p_filesz: number;
  readonly p_memsz: number;
  readonly p_align: number;
}

export interface Section {
  readonly index: number;
  readonly name: string;
  readonly sh_name: number;
  readonly sh_type: number;
  readonly sh_flags: number;
  readonly sh_addr: Vaddr;
  readonly sh_offset: FileOffset;
  readonly sh_size: number;
  readonly sh_link: number;
  readonly sh_info: number;
  readonly sh_addralign: number;
  readonly sh_entsize: number;
}

/** Dynamic relocations by their index: no object is made for each, since there may be 100,000. */
export interface Relocations {
  readonly places: Float64Array;
  readonly values: Float64Array;
  readonly types: Uint32Array;
}

export interface ElfImage {
  /** The whole file, but for zeros at its end. Nobody writes to it. */
  readonly bytes: Buffer;
  /** Long stretches of zeros that need not be looked at, in file offsets, ascending: the file has holes there. */
  readonly holes: readonly Interval[];
  /** How many zeros follow after `bytes`, where they are many and no header describes them; else 0. */
  readonly zeroTail: number;
  readonly view: DataView;
  readonly header: ElfHeader;
  readonly programHeaders: readonly ProgramHeader[];
  readonly sections: readonly Section[];
  /** Read by dynamic.ts when somebody first asks, and kept with the file for all who ask again. */
  readonly relocations: { read?: Relocations };
}

/** What elfy gives back, as far as it is used here. */
interface ElfyFile {
  readonly entry: number;
  readonly phoff: number;
  readonly shoff: number;
  readonly phnum: number;
  readonly shnum: number;
  readonly shstrndx: number;
  readonly body: {
    readonly programs: readonly {
      offset: number;
      vaddr: number;
      paddr: number;
      filesz: number;
      memsz: number;
      align: number;
    }[];
    readonly sections: readonly {
      name: string;
      addr: number;
      off: number;
      size: number;
      link: number;
      info: number;
    }[];
  };
}

const machines: Readonly<Record<number, string>> = {
  3: "i386",
  8: "MIPS",
  20: "PowerPC",
  21: "PowerPC64",
  22: "s390",
  40: "ARM",
  183: "AArch64",
  243: "RISC-V",
  247: "BPF",
  258: "LoongArch",
};

/** What is known of the zeros of a file. */
type KnownZeros = Pick<ElfImage, "holes" | "zeroTail">;
const NONE: KnownZeros = { holes: [], zeroTail: 0 };

/**
 * Parses a linked x86-64 ELF program or shared library.
 * @throws InputError for everything that is not one, or whose headers lead outside of the file
 */
export function parseElf(bytes: Buffer, { holes, zeroTail }: KnownZeros = NONE): ElfImage {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  validate(bytes, view);
  const parsed = (createRequire(import.meta.url)("elfy") as { parse(b: Buffer): ElfyFile }).parse(bytes);
  const header: ElfHeader = {
    e_type: view.getUint16(16, true),
    e_entry: vaddr(parsed.entry),
    e_phoff: fileOffset(parsed.phoff),
    e_shoff: fileOffset(parsed.shoff),
    e_phnum: parsed.phnum,
    e_shnum: parsed.shnum,
    e_shstrndx: parsed.shstrndx,
  };
  const programHeaders = parsed.body.programs.map((p, index): ProgramHeader => {
    const at = header.e_phoff + index * elf.PHDR_SIZE;
    return {
      index,
      p_type: view.getUint32(at, true),
      p_flags: view.getUint32(at + 4, true),
      p_offset: fileOffset(p.offset),
      p_vaddr: vaddr(p.vaddr),
      p_paddr: p.paddr,
      p_filesz: p.filesz,
      p_memsz: p.memsz,
      p_align: p.align,
    };
  });
  const sections = parsed.body.sections.map((s, index): Section => {
    const at = header.e_shoff + index * elf.SHDR_SIZE;
    return {
      index,
      name: s.name,
      sh_name: view.getUint32(at, true),
      sh_type: view.getUint32(at + 4, true),
      sh_flags: read64(view, at + 8),
      sh_addr: vaddr(s.addr),
      sh_offset: fileOffset(s.off),
      sh_size: s.size,
      sh_link: s.link,
      sh_info: s.info,
      sh_addralign: read64(view, at + 48),
      sh_entsize: read64(view, at + 56),
    };
  });
  return { bytes, holes, zeroTail, view, header, programHeaders, sections, relocations: {} };
}

/** The unsigned 64-bit little-endian word at `at`, as a double: exact below 2^53. */
export function read64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
}

/**
 * The little-endian 32-bit words of [offset, offset + size), which lies in the file: a view where they are aligned, as
 * all linkers leave them, else a copy. Large tables are read once, by loops that the engine has not optimized yet;
 * there an array costs a third of a DataView.
 */
export function words32({ bytes }: Pick<ElfImage, "bytes">, offset: number, size: number): Uint32Array {
  const count = Math.floor(size / 4);
  const at = bytes.byteOffset + offset;
  if (at % 4 === 0) return new Uint32Array(bytes.buffer, at, count);
  return new Uint32Array(new Uint8Array(bytes.subarray(offset, offset + count * 4)).buffer);
}

function validate(bytes: Buffer, view: DataView): void {
  if (bytes.length < 4 || view.getUint32(0, false) !== 0x7f454c46)
    throw new InputError("not an ELF file", "offset 0x0");
  if (bytes.length < 20) throw new InputError("truncated: the ELF header is cut short", `offset ${hex(bytes.length)}`);
  if (bytes[4] === 1) throw new InputError("a 32-bit ELF file; only 64-bit x86 is supported", "offset 0x4");
  if (bytes[4] !== 2) throw new InputError(`unknown ELF class ${bytes[4]}`, "offset 0x4");
  if (bytes[5] === 2) throw new InputError("a big-endian ELF file; only x86-64 is supported", "offset 0x5");
  if (bytes[5] !== 1) throw new InputError(`unknown ELF byte order ${bytes[5]}`, "offset 0x5");
  const machine = view.getUint16(18, true);
  if (machine !== elf.EM_X86_64)
    throw new InputError(
      `built for ${machines[machine] ?? `machine ${machine}`}; only x86-64 is supported`,
      "offset 0x12",
    );
  if (bytes.length < elf.EHDR_SIZE)
    throw new InputError("truncated: the ELF header is cut short", `offset ${hex(bytes.length)}`);
  const type = view.getUint16(16, true);
  if (type === elf.ET_REL)
    throw new InputError("an object file: rewrite the program or library after linking", "offset 0x10");
  if (type === elf.ET_CORE) throw new InputError("a core file, not a program or library", "offset 0x10");
  if (type !== elf.ET_EXEC && type !== elf.ET_DYN)
    throw new InputError(`neither a program nor a shared library (e_type ${type})`, "offset 0x10");
  validateProgramHeaders(bytes, view);
  validateSections(bytes, view);
}

/** Checks that [at, at + size) lies in the file; both come from the file and may be anything. */
function inFile(bytes: Buffer, at: number, size: number, what: string, where: number): void {
  if (!Number.isSafeInteger(at) || !Number.isSafeInteger(size) || at + size > bytes.length)
    throw new InputError(`truncated or damaged: ${what} leads outside of the file`, `offset ${hex(where)}`);
}

function validateProgramHeaders(bytes: Buffer, view: DataView): void {
  const phoff = read64(view, 32);
  const phnum = view.getUint16(56, true);
  if (phnum === 0 || phoff === 0)
    throw new InputError("no program headers: not a linked program or library", "offset 0x38");
  if (phnum === 0xffff) throw new InputError("more than 65,534 program headers are not supported", "offset 0x38");
  if (view.getUint16(54, true) !== elf.PHDR_SIZE)
    throw new InputError(`program headers of ${view.getUint16(54, true)} bytes, not ${elf.PHDR_SIZE}`, "offset 0x36");
  inFile(bytes, phoff, phnum * elf.PHDR_SIZE, "the program header table", 32);
  for (let at = phoff; at < phoff + phnum * elf.PHDR_SIZE; at += elf.PHDR_SIZE) {
    const type = view.getUint32(at, true);
    const [offset, p_vaddr, filesz, memsz] = [8, 16, 32, 40].map((field) => read64(view, at + field)) as [
      number,
      number,
      number,
      number,
    ];
    if (type === elf.PT_NULL) continue;
    inFile(bytes, offset, filesz, "a program header", at);
    if (!Number.isSafeInteger(p_vaddr + memsz))
      throw new InputError("addresses beyond 2^53 are not supported", `offset ${hex(at)}`);
    if (type === elf.PT_LOAD && memsz < filesz)
      throw new InputError("damaged: a segment is larger in the file than in memory", `offset ${hex(at)}`);
  }
}

function validateSections(bytes: Buffer, view: DataView): void {
  const shoff = read64(view, 40);
  const shnum = view.getUint16(60, true);
  const shstrndx = view.getUint16(62, true);
  if (shoff === 0)
    throw new InputError("no section headers: USDT notes cannot be found (was it stripped by sstrip?)", "offset 0x28");
  if (shnum === 0 || shnum >= elf.SHN_LORESERVE)
    throw new InputError("no section headers, or more than 65,279, which is not supported", "offset 0x3c");
  if (view.getUint16(58, true) !== elf.SHDR_SIZE)
    throw new InputError(`section headers of ${view.getUint16(58, true)} bytes, not ${elf.SHDR_SIZE}`, "offset 0x3a");
  inFile(bytes, shoff, shnum * elf.SHDR_SIZE, "the section header table", 40);
  if (shstrndx === 0 || shstrndx >= shnum)
    throw new InputError("damaged: no section header string table", "offset 0x3e");
  for (let i = 0; i < shnum; i++) {
    const at = shoff + i * elf.SHDR_SIZE;
    const type = view.getUint32(at + 4, true);
    const size = read64(view, at + 32);
    if (type !== elf.SHT_NULL && type !== elf.SHT_NOBITS)
      inFile(bytes, read64(view, at + 24), size, `section header ${i}`, at);
    if (type === elf.SHT_NOBITS && !Number.isSafeInteger(read64(view, at + 24)))
      throw new InputError(`damaged: section header ${i}`, `offset ${hex(at)}`);
    const align = read64(view, at + 48);
    if (align > 2 ** 31 || (align & (align - 1)) !== 0)
      throw new InputError(`damaged: section ${i} has alignment ${hex(align)}`, `offset ${hex(at)}`);
    if (!Number.isSafeInteger(read64(view, at + 16) + size))
      throw new InputError("addresses beyond 2^53 are not supported", `offset ${hex(at)}`);
  }
  const names = shoff + shstrndx * elf.SHDR_SIZE;
  if (view.getUint32(names + 4, true) !== elf.SHT_STRTAB)
    throw new InputError("damaged: the section header string table is none", `offset ${hex(names)}`);
  const namesSize = read64(view, names + 32);
  for (let i = 0; i < shnum; i++) {
    const at = shoff + i * elf.SHDR_SIZE;
    if (view.getUint32(at, true) >= namesSize && namesSize > 0 && view.getUint32(at, true) !== 0)
      throw new InputError(`damaged: the name of section ${i} is outside of the string table`, `offset ${hex(at)}`);
  }
}

/** The PT_LOAD segment whose memory contains the address, or undefined. */
export function segmentAt(image: ElfImage, address: Vaddr): ProgramHeader | undefined {
  return image.programHeaders.find(
    (p) => p.p_type === elf.PT_LOAD && address >= p.p_vaddr && address < p.p_vaddr + p.p_memsz,
  );
}

/**
 * Where in the file the byte at a link-time address stands, or undefined where it comes from no file (.bss, nothing).
 */
export function offsetOf(image: ElfImage, address: Vaddr): FileOffset | undefined {
  const segment = segmentAt(image, address);
  if (segment === undefined || address >= segment.p_vaddr + segment.p_filesz) return undefined;
  return fileOffset(address - segment.p_vaddr + segment.p_offset);
}

/** The file's size in bytes. */
export const fileSize = ({ bytes, zeroTail }: Pick<ElfImage, "bytes" | "zeroTail">): number => bytes.length + zeroTail;

/** The first section with that name. */
export function sectionNamed(image: ElfImage, name: string): Section | undefined {
  return image.sections.find((s) => s.name === name);
}

/** A section's bytes in the file: a view, not a copy; empty for SHT_NOBITS. */
export function sectionBytes(image: ElfImage, section: Section): Buffer {
  if (section.sh_type === elf.SHT_NOBITS) return image.bytes.subarray(0, 0);
  return image.bytes.subarray(section.sh_offset, section.sh_offset + section.sh_size);
}

/** True for a section that holds code the processor may run. */
export function isCode(section: Section): boolean {
  return (
    (section.sh_flags & elf.SHF_EXECINSTR) !== 0 &&
    (section.sh_flags & elf.SHF_ALLOC) !== 0 &&
    section.sh_type !== elf.SHT_NOBITS
  );
}
