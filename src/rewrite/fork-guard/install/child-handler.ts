/**
 * A handler of one's own in every child that the process forks: what is planned, and what it makes of a file. Read
 * `planChildHandler` from top to bottom, then `place` and `finish`, which a rewrite goes through with it.
 *
 *     tables, words, imports     which words hold __register_atfork and __cxa_finalize once the file is loaded (imports.ts)
 *     hooks                      how new code gets called at the start and at the end (hooks.ts)
 *     place                      a place for new code; with tables that grew, only a new segment will do
 *     stubs                      the code that registers the handler and takes it out again (stubs.ts)
 *
 * The C library runs child handlers in the order in which they were registered. One of a program that starts by its
 * preinit array is before all others. One of a library is before those of the library itself and of all that is loaded
 * later.
 *
 * In the parent a program has handlers as well (handler/held-signals.ts says what for). A library has none: while the C
 * library calls a handler, another thread may unload the library that it stands in, from glibc 2.36 on. In a child
 * there is no other thread; in a parent it would be a crash, traced or not.
 *
 * What it does not reach: handlers that were registered before a library was loaded, and that call it; a fork after the
 * library's DT_FINI (the last destructors, at exit); a fork by the C library of another namespace (dlmopen); the ways
 * to fork that run no handlers (fork-cover.ts says what is done about them).
 */

import { type Vaddr, vaddr } from "../../../address.js";
import * as elf from "../../../elf/constants.js";
import { isMarkedPie, startsProcesses } from "../../../elf/dynamic.js";
import type { ElfImage, Section } from "../../../elf/image.js";
import { forEachSymbol, dynsym as readDynsym, symbolName } from "../../../elf/symbols.js";
import { WORDS_SECTION } from "../../../rewritten/section-names.js";
import type { Assembler } from "../../../x86/assembler.js";
import type { Edit } from "../../edits.js";
import { type Place, type PlaceOptions, placesFor } from "../../place.js";
import type { OutputSection } from "../../sections.js";
import { type Hook, libraryEnd, libraryStart, programStart, SpareTags } from "../../start/hooks.js";
import {
  type DynamicTables,
  draftsOf,
  dynamicTables,
  headEdits,
  needsGlibcVersions,
  sizeTagEdits,
  stringAt,
} from "../../start/tables.js";
import { type NewWords, WORD, wordSpace } from "../../words.js";
import { type SignalSlots, SLOT_SIZE, SLOTS } from "../handler/signal-slots.js";
import type { ChildCode } from "./fork-handlers.js";
import { C_LIBRARY, type Import, ImportDrafts, type WrappedImport } from "./imports.js";
import { oddity } from "./oddities.js";
import { FINI, INIT, INIT_WORD, stubsFor } from "./stubs.js";
import { placeWithTables, tailsOf } from "./table-place.js";
import { resolverOf, wrapperFor, wrapperOf } from "./wrappers.js";

const REGISTER = { name: "__register_atfork", version: "GLIBC_2.3.2" };
/** Finds the other by its name. In libc.so.6 from glibc 2.34 on, in libdl.so.2 before. */
const LOOKUP = { name: "dlsym", version: "GLIBC_2.34", minor: 34 };
const FINALIZE = { name: "__cxa_finalize", version: "GLIBC_2.2.5" };
/** For each of the two imports, and for the preinit array. */
const MOST_WORDS = 3;
const SLOT_WORDS = (SLOTS * SLOT_SIZE) / WORD;

export interface ChildHandlerPlan {
  /** The input as places and program headers see it: its writable segment has room for the new words. */
  readonly image: ElfImage;
  /** __register_atfork, or dlsym. */
  readonly register: Import;
  readonly finalize: Import | undefined;
  readonly start: Hook;
  readonly end: Hook | undefined;
  /** Imports that lead to new code, since they may fork without running handlers. */
  readonly wrapped: readonly WrappedImport[];
  readonly tables: DynamicTables;
  readonly words: NewWords | undefined;
  /** The preinit array's word after .bss, where a relocation fills it: `lead` tells the relocation with what. */
  readonly startWord: { readonly at: Vaddr; lead(init: Vaddr): void } | undefined;
  /** Words of ours that are written while forks go on; undefined for libraries, and where there is no room for them. */
  readonly slots: SignalSlots | undefined;
}

