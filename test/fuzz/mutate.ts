/**
 * Damaged files by design: a mutant is a program in which some fields of one table hold what sizes, offsets and counts go
 * wrong with. Which table, which fields and which values depends on the seed alone, so that a finding is a number.
 *
 * The tables are told by their layout: how wide the fields of an element are. What is said of a table is not what is in
 * this file's bytes, so that a mutant may be one of a rewritten file as well.
 */
import * as elf from "../../src/elf/constants.js";
import { type ElfImage, parseElf, type Section } from "../../src/elf/image.js";
import { generator } from "./random.js";

/** A table: where it is in the file, and the widths of the fields of an element, in bytes. */
interface Table {
  readonly name: string;
  readonly offset: number;
  readonly size: number;
  readonly fields: readonly number[];
}

const words = (width: number): readonly number[] => [width];
const PROGRAM_HEADER = [4, 4, 8, 8, 8, 8, 8, 8];
const SECTION_HEADER = [4, 4, 8, 8, 8, 8, 4, 4, 8, 8];
const SYMBOL = [4, 1, 1, 2, 8, 8];
const FILE_HEADER = [8, 8, 2, 2, 4, 8, 8, 8, 4, 2, 2, 2, 2, 2, 2];

/** What sections hold, by type and by name. */
const bySectionType = new Map<number, readonly number[]>([
  [elf.SHT_SYMTAB, SYMBOL],
  [elf.SHT_DYNSYM, SYMBOL],
  [elf.SHT_STRTAB, words(1)],
  [elf.SHT_DYNAMIC, words(8)],
  [elf.SHT_RELA, words(8)],
  [elf.SHT_NOTE, words(4)],
]);
const bySectionName = new Map<string, readonly number[]>([
  [".eh_frame_hdr", words(4)],
  [".eh_frame", words(4)],
  [".gcc_except_table", words(1)],
  [".relr.dyn", words(8)],
  [".gnu.hash", words(4)],
  [".gnu.version", words(2)],
  [".gnu.version_r", words(4)],
  [".init_array", words(8)],
  [".interp", words(1)],
  [".usdt_nop5", words(1)],
]);

const fieldsOf = ({ name, sh_type }: Section): readonly number[] | undefined =>
  bySectionName.get(name) ?? bySectionType.get(sh_type);

/** All tables of a file that this program knows. */
export function tablesOf({ header, programHeaders, sections, bytes }: ElfImage): readonly Table[] {
  const phdrs = { offset: header.e_phoff, size: programHeaders.length * elf.PHDR_SIZE, fields: PROGRAM_HEADER };
  const shdrs = { offset: header.e_shoff, size: sections.length * elf.SHDR_SIZE, fields: SECTION_HEADER };
  const headers: Table[] = [
    { name: "file header", offset: 0, size: elf.EHDR_SIZE, fields: FILE_HEADER },
    { name: "program headers", ...phdrs },
    { name: "section headers", ...shdrs },
  ];
  const contents = sections.flatMap((section): Table[] => {
    const fields = fieldsOf(section);
    const { name, sh_offset: offset, sh_size: size, sh_type } = section;
    const isThere = sh_type !== elf.SHT_NOBITS && size > 0 && offset + size <= bytes.length;
    return fields === undefined || !isThere ? [] : [{ name, offset, size, fields }];
  });
  return [...headers, ...contents];
}

export interface Mutant {
  readonly bytes: Buffer;
  /** Which table was damaged, and how, one field each. */
  readonly table: string;
  readonly changes: readonly string[];
}

/**
 * The mutant of a seed.
 * @param only damages this table
 */
export function mutantOf(original: Buffer, seed: number, only?: string): Mutant {
  const next = generator(seed);
  const image = parseElf(original);
  const tables = tablesOf(image).filter(({ name }) => only === undefined || name === only);
  const table = tables[next(tables.length)]!;
  const bytes = Buffer.from(original);
  const changes: string[] = [];
  for (let n = 1 + next(3); n > 0; n--) {
    const field = drawField(table, next);
    const value = drawValue(table, field.width, image, bytes, next);
    write(bytes, field.offset, field.width, value);
    changes.push(
      `${table.name}+0x${(field.offset - table.offset).toString(16)}: ${field.width} bytes 0x${value.toString(16)}`,
    );
  }
  return { bytes, table: table.name, changes };
}

type Next = (below: number) => number;

function drawField({ offset, size, fields }: Table, next: Next): { offset: number; width: number } {
  const element = fields.reduce((sum, width) => sum + width, 0);
  const count = Math.max(1, Math.floor(size / element));
  // Tables go wrong at their ends more than in between.
  const [at, end] = [next(count), next(6)];
  let within = offset + element * (end === 0 ? 0 : end === 1 ? count - 1 : at);
  let field = next(fields.length);
  for (const width of fields) {
    if (field-- === 0) return { offset: Math.min(within, offset + size - width), width };
    within += width;
  }
  throw new Error("unreachable");
}

const LARGE = [31n, 32n, 53n, 63n, 64n].flatMap((power) => [2n ** power - 1n, 2n ** power]);

function drawValue(table: Table, width: number, image: ElfImage, bytes: Buffer, next: Next): bigint {
  const at = drawField(table, next);
  const here = read(bytes, at.offset, Math.min(at.width, width));
  const { sections } = image;
  const section = sections[next(sections.length)]!;
  const kinds: readonly (() => bigint)[] = [
    () => BigInt(next(4)),
    () => LARGE[next(LARGE.length)]!,
    () => BigInt(next(256)),
    () => here,
    () => here + BigInt(next(33) - 16),
    () => here ^ (1n << BigInt(next(8 * width))),
    () => BigInt(section.sh_addr + next(17) - 8),
    () => BigInt(section.sh_offset + next(17) - 8),
    () => BigInt(bytes.length + next(17) - 8),
  ];
  return BigInt.asUintN(8 * width, kinds[next(kinds.length)]!());
}

const read = (bytes: Buffer, at: number, width: number): bigint =>
  Array.from({ length: width }, (_, i) => BigInt(bytes[at + i] ?? 0) << BigInt(8 * i)).reduce((a, b) => a | b, 0n);

function write(bytes: Buffer, at: number, width: number, value: bigint): void {
  for (let i = 0; i < width && at + i < bytes.length; i++) bytes[at + i] = Number((value >> BigInt(8 * i)) & 0xffn);
}
