/**
 * Adds sections that are not loaded (notes, symbols) after what `writeProgram` has written.
 *
 *     the segments as they were | zeros to the end of the page | each section's bytes | section names | section headers
 *
 * The last segment's page is left free, as linkers leave it.
 */
import { alignUp, PAGE_SIZE } from "../address.js";
import * as elf from "./constants.js";
import { parseElf, type Section } from "./image.js";

interface AddedSection {
  readonly name: string;
  readonly sh_type: number;
  readonly bytes: Uint8Array;
  /** The name of the section that it goes with: a symbol table's strings. */
  readonly link?: string;
  readonly sh_info?: number;
  readonly sh_entsize?: number;
}

/** The file with the sections. Section names and headers are written anew. */
export function appendSections(program: Buffer, added: readonly AddedSection[]): Buffer {
  const { header, sections } = parseElf(program);
  const old = sections.filter((section) => section.index !== header.e_shstrndx);
  const names = [...old.map((section) => section.name), ...added.map((section) => section.name), ".shstrtab"];
  const strings = Buffer.from(`${names.map((name) => (name === "" ? "" : `\0${name}`)).join("")}\0`, "latin1");
  const place = (name: string): number => (name === "" ? 0 : strings.indexOf(`\0${name}\0`) + 1);

  const pieces: { at: number; bytes: Uint8Array }[] = [];
  const kept = sections[header.e_shstrndx]!.sh_offset;
  let end = alignUp(kept, PAGE_SIZE);
  const append = (bytes: Uint8Array): number => {
    const at = alignUp(end, 8);
    pieces.push({ at, bytes });
    end = at + bytes.length;
    return at;
  };
  const rows = old.map((section) => oldRow(section, place(section.name)));
  for (const section of added)
    rows.push({
      sh_name: place(section.name),
      sh_type: section.sh_type,
      sh_flags: 0,
      sh_addr: 0,
      sh_offset: append(section.bytes),
      sh_size: section.bytes.length,
      sh_link: section.link === undefined ? 0 : names.indexOf(section.link),
      sh_info: section.sh_info ?? 0,
      sh_addralign: section.sh_type === elf.SHT_NOTE ? 4 : 8,
      sh_entsize: section.sh_entsize ?? 0,
    });
  rows.push({
    ...oldRow(sections[header.e_shstrndx]!, place(".shstrtab")),
    sh_offset: append(strings),
    sh_size: strings.length,
  });

  const shoff = alignUp(end, 8);
  const file = Buffer.alloc(shoff + rows.length * elf.SHDR_SIZE);
  program.copy(file, 0, 0, kept);
  for (const { at, bytes } of pieces) file.set(bytes, at);
  for (const [i, row] of rows.entries()) writeRow(file, shoff + i * elf.SHDR_SIZE, row);
  file.writeBigUInt64LE(BigInt(shoff), 40); // e_shoff
  file.writeUInt16LE(rows.length, 60); // e_shnum
  file.writeUInt16LE(rows.length - 1, 62); // e_shstrndx
  return file;
}

type Row = Readonly<Record<(typeof FIELDS)[number], number>>;

const FIELDS = [
  "sh_name",
  "sh_type",
  "sh_flags",
  "sh_addr",
  "sh_offset",
  "sh_size",
  "sh_link",
  "sh_info",
  "sh_addralign",
  "sh_entsize",
] as const;
const NARROW: ReadonlySet<string> = new Set(["sh_name", "sh_type", "sh_link", "sh_info"]);

const oldRow = (section: Section, name: number): Row => ({ ...section, sh_name: name });

function writeRow(file: Buffer, start: number, row: Row): void {
  let at = start;
  for (const field of FIELDS)
    at = NARROW.has(field) ? file.writeUInt32LE(row[field], at) : file.writeBigUInt64LE(BigInt(row[field]), at);
}