/**
 * How a file gets a child handler, or why it cannot have one.
 * @param wrap imports to be led through new code, where the file has them (wrappers.ts)
 * @throws InputError where its tables are damaged
 */
export function planChildHandler(image: ElfImage, wrap: readonly string[] = []): ChildHandlerPlan | string {
  const obstacle = withoutHandlers(image);
  if (obstacle !== undefined) return obstacle;
  const tables = dynamicTables(image);
  if (typeof tables === "string") return tables;
  if (tables.tags.some((t) => t.d_tag === elf.DT_GNU_PRELINKED))
    return "it is prelinked: the loader may leave its relocations out (prelink --undo takes that back)";
  if (!usesGlibc(tables))
    return "nothing says that its C library is glibc (musl, for one, has no handlers that belong to one file)";
  const odd = oddity(image, tables);
  if (odd !== undefined) return odd;
  const isProgram = startsProcesses(image);
  const most = MOST_WORDS + wrap.length;
  const withSlots = isProgram ? wordSpace(image, most + SLOT_WORDS, WORDS_SECTION) : undefined;
  const space = typeof withSlots === "object" ? withSlots : wordSpace(image, most, WORDS_SECTION);
  if (typeof space === "string") return space;
  let words = 0;
  const newWord = (): Vaddr => vaddr(space.start + WORD * words++);

  const drafts = new ImportDrafts(image, tables);
  const wanted = registration(drafts);
  const register = drafts.import(wanted.name, wanted.version, newWord);
  if (typeof register === "string") return register;
  const finalize = isProgram ? undefined : drafts.import(FINALIZE.name, FINALIZE.version, newWord);
  if (typeof finalize === "string") return finalize;
  const wrapped: WrappedImport[] = [];
  for (const name of wrap) {
    const made = drafts.wrap(name, newWord);
    if (typeof made === "string") return made;
    if (made !== undefined) wrapped.push(made);
  }

  const spare = new SpareTags(image, tables);
  const fixed = image.header.e_type === elf.ET_EXEC;
  const start = isProgram
    ? programStart(image, tables, spare, fixed || drafts.cheapRelocations > 0)
    : libraryStart(image, tables, spare);
  if (typeof start === "string") return start;
  const end = isProgram ? undefined : libraryEnd(image, tables, spare);
  if (typeof end === "string") return end;
  const at = start.needsWord && !fixed ? newWord() : undefined;
  const startWord = at && { at, lead: drafts.relative(at) };
  let slots: SignalSlots | undefined;
  if (space === withSlots) {
    slots = { start: vaddr(space.start + WORD * words), count: SLOTS };
    words += SLOT_WORDS;
  }
  const taken = words === 0 ? undefined : space.take(words);
  const seen = taken?.image ?? image;
  return { image: seen, register, finalize, start, end, wrapped, tables, words: taken, startWord, slots };
}

/**
 * What to import in order to register: the function itself, unless that takes longer tables and dlsym does not. A
 * program with fixed addresses has no other spare import than __gmon_start__, whose name is too short for the
 * function's.
 */
function registration(drafts: ImportDrafts): { readonly name: string; readonly version: string } {
  if (drafts.isCheap(REGISTER.name) || !drafts.isCheap(LOOKUP.name)) return REGISTER;
  return drafts.has(LOOKUP.name) || drafts.needsGlibc(LOOKUP.minor) ? LOOKUP : REGISTER;
}

