/**
 * How new code is called when a file is initialised, before any code of the file's own, and when it is unloaded.
 *
 * A program:
 *     DT_PREINIT_ARRAY        the loader calls it before the constructors of any library, whatever start files the program
 *                             has: so a handler that is registered there comes before all others. It takes two unused
 *                             entries of the dynamic section (or the table's first word, where it has one), and a word that
 *                             holds the code's address
 *     head of DT_INIT_ARRAY   else the first constructor of the program's own is led to the new code, which goes on there.
 *                             Not DT_INIT: start files from before glibc 2.34 call _init by its name (__libc_csu_init),
 *                             and only newer ones leave it to libc, which reads the tag
 * A library:
 *     DT_INIT                 the loader calls it before DT_INIT_ARRAY; new code goes on to what it was
 *     a new DT_INIT           in an unused entry of the dynamic section
 *     head of DT_INIT_ARRAY
 * and at the end, after all destructors of its own:
 *     DT_FINI                 which the loader calls after DT_FINI_ARRAY
 *     a new DT_FINI
 *     head of DT_FINI_ARRAY   which is walked from its end
 * A program needs nothing of that at its end, since nobody unloads it.
 *
 * The head of an array is a word in the file (fixed addresses, RELR) or the addend of a R_X86_64_RELATIVE relocation.
 */
import { type FileOffset, hex, type Vaddr, vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { forEachRelocation } from "../../elf/dynamic.js";
import { type ElfImage, offsetOf, read64, segmentAt } from "../../elf/image.js";
import { type Edit, editAt, word } from "../edits.js";
import { type DynamicTables, relocationsOf } from "./tables.js";

/** A way in which new code is called. */
export interface Hook {
  readonly kind: "preinit array" | "tag" | "new tag" | "array head";
  /** The code to go on with, or undefined where there was none. */
  readonly next: Vaddr | undefined;
  /** Whether a word has to be made that holds the code's address. */
  readonly needsWord: boolean;
  /** The edits that lead there, once the code's address is known, and the word's. */
  edits(code: Vaddr, word: Vaddr | undefined): Edit[];
}

/** Hands out unused entries of the dynamic section. */
export class SpareTags {
  readonly #image: ElfImage;
  #left: readonly FileOffset[];

  constructor(image: ElfImage, tables: DynamicTables) {
    this.#image = image;
    this.#left = tables.spareTags;
  }

  /** Makes a tag of an entry for each number, once their values are known; undefined where there are not as many. */
  take(...numbers: readonly number[]): ((...values: readonly number[]) => Edit[]) | undefined {
    if (this.#left.length < numbers.length) return undefined;
    const mine = this.#left.slice(0, numbers.length);
    this.#left = this.#left.slice(numbers.length);
    return (...values) =>
      numbers.map((d_tag, i) =>
        editAt(this.#image, mine[i]!, new Uint8Array([...word(d_tag, 8), ...word(values[i]!, 8)])),
      );
  }
}

/** How a program's initialiser gets called. `cheapWord`: whether a relocation for a word of its own costs nothing. */
export function programStart(
  image: ElfImage,
  tables: DynamicTables,
  spare: SpareTags,
  cheapWord: boolean,
): Hook | string {
  const preinit = arrayHead(image, tables, elf.DT_PREINIT_ARRAY, elf.DT_PREINIT_ARRAYSZ);
  if (typeof preinit !== "string") return { ...preinit, kind: "preinit array" };
  if (cheapWord && tables.tags.every((t) => t.d_tag !== elf.DT_PREINIT_ARRAY)) {
    const tags = spare.take(elf.DT_PREINIT_ARRAY, elf.DT_PREINIT_ARRAYSZ);
    if (tags !== undefined)
      return { kind: "preinit array", next: undefined, needsWord: true, edits: (_code, place) => tags(place!, 8) };
  }
  return arrayHead(image, tables, elf.DT_INIT_ARRAY, elf.DT_INIT_ARRAYSZ);
}

/** How a library's initialiser gets called. */
export const libraryStart = (image: ElfImage, tables: DynamicTables, spare: SpareTags): Hook | string =>
  byTag(image, tables, spare, elf.DT_INIT) ?? arrayHead(image, tables, elf.DT_INIT_ARRAY, elf.DT_INIT_ARRAYSZ);

/** How a library's finaliser gets called. */
export const libraryEnd = (image: ElfImage, tables: DynamicTables, spare: SpareTags): Hook | string =>
  byTag(image, tables, spare, elf.DT_FINI) ?? arrayHead(image, tables, elf.DT_FINI_ARRAY, elf.DT_FINI_ARRAYSZ);

/** Whether an address is that of code in the file. */
function isCodeAt(image: ElfImage, address: Vaddr): boolean {
  const segment = segmentAt(image, address);
  return segment !== undefined && (segment.p_flags & elf.PF_X) !== 0 && offsetOf(image, address) !== undefined;
}

function byTag(image: ElfImage, tables: DynamicTables, spare: SpareTags, number: number): Hook | string | undefined {
  const tag = tables.tags.find((t) => t.d_tag === number);
  if (tag !== undefined && tag.d_val !== 0 && !isCodeAt(image, vaddr(tag.d_val)))
    return `its dynamic tag ${number} leads to ${hex(tag.d_val)}, which is no code of it`;
  if (tag !== undefined)
    return {
      kind: "tag",
      next: tag.d_val === 0 ? undefined : vaddr(tag.d_val),
      needsWord: false,
      edits: (code) => [editAt(image, tag.valueOffset, word(code, 8))],
    };
  const added = spare.take(number);
  return added && { kind: "new tag", next: undefined, needsWord: false, edits: (code) => added(code) };
}

function arrayHead(image: ElfImage, tables: DynamicTables, array: number, size: number): Hook | string {
  const start = tables.tags.find((t) => t.d_tag === array)?.d_val;
  const length = tables.tags.find((t) => t.d_tag === size)?.d_val ?? 0;
  if (start === undefined || length < 8) return "nothing calls code of it when it is loaded";
  const place = vaddr(start);
  const unclear = `what the array at ${hex(start)} begins with is not an address of its own`;
  const stored = offsetOf(image, place);
  if (stored === undefined || stored + 8 > image.bytes.length) return unclear;
  let how: Hook | undefined;
  let writers = 0;
  forEachRelocation(image, (at, value, type) => {
    if (at !== place) return;
    writers++;
    if (type === elf.R_X86_64_RELATIVE) how = headHook(vaddr(value), (code) => editAt(image, stored, word(code, 8)));
  });
  for (const { type, table, at } of relocationsOf(tables, place)) {
    if (type !== elf.R_X86_64_RELATIVE || how === undefined) continue;
    how = headHook(how.next!, (code) => editAt(image, table.section.sh_offset + at + 16, word(code, 8)));
  }
  if (writers === 0 && image.header.e_type === elf.ET_EXEC)
    how = headHook(vaddr(read64(image.view, stored)), (code) => editAt(image, stored, word(code, 8)));
  if (writers > 1 || how === undefined || !isCodeAt(image, how.next!)) return unclear;
  return how;
}

const headHook = (next: Vaddr, edit: (code: Vaddr) => Edit): Hook => ({
  kind: "array head",
  next,
  needsWord: false,
  edits: (code) => [edit(code)],
});
