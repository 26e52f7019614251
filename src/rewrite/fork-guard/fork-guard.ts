/**
 * The fork guard as part of a rewrite: whether a file gets one, and what it adds.
 *
 * On some kernels (`killsForkedChildren`) a forked child dies at a nop5 that its parent ran while traced. The guard is
 * code that runs in a child and looks at every nop5 site of the file, those too that stood there before.
 *
 *     handler    what runs before a fork and after it: child-guard.ts, held-signals.ts
 *     install    how it gets to be run: fork-cover.ts
 *
 * All of it is in this folder, and the rest of the rewrite knows this file alone: when no kernel is left that needs a
 * guard, the folder can go.
 *
 * Each page with sites costs every fork a page fault. So a guarded file has its sites in new code, one after the other,
 * wherever they can move there: the plan is told so, and leaves in place what can be nowhere else.
 *
 * The kernel looks for breakpoints again where a mapping is split, and a mapping of one page cannot be: new code is
 * made large enough for two pages. Sites in a segment of one page stay safe and are not counted in a child that was
 * forked while they were traced; the report says how many.
 */

import { alignUp, hex, PAGE_SIZE, pageStart, type Vaddr, vaddr } from "../../address.js";
import * as elf from "../../elf/constants.js";
import { forEachRelocation, readDynamicTags, startsProcesses } from "../../elf/dynamic.js";
import { type ElfImage, type ProgramHeader, segmentAt } from "../../elf/image.js";
import type { FileFacts } from "../../facts/file-facts.js";
import type { ProgramFacts } from "../../facts/program.js";
import { addTo } from "../../grouped.js";
import type { RewriteOptions } from "../../rewritten/contract.js";
import type { UsdtNote } from "../../usdt/notes.js";
import { codeFrom, probeInstruction } from "../../usdt/sites.js";
import { INT3 } from "../../x86/bytes.js";
import { chooseLayout, kernelsAsked } from "../layout-choice.js";
import type { NewCode } from "../new-code.js";
import type { Place, PlaceOptions, Places } from "../place.js";
import type { PlacedProbe } from "../proposal.js";
import { isUniversal, makesNop5 } from "../written-form.js";
import { type ChildGuard, childGuard } from "./handler/child-guard.js";
import type { GuardedMapping } from "./handler/guarded-pages.js";
import type { SignalSlots } from "./handler/signal-slots.js";
import type { ChildHandlerChanges } from "./install/child-handler.js";
import {
  type CoverCode,
  coverChanges,
  coverCode,
  coverPlaces,
  type ForkCoverPlan,
  type ForkSearch,
  forkCover,
  searchForks,
} from "./install/fork-cover.js";
import { FORK_GUARD } from "./install/fork-handlers.js";
import { INIT } from "./install/stubs.js";

/** Whether a kernel that the file is for turns the nop that it gets into a call, and forgets to tell children. */
function needsGuard({ kernel, layout }: RewriteOptions): boolean {
  const chosen = chooseLayout(layout, kernel, true);
  return makesNop5(chosen) && kernelsAsked(kernel).some((k) => k.killsForkedChildren);
}

/** How a file may fork, where a guard is asked for; else why none is. */
export interface GuardSearch {
  readonly forks: ForkSearch | undefined;
  /** Why no guard is asked for; null where no kernel that the options name needs one, or where one is asked for. */
  readonly reason: string | null;
  /** Places around which facts are needed before there can be a plan. */
  readonly places: readonly Vaddr[];
}

/** @throws InputError where the file's dynamic tables are damaged */
export function searchForGuard(file: FileFacts, options: RewriteOptions): GuardSearch {
  const isNeeded = needsGuard(options);
  if (!isNeeded || !options.forkGuard)
    return { forks: undefined, reason: isNeeded ? "--no-fork-guard leaves it out" : null, places: [] };
  const forks = searchForks(file);
  return { forks, reason: null, places: forks.places };
}

/** A guard, and the probes that it is for. */
export interface ForkGuardPlan {
  readonly cover: ForkCoverPlan;
  /** The ways to fork that the guard does not see, in words for people. */
  readonly uncovered: readonly string[];
  /** The input, and what its notes say: a guard is for probes, too, that are a nop5 before. */
  readonly input: ElfImage;
  readonly notes: readonly UsdtNote[];
}

/** No guard. */
interface NoForkGuard {
  readonly cover: undefined;
  /** Why, in words for people, or null where no kernel that the options name needs one. */
  readonly reason: string | null;
  /** It is known that the process never forks. */
  readonly neverForks: boolean;
}

/**
 * @param facts gathered around the places of the search, and maybe others; undefined where it has none
 * @throws InputError where the file's dynamic tables are damaged
 */