function withoutHandlers(image: ElfImage): string | undefined {
  const has = (type: number): boolean => image.programHeaders.some((p) => p.p_type === type);
  if (!has(elf.PT_DYNAMIC) || (!has(elf.PT_INTERP) && isMarkedPie(image))) return "it is static: nothing is imported";
  const symbols = readDynsym(image);
  if (symbols === null) return "it has no dynamic symbols";
  let defines = false;
  forEachSymbol(symbols, (_value, _size, _info, shndx, index) => {
    if (shndx !== elf.SHN_UNDEF && symbolName(symbols, index) === REGISTER.name) defines = true;
  });
  return defines ? `it defines ${REGISTER.name} itself` : undefined;
}

/** Whether it names glibc's library as one that it needs, or a version of glibc's symbols. */
function usesGlibc(tables: DynamicTables): boolean {
  if (tables.tags.some((t) => t.d_tag === elf.DT_NEEDED && stringAt(tables, t.d_val) === C_LIBRARY)) return true;
  return needsGlibcVersions(tables);
}

/**
 * The places for new code once the tables are as they have to be, best first.
 * @param image the plan's, or one that has grown since
 */
export function childHandlerPlaces(
  plan: ChildHandlerPlan,
  options: PlaceOptions,
  image: ElfImage,
): { readonly places: readonly Place[]; readonly obstacle: string } {
  const { places, obstacle } = placesFor(image, options);
  if (draftsOf(plan.tables).every((draft) => draft.tail.length === 0)) return { places, obstacle };
  const segments = places.flatMap((p) => (p.kind === "new segment" ? [placeWithTables(p, plan.tables)] : []));
  return { places: segments, obstacle };
}

/** New code around forks, in the order in which it is linked; the child's own comes after it. */
interface HandlerUnits {
  readonly functions: readonly Assembler[];
  readonly units: readonly Assembler[];
}

/** The code that registers `child` and leads to it: stubs and wrappers. */
export function childHandlerUnits(plan: ChildHandlerPlan, child: ChildCode): HandlerUnits {
  const stubs = stubsFor(
    {
      register: plan.register.slot,
      lookUp: plan.register.name === LOOKUP.name ? REGISTER.name : undefined,
      afterInit: plan.start.next,
      end: plan.end && plan.finalize && { finalize: plan.finalize.slot, after: plan.end.next },
      constantWord: needsConstantWord(plan),
      slots: plan.slots,
    },
    child,
  );
  const others = [...stubs.around, ...plan.wrapped.map((wrapped) => wrapperFor(wrapped, stubs.handlers))];
  return {
    functions: [...stubs.functions, ...others],
    units: [...stubs.functions, stubs.constants, ...others],
  };
}

/** With fixed addresses no relocation is needed for a word with the address of new code. */
const needsConstantWord = ({ start, startWord }: ChildHandlerPlan): boolean =>
  start.needsWord && startWord === undefined;

/** What changes in the input once the new code's addresses are known, and what is added to it. */
export interface ChildHandlerChanges {
  readonly edits: readonly Edit[];
  /** What comes after sections that have grown, and so have moved. */
  readonly tails: ReadonlyMap<Section, Uint8Array>;
  readonly addedSections: readonly OutputSection[];
}

/**
 * @param addressOf where the symbols of new code are
 * @param first what the start of a library leads to and goes on to init from there; init itself, if nothing else is said
 */
export function childHandlerChanges(
  plan: ChildHandlerPlan,
  addressOf: (symbol: string) => Vaddr,
  first: Vaddr = addressOf(INIT),
): ChildHandlerChanges {
  const { image, tables, start, end } = plan;
  for (const { name, lead } of plan.wrapped) lead(addressOf(wrapperOf(name)), addressOf(resolverOf(name)));
  const init = addressOf(INIT);
  plan.startWord?.lead(init);
  const word = plan.startWord?.at ?? (needsConstantWord(plan) ? addressOf(INIT_WORD) : undefined);
  const edits = [
    ...headEdits(image, tables),
    ...sizeTagEdits(image, tables),
    ...start.edits(first, word),
    ...(end === undefined ? [] : end.edits(addressOf(FINI), undefined)),
  ];
  return { edits, tails: tailsOf(tables), addedSections: plan.words === undefined ? [] : [plan.words.section] };
}
