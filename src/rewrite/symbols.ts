/**
 * Symbols of the output, where the input has a symbol table: each chunk of new code gets one, named after the function
 * it belongs to, and symbols that stand in moved sections move along.
 */
import { type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, Section } from "../elf/image.js";
import {
  forEachSymbol,
  functionsAt,
  dynsym as readDynsym,
  symtab as readSymtab,
  type SymbolTable,
} from "../elf/symbols.js";
import { type Edit, editAt, word } from "./edits.js";
import type { NewCode } from "./new-code.js";
import type { InPlaceChange } from "./proposal.js";
import type { MovedSection } from "./table-growth.js";

/** Local symbols to put in front of the first global one, and the names they need. */
export interface AddedSymbols {
  readonly table: Section;
  readonly strings: Section;
  /** The entries; st_name and st_shndx are complete but for the number of the code section, which is `codeNumber`. */
  readonly entries: Uint8Array;
  /** What is appended to the string table. */
  readonly names: Uint8Array;
}

/** The symbol table, where it can have more entries. */
export function takesSymbols(image: ElfImage): SymbolTable | null {
  const table = readSymtab(image);
  if (table === null) return null;
  const isCounted = image.sections.some(
    (s) => (s.sh_type === elf.SHT_RELA || s.sh_type === elf.SHT_REL) && s.sh_link === table.section.index,
  );
  return isCounted || table.section.sh_flags & elf.SHF_ALLOC || table.strings.sh_flags & elf.SHF_ALLOC ? null : table;
}

/** Symbols for new code, or undefined where the file has no symbol table, or relocations that count its entries. */
export function symbolsFor(
  image: ElfImage,
  { chunks, named }: NewCode,
  probeName: (site: Vaddr) => string,
  codeNumber: number,
): AddedSymbols | undefined {
  const table = takesSymbols(image);
  if (table === null || chunks.length + named.length === 0) return undefined;
  const functions = functionsAt(
    image,
    chunks.map((c) => c.proposal.window.start),
  );
  const pieces = [
    ...chunks.map((chunk, i) => ({ ...chunk, name: `${functions[i] ?? probeName(chunk.proposal.site)}.nop5` })),
    ...named,
  ];
  const entries = new Uint8Array(pieces.length * elf.SYM_SIZE);
  const view = new DataView(entries.buffer);
  const names: Buffer[] = [];
  let nameAt = table.strings.sh_size;
  pieces.forEach((piece, i) => {
    const at = i * elf.SYM_SIZE;
    const name = Buffer.from(`${piece.name}\0`, "utf8");
    view.setUint32(at, nameAt, true);
    view.setUint8(at + 4, (elf.STB_LOCAL << 4) | elf.STT_FUNC);
    view.setUint16(at + 6, codeNumber, true);
    view.setBigUint64(at + 8, BigInt(piece.start), true);
    view.setBigUint64(at + 16, BigInt(piece.end - piece.start), true);
    names.push(name);
    nameAt += name.length;
  });
  return { table: table.section, strings: table.strings, entries, names: Buffer.concat(names) };
}

/** Symbols of moved sections get their new address; functions that grew get their new size. */
export function symbolEdits(
  image: ElfImage,
  moved: readonly MovedSection[],
  growths: readonly NonNullable<InPlaceChange["growth"]>[],
): Edit[] {
  const edits: Edit[] = [];
  if (moved.length === 0 && growths.length === 0) return edits;
  const byIndex = new Map(moved.map((m) => [m.section.index, m]));
  const grown = new Map(growths.map((g) => [g.range.end as number, g]));
  for (const table of [readSymtab(image), readDynsym(image)]) {
    if (table === null) continue;
    forEachSymbol(table, (value, size, info, shndx, index) => {
      const at = table.section.sh_offset + index * elf.SYM_SIZE;
      const target = byIndex.get(shndx);
      if (target !== undefined) {
        const by = target.sh_addr - target.section.sh_addr;
        edits.push(editAt(image, at + 8, word(vaddr(value + by), 8)));
        return;
      }
      const growth = grown.get(value + size);
      const isFunction = (info & 0xf) === elf.STT_FUNC || (info & 0xf) === elf.STT_GNU_IFUNC;
      if (growth !== undefined && isFunction && size > 0 && shndx !== elf.SHN_UNDEF && value >= growth.range.start)
        edits.push(editAt(image, at + 16, word(growth.end - value, 8)));
    });
  }
  return edits;
}
