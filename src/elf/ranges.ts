/**
 * Which parts of a file hold its headers, notes and symbols: for a reader that does not want all of a large file.
 *
 * Everything here is read before anything was validated. So ranges may be nonsense, and whoever loads them cuts them to
 * the file; `parseElf` then judges the same fields and says what is wrong with them.
 */
import { type FileOffset, fileOffset } from "../address.js";
import * as elf from "./constants.js";
import { type ElfImage, read64 } from "./image.js";

interface FileRange {
  readonly offset: FileOffset;
  readonly size: number;
}

/** What `parseElf` looks at. Each range must be in `bytes` before the next is asked for. */
export function* headerRanges(bytes: Buffer): Generator<FileRange> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  yield range(0, elf.EHDR_SIZE);
  if (bytes.length < elf.EHDR_SIZE) return;
  yield range(read64(view, 32), view.getUint16(56, true) * elf.PHDR_SIZE);
  const e_shoff = read64(view, 40);
  yield range(e_shoff, view.getUint16(60, true) * elf.SHDR_SIZE);
  const names = e_shoff + view.getUint16(62, true) * elf.SHDR_SIZE;
  if (names + elf.SHDR_SIZE <= bytes.length) yield range(read64(view, names + 24), read64(view, names + 32));
}

/** Where notes and symbols stand in a parsed file. */
export function noteAndSymbolRanges(image: ElfImage): FileRange[] {
  const notes = image.programHeaders.filter((p) => p.p_type === elf.PT_NOTE).map((p) => range(p.p_offset, p.p_filesz));
  const types = [elf.SHT_NOTE, elf.SHT_SYMTAB, elf.SHT_DYNSYM, elf.SHT_STRTAB];
  const sections = image.sections.filter((s) => types.includes(s.sh_type)).map((s) => range(s.sh_offset, s.sh_size));
  return [...notes, ...sections];
}

const range = (offset: number, size: number): FileRange => ({ offset: fileOffset(offset), size });
