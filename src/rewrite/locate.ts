/**
 * Where a plan's new code goes: the best place that holds all of it, encoded there.
 */
import type { Vaddr } from "../address.js";
import type { ForkGuard, GuardedCode } from "./fork-guard.js";
import { encodeDetours, type NewCode } from "./new-code.js";
import type { Place } from "./place.js";
import { type Plan, probesOf } from "./plan.js";
import type { PlacedProbe, Proposal } from "./proposal.js";

export interface Places {
  /** Best first. */
  readonly places: readonly Place[];
  /** Why there are no more. */
  readonly obstacle: string;
}

/** A plan whose new code has addresses. */
export interface Located extends Plan {
  readonly code: { readonly place: Place; readonly newCode: NewCode } | undefined;
  /** The rewritten probes in their new places, by where they were. */
  readonly placed: ReadonlyMap<Vaddr, PlacedProbe>;
  readonly guard: ForkGuard | undefined;
}

/** Puts the fork guard behind new code, or says why it cannot be there. */
export type AddGuard = (place: Place, newCode: NewCode, placed: readonly PlacedProbe[]) => GuardedCode | string;

/** Finds the best place that holds all detours; where there is none, they are skipped. */
export function locate(plan: Plan, placesFor: () => Places): Located {
  const detours = detoursOf(plan);
  if (detours.length === 0) return located(plan, undefined);
  const { places, obstacle } = placesFor();
  for (const place of places) {
    const newCode = encodeDetours(detours, place.start);
    if (newCode.bytes.length > place.capacity) continue;
    return located(plan, newCode.chunks.length === 0 ? undefined : { place, newCode }, newCode.failed);
  }
  return located(plan, undefined, new Map(detours.map((proposal) => [proposal, obstacle])));
}

/** The same with a fork guard, which needs a place even where no probe does; or why there is none. */
export function locateGuarded(plan: Plan, { places, obstacle }: Places, addGuard: AddGuard): Located | string {
  const detours = detoursOf(plan);
  let reason = obstacle;
  for (const place of places) {
    const newCode = encodeDetours(detours, place.start);
    if (newCode.bytes.length > place.capacity) continue;
    const bare = located(plan, { place, newCode }, newCode.failed);
    const guarded = addGuard(place, newCode, [...bare.placed.values()]);
    if (typeof guarded !== "string")
      return { ...bare, code: { place, newCode: guarded.newCode }, guard: guarded.guard };
    reason = guarded;
  }
  return reason;
}

const detoursOf = ({ proposals }: Plan): Proposal[] => proposals.filter((p) => p.change.kind === "detour");

/** A plan in its place, without a guard so far. */
function located(plan: Plan, code: Located["code"], failed: ReadonlyMap<Proposal, string> = new Map()): Located {
  const skipped = new Map(plan.skipped);
  for (const [proposal, reason] of failed) for (const site of probesOf(proposal)) skipped.set(site, reason);
  const proposals = plan.proposals.filter((p) => !failed.has(p));
  return { proposals, skipped, code, guard: undefined, placed: placedProbes(proposals, code?.newCode) };
}

function placedProbes(proposals: readonly Proposal[], newCode: NewCode | undefined): ReadonlyMap<Vaddr, PlacedProbe> {
  const inPlace = proposals.flatMap(({ change }) => (change.kind === "in-place" ? change.probes : []));
  const inNewCode = (newCode?.chunks ?? []).flatMap((chunk) => chunk.probes);
  return new Map([...inPlace, ...inNewCode].map((probe) => [probe.site, probe]));
}
