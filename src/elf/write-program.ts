/**
 * Writes a statically linked program without a compiler: bytes at link-time addresses, and where to begin.
 *
 *     ELF header | program headers | each segment's bytes | section names | section headers
 *
 * The kernel wants p_vaddr and p_offset to be equal modulo the page size; so each segment's bytes stand at such an
 * offset, and no page of the file is mapped for two segments. Every segment has a section of its own: tools that look
 * for sections (objdump -d, our own reader) then find them. The stack is not executable.
 */
import { alignUp, PAGE_SIZE, type Vaddr } from "../address.js";
import * as elf from "./constants.js";

export interface ProgramSegment {
  /** Link-time address of the first byte. No two segments share a page. */
  readonly address: Vaddr;
  readonly bytes: Uint8Array;
  /**
   * Size in memory, in bytes: what `bytes` does not fill is zero. At least the length of `bytes`, which is the default.
   */
  readonly size?: number;
  /** PF_R, PF_W, PF_X. */
  readonly flags: number;
  /** The section's name. */
  readonly name: string;
}

/**
 * The file's bytes.
 * @param entry link-time address of the first instruction
 * @throws RangeError where segments overlap, or share a page, or `entry` is in none that is executable
 */
export function writeProgram(entry: Vaddr, segments: readonly ProgramSegment[]): Buffer {
  const sorted = [...segments].sort((a, b) => a.address - b.address);
  check(entry, sorted);

  // A program header each, and PT_GNU_STACK; a section each, the null section and .shstrtab.
  const phnum = sorted.length + 1;
  const shnum = sorted.length + 2;
  let end = elf.EHDR_SIZE + phnum * elf.PHDR_SIZE;
  const offsets = sorted.map((segment) => {
    if (segment.bytes.length === 0) return segment.address % PAGE_SIZE;
    const offset = alignUp(end, PAGE_SIZE) + (segment.address % PAGE_SIZE);
    end = offset + segment.bytes.length;
    return offset;
  });
  const names = Buffer.from(`\0${sorted.map((s) => `${s.name}\0`).join("")}.shstrtab\0`, "latin1");
  const namesOffset = end;
  const shoff = alignUp(end + names.length, 8);

  const file = Buffer.alloc(shoff + shnum * elf.SHDR_SIZE);
  writeHeader(file, entry, phnum, shoff, shnum);
  names.copy(file, namesOffset);
  let nameAt = 1;
  sorted.forEach((segment, i) => {
    const offset = offsets[i]!;
    file.set(segment.bytes, segment.bytes.length === 0 ? 0 : offset);
    const size = segment.size ?? segment.bytes.length;
    writeProgramHeader(file, i, [
      elf.PT_LOAD,
      segment.flags,
      offset,
      segment.address,
      segment.bytes.length,
      size,
      PAGE_SIZE,
    ]);
    const type = segment.bytes.length === 0 ? elf.SHT_NOBITS : elf.SHT_PROGBITS;
    writeSectionHeader(file, shoff, i + 1, [nameAt, type, sectionFlags(segment.flags), segment.address, offset, size]);
    nameAt += segment.name.length + 1;
  });
  writeProgramHeader(file, sorted.length, [elf.PT_GNU_STACK, elf.PF_R | elf.PF_W, 0, 0, 0, 0, 16]);
  writeSectionHeader(file, shoff, shnum - 1, [nameAt, elf.SHT_STRTAB, 0, 0, namesOffset, names.length]);
  return file;
}

function check(entry: number, sorted: readonly ProgramSegment[]): void {
  let free = 0;
  for (const { address, bytes, size = bytes.length, name } of sorted) {
    if (Math.floor(address / PAGE_SIZE) * PAGE_SIZE < free) throw new RangeError(`${name} shares a page with another`);
    if (size < bytes.length) throw new RangeError(`${name} is smaller in memory than in the file`);
    // A section is either in the file or not; and the kernel zeroes the rest of a page only where it may be written.
    if (bytes.length > 0 && size !== bytes.length) throw new RangeError(`${name} is only in part in the file`);
    free = alignUp(address + size, PAGE_SIZE);
  }
  const holds = (s: ProgramSegment) => entry >= s.address && entry < s.address + s.bytes.length;
  if (!sorted.some((s) => (s.flags & elf.PF_X) !== 0 && holds(s)))
    throw new RangeError("the entry is in no executable segment");
}

function writeHeader(file: Buffer, entry: number, phnum: number, shoff: number, shnum: number): void {
  file.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]); // 64-bit, little-endian, version 1, System V
  file.writeUInt16LE(elf.ET_EXEC, 16);
  file.writeUInt16LE(elf.EM_X86_64, 18);
  file.writeUInt32LE(1, 20); // e_version
  write64(file, 24, entry);
  write64(file, 32, elf.EHDR_SIZE); // e_phoff
  write64(file, 40, shoff);
  file.writeUInt16LE(elf.EHDR_SIZE, 52);
  file.writeUInt16LE(elf.PHDR_SIZE, 54);
  file.writeUInt16LE(phnum, 56);
  file.writeUInt16LE(elf.SHDR_SIZE, 58);
  file.writeUInt16LE(shnum, 60);
  file.writeUInt16LE(shnum - 1, 62); // e_shstrndx
}

type ProgramHeaderFields = [
  type: number,
  flags: number,
  offset: number,
  vaddr: number,
  filesz: number,
  memsz: number,
  align: number,
];

function writeProgramHeader(file: Buffer, index: number, fields: ProgramHeaderFields): void {
  const [type, flags, offset, address, filesz, memsz, align] = fields;
  const at = elf.EHDR_SIZE + index * elf.PHDR_SIZE;
  file.writeUInt32LE(type, at);
  file.writeUInt32LE(flags, at + 4);
  [offset, address, address, filesz, memsz, align].forEach((value, i) => {
    write64(file, at + 8 + 8 * i, value);
  });
}

type SectionHeaderFields = [name: number, type: number, flags: number, addr: number, offset: number, size: number];

function writeSectionHeader(file: Buffer, shoff: number, index: number, fields: SectionHeaderFields): void {
  const [name, type, flags, address, offset, size] = fields;
  const at = shoff + index * elf.SHDR_SIZE;
  file.writeUInt32LE(name, at);
  file.writeUInt32LE(type, at + 4);
  [flags, address, offset, size].forEach((value, i) => {
    write64(file, at + 8 + 8 * i, value);
  });
  write64(file, at + 48, 1); // sh_addralign
}

const sectionFlags = (flags: number): number =>
  elf.SHF_ALLOC | (flags & elf.PF_W ? elf.SHF_WRITE : 0) | (flags & elf.PF_X ? elf.SHF_EXECINSTR : 0);

function write64(file: Buffer, at: number, value: number): void {
  file.writeBigUInt64LE(BigInt(value), at);
}
