/**
 * What is known of each site before anything is planned: whether it is asked for, whether what lies below rsp there is
 * needed, and so which form its probe gets; or why it can have none.
 */
import type { Vaddr } from "../address.js";
import { FlagFacts } from "../facts/flags.js";
import { StackFacts } from "../facts/stack.js";
import { hasStackPointer } from "../facts/stack-pointer.js";
import { writesRedZone } from "../kernel/kernels.js";
import type { RedZone } from "../rewritten/contract.js";
import { type FileLayout, forms, type ProbeLayout } from "../usdt/forms.js";
import type { UsdtNote } from "../usdt/notes.js";
import { codeFrom, probeInstruction } from "../usdt/sites.js";
import { MOST_OF_ONE_NAME } from "./apart.js";
import type { Course } from "./course.js";
import type { InputTables } from "./input-tables.js";
import { canGrow, movePin, readsBelowStack, stackPin } from "./note-edits.js";
import type { WantedSite } from "./plan.js";
import type { Program } from "./program.js";
import { redZoneOf } from "./red-zone.js";
import { Refusal, refuse } from "./refusal.js";
import type { Selection } from "./select.js";
import { universalForm } from "./universal-form.js";
import { formOf, isUniversal, type WrittenForm } from "./written-form.js";

export interface Survey {
  readonly layout: FileLayout;
  readonly selection: ReadonlyMap<UsdtNote, Selection>;
  /** The sites to plan for. */
  readonly wanted: readonly WantedSite[];
  /** What those of them get that find no place as they are, where the options leave the choice. */
  readonly plainer: readonly WantedSite[];
  /** Why others are something plainer already. */
  readonly notUniversal: ReadonlyMap<Vaddr, Refusal>;
  readonly redZones: ReadonlyMap<Vaddr, RedZone>;
  /** Why others can have no such probe. */
  readonly skipped: ReadonlyMap<Vaddr, readonly Refusal[]>;
}

/** @throws InputError where tables of the file are damaged */
export function surveySites(program: Program, course: Course): Survey {
  const { layout } = course;
  const selection = program.selection(layout);
  const skipped = new Map<Vaddr, readonly Refusal[]>();
  const redZones = new Map<Vaddr, RedZone>();
  const wanted: WantedSite[] = [];
  const plainer: WantedSite[] = [];
  const notUniversal = new Map<Vaddr, Refusal>();
  const { tables } = program;
  if (tables === undefined) return { layout, selection, wanted, plainer, notUniversal, redZones, skipped };
  const stack = new StackFacts(tables.facts);
  const flags = new FlagFacts(tables.facts);
  for (const [location, notes] of program.sites) {
    const redZone = redZoneOf(stack, location, notes);
    redZones.set(location, redZone);
    if (selection.get(notes[0]!)!.kind !== "candidate") continue;
    const usesRedZone = redZone !== "unused";
    const siteAs = (chosen: FileLayout): WantedSite | Refusal =>
      chosen === "universal"
        ? universalSite(program, flags, location, notes, course, usesRedZone)
        : wantedSite(tables, location, notes, usesRedZone, (guard) => formOf(chosen, guard));
    const plain = layout === "universal" && program.options.layout === "auto" ? siteAs("nop,nop10") : undefined;
    let site = siteAs(layout);
    if (site instanceof Refusal && plain !== undefined) {
      if (!(plain instanceof Refusal)) notUniversal.set(location, site);
      site = plain;
    } else if (plain !== undefined && !(plain instanceof Refusal)) plainer.push(plain);
    if (site instanceof Refusal) skipped.set(location, [site]);
    else wanted.push(site);
  }
  return { layout, selection, wanted, plainer, notUniversal, redZones, skipped };
}

function universalSite(
  { tables, names }: Program,
  flags: FlagFacts,
  location: Vaddr,
  notes: readonly UsdtNote[],
  { selector }: Course,
  usesRedZone: boolean,
): WantedSite | Refusal {
  if (typeof selector !== "object") return refuse("no-selector", selector ?? "there is no selector");
  if (!notes.every(canGrow))
    return refuse("no-twin", "its note is loaded, and no second one has room beside it", location);
  if (!names.areFew(location))
    return refuse("no-twin", `its name has more than ${MOST_OF_ONE_NAME} places, too many to double`, location);
  const keepsFlags = !flags.deadAt(location).dead;
  return wantedSite(tables!, location, notes, usesRedZone, (guard) =>
    universalForm(selector.selector, guard, keepsFlags),
  );
}

function wantedSite(
  { facts }: InputTables,
  location: Vaddr,
  notes: readonly UsdtNote[],
  usesRedZone: boolean,
  as: (guard: boolean) => WrittenForm,
): WantedSite | Refusal {
  if (!hasStackPointer(facts, location))
    return refuse("stack-pointer", "rsp may be no stack pointer here, and a traced probe writes below it", location);
  const form = as(usesRedZone);
  const stackPinned = notes.map(stackPin).find((reason) => reason !== undefined);
  const lowersStack = form.guard || (isUniversal(form) && form.keepsFlags);
  if (lowersStack && stackPinned !== undefined)
    return refuse(
      "pinned-stack",
      `bytes below rsp are or may be needed, and a probe that keeps off them lowers rsp: ${stackPinned}`,
      location,
    );
  return {
    location,
    form,
    unguarded: as(false),
    usesRedZone,
    readsBelowStack: notes.some(readsBelowStack),
    stackPinned: stackPinned === undefined ? undefined : refuse("pinned-stack", stackPinned, location),
    pinned: notes.map(movePin).find((reason) => reason !== undefined),
  };
}

/** Sites that are a bare nop5 in the input: they are judged like those that this run makes. */
export function bareNop5Sites(
  { image, notes }: Program,
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