export function planForkGuard(
  { forks, reason }: GuardSearch,
  notes: readonly UsdtNote[],
  facts: ProgramFacts | undefined,
): ForkGuardPlan | NoForkGuard {
  if (forks === undefined) return { cover: undefined, reason, neverForks: false };
  const { plan, obstacle, uncovered } = forkCover(forks, facts);
  if (obstacle !== undefined) return { cover: undefined, reason: obstacle, neverForks: false };
  if (plan === undefined) return { cover: undefined, reason: "the program never forks", neverForks: true };
  return { cover: plan, uncovered, input: forks.image, notes };
}

/** Why a guard is of no use that would have nothing to look at. */
export const NO_NOP5 = "no probe is or becomes a nop5";

export const uncoveredWords = (ways: readonly string[]): string =>
  `it may fork in ways that no guard sees: ${ways.join("; ")}`;

/** The input as it is with a guard, to whoever has code called at its start as well. */
interface GuardedStart {
  /** It has room for the guard's words. */
  readonly image: ElfImage;
  /** Whether the guard's code is called at the start of a library, before all others. */
  readonly callsFirst: boolean;
}

export const guardedStart = ({ cover }: ForkGuardPlan): GuardedStart => ({
  image: cover.image,
  callsFirst: cover.handler !== undefined && !startsProcesses(cover.image),
});

/** What a guard has called at the start of a library; nothing else of the process depends on what runs before it. */
export const guardInit = ({ code }: ForkGuard): Vaddr => code.addressOf(INIT);

/**
 * The places for new code with a guard: those in segments of two pages or more first.
 * @param image the input with room for the guard's words, and maybe for others
 */
export function guardedPlaces({ cover }: ForkGuardPlan, options: PlaceOptions, image: ElfImage = cover.image): Places {
  const { places, obstacle } = coverPlaces(cover, options, image);
  const isSingle = (p: Place): boolean => p.kind === "rest of page" && isSinglePage(p.segment);
  return { places: [...places.filter((p) => !isSingle(p)), ...places.filter(isSingle)], obstacle };
}

/** What changes in the input by the guard, and the input as program headers are to see it. */
export type GuardChanges = { readonly image: ElfImage } & ChildHandlerChanges;

/** @param first new code that a library's start leads to instead, and that goes on to `guardInit` */
export const guardChanges = ({ cover }: ForkGuardPlan, { code }: ForkGuard, first?: Vaddr): GuardChanges => ({
  image: cover.image,
  ...coverChanges(cover, code, first),
});

/** What a rewrite gained by its guard. */
export interface ForkGuard {
  readonly sites: number;
  /** Pages that every forked child looks at, the guard's own apart. */
  readonly pages: number;
  /** Sites in a mapping of one page. */
  readonly uncounted: readonly Vaddr[];
  readonly code: CoverCode;
}

interface GuardedCode {
  readonly newCode: NewCode;
  readonly guard: ForkGuard;
}

/** Addresses of the bytes `0f 1f 44 00 00` of a rewritten probe. */
function nop5Of({ location, form, twin }: PlacedProbe): readonly Vaddr[] {
  if (isUniversal(form)) return twin === undefined ? [] : [twin.location];
  return form.nop === "nop5" ? [vaddr(location + form.patched.offset)] : [];
}

/** Sites that are a canonical nop5 in the input and are not among those that this run moves. */
export function nop5Before(
  image: ElfImage,
  notes: readonly UsdtNote[],
  placed: { has(site: Vaddr): boolean },
): readonly Vaddr[] {
  const found = new Set<Vaddr>();
  for (const { location } of notes) {
    if (placed.has(location)) continue;
    const code = codeFrom(image, location);
    const instruction = code === null ? null : probeInstruction(code);
    if (instruction === "nop5") found.add(location);
    if (instruction === "nop,nop5") found.add(vaddr(location + 1));
  }
  return [...found].filter(isInOnePage);
}

/** No kernel patches a nop5 that reaches into the next page. */
const isInOnePage = (site: Vaddr): boolean => (site % PAGE_SIZE) + 5 <= PAGE_SIZE;

/**
 * New code with the guard after it, for the rewritten probes and for those that were a nop5 before; or why it cannot be
 * there.
 * @param selector the guard asks it first, where all of its sites are second places of universal probes
 */
