/**
 * Which forks of a process a file can have a guard for, how, and which not: `searchForks` finds all by which it may fork,
 * and `forkCover` says what can be done about each, when facts about the code around them are there.
 *
 *     fork, daemon, forkpty         a child handler, for whoever calls them in the process (child-handler.ts)
 *     _Fork                         its import is wrapped (wrappers.ts)
 *     syscall, clone                nothing, where every call of the file shows that it makes no copy of the memory; else wrapped
 *     system calls of its own       led through new code, where they may copy the memory (fork-detours.ts)
 *     vfork, posix_spawn, popen,    nothing: the child shares the memory until it calls exec
 *     system
 *
 * A static program has its own copy of all of that, so that its system calls are all there is to look at; it needs no
 * handler.
 *
 * What is said here is about one file. A child handler hears of each fork by the C library; who else in the process
 * forks without running handlers (a library that calls _Fork, code that is made at run time, a C library of another
 * namespace) has to be guarded itself.
 */

import { hex, type Interval, type Vaddr, vaddr } from "../../../address.js";
import * as elf from "../../../elf/constants.js";
import { isMarkedPie } from "../../../elf/dynamic.js";
import type { ElfImage } from "../../../elf/image.js";
import { dynsym, forEachSymbol, symbolName } from "../../../elf/symbols.js";
import type { FileFacts } from "../../../facts/file-facts.js";
import { argumentsOf, findImportCalls, type ImportCall, type ImportCalls } from "../../../facts/import-calls.js";
import { REACH_BEFORE, REACH_BEHIND } from "../../../facts/neighbourhoods.js";
import type { ProgramFacts } from "../../../facts/program.js";
import { CLONE_VM, findSystemCalls, mayCopyMemory, numbersOf, type SystemCalls } from "../../../facts/system-calls.js";
import { readUsdtNotes } from "../../../usdt/notes.js";
import type { Assembler } from "../../../x86/assembler.js";
import { link } from "../../../x86/link.js";
import { type Edit, editAtAddress } from "../../edits.js";
import type { NamedCode } from "../../new-code.js";
import { type Place, type PlaceOptions, placesFor } from "../../place.js";
import { namedCode } from "../../start/named-code.js";
import {
  type ChildHandlerChanges,
  type ChildHandlerPlan,
  childHandlerChanges,
  childHandlerPlaces,
  childHandlerUnits,
  planChildHandler,
} from "./child-handler.js";
import { type ForkDetour, forkDetourCode, forkDetourWindow, planForkDetour } from "./fork-detours.js";
import type { ChildCode } from "./fork-handlers.js";

export interface ForkCoverPlan {
  /** The input as places and program headers see it. */
  readonly image: ElfImage;
  /** Undefined for static programs. */
  readonly handler: ChildHandlerPlan | undefined;
  readonly detours: readonly ForkDetour[];
}

export interface ForkCover {
  /** Undefined where there is an obstacle, and where nothing forks. */
  readonly plan: ForkCoverPlan | undefined;
  /** Why there can be no guard at all. */
  readonly obstacle: string | undefined;
  /** What is done beyond the child handler, or need not be done, and why; in words for people. */
  readonly covered: readonly string[];
  /** Ways to fork that stay without a guard, and why. */
  readonly uncovered: readonly string[];
}

/** Everything by which a file may fork, before anything is known of the code around it. */
export interface ForkSearch {
  readonly image: ElfImage;
  /** No interpreter loads it. */
  readonly isAlone: boolean;
  /** The child handler without wrappers, undefined for static programs; or why there can be none. */
  readonly handler: ChildHandlerPlan | string | undefined;
  /** The imports that may fork. */
  readonly imports: readonly string[];
  readonly calls: ReturnType<typeof findImportCalls>;
  readonly systemCalls: ReturnType<typeof findSystemCalls>;
  /** Places around which facts have to be gathered before it can be said which of them do. */
  readonly places: readonly Vaddr[];
}

