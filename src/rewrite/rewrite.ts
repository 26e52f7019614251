/**
 * The pipeline, from top to bottom: bytes, notes, facts, plan, place, new code, edits, bytes.
 */

import type { Vaddr } from "../address.js";
import { readBuildId } from "../elf/build-id.js";
import { type ElfImage, parseElf } from "../elf/image.js";
import { wayToFork } from "../facts/forks.js";
import { gatherFacts, type ProgramFacts } from "../facts/program.js";
import { hasStackPointer } from "../facts/stack-pointer.js";
import { addTo } from "../grouped.js";
import { writesRedZone } from "../kernel/kernels.js";
import { type Carry, isUntouched, makeOriginal, readCarry } from "../rewritten/carry.js";
import { encodeCertificates } from "../rewritten/certificate.js";
import type { ForkGuardReport, RedZone, RewriteOptions, RewriteReport, RewriteResult } from "../rewritten/contract.js";
import { derivedBuildId } from "../rewritten/derived-build-id.js";
import { encodeMemo } from "../rewritten/memo.js";
import { isContent } from "../sparse-content.js";
import { forms, type ProbeLayout } from "../usdt/forms.js";
import { readUsdtNotes, type UsdtNote } from "../usdt/notes.js";
import { codeFrom, probeInstruction } from "../usdt/sites.js";
import { type Assembly, assemble } from "./assemble.js";
import { certificatesFor } from "./certificates.js";
import { applyEdits, type Edit, editAt, editAtAddress, word } from "./edits.js";
import { farCosts } from "./far-jumps.js";
import {
  type ForkGuardPlan,
  type GuardChanges,
  guardChanges,
  guardedPlaces,
  nop5Before,
  planForkGuard,
  uncoveredWords,
  withForkGuard,
} from "./fork-guard/fork-guard.js";
import { hazardsOf } from "./hazards.js";
import { InputTables } from "./input-tables.js";
import { chooseLayout } from "./layout-choice.js";
import { type AddGuard, type IsOfLibrary, type Located, locate, locateGuarded, withFarJumps } from "./locate.js";
import type { NewCode } from "./new-code.js";
import { changeNotes, movePin, readsBelowStack, stackPin } from "./note-edits.js";
import { probesOf } from "./overlaps.js";
import { type Places, placesFor } from "./place.js";
import { checkPlaced } from "./placed.js";
import { type Plan, planSites, type WantedSite } from "./plan.js";
import { type PlanReport, planReport } from "./plan-report.js";
import type { InPlaceChange, Proposal } from "./proposal.js";
import { redZoneOf } from "./red-zone.js";
import { type Refusal, refuse } from "./refusal.js";
import { refusedPlaces } from "./refused-places.js";
import { type Selection, selectSites } from "./select.js";
import { nothingToDo, reportSite } from "./site-reports.js";
import { symbolEdits } from "./symbols.js";
import { refuseTwoReadings } from "./two-readers.js";
import { trailingBytes } from "./unloaded.js";
import type { UnwindLayout } from "./unwind/layout.js";
import { missingFrames } from "./unwind/missing.js";
import { placesToUnwind, unwindFor, unwindsCalls } from "./unwind/plan.js";
import { formOf } from "./written-form.js";

/**
 * Rewrites a program or library.
 * @throws InputError where the file is damaged or not supported, or the options ask for what does not exist
 */
export function rewrite(image: ElfImage, options: RewriteOptions): RewriteResult & Planned {
  const carry = readCarry(image);
  if (carry === undefined || !isUntouched(image)) return rewriteOriginal(image, options, image.bytes.length);
  // What the file says about itself may be anything. That there is nothing to do shows in what comes out again.
  const original = originalOf(image, carry);
  const { report, content, plan } = rewriteOriginal(original, options, image.bytes.length);
  if (content !== null && isContent(content, image.bytes)) return { report: nothingToDo(report), content: null, plan };
  // Where these options change nothing the original is the output, and not what was made of it before.
  const whole = { size: original.bytes.length, pieces: [{ offset: 0, bytes: original.bytes }] };
  return { report, content: content ?? whole, plan };
}

