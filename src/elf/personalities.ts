/**
 * Which personality routine a CIE names. It is found by its symbol: through the relocation of the slot that an indirect
 * pointer leads to, or at the address itself. In a stripped static program there is none, and nobody can tell.
 */
import type { Vaddr } from "../address.js";
import * as elf from "./constants.js";
import { forEachRelocation } from "./dynamic.js";
import { DW_EH_PE_indirect } from "./eh-cursor.js";
import type { Cie } from "./eh-records.js";
import { type ElfImage, offsetOf, read64 } from "./image.js";
import { dynsym, forEachSymbol, type SymbolTable, symbolName, symtab } from "./symbols.js";

/**
 * Routines that read LPStart and call sites as elf/exception-table.ts does (GCC's libsupc++/eh_personality.cc and
 * unwind-c.c, LLVM's cxa_personality.cpp, Rust's library/std/src/sys/personality/dwarf/eh.rs).
 */
const known = new Set([
  "__gxx_personality_v0",
  "__gcc_personality_v0",
  "__objc_personality_v0",
  "__gnu_objc_personality_v0",
  "__gdc_personality_v0",
  "__gnat_personality_v0",
  "rust_eh_personality",
]);

/**
 * Mangled names of Rust's routine: `_RNvCs..._7___rustc17rust_eh_personality`, `_ZN...17rust_eh_personality17h...E`.
 */
export const hasKnownTables = (name: string): boolean => known.has(name) || name.includes("17rust_eh_personality");

/** The routine's name, without a version; null where the CIE has none, undefined where nothing names it. */
export function personalityName(image: ElfImage, { personality }: Cie): string | null | undefined {
  if (personality === undefined || personality.value === undefined) return null;
  const { encoding, value } = personality;
  if ((encoding & DW_EH_PE_indirect) === 0) return nameAt(image, value) ?? stubAt(image, value);
  return importedAt(image, value) ?? nameAt(image, slotContent(image, value));
}

/** What a slot leads to in this file. */
function slotContent(image: ElfImage, slot: number): number {
  let found: number | undefined;
  forEachRelocation(image, (place, value) => {
    if (place === slot) found = value;
  });
  if (found !== undefined) return found;
  const offset = offsetOf(image, slot as Vaddr);
  return offset === undefined || offset + 8 > image.bytes.length ? Number.NaN : read64(image.view, offset);
}

/**
 * The name of the function that a stub of the procedure linkage table leads to: `endbr64; bnd jmp *slot(%rip)`, or a
 * part of it.
 */
function stubAt(image: ElfImage, address: number): string | undefined {
  const offset = offsetOf(image, address as Vaddr);
  if (offset === undefined || offset + 16 > image.bytes.length) return undefined;
  let at: number = offset;
  if (image.bytes.readUInt32LE(at) === 0xfa1e0ff3) at += 4;
  if (image.bytes[at] === 0xf2) at++;
  if (image.bytes.readUInt16LE(at) !== 0x25ff) return undefined;
  return importedAt(image, address + at - offset + 6 + image.bytes.readInt32LE(at + 2));
}

/** The name of the dynamic symbol that a relocation puts into a slot. */
function importedAt(image: ElfImage, slot: number): string | undefined {
  const symbols = dynsym(image);
  if (symbols === null) return undefined;
  const { view } = image;
  for (const { sh_type, sh_flags, sh_offset, sh_size } of image.sections) {
    if (sh_type !== elf.SHT_RELA || (sh_flags & elf.SHF_ALLOC) === 0) continue;
    for (let at: number = sh_offset; at + elf.RELA_SIZE <= sh_offset + sh_size; at += elf.RELA_SIZE) {
      if (read64(view, at) !== slot) continue;
      const symbol = view.getUint32(at + 12, true);
      if (symbol > 0 && symbol < symbols.count) return symbolName(symbols, symbol);
    }
  }
  return undefined;
}

function nameAt(image: ElfImage, address: number): string | undefined {
  let name: string | undefined;
  const look = (table: SymbolTable | null): void => {
    if (table === null) return;
    forEachSymbol(table, (value, _size, info, shndx, index) => {
      if (value === address && shndx !== elf.SHN_UNDEF && (info & 0xf) !== elf.STT_SECTION)
        name ??= symbolName(table, index);
    });
  };
  look(dynsym(image));
  look(symtab(image));
  return name;
}
