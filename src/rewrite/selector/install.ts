/**
 * A selector, with a fork guard or without, and nothing else, as a file of its own: the shortest way through the plan,
 * and the order in which a rewrite takes the same steps. The output carries what revert needs.
 */
import type { ElfImage } from "../../elf/image.js";
import type { SparseContent } from "../../sparse-content.js";
import { assemble } from "../assemble.js";
import {
  type ForkGuardPlan,
  guardChanges,
  guardedPlaces,
  guardedStart,
  guardInit,
  withForkGuard,
} from "../fork-guard/fork-guard.js";
import type { NewCode } from "../new-code.js";
import { type Place, placesFor } from "../place.js";
import { symbolEdits } from "../symbols.js";
import { planSelector, type SelectorCode, type SelectorPlan, selectorChanges, withSelector } from "./selector.js";

export interface Installed {
  readonly content: SparseContent;
  readonly plan: SelectorPlan;
  readonly place: Place;
  readonly code: SelectorCode;
}

/**
 * The file with a selector, or why it cannot have one.
 * @param guard comes along, for the nop5 that are there
 * @throws InputError where the file is damaged
 */
export function installSelector(input: ElfImage, guard?: ForkGuardPlan): Installed | string {
  const start = guard === undefined ? { image: input, callsFirst: false } : guardedStart(guard);
  const plan = planSelector(start);
  if (typeof plan === "string") return plan;
  const options = { tableAtEnd: false, keepOffsets: true };
  const { places, obstacle } =
    guard === undefined ? placesFor(plan.image, options) : guardedPlaces(guard, options, plan.image);
  let reason = obstacle;
  for (const place of places) {
    const made = installAt(input, plan, place, guard);
    if (typeof made !== "string") return made;
    reason = made;
  }
  return reason;
}

function installAt(
  input: ElfImage,
  plan: SelectorPlan,
  place: Place,
  guard: ForkGuardPlan | undefined,
): Installed | string {
  const empty: NewCode = { start: place.start, bytes: new Uint8Array(0), chunks: [], named: [], failed: new Map() };
  const guarded = guard && withForkGuard(guard, place, empty, new Map(), undefined);
  if (typeof guarded === "string") return guarded;
  const init = guarded && plan.start.kind === "guard" ? guardInit(guarded.guard) : undefined;
  const selecting = withSelector(plan, place, guarded?.newCode ?? empty, init);
  if (typeof selecting === "string") return selecting;
  const { newCode, code } = selecting;
  const changes = selectorChanges(plan, code);
  const first = plan.start.kind === "guard" ? code.start : undefined;
  const ofGuard = guarded && guardChanges(guard!, guarded.guard, first);
  const moved = place.kind === "new segment" ? place.growth.moved : [];
  const content = assemble(plan.image, {
    edits: [...(ofGuard?.edits ?? []), ...changes.edits, ...symbolEdits(plan.image, moved, [])],
    replaced: new Map(),
    code: { place, newCode },
    tails: ofGuard?.tails ?? new Map(),
    addedSections: [...(ofGuard?.addedSections ?? []), ...changes.addedSections],
    probeName: () => "",
    memo: Buffer.from("{}"),
    certificates: new Uint8Array(0),
    original: input,
  });
  return { content, plan, place, code };
}