const originalOf = (image: ElfImage, carry: Carry): ElfImage => parseElf(makeOriginal(image, carry));

/** What was planned, put together when it is asked for. */
interface Planned {
  readonly plan: () => PlanReport;
}

function rewriteOriginal(original: ElfImage, options: RewriteOptions, inputSize: number): RewriteResult & Planned {
  // All that follows works from one image: sections are known by their identity.
  const before = options.newBuildId ? newBuildId(original) : [];
  const image = before.length === 0 ? original : parseElf(applyEdits(original.bytes, before));
  const notes = readUsdtNotes(image);
  const sites = sitesOf(image, notes, options);
  const unasked: Input = { original, image, notes, sites, known: undefined, options, inputSize };
  if (notes.length === 0) return rewriteUnguarded(unasked, null, undefined);
  refuseTwoReadings(original);
  const guard = planForkGuard(image, options, [...sites.keys()]);
  const input: Input = { ...unasked, known: guard.facts && new InputTables(guard.facts) };
  if (guard.cover === undefined)
    return rewriteUnguarded(input, guard.reason, guard.neverForks ? undefined : wayToFork(image), guard.neverForks);
  const guarded = rewriteGuarded(input, guard);
  if (typeof guarded !== "string") return guarded;
  const ways = guard.uncovered.length > 0 ? uncoveredWords(guard.uncovered) : wayToFork(image);
  return rewriteUnguarded(input, guarded, ways);
}

/** What one run works from. */
interface Input {
  readonly original: ElfImage;
  readonly image: ElfImage;
  readonly notes: readonly UsdtNote[];
  /** The notes of each site that is looked at. */
  readonly sites: ReadonlyMap<Vaddr, readonly UsdtNote[]>;
  /** Facts around the sites, where somebody has needed them already. */
  readonly known: InputTables | undefined;
  readonly options: RewriteOptions;
  readonly inputSize: number;
}

/** Which sites are skipped at first sight does not depend on the layout. */
function sitesOf(
  image: ElfImage,
  notes: readonly UsdtNote[],
  options: RewriteOptions,
): ReadonlyMap<Vaddr, readonly UsdtNote[]> {
  const selection = selectSites(image, notes, options, "nop5");
  const byLocation = new Map<Vaddr, UsdtNote[]>();
  for (const note of notes) {
    if (selection.get(note)!.kind === "skipped") continue;
    addTo(byLocation, note.location, note);
  }
  return byLocation;
}

/** Whether any of the sites that are looked at may get this layout. */
function hasCandidates({ image, notes, sites, options }: Input, layout: ProbeLayout): boolean {
  const selection = selectSites(image, notes, options, layout);
  return [...sites.values()].some(([note]) => selection.get(note!)!.kind === "candidate");
}

/**
 * @param reason why there is no fork guard, or null where no kernel needs one
 * @param fork why the process may fork, or undefined
 */
function rewriteUnguarded(
  input: Input,
  reason: string | null,
  fork: string | undefined,
  neverForks = false,
): RewriteResult & Planned {
  const { image, options, notes } = input;
  const layout = chooseLayout(options.layout, options.kernel, fork === undefined);
  const subject = survey(input, layout);
  const located = locatePlan(subject, notes, false, (all) =>
    withFarJumps(all, (plan, farSegments) => {
      const origins = plan.proposals.map((p) => p.window.start);
      const places = (): Places => placesWithUnwind(placesFor(image, { ...options, farSegments }), subject, origins);
      return locate(plan, places, libraryProbes(notes));
    }),
  );
  const forkGuard = reason === null ? null : { installed: false, reason, sites: 0, pages: 0 };
  return finish(input, subject, located, { wayToFork: fork, neverForks, forkGuard, uncovered: [], changes: undefined });
}

