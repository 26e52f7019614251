/**
 * The pipeline, from top to bottom: bytes, notes, facts, plan, place, new code, edits, bytes.
 */
import { createHash } from "node:crypto";
import { type Vaddr, vaddr } from "../address.js";
import { readBuildId } from "../elf/build-id.js";
import { type ElfImage, parseElf } from "../elf/image.js";
import { InputError } from "../errors.js";
import { gatherFacts, type ProgramFacts } from "../facts/program.js";
import { parseArguments, usesRegister } from "../usdt/arguments.js";
import { readUsdtNotes, type UsdtNote } from "../usdt/notes.js";
import { assemble, trailingBytes } from "./assemble.js";
import { followRecipe, isUntouched, readCarry } from "./carry.js";
import type { Hazard, RewriteOptions, RewriteReport, RewriteResult, SiteReport } from "./contract.js";
import { applyEdits, type Edit, editAt, editAtAddress, word } from "./edits.js";
import { hazardsOf } from "./hazards.js";
import { decodeMemo, encodeMemo, sameOptions } from "./memo.js";
import { encodeDetours, type NewCode } from "./new-code.js";
import { changeNotes, movableArguments } from "./note-edits.js";
import { type Place, placesFor } from "./place.js";
import { type Plan, planSites, probesOf, type WantedSite } from "./plan.js";
import type { InPlaceChange, Proposal } from "./proposal.js";
import { type Selection, selectSites } from "./select.js";
import { symbolEdits } from "./symbols.js";

/**
 * Rewrites a program or library.
 * @throws InputError where the file is damaged or not supported, or the options ask for what does not exist
 */
export function rewrite(image: ElfImage, options: RewriteOptions): RewriteResult {
  if (options.layout !== "nop5" && !(options.layout === "auto" && options.kernel === "6.18"))
    throw new InputError(
      `--layout ${options.layout} with --kernel ${options.kernel} is not supported yet; --layout nop5 is`,
    );
  const carry = readCarry(image);
  if (carry === undefined || !isUntouched(image)) return rewriteOriginal(image, options, image.bytes.length);
  const memo = decodeMemo(carry.memo);
  if (memo !== undefined && sameOptions(memo.options, options)) return nothingToDo(image, memo.sites);
  return rewriteOriginal(parseElf(followRecipe(image, carry)), options, image.bytes.length);
}

function rewriteOriginal(image: ElfImage, options: RewriteOptions, inputSize: number): RewriteResult {
  const notes = readUsdtNotes(image);
  const selection = selectSites(image, notes, options);
  const wanted = wantedSites(notes, selection);
  const plan =
    wanted.length === 0 ? { proposals: [], skipped: new Map<Vaddr, string>() } : planFor(image, notes, wanted);
  const located = locate(image, plan, options);
  const { proposals, code } = located;
  const moved = newLocations(proposals, code?.newCode);
  const chosen = new Map(proposals.flatMap((p) => probesOf(p).map((site) => [site, p] as const)));
  const sites = notes.map((note) => reportSite(note, selection.get(note)!, chosen, moved, located.skipped));
  const hazards = hazardsOf({ image, proposals, place: code?.place, moved, trailing: trailingBytes(image) });
  const report = (outputSize: number, all: readonly Hazard[]): RewriteReport => ({
    layout: "nop5",
    inputSize,
    outputSize,
    sites,
    hazards: all,
  });
  if (proposals.length === 0) return { report: report(image.bytes.length, hazards), content: null };

  const before = options.newBuildId ? newBuildId(image) : [];
  const base = before.length === 0 ? image : parseElf(applyEdits(image.bytes, before));
  const noteChanges = changeNotes(base, notes, moved);
  const content = assemble(base, {
    edits: [
      ...codeEdits(base, located.facts, proposals, code?.newCode),
      ...noteChanges.edits,
      ...movedSymbols(base, located),
    ],
    replaced: noteChanges.replaced,
    code,
    probeName: (site) => {
      const { provider, name } = notes.find((n) => n.location === site)!;
      return `${provider}.${name}`;
    },
    memo: encodeMemo(options, sites),
    before,
    originalHash: createHash("sha256").update(image.bytes).digest(),
  });
  return { report: report(content.size, hazards), content };
}

/** The sites to plan: one for each address that a candidate's note names. */
function wantedSites(notes: readonly UsdtNote[], selection: ReadonlyMap<UsdtNote, Selection>): WantedSite[] {
  const byLocation = new Map<Vaddr, WantedSite>();
  for (const note of notes) {
    if (selection.get(note)!.kind !== "candidate") continue;
    const known = byLocation.get(note.location);
    byLocation.set(note.location, {
      location: note.location,
      readsStackPointer:
        (known?.readsStackPointer ?? false) ||
        parseArguments(note.argumentText).arguments.some((a) => a.kind === "unknown" || usesRegister(a, "rsp")),
      pinned: known?.pinned ?? movableArguments(note),
    });
  }
  return [...byLocation.values()];
}

