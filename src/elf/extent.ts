/**
 * How far a file goes as its headers tell it: what stands after that nobody is led to. It is asked before anything was
 * validated, so the headers may say anything; `parseElf` judges them afterwards.
 */
import * as elf from "./constants.js";
import { read64 } from "./image.js";

/**
 * Where the last thing ends that a header describes, in file offsets, and no farther than the file: the ELF header, both
 * tables, segments, and sections. 0 where it is no 64-bit ELF file.
 * @param read bytes of the file from an offset on, as many as are there
 * @param size the file's size in bytes
 */
export function describedEnd(read: (offset: number, size: number) => Buffer, size: number): number {
  const header = read(0, elf.EHDR_SIZE);
  if (header.length < elf.EHDR_SIZE || header.readUInt32BE(0) !== MAGIC || header[4] !== CLASS_64) return 0;
  const view = viewOf(header);
  const [phoff, shoff] = [read64(view, 32), read64(view, 40)];
  const [phnum, shnum] = [view.getUint16(56, true), view.getUint16(60, true)];
  const ends = [elf.EHDR_SIZE, phoff + phnum * elf.PHDR_SIZE, shoff + shnum * elf.SHDR_SIZE];
  for (const entry of entries(read(phoff, phnum * elf.PHDR_SIZE), elf.PHDR_SIZE))
    if (entry.getUint32(0, true) !== elf.PT_NULL) ends.push(read64(entry, 8) + read64(entry, 32));
  for (const entry of entries(read(shoff, shnum * elf.SHDR_SIZE), elf.SHDR_SIZE)) {
    const type = entry.getUint32(4, true);
    if (type !== elf.SHT_NULL && type !== elf.SHT_NOBITS) ends.push(read64(entry, 24) + read64(entry, 32));
  }
  return ends.reduce((last, end) => Math.max(last, Math.min(end, size)), 0);
}

const MAGIC = 0x7f454c46;
const CLASS_64 = 2;

const viewOf = (bytes: Buffer): DataView => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

function* entries(table: Buffer, size: number): Generator<DataView> {
  for (let at = 0; at + size <= table.length; at += size) yield viewOf(table.subarray(at, at + size));
}