/** With the fork guard, or why it is of no use here. */
function rewriteGuarded(input: Input, guard: ForkGuardPlan): (RewriteResult & Planned) | string {
  const { image, options, notes, sites: asked } = input;
  const layout = chooseLayout(options.layout, options.kernel, true);
  const hasChoice = options.layout === "auto" && hasCandidates(input, layout);
  // For probes that are a nop5 already there is no other layout, and a guard that misses some forks is better than
  // none.
  if (hasChoice && guard.uncovered.length > 0) return uncoveredWords(guard.uncovered);
  const subject = survey(input, layout);
  const isAsked = notes.filter((note) => asked.has(note.location));
  const already = nop5Before(image, isAsked, new Set());
  const located = locatePlan(subject, notes, true, (all) =>
    withFarJumps<Located | string>(all, (plan, farSegments) => {
      if (plan.proposals.length === 0 && already.length === 0) return "no probe is or becomes a nop5";
      const places = placesWithUnwind(guardedPlaces(guard, { ...options, farSegments }), subject);
      const addGuard: AddGuard = (place, newCode, placed) =>
        withForkGuard(guard, place, newCode, placed, nop5Before(image, notes, new Set(placed.map((p) => p.site))));
      return locateGuarded(plan, places, addGuard, libraryProbes(notes));
    }),
  );
  if (typeof located === "string") return located;
  const { sites, pages } = located.guard!;
  return finish(input, subject, located, {
    wayToFork: wayToFork(image),
    neverForks: false,
    forkGuard: { installed: true, reason: null, sites, pages },
    uncovered: guard.uncovered,
    changes: guardChanges(guard, located.guard!),
  });
}

/** The providers of glibc, its dynamic loader, and GCC's libraries. */
const libraries = new Set(["libc", "rtld", "libm", "libpthread", "libgcc", "libstdcxx"]);

/** Which sites a library has brought along: by the provider that the first note names. */
function libraryProbes(notes: readonly UsdtNote[]): IsOfLibrary {
  const own = new Set(notes.filter((n) => !libraries.has(n.provider)).map((n) => n.location));
  return (site) => !own.has(site);
}

/** What is known about forks by now. */
interface Forks {
  readonly wayToFork: string | undefined;
  readonly neverForks: boolean;
  readonly forkGuard: ForkGuardReport | null;
  /** The ways to fork that the guard does not see. */
  readonly uncovered: readonly string[];
  readonly changes: GuardChanges | undefined;
}

/** @param origins where new code comes from; undefined where a guard is part of it */
function placesWithUnwind(places: Places, { tables }: Survey, origins?: readonly Vaddr[]): Places {
  if (tables === undefined) return places;
  return { ...places, places: placesToUnwind(places.places, tables.unwind, origins) };
}

