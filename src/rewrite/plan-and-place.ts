/**
 * A plan, and the place for its new code. The two depend on each other: far jumps take program headers, of which there
 * may be no more, and calls move only where it turns out that their return addresses in new code can be unwound. What
 * finds no place is left out, and said so; what cannot be unwound is planned again.
 */
import type { Vaddr } from "../address.js";
import type { Course } from "./course.js";
import { guardedPlaces, NO_NOP5 } from "./fork-guard/fork-guard.js";
import { type Load, type Located, locate, withFarJumps } from "./locate.js";
import { type Places, placesFor } from "./place.js";
import { type Plan, planSites, type WantedSite } from "./plan.js";
import type { Program } from "./program.js";
import type { Proposal } from "./proposal.js";
import { refuse } from "./refusal.js";
import type { Survey } from "./survey.js";
import { placesToUnwind, unwindFor, unwindsCalls } from "./unwind/plan.js";
import { isUniversal } from "./written-form.js";

/** What is done for each probe, in its place; or why the course is of no use. */
export function planAndPlace(program: Program, course: Course, survey: Survey): Located | string {
  const located = placed(program, course, survey);
  if (typeof located === "string") return located;
  // A universal probe that has found no place may be something plainer.
  const lost = new Map(
    survey.plainer.filter((w) => !located.placed.has(w.location)).map((w) => [w.location, w] as const),
  );
  if (lost.size === 0) return { ...located, notUniversal: survey.notUniversal };
  const lower = (w: WantedSite): WantedSite => lost.get(w.location) ?? w;
  const notUniversal = new Map([...survey.notUniversal, ...[...lost.keys()].map(reasonIn(located))]);
  const plainer = survey.plainer.filter((w) => !lost.has(w.location));
  return planAndPlace(program, course, { ...survey, wanted: survey.wanted.map(lower), plainer, notUniversal });
}

const reasonIn =
  ({ skipped }: Located) =>
  (location: Vaddr) =>
    [location, skipped.get(location)?.[0] ?? refuse("no-place", "it has no place", location)] as const;

function placed(program: Program, course: Course, survey: Survey): Located | string {
  const unwind = program.tables?.unwind;
  const isUnwindable = unwindsCalls(unwind);
  const located = place(program, course, plan(program, course, survey, isUnwindable));
  if (!isUnwindable || typeof located === "string") return located;
  const movesCalls = located.proposals.some((p) => p.tactic === "displace-call");
  if (!movesCalls || typeof unwindFor(unwind, located.code, []) === "object") return located;
  return place(program, course, plan(program, course, survey, false));
}

function plan({ tables, notes }: Program, { guard }: Course, survey: Survey, isUnwindable: boolean): Plan {
  const { wanted, skipped } = survey;
  if (tables === undefined || wanted.length === 0)
    return { proposals: [], skipped, withoutFar: new Map(), trials: new Map() };
  const sites = new Set(notes.map((n) => n.location));
  const planned = planSites(tables, wanted, sites, guard !== undefined, isUnwindable);
  return { ...planned, skipped: new Map([...skipped, ...planned.skipped]) };
}

function place(program: Program, course: Course, planned: Plan): Located | string {
  const { guard, selector } = course;
  const { ofLibraries, names } = program;
  const load: Load = {
    plan: planned,
    guard,
    selector: typeof selector === "object" ? selector : undefined,
    hasChoice: program.options.layout === "auto",
    ofLibraries,
    names,
  };
  const located = withFarJumps(planned, (kept, farSegments) => {
    if (guard !== undefined && kept.proposals.length === 0 && !program.hasNop5) return NO_NOP5;
    return locate({ ...load, plan: kept }, () => placesOf(program, course, kept, farSegments));
  });
  if (typeof located === "string" || load.selector === undefined || located.selector !== undefined) return located;
  // No probe asks the selector: then there is none, and the file has no room for it.
  return place(program, { ...course, selector: undefined }, withoutUniversal(planned, located));
}

/** What is left of a plan when no universal probe of it has a place. */
function withoutUniversal(planned: Plan, { skipped }: Located): Plan {
  const asks = ({ change }: Proposal): boolean =>
    change.kind === "detour" && change.body.some((f) => f.kind === "probe" && isUniversal(f.form));
  return { ...planned, proposals: planned.proposals.filter((p) => !asks(p)), skipped };
}

/** Where new code can go, best first: with unwind information beside it, where there is any to write. */
function placesOf(program: Program, { guard, selector }: Course, kept: Plan, farSegments: number): Places {
  const { options, tables } = program;
  const image = typeof selector === "object" ? selector.image : program.image;
  const wanted = { ...options, farSegments };
  const found =
    guard === undefined
      ? placesFor(image, wanted)
      : guardedPlaces(guard, wanted, typeof selector === "object" ? image : undefined);
  if (tables === undefined) return found;
  // A guard comes from nowhere in the input.
  const origins: readonly Vaddr[] | undefined =
    guard === undefined ? kept.proposals.map((p) => p.window.start) : undefined;
  return { ...found, places: placesToUnwind(found.places, tables.unwind, origins) };
}
