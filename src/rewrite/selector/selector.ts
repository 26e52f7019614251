/**
 * The selector of a universal file: a byte of zeroed memory that becomes 1 where the file starts on a kernel on which
 * the nop5 twins of its probes are to run (6.18 to 7.1), and the code that sets it (select-code.ts).
 *
 * Nothing depends on when that code runs, or whether: 0 is right on every kernel, if not as fast. So it is asked for
 * where it is certain how it is called, and there is no selector, with a reason, where it is not.
 *
 *     a program      by e_entry: the kernel, or the loader, jumps there before any code of the program
 *     a library      by what is called first when it is loaded (start/hooks.ts), if its C library is glibc: musl calls that
 *                    with anything in the argument registers. Where a fork guard is called there as well, the selector's code
 *                    is called first and goes on to the guard's
 *
 * How a rewrite uses it:
 *     planSelector        before placing: the byte's address, which twins read, and the input with room for it, by which
 *                         places and program headers go
 *     withSelector        once all other new code has its place: its code comes after that
 *     selectorChanges     what changes in the input, and the section that is added
 *
 * The rest of the rewrite imports this file alone of the folder.
 */
import { alignUp, hex, type Vaddr, vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { isMarkedPie, startsProcesses } from "../../elf/dynamic.js";
import { type ElfImage, offsetOf, segmentAt } from "../../elf/image.js";
import { SELECTOR_SECTION } from "../../rewritten/section-names.js";
import { INT3 } from "../../x86/bytes.js";
import { link } from "../../x86/link.js";
import { type Edit, editAt, word } from "../edits.js";
import type { NewCode } from "../new-code.js";
import type { Place } from "../place.js";
import type { OutputSection } from "../sections.js";
import { type Hook, libraryStart, SpareTags } from "../start/hooks.js";
import { namedCode } from "../start/named-code.js";
import { dynamicTables, needsGlibcVersions } from "../start/tables.js";
import { isProtected, wordSpace } from "../words.js";
import { selectCode } from "./select-code.js";

/** The file as it is before there is a selector. */
interface StartOf {
  /** The input; where a fork guard comes along, with room for its words. */
  readonly image: ElfImage;
  /** Whether a fork guard's code is called first when the library is loaded. */
  readonly callsFirst: boolean;
}

/** How the code is called. */
type Start =
  | { readonly kind: "entry"; readonly next: Vaddr }
  | { readonly kind: "library"; readonly hook: Hook }
  /** By the fork guard's hook. */
  | { readonly kind: "guard" };

export interface SelectorPlan {
  /** The input as places and program headers see it: its writable segment has room for the selector. */
  readonly image: ElfImage;
  /** The byte. */
  readonly selector: Vaddr;
  readonly section: OutputSection;
  readonly start: Start;
}

/** Whether the fork guard's hook calls it. */
export const callsFirst = ({ start }: SelectorPlan): boolean => start.kind === "guard";

/** The selector's code, at its address. */
export interface SelectorCode {
  readonly start: Vaddr;
  readonly end: Vaddr;
}

/**
 * A selector for the file, or why it can have none, in words for people.
 * @throws InputError where its dynamic tables are damaged
 */
export function planSelector(file: StartOf): SelectorPlan | string {
  const { image } = file;
  const start = isProgram(image) ? entryOf(image) : startOfLibrary(file);
  if (typeof start === "string") return start;
  const space = wordSpace(image, 1, SELECTOR_SECTION);
  if (typeof space === "string") return space;
  if (isProtected(image, space.start)) return "memory after its writable segment becomes read-only";
  const words = space.take(1);
  return { image: words.image, selector: space.start, section: words.section, start };
}

/** Whether it is run and not loaded. (Linkers give libraries an entry address as well.) */
const isProgram = (image: ElfImage): boolean =>
  image.header.e_type === elf.ET_EXEC || startsProcesses(image) || (isAlone(image) && isMarkedPie(image));

const isAlone = ({ programHeaders }: ElfImage): boolean => programHeaders.every((p) => p.p_type !== elf.PT_INTERP);

function entryOf(image: ElfImage): Start | string {
  const entry = vaddr(image.header.e_entry);
  const segment = segmentAt(image, entry);
  const isCode = segment !== undefined && (segment.p_flags & elf.PF_X) !== 0 && offsetOf(image, entry) !== undefined;
  return isCode ? { kind: "entry", next: entry } : `its entry point ${hex(entry)} is no code of it`;
}

function startOfLibrary({ image, callsFirst }: StartOf): Start | string {
  const tables = dynamicTables(image);
  if (typeof tables === "string") return tables;
  if (!needsGlibcVersions(tables))
    return "it is a library, and needs no version of glibc's symbols: other C libraries start it with anything in the argument registers";
  if (callsFirst) return { kind: "guard" };
  if (tables.tags.some((t) => t.d_tag === elf.DT_GNU_PRELINKED))
    return "it is prelinked: the loader may leave its relocations out (prelink --undo takes that back)";
  const hook = libraryStart(image, tables, new SpareTags(image, tables));
  return typeof hook === "string" ? hook : { kind: "library", hook };
}

/**
 * New code with the selector's after it; or why it cannot be there.
 * @param guardInit what the fork guard has called at the start, where the plan's start is the guard's
 */
export function withSelector(
  { selector, start }: SelectorPlan,
  place: Place,
  newCode: NewCode,
  guardInit?: Vaddr,
): { readonly newCode: NewCode; readonly code: SelectorCode } | string {
  const next = start.kind === "entry" ? start.next : start.kind === "library" ? start.hook.next : guardInit;
  if (start.kind === "guard" && next === undefined) throw new Error("the guard's start is not known");
  const unit = selectCode(start.kind === "entry" ? "entry" : "library", selector, next);
  const at = vaddr(alignUp(newCode.start + newCode.bytes.length, 16));
  const linked = link([unit], at);
  if ("failed" in linked) return linked.failed.get(unit)!;
  // At an entry there is no frame to find.
  const named = namedCode(unit, linked.unit(unit), start.kind !== "entry");
  const end = vaddr(at + linked.bytes.length);
  if (end - place.start > place.capacity) return "there is no room for the code that sets the selector";
  const bytes = new Uint8Array(end - newCode.start).fill(INT3);
  bytes.set(newCode.bytes);
  bytes.set(linked.bytes, at - newCode.start);
  return { newCode: { ...newCode, bytes, named: [...newCode.named, named] }, code: { start: at, end } };
}

/** Where e_entry stands in a file. */
const E_ENTRY = 24;

/**
 * What changes in the input, and what is added to it. Where the start is the fork guard's, its own changes lead there
 * (`guardChanges`).
 */
export function selectorChanges(
  { image, section, start }: SelectorPlan,
  code: SelectorCode,
): { readonly edits: readonly Edit[]; readonly addedSections: readonly OutputSection[] } {
  const addedSections = [section];
  switch (start.kind) {
    case "entry":
      return { edits: [editAt(image, E_ENTRY, word(code.start, 8))], addedSections };
    case "library":
      return { edits: start.hook.edits(code.start, undefined), addedSections };
    case "guard":
      return { edits: [], addedSections };
  }
}