function planFor(
  image: ElfImage,
  notes: readonly UsdtNote[],
  wanted: readonly WantedSite[],
): Plan & { facts: ProgramFacts } {
  const facts = gatherFacts(
    image,
    wanted.map((w) => w.location),
  );
  return { ...planSites(facts, wanted, new Set(notes.map((n) => n.location))), facts };
}

/** A plan whose new code has addresses. */
interface Located {
  readonly facts: ProgramFacts | undefined;
  readonly proposals: readonly Proposal[];
  readonly code: { readonly place: Place; readonly newCode: NewCode } | undefined;
  readonly skipped: ReadonlyMap<Vaddr, string>;
}

/** Finds the best place that holds all new code, and encodes it there. */
function locate(image: ElfImage, plan: Plan & { facts?: ProgramFacts }, options: RewriteOptions): Located {
  const { facts, proposals } = plan;
  const skipped = new Map(plan.skipped);
  const detours = proposals.filter((p) => p.change.kind === "detour");
  if (detours.length === 0) return { facts, proposals, code: undefined, skipped };
  const { places, obstacle } = placesFor(image, options.tableAtEnd);
  for (const place of places) {
    const newCode = encodeDetours(detours, place.start);
    if (newCode.bytes.length > place.capacity) continue;
    for (const [proposal, reason] of newCode.failed) for (const site of probesOf(proposal)) skipped.set(site, reason);
    const encoded = proposals.filter((p) => !newCode.failed.has(p));
    const code = newCode.chunks.length === 0 ? undefined : { place, newCode };
    return { facts, proposals: encoded, code, skipped };
  }
  for (const proposal of detours) for (const site of probesOf(proposal)) skipped.set(site, obstacle);
  return { facts, proposals: proposals.filter((p) => p.change.kind === "in-place"), code: undefined, skipped };
}

/** Where each rewritten probe is now, by where it was. */
function newLocations(proposals: readonly Proposal[], newCode: NewCode | undefined): ReadonlyMap<Vaddr, Vaddr> {
  const moved = new Map<Vaddr, Vaddr>();
  for (const { change } of proposals)
    if (change.kind === "in-place") for (const { site, location } of change.probes) moved.set(site, location);
  for (const chunk of newCode?.chunks ?? []) for (const { site, location } of chunk.probes) moved.set(site, location);
  return moved;
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
  for (const { proposal, window, retargets } of newCode?.chunks ?? []) {
    edits.push(editAtAddress(image, proposal.window.start, window));
    for (const { branchEnd, distance } of retargets)
      edits.push(editAtAddress(image, vaddr(branchEnd - 4), word(distance, 4)));
  }
  for (const { range, end } of growthsOf(proposals)) {
    const offset = facts?.functions.fde(range)?.rangeOffset;
    if (offset !== undefined) edits.push(editAt(image, offset, word(end - range.start, 4)));
  }
  return edits;
}

const movedSymbols = (image: ElfImage, { code, proposals }: Located): Edit[] =>
  symbolEdits(image, code?.place.kind === "new segment" ? code.place.growth.moved : [], growthsOf(proposals));

/** A build-id that depends on the old one and on nothing else, so that it is the same on every machine. */
function newBuildId(image: ElfImage): Edit[] {
  const id = readBuildId(image);
  if (id === null) return [];
  const derived = createHash("sha512").update("usdt-nop5\0").update(id.text).digest();
  return [editAt(image, id.offset, derived.subarray(0, Math.min(id.size, derived.length)))];
}

function reportSite(
  note: UsdtNote,
  selected: Selection,
  chosen: ReadonlyMap<Vaddr, Proposal>,
  moved: ReadonlyMap<Vaddr, Vaddr>,
  skipped: ReadonlyMap<Vaddr, string>,
): SiteReport {
  const { provider, name, location } = note;
  const common = { provider, name, location, redZone: "unknown", guard: false } as const;
  const to = moved.get(location);
  if (selected.kind === "candidate" && to !== undefined) {
    const { tactic, displaced } = chosen.get(location)!;
    return { ...common, newLocation: to, status: "rewritten", tactic, reason: null, displaced };
  }
  const unchanged = { ...common, newLocation: location, tactic: null, displaced: [] };
  if (selected.kind === "already") return { ...unchanged, status: "already", reason: null };
  const reason = selected.kind === "skipped" ? selected.reason : (skipped.get(location) ?? "no tactic fits");
  return { ...unchanged, status: "skipped", reason };
}

/** The file is what these options make of it already. */
function nothingToDo(image: ElfImage, sites: readonly SiteMemo[]): RewriteResult {
  const size = image.bytes.length;
  return {
    report: {
      layout: "nop5",
      inputSize: size,
      outputSize: size,
      hazards: [],
      sites: sites.map(({ provider, name, newLocation, reason }) => ({
        provider,
        name,
        location: newLocation,
        newLocation,
        status: reason === null ? "already" : "skipped",
        tactic: null,
        redZone: "unknown",
        guard: false,
        reason,
        displaced: [],
      })),
    },
    content: null,
  };
}

type SiteMemo = NonNullable<ReturnType<typeof decodeMemo>>["sites"][number];