function finish(input: Input, subject: Survey, located: Located, forks: Forks): RewriteResult & Planned {
  const { notes, options } = input;
  const { proposals, code, placed } = located;
  const { layout } = subject;
  // Where a guard is, program headers are those that have room for its words.
  const image = forks.changes?.image ?? input.image;
  const chosen = new Map(proposals.flatMap((p) => probesOf(p).map((site) => [site, p] as const)));
  const costs = farCosts(image, proposals);
  const sites = notes.map((note) => reportSite(note, subject, chosen, located, costs.get(note.location) ?? null));
  // A guard is for probes, too, that were a nop5 before and stay what they are.
  const changes = proposals.length > 0 || forks.changes !== undefined;
  const frames = subject.facts?.functions.ehFrame;
  const changedCode = codeEdits(image, subject.facts, proposals, code?.newCode);
  const laid = unwindFor(subject.tables?.unwind, code, changedCode);
  const unwind = typeof laid === "object" ? laid : undefined;
  const unplaced = notes.map((n) => n.location).filter((location) => !placed.has(location));
  const hazards = hazardsOf({
    image,
    layout,
    proposals,
    place: code?.place,
    placed,
    already: bareNop5Sites(image, notes, subject),
    refused: refusedPlaces(image, unplaced),
    wayToFork: forks.wayToFork,
    neverForks: forks.neverForks,
    guard: located.guard,
    noGuard: forks.forkGuard?.reason ?? undefined,
    uncovered: forks.uncovered,
    costs: [...costs.values()],
    missing: missingFrames(laid, code?.newCode.chunks ?? [], frames),
    trailing: trailingBytes(image),
    changes,
  });
  const { forkGuard } = forks;
  const report = (outputSize: number): RewriteReport => ({
    layout,
    inputSize: input.inputSize,
    outputSize,
    sites,
    hazards,
    forkGuard,
  });
  const planOf = (edits: readonly Edit[]) => (): PlanReport => planReport(layout, sites, subject.facts, located, edits);
  if (!changes) return { report: report(image.bytes.length), content: null, plan: planOf([]) };

  const noteChanges = changeNotes(image, notes, placed);
  const assembly: Assembly = {
    edits: [
      ...changedCode,
      ...noteChanges.edits,
      ...movedSymbols(image, located, unwind),
      ...(forks.changes?.edits ?? []),
    ],
    replaced: noteChanges.replaced,
    code,
    ...(unwind && { unwind }),
    ...(forks.changes && { tails: forks.changes.tails, addedSections: forks.changes.addedSections }),
    probeName: (site) => {
      const { provider, name } = notes.find((n) => n.location === site)!;
      return `${provider}.${name}`;
    },
    memo: encodeMemo(options, { layout, sites, hazards, forkGuard }),
    certificates: encodeCertificates(certificatesFor(subject.facts, proposals, code?.newCode)),
    original: input.original.bytes,
  };
  const content = assemble(image, assembly);
  checkPlaced(content, { original: input.original.bytes, image, frames, assembly, layout, sites });
  return { report: report(content.size), content, plan: planOf(assembly.edits) };
}

/** Facts about the sites: the code around them, and whether what lies below rsp there is needed. */
interface Survey {
  readonly layout: ProbeLayout;
  readonly selection: ReadonlyMap<UsdtNote, Selection>;
  readonly facts: ProgramFacts | undefined;
  readonly tables: InputTables | undefined;
  readonly wanted: readonly WantedSite[];
  readonly redZones: ReadonlyMap<Vaddr, RedZone>;
  readonly skipped: ReadonlyMap<Vaddr, readonly Refusal[]>;
}

function survey({ image, notes, sites, known, options }: Input, layout: ProbeLayout): Survey {
  const selection = selectSites(image, notes, options, layout);
  const skipped = new Map<Vaddr, readonly Refusal[]>();
  const redZones = new Map<Vaddr, RedZone>();
  if (sites.size === 0)
    return { layout, selection, facts: undefined, tables: undefined, wanted: [], redZones, skipped };
  const tables = known ?? new InputTables(gatherFacts(image, [...sites.keys()]));
  const { facts } = tables;
  const wanted: WantedSite[] = [];
  for (const [location, own] of sites) {
    const redZone = redZoneOf(facts, location, own);
    redZones.set(location, redZone);
    if (selection.get(own[0]!)!.kind !== "candidate") continue;
    const form = formOf(layout, redZone !== "unused");
    const stackPinned = own.map(stackPin).find((reason) => reason !== undefined);
    if (!hasStackPointer(facts, location))
      skipped.set(location, [
        refuse("stack-pointer", "rsp may be no stack pointer here, and a traced probe writes below it", location),
      ]);
    else if (form.guard && stackPinned !== undefined)
      skipped.set(location, [
        refuse(
          "pinned-stack",
          `bytes below rsp are or may be needed, and a probe that keeps off them lowers rsp: ${stackPinned}`,
          location,
        ),
      ]);
    else
      wanted.push({
        location,
        form,
        unguarded: formOf(layout, false),
        usesRedZone: redZone !== "unused",
        readsBelowStack: own.some(readsBelowStack),
        stackPinned: stackPinned === undefined ? undefined : refuse("pinned-stack", stackPinned, location),
        pinned: own.map(movePin).find((reason) => reason !== undefined),
      });
  }
  return { layout, selection, facts, tables, wanted, redZones, skipped };
}