export function withForkGuard(
  { cover, input, notes }: ForkGuardPlan,
  place: Place,
  newCode: NewCode,
  placed: ReadonlyMap<Vaddr, PlacedProbe>,
  selector: Vaddr | undefined,
): GuardedCode | string {
  const before = nop5Before(input, notes, placed);
  const sites = [...[...placed.values()].flatMap(nop5Of).filter(isInOnePage), ...before];
  if (sites.length === 0) return NO_NOP5;
  // Sites that stood before run whatever it says.
  const isAsked =
    before.length === 0 && [...placed.values()].every((p) => isUniversal(p.form) || nop5Of(p).length === 0);
  const mappings = mappingsOf(cover.image, place, sites);
  const start = vaddr(alignUp(newCode.start + newCode.bytes.length, 16));
  const guard = guardFor(mappings, cover.handler?.slots, isAsked ? selector : undefined);
  if (typeof guard === "string") return guard;
  const code = coverCode(cover, start, guard);
  if (typeof code === "string") return code;
  const end = start + code.bytes.length;
  // A segment of two pages: see above. Without probes in it one will do.
  const hasProbes = place.kind === "new segment" && newCode.chunks.length > 0;
  const whole = hasProbes ? Math.max(end, place.p_vaddr + PAGE_SIZE + 1) : end;
  if (whole - place.start > place.capacity) return "there is no room for the fork guard";
  const bytes = new Uint8Array(whole - newCode.start).fill(INT3);
  bytes.set(newCode.bytes);
  bytes.set(code.bytes, start - newCode.start);
  const uncountedSites = uncounted(cover.image, place, sites);
  return {
    newCode: { ...newCode, bytes, named: [...newCode.named, ...code.named] },
    guard: { sites: sites.length, pages: guard.pageCount, uncounted: uncountedSites, code },
  };
}

/** The guard for these sites, or why there can be none. */
function guardFor(
  mappings: readonly GuardedMapping[],
  slots: SignalSlots | undefined,
  selector: Vaddr | undefined,
): ChildGuard | string {
  try {
    return childGuard(FORK_GUARD, mappings, slots, selector);
  } catch (error) {
    if (error instanceof RangeError) return error.message;
    throw error;
  }
}

const isSinglePage = ({ p_vaddr, p_memsz }: ProgramHeader): boolean => (p_vaddr % PAGE_SIZE) + p_memsz <= PAGE_SIZE;

/** Sites in mappings that have one page and so cannot be split. New code has two. */
function uncounted(image: ElfImage, place: Place, sites: readonly Vaddr[]): Vaddr[] {
  return sites.filter((site) => {
    const segment = segmentOf(image, place, site);
    return segment !== undefined && isSinglePage(segment);
  });
}

/** The input's segment of a site, or undefined for one in a new segment. */
function segmentOf(image: ElfImage, place: Place, site: Vaddr): ProgramHeader | undefined {
  return segmentAt(image, site) ?? (place.kind === "rest of page" && site >= place.start ? place.segment : undefined);
}

function mappingsOf(image: ElfImage, place: Place, sites: readonly Vaddr[]): GuardedMapping[] {
  const bySegment = new Map<unknown, Vaddr[]>();
  for (const site of sites) {
    const segment = segmentOf(image, place, site);
    addTo(bySegment, segment, site);
  }
  const privatePages = pagesThatDiffer(image, sites);
  return [...bySegment.values()].map((own) => ({ sites: own, privatePages }));
}

/** Pages with sites whose bytes in memory are not those of the file: they have relocations, or can be written. */
function pagesThatDiffer(image: ElfImage, sites: readonly Vaddr[]): ReadonlySet<Vaddr> {
  const pages = new Set(sites.map(pageStart));
  const differing = new Set<Vaddr>();
  for (const page of pages) {
    const segment = image.programHeaders.find(
      (p) => p.p_type === elf.PT_LOAD && (p.p_flags & elf.PF_W) !== 0 && p.p_vaddr < page + PAGE_SIZE,
    );
    if (segment !== undefined && segment.p_vaddr + segment.p_memsz > page) differing.add(page);
  }
  if (!writesToCode(image)) return differing;
  const mark = (address: number): void => {
    const page = vaddr(pageStart(address));
    if (pages.has(page)) differing.add(page);
  };
  forEachRelocation(image, (place) => {
    mark(place);
    mark(place + 7);
  });
  return differing;
}

/** Whether relocations may write to segments that are not writable. */
function writesToCode(image: ElfImage): boolean {
  return readDynamicTags(image).some(
    ({ d_tag, d_val }) => d_tag === elf.DT_TEXTREL || (d_tag === elf.DT_FLAGS && (d_val & elf.DF_TEXTREL) !== 0),
  );
}

/** For a report: some addresses, and how many more. */
export const someOf = (addresses: readonly Vaddr[]): string =>
  addresses.slice(0, 4).map(hex).join(", ") + (addresses.length > 4 ? ", ..." : "");
