/**
 * What is said of a rewrite: what became of each probe, what the user should know, and what became of the fork guard.
 */
import type { RewriteReport } from "../rewritten/contract.js";
import type { Changes } from "./changes.js";
import type { Course } from "./course.js";
import { farCosts } from "./far-jumps.js";
import { hazardsOf } from "./hazards.js";
import type { Located } from "./locate.js";
import { probesOf } from "./overlaps.js";
import type { Program } from "./program.js";
import { refusedPlaces } from "./refused-places.js";
import { reportSite } from "./site-reports.js";
import { bareNop5Sites, type Survey } from "./survey.js";
import { trailingBytes } from "./unloaded.js";
import { missingFrames } from "./unwind/missing.js";

/** How large the output is only its assembly says. */
export type Outcome = Omit<RewriteReport, "inputSize" | "outputSize">;

export function outcomeOf(
  program: Program,
  course: Course,
  survey: Survey,
  located: Located,
  changes: Changes,
): Outcome {
  const { notes } = program;
  const { proposals, code, placed, guard } = located;
  const { layout } = course;
  const { image } = changes;
  const chosen = new Map(proposals.flatMap((p) => probesOf(p).map((site) => [site, p] as const)));
  const costs = farCosts(image, proposals);
  const unplaced = notes.map((n) => n.location).filter((location) => !placed.has(location));
  const frames = program.tables?.facts.functions.ehFrame;
  return {
    layout,
    sites: notes.map((note) => reportSite(note, survey, chosen, located, costs.get(note.location) ?? null)),
    hazards: hazardsOf({
      image,
      layout,
      proposals,
      place: code?.place,
      placed,
      already: bareNop5Sites(program, survey),
      refused: refusedPlaces(image, unplaced),
      wayToFork: course.wayToFork,
      neverForks: course.neverForks,
      guard,
      noGuard: course.noGuard ?? undefined,
      notUniversal: located.notUniversal ?? new Map(),
      noSelector: typeof course.selector === "string" ? course.selector : undefined,
      uncovered: course.guard?.uncovered ?? [],
      costs: [...costs.values()],
      missing: missingFrames(changes.unwind, code?.newCode.chunks ?? [], frames),
      trailing: trailingBytes(image),
      changes: changes.any,
    }),
    forkGuard: forkGuardReport(course, located),
  };
}

function forkGuardReport({ noGuard }: Course, { guard }: Located): RewriteReport["forkGuard"] {
  if (guard !== undefined) return { installed: true, reason: null, sites: guard.sites, pages: guard.pages };
  return noGuard === null ? null : { installed: false, reason: noGuard, sites: 0, pages: 0 };
}