/** @throws InputError where tables of the file are damaged */
export function searchForks(file: FileFacts): ForkSearch {
  const { image } = file;
  const isAlone = isStatic(image);
  const handler = isAlone ? undefined : planChildHandler(image);
  // Where there can be no guard nobody asks further.
  const isAsked = typeof handler !== "string";
  const imports = isAlone || !isAsked ? [] : importsAmong(image, ["_Fork", "syscall", "clone", "__clone", "clone3"]);
  const calls = findImportCalls(
    file,
    imports.filter((name) => name in harmless),
  );
  const systemCalls = isAsked ? findSystemCalls(file) : { found: [], unclear: [], places: [] };
  return { image, isAlone, handler, imports, calls, systemCalls, places: [...calls.places, ...systemCalls.places] };
}

/**
 * @param facts gathered around all places of the search, and maybe others; undefined where it has none
 * @throws InputError where tables of the file are damaged
 */
export function forkCover(search: ForkSearch, facts: ProgramFacts | undefined): ForkCover {
  const { image, isAlone, handler: bare, imports } = search;
  const covered: string[] = [];
  const uncovered: string[] = [];
  if (typeof bare === "string") return { plan: undefined, obstacle: bare, covered, uncovered };
  const calls = argumentsOf(search.calls, facts);
  const handler = bare && withWrappers(image, bare, imports, calls, covered, uncovered);
  const systemCalls =
    facts === undefined ? { calls: [], unclear: search.systemCalls.unclear } : numbersOf(search.systemCalls, facts);
  const detours = detoursOf(image, systemCalls, facts, covered, uncovered);
  if (isAlone && detours.length === 0 && uncovered.length === 0) {
    covered.push("it is static, and makes no system call that forks");
    return { plan: undefined, obstacle: undefined, covered, uncovered };
  }
  const plan = { image: handler?.image ?? image, handler, detours };
  return { plan, obstacle: undefined, covered, uncovered };
}

/** Whether no interpreter loads it: it has all of its code in itself. */
function isStatic(image: ElfImage): boolean {
  const has = (type: number): boolean => image.programHeaders.some((p) => p.p_type === type);
  return !has(elf.PT_INTERP) && (!has(elf.PT_DYNAMIC) || isMarkedPie(image));
}

/** The plan of a child handler, with what has to be wrapped. */
function withWrappers(
  image: ElfImage,
  bare: ChildHandlerPlan,
  imports: readonly string[],
  calls: ReadonlyMap<string, ImportCalls>,
  covered: string[],
  uncovered: string[],
): ChildHandlerPlan {
  let plan = bare;
  const wrap: string[] = [];
  for (const name of imports) {
    const own = calls.get(name);
    const doubt = own === undefined ? "it copies the memory" : doubtOf(name, own);
    if (doubt === undefined) {
      covered.push(`it imports ${name}, and calls it for nothing that copies the memory`);
      continue;
    }
    if (name === "clone3") {
      uncovered.push("it imports clone3, which may make children that no handler sees");
      continue;
    }
    const wrapped = planChildHandler(image, [...wrap, name]);
    if (typeof wrapped === "string")
      uncovered.push(`it imports ${name} (${doubt}), which cannot be wrapped: ${wrapped}`);
    else if (wrapped.wrapped.length > plan.wrapped.length) {
      covered.push(`it imports ${name}, which is wrapped (${doubt})`);
      wrap.push(name);
      plan = wrapped;
    }
  }
  return plan;
}

function importsAmong(image: ElfImage, names: readonly string[]): string[] {
  const found = new Set<string>();
  const table = dynsym(image);
  if (table !== null)
    forEachSymbol(table, (_value, _size, _info, shndx, index) => {
      if (shndx === elf.SHN_UNDEF) found.add(symbolName(table, index));
    });
  return names.filter((name) => found.has(name));
}

/** Whether a call with these arguments makes no copy of the memory, by the function. */
const harmless: Readonly<Record<string, (call: ImportCall) => boolean>> = {
  syscall: ({ arguments: [numbers, firstArguments] }) => !mayCopyMemory({ numbers, firstArguments }),
  clone: ({ arguments: [, , flags] }) => flags?.every((f) => f & CLONE_VM) === true,
  __clone: ({ arguments: [, , flags] }) => flags?.every((f) => f & CLONE_VM) === true,
};

/** Why the calls of a function may copy the memory; undefined where none does. */
function doubtOf(name: string, calls: ImportCalls): string | undefined {
  if (typeof calls === "string") return calls;
  const first = calls.find((call) => !harmless[name]!(call));
  return first && `the call at 0x${first.at.toString(16)} may copy the memory`;
}