/** Sites that are a bare nop5 in the input: they are judged like those that this run makes. */
function bareNop5Sites(
  image: ElfImage,
  notes: readonly UsdtNote[],
  { selection, redZones }: Survey,
): { location: Vaddr; redZone: RedZone }[] {
  const bare = notes.filter((n) => {
    if (selection.get(n)!.kind !== "already") return false;
    const code = codeFrom(image, n.location);
    const instruction = code === null ? null : probeInstruction(code);
    return instruction !== null && instruction in forms && writesRedZone(forms[instruction as ProbeLayout].nop);
  });
  return [...new Set(bare.map((n) => n.location))].map((location) => ({
    location,
    redZone: redZones.get(location) ?? "unknown",
  }));
}

/** A plan in its place. Calls move only where it turns out that their return addresses there can be unwound. */
function locatePlan<T extends Located | string>(
  subject: Survey,
  notes: readonly UsdtNote[],
  inNewCode: boolean,
  locateIt: (plan: Plan) => T,
): T {
  const tables = subject.tables?.unwind;
  const isUnwindable = unwindsCalls(tables);
  const located = locateIt(planFor(subject, notes, inNewCode, isUnwindable));
  if (!isUnwindable || typeof located === "string") return located;
  const movesCalls = located.proposals.some((p) => p.tactic === "displace-call");
  if (!movesCalls || typeof unwindFor(tables, located.code, []) === "object") return located;
  return locateIt(planFor(subject, notes, inNewCode, false));
}

function planFor(
  { tables, wanted, skipped }: Survey,
  notes: readonly UsdtNote[],
  inNewCode: boolean,
  unwindable: boolean,
): Plan {
  if (tables === undefined || wanted.length === 0)
    return { proposals: [], skipped, withoutFar: new Map(), trials: new Map() };
  const plan = planSites(tables, wanted, new Set(notes.map((n) => n.location)), inNewCode, unwindable);
  return { ...plan, skipped: new Map([...skipped, ...plan.skipped]) };
}

const growthsOf = (proposals: readonly Proposal[]): NonNullable<InPlaceChange["growth"]>[] =>
  proposals.flatMap(({ change }) => (change.kind === "in-place" && change.growth !== undefined ? [change.growth] : []));

/** The windows, the branches that lead to new code now, and the ends of functions that grew. */
function codeEdits(
  image: ElfImage,
  facts: ProgramFacts | undefined,
  proposals: readonly Proposal[],
  newCode: NewCode | undefined,
): Edit[] {
  const edits: Edit[] = [];
  for (const { change, window } of proposals)
    if (change.kind === "in-place") edits.push(editAtAddress(image, window.start, change.bytes));
  for (const { changes } of newCode?.chunks ?? [])
    for (const { at, bytes } of changes) edits.push(editAtAddress(image, at, bytes));
  for (const { range, end } of growthsOf(proposals)) {
    const offset = facts?.functions.fde(range)?.rangeOffset;
    if (offset !== undefined) edits.push(editAt(image, offset, word(end - range.start, 4)));
  }
  return edits;
}

function movedSymbols(image: ElfImage, { code, proposals }: Located, unwind: UnwindLayout | undefined): Edit[] {
  const moved = code?.place.kind === "new segment" ? code.place.growth.moved : [];
  const tables = (unwind?.sections ?? []).filter(({ hasMoved }) => hasMoved);
  return symbolEdits(image, [...moved, ...tables], growthsOf(proposals));
}

/** With --new-build-id. */
function newBuildId(image: ElfImage): Edit[] {
  const id = readBuildId(image);
  return id === null ? [] : [editAt(image, id.offset, derivedBuildId(id))];
}
