/**
 * Imports that a file can spare.
 *
 * The start files of GCC and glibc bring three weak imports into nearly every program and library, whether they are of
 * any use to it or not. In a process of today the loader finds none of them, and writes nothing:
 *
 *     _ITM_registerTMCloneTable, _ITM_deregisterTMCloneTable
 *                        crtbegin's register_tm_clones tells libitm of the file's clones for transactional memory, where
 *                        it has any and libitm is there. A file without clones (section .tm_clone_table is empty or
 *                        missing) and without imports of libitm calls them never.
 *     __gmon_start__     crti's _init calls it where it is there, so that a program built with -pg is profiled. The start
 *                        file of such a program calls it as well, and all calls but the first do nothing.
 *
 * So the symbol can become another import, and its relocation can write another word: the old slot then stays zero,
 * which is what the code that reads it finds in any case. No table grows, and nothing moves.
 */
import { type Vaddr, vaddr } from "../../../address.js";
import * as elf from "../../../elf/constants.js";
import { type ElfImage, offsetOf, segmentAt } from "../../../elf/image.js";
import { isImport } from "../../../elf/symbols.js";
import { readDefinedVersions, readNeededVersions, VERSYM_INDEX } from "../../../elf/versions.js";
import { type DynamicTables, type Relocation, relocationsBySymbol, stringAt } from "../../start/tables.js";

export interface SpareSymbol {
  readonly index: number;
  /** How many characters a new name may have where the old one stands; 0 where the old one is not its own. */
  readonly room: number;
  /** The relocation that writes its slot: whoever takes the symbol must take that as well. */
  readonly relocation: Relocation | undefined;
}

export interface SpareImports {
  readonly symbols: readonly SpareSymbol[];
  /** All of the symbols' relocations, and that of __gmon_start__. */
  readonly relocations: readonly Relocation[];
}

const CLONE_TABLE = ["_ITM_registerTMCloneTable", "_ITM_deregisterTMCloneTable"];
const PROFILING = "__gmon_start__";

export function spareImports(image: ElfImage, tables: DynamicTables): SpareImports {
  const { symbols } = tables;
  const found = new Map<string, number>();
  let usesClones = image.sections.some((s) => s.name === ".tm_clone_table" && s.sh_size > 0);
  for (let index = 1; index * elf.SYM_SIZE < symbols.head.length; index++) {
    const name = stringAt(tables, symbols.head.readUInt32LE(index * elf.SYM_SIZE)) ?? "";
    if (CLONE_TABLE.includes(name) || name === PROFILING) {
      if (isWeakImport(tables, index)) found.set(name, index);
      else if (name !== PROFILING) usesClones = true;
    } else if (name.startsWith("_ITM_") || name.startsWith("_ZGT")) usesClones = true;
  }
  const uses = new Map<number, Relocation[]>([...found.values()].map((index) => [index, []]));
  for (const relocation of relocationsBySymbol(tables, uses)) uses.get(relocation.symbol)!.push(relocation);
  const spare = [...found]
    .filter(([name]) => name === PROFILING || !usesClones)
    .filter(([, index]) => uses.get(index)!.length <= 1 && uses.get(index)!.every((r) => leavesZero(image, tables, r)));
  const relocations = spare.flatMap(([, index]) => uses.get(index)!);
  const starts = referencedStrings(tables);
  return {
    symbols: spare
      .map(
        ([, index]): SpareSymbol => ({
          index,
          room: roomAt(tables, starts, symbols.head.readUInt32LE(index * elf.SYM_SIZE)),
          relocation: uses.get(index)![0],
        }),
      )
      .sort((a, b) => a.room - b.room),
    relocations,
  };
}

/** Weak, undefined, and of no version. */
function isWeakImport({ symbols, versions }: DynamicTables, index: number): boolean {
  const at = index * elf.SYM_SIZE;
  return (
    symbols.head[at + 4]! >> 4 === elf.STB_WEAK &&
    isImport(symbols.head, at) &&
    symbols.head.readBigUInt64LE(at + 8) === 0n &&
    (versions === undefined || (versions.head.readUInt16LE(index * 2) & VERSYM_INDEX) <= 1)
  );
}

/** Whether the word that a relocation writes is zero without it: it is in the file, or is in no file at all (.bss). */
function leavesZero(image: ElfImage, tables: DynamicTables, relocation: Relocation): boolean {
  const { r_offset, type, addend, table } = relocation;
  if (table !== tables.relocations || type !== elf.R_X86_64_GLOB_DAT || addend !== 0n) return false;
  if (segmentAt(image, r_offset) === undefined || segmentAt(image, vaddr(r_offset + 7)) === undefined) return false;
  const stored = offsetOf(image, r_offset as Vaddr);
  return stored === undefined || image.bytes.subarray(stored, stored + 8).every((byte) => byte === 0);
}

const stringTags = new Set<number>([
  elf.DT_NEEDED,
  elf.DT_SONAME,
  elf.DT_RPATH,
  elf.DT_RUNPATH,
  elf.DT_CONFIG,
  elf.DT_DEPAUDIT,
  elf.DT_AUDIT,
  elf.DT_AUXILIARY,
  elf.DT_FILTER,
]);

/** Where in the string table names begin, with how many there are that begin there. */
function referencedStrings(tables: DynamicTables): Map<number, number> {
  const starts = new Map<number, number>();
  const add = (offset: number): void => {
    starts.set(offset, (starts.get(offset) ?? 0) + 1);
  };
  const { symbols, neededVersions, definedVersions } = tables;
  for (let at = elf.SYM_SIZE; at < symbols.head.length; at += elf.SYM_SIZE) add(symbols.head.readUInt32LE(at));
  for (const { d_tag, d_val } of tables.tags) if (stringTags.has(d_tag)) add(d_val);
  if (neededVersions !== undefined)
    for (const { vn_file, versions } of readNeededVersions(neededVersions.head)) {
      add(vn_file);
      for (const { vna_name } of versions) add(vna_name);
    }
  if (definedVersions !== undefined)
    for (const { names } of readDefinedVersions(definedVersions.head)) for (const name of names) add(name);
  return starts;
}

/** How many characters the string at `offset` has, if no other name is a part of it. */
function roomAt(tables: DynamicTables, starts: ReadonlyMap<number, number>, offset: number): number {
  const length = stringAt(tables, offset)?.length ?? 0;
  if (starts.get(offset) !== 1) return 0;
  for (let inside = offset + 1; inside <= offset + length; inside++) if (starts.has(inside)) return 0;
  // Nor may it be the tail of a longer one.
  return tables.strings.head[offset - 1] === 0 ? length : 0;
}