function detoursOf(
  image: ElfImage,
  { calls, unclear }: SystemCalls,
  facts: ProgramFacts | undefined,
  covered: string[],
  uncovered: string[],
): ForkDetour[] {
  const detours: ForkDetour[] = [];
  const sites = readUsdtNotes(image).map((note) => note.location);
  // Farther away than anything that is done for a probe.
  const keptFor = ({ start, end }: Interval<Vaddr>): string | undefined => {
    const site = sites.find((s) => s + REACH_BEHIND > start && s - REACH_BEFORE < end);
    if (site !== undefined) return `it is close to the probe at ${hex(site)}, for which bytes nearby are kept`;
    const other = detours.find(({ window }) => window.end > start && window.start < end);
    return other && `its bytes are needed for the system call at ${hex(other.call)}`;
  };
  for (const call of calls.filter(mayCopyMemory)) {
    const detour = planForkDetour(facts!, call, keptFor);
    if (typeof detour === "string") uncovered.push(detour);
    else detours.push(detour);
  }
  const asks = detours.filter((d) => d.question !== "none").length;
  if (detours.length > 0)
    covered.push(
      `${detours.length} system calls of its own that fork or may fork lead through new code${asks === 0 ? "" : `, ${asks} of them ask first whether they do`}`,
    );
  uncovered.push(...unclear.slice(0, MOST_TOLD));
  if (unclear.length > MOST_TOLD) uncovered.push(`${unclear.length - MOST_TOLD} more that may be system calls`);
  return detours;
}

const MOST_TOLD = 4;

/** The places for the new code, best first. @param image the plan's, or one that has grown since */
export function coverPlaces(
  plan: ForkCoverPlan,
  options: PlaceOptions,
  image: ElfImage = plan.image,
): { readonly places: readonly Place[]; readonly obstacle: string } {
  return plan.handler === undefined ? placesFor(image, options) : childHandlerPlaces(plan.handler, options, image);
}

/** New code, at its addresses. */
export interface CoverCode {
  readonly bytes: Uint8Array;
  /** Its functions; the guard, whose code is the last, comes first. */
  readonly named: readonly NamedCode[];
  /** What the windows of the system calls become. */
  readonly windows: readonly { readonly at: Vaddr; readonly bytes: Uint8Array }[];
  /** @throws RangeError where there is no such symbol */
  addressOf(symbol: string): Vaddr;
}

/**
 * The new code from `start` on, a multiple of 16; or why it cannot be there.
 * @param child what a child runs first
 */
export function coverCode(plan: ForkCoverPlan, start: Vaddr, child: ChildCode): CoverCode | string {
  const handler = plan.handler && childHandlerUnits(plan.handler, child);
  const detours: Assembler[] = [];
  for (const detour of plan.detours) {
    const code = forkDetourCode(detour);
    if (typeof code === "string") return code;
    detours.push(code);
  }
  const windows = plan.detours.map(forkDetourWindow);
  const linked = link([...(handler?.units ?? []), ...detours, child.code, ...windows], start);
  if ("failed" in linked) return [...linked.failed.values()][0]!;
  const unit = linked.unit(child.code);
  return {
    bytes: linked.bytes,
    named: [
      ...[child.code, ...(handler?.functions ?? [])].map((code) => namedCode(code, linked.unit(code))),
      ...detours.map((code, i) => namedCode(code, linked.unit(code), plan.detours[i]!.isLeaf)),
    ],
    windows: windows.map((window) => ({ at: vaddr(linked.unit(window).start), bytes: linked.unit(window).bytes })),
    addressOf: (symbol) => vaddr(unit.addressOf(symbol)),
  };
}

/** What changes in the input, and what is added to it. @param first see childHandlerChanges */
export function coverChanges(plan: ForkCoverPlan, code: CoverCode, first?: Vaddr): ChildHandlerChanges {
  const windows: Edit[] = code.windows.map(({ at, bytes }) => editAtAddress(plan.image, at, bytes));
  if (plan.handler === undefined) return { edits: windows, tails: new Map(), addedSections: [] };
  const changes = childHandlerChanges(plan.handler, code.addressOf, first);
  return { ...changes, edits: [...changes.edits, ...windows] };
}
