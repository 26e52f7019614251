/**
 * The tables of a file, as their readers go through them: elements of so many fields, in bytes. Those of one layout are told
 * by it; of those whose elements say themselves how long they are, each is followed.
 */
import * as elf from "../../src/elf/constants.js";
import type { ElfImage, Section } from "../../src/elf/image.js";

export interface Field {
  /** File offset. */
  readonly at: number;
  /** Bytes. */
  readonly width: number;
}

/** A table: elements, each with its fields in the order of the file. */
export interface Table {
  readonly name: string;
  readonly offset: number;
  readonly size: number;
  /** What its bytes are: numbers of fixed width, numbers of seven bits a byte, or text. */
  readonly content: "words" | "numbers" | "text";
  readonly count: number;
  element(index: number): readonly Field[];
}

const PROGRAM_HEADER = [4, 4, 8, 8, 8, 8, 8, 8];
const SECTION_HEADER = [4, 4, 8, 8, 8, 8, 4, 4, 8, 8];
const SYMBOL = [4, 1, 1, 2, 8, 8];
const FILE_HEADER = [8, 8, 2, 2, 4, 8, 8, 8, 4, 2, 2, 2, 2, 2, 2];

/** What sections hold that have one layout throughout, by type and by name. */
const bySectionType = new Map<number, readonly number[]>([
  [elf.SHT_SYMTAB, SYMBOL],
  [elf.SHT_DYNSYM, SYMBOL],
  [elf.SHT_DYNAMIC, [8, 8]],
  [elf.SHT_RELA, [8, 4, 4, 8]],
  [elf.SHT_NOTE, [4, 4, 4]],
]);
const bySectionName = new Map<string, readonly number[]>([
  [".eh_frame_hdr", [4, 4]],
  [".relr.dyn", [8]],
  [".gnu.hash", [4]],
  [".hash", [4]],
  [".gnu.version", [2]],
  [".gnu.version_r", [2, 2, 4, 4, 4]],
  [".gnu.version_d", [2, 2, 2, 2, 4, 4, 4]],
  [".init_array", [8]],
  [".fini_array", [8]],
  [".got", [8]],
  [".got.plt", [8]],
  [".data.rel.ro", [8]],
  [".usdt_nop5.init", [8]],
]);

/** A table of elements of one layout. What is left at its end is nobody's. */
function uniform(name: string, offset: number, size: number, widths: readonly number[]): Table {
  const stride = widths.reduce((sum, width) => sum + width, 0);
  const element = (index: number): readonly Field[] => {
    let at = offset + index * stride;
    return widths.map((width) => {
      const field = { at, width };
      at += width;
      return field;
    });
  };
  return { name, offset, size, content: "words", count: Math.floor(size / stride), element };
}

const listed = (name: string, offset: number, size: number, elements: readonly (readonly Field[])[]): Table => ({
  name,
  offset,
  size,
  content: "words",
  count: elements.length,
  element: (index) => elements[index]!,
});

const bytewise = (content: "numbers" | "text", { name, sh_offset, sh_size }: Section): Table => ({
  ...uniform(name, sh_offset, sh_size, [1]),
  content,
});

const within = (start: number, end: number, widths: readonly number[]): Field[] => {
  const fields: Field[] = [];
  let at = start;
  for (const width of widths) {
    if (at + width > end) break;
    fields.push({ at, width });
    at += width;
  }
  return fields;
};

/** Notes: three words, an owner, and a descriptor that is 64-bit words first where it is a probe's. */
function notes({ view }: ElfImage, { name, sh_offset, sh_size }: Section): Table {
  const elements: Field[][] = [];
  const end = sh_offset + sh_size;
  for (let at: number = sh_offset; at + 12 <= end; ) {
    const [owner, size] = [view.getUint32(at, true), view.getUint32(at + 4, true)];
    const descriptor = at + 12 + ((owner + 3) & ~3);
    const next = descriptor + ((size + 3) & ~3);
    if (next <= at || next > end) break;
    elements.push([...within(at, end, [4, 4, 4]), ...within(descriptor, next, [8, 8, 8])]);
    at = next;
  }
  return listed(name, sh_offset, sh_size, elements);
}

/** Frame records: a length, what leads to the CIE, and then single bytes or words, as the encodings say: both are tried. */
function frameRecords({ view }: ElfImage, { name, sh_offset, sh_size }: Section): Table {
  const elements: Field[][] = [];
  const end = sh_offset + sh_size;
  for (let at: number = sh_offset; at + 4 <= end; ) {
    const next = at + 4 + view.getUint32(at, true);
    if (next > end) break;
    const id = next > at + 4 ? view.getUint32(at + 4, true) : 0;
    const body = within(at + 8, next, Array<number>(40).fill(1));
    elements.push(
      id === 0 ? [...within(at, end, [4, 4]), ...body] : within(at, end, [4, 4, 4, 4, ...Array<number>(20).fill(1)]),
    );
    at = next;
  }
  return listed(name, sh_offset, sh_size, elements);
}

/** The head of .gnu.hash is four words, that of .usdt_nop5 a magic, hashes and sizes: where counts are. */
const headOf = (name: string, { sh_offset, sh_size }: Section, widths: readonly number[]): Table =>
  listed(name, sh_offset, Math.min(sh_size, 128), [within(sh_offset, sh_offset + sh_size, widths)]);

function tablesIn(image: ElfImage, section: Section): readonly Table[] {
  const { name, sh_type, sh_offset, sh_size } = section;
  if (sh_type === elf.SHT_NOTE) return [notes(image, section)];
  if (name === ".eh_frame") return [frameRecords(image, section)];
  if (name === ".gcc_except_table") return [bytewise("numbers", section)];
  if (name === ".usdt_nop5")
    return [
      headOf(".usdt_nop5 head", section, [8, 4, 8, 8, 8, 8, 8, 6, 6, 8, 8, 8, 8, 4]),
      bytewise("numbers", section),
    ];
  if (sh_type === elf.SHT_STRTAB || name === ".interp") return [bytewise("text", section)];
  const widths = bySectionName.get(name) ?? bySectionType.get(sh_type);
  if (widths === undefined) return [];
  const whole = uniform(name, sh_offset, sh_size, widths);
  return name === ".gnu.hash" ? [headOf(".gnu.hash head", section, [4, 4, 4, 4, 8, 8]), whole] : [whole];
}

/** All tables of a file that this program knows. */
export function tablesOf(image: ElfImage): readonly Table[] {
  const { header, programHeaders, sections, bytes } = image;
  const headers = [
    uniform("file header", 0, elf.EHDR_SIZE, FILE_HEADER),
    uniform("program headers", header.e_phoff, programHeaders.length * elf.PHDR_SIZE, PROGRAM_HEADER),
    uniform("section headers", header.e_shoff, sections.length * elf.SHDR_SIZE, SECTION_HEADER),
  ];
  const isThere = ({ sh_type, sh_size, sh_offset }: Section): boolean =>
    sh_type !== elf.SHT_NOBITS && sh_type !== elf.SHT_NULL && sh_size > 0 && sh_offset + sh_size <= bytes.length;
  const contents = sections.filter(isThere).flatMap((section) => tablesIn(image, section));
  return [...headers, ...contents].filter(({ count }) => count > 0);
}
