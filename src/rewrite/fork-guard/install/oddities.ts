/**
 * Tables of the dynamic loader that are whole and yet such as no linker writes. What is added to them would stand beside something
 * that nobody can tell the meaning of: a new version might get a number that a symbol has already, a new name might
 * continue an old one. Such a file gets no fork guard.
 */
import { hex, vaddr } from "../../../address.js";
import * as elf from "../../../elf/constants.js";
import { type ElfImage, read64, segmentAt } from "../../../elf/image.js";
import { readDefinedVersions, readNeededVersions, VERNAUX_SIZE, VERSYM_INDEX } from "../../../elf/versions.js";
import type { DynamicTables, TableDraft } from "../../start/tables.js";

/** Why nothing can be added to the tables, or undefined where it can. @throws InputError where one is damaged */
export function oddity(image: ElfImage, tables: DynamicTables): string | undefined {
  if (tables.strings.head.at(-1) !== 0) return "its dynamic strings do not end with a NUL";
  return (
    versionOddity(tables) ??
    relocationOddity(image, tables.relocations) ??
    relocationOddity(image, tables.pltRelocations)
  );
}

/** Each version that is needed has a place and a number of its own, and no symbol has another number. */
function versionOddity({ versions, neededVersions, definedVersions }: DynamicTables): string | undefined {
  const defined = definedVersions === undefined ? [] : readDefinedVersions(definedVersions.head);
  const numbers = new Set<number>([0, 1, ...defined.map((d) => d.vd_ndx)]);
  if (neededVersions !== undefined) {
    const files = readNeededVersions(neededVersions.head);
    const needed = files.flatMap((f) => f.versions);
    const places = new Set([...files.map((f) => f.at), ...needed.map((v) => v.at)]);
    const count = files.length + needed.length;
    if (places.size !== count || neededVersions.head.length !== count * VERNAUX_SIZE)
      return "its needed versions are not one after the other";
    for (const { vna_other } of needed) {
      const number = vna_other & VERSYM_INDEX;
      if (numbers.has(number)) return `two of its versions have the number ${number}`;
      numbers.add(number);
    }
  }
  if (versions === undefined) return undefined;
  for (let at = 0; at + 2 <= versions.head.length; at += 2) {
    const number = versions.head.readUInt16LE(at) & VERSYM_INDEX;
    if (!numbers.has(number)) return `a symbol is of version ${number}, and there is none`;
  }
  return undefined;
}

/** Each relocation writes to memory of the file. */
function relocationOddity(image: ElfImage, table: TableDraft | undefined): string | undefined {
  if (table === undefined) return undefined;
  const view = new DataView(table.head.buffer, table.head.byteOffset, table.head.length);
  let segment = undefined as ReturnType<typeof segmentAt>;
  for (let at = 0; at + elf.RELA_SIZE <= view.byteLength; at += elf.RELA_SIZE) {
    if (view.getUint32(at + 8, true) === 0) continue; // R_X86_64_NONE
    const place = read64(view, at);
    // Most are in the segment of the one before.
    if (segment === undefined || place < segment.p_vaddr || place >= segment.p_vaddr + segment.p_memsz)
      segment = segmentAt(image, vaddr(place));
    if (segment === undefined) return `a relocation writes to ${hex(place)}, where nothing is loaded`;
  }
  return undefined;
}
