/**
 * Where a plan's new code goes: the best place that holds all of it, encoded there. Where none does, as in a static
 * program without room for another program header, the largest holds what fits: the program's own probes before those
 * that the C library and the compiler's libraries bring along, and of those the shortest code first.
 */

import type { Vaddr } from "../address.js";
import type { ProbeNames } from "./apart.js";
import { farSegments, MOST_SEGMENTS } from "./far-jumps.js";
import { type ForkGuard, type ForkGuardPlan, guardInit, withForkGuard } from "./fork-guard/fork-guard.js";
import { encodeDetours, type NewCode } from "./new-code.js";
import { probesOf } from "./overlaps.js";
import type { Place, Places } from "./place.js";
import type { Plan } from "./plan.js";
import type { PlacedProbe, Proposal } from "./proposal.js";
import { farJumpOf } from "./proposal.js";
import { type Refusal, refuse } from "./refusal.js";
import { callsFirst, type SelectorCode, type SelectorPlan, withSelector } from "./selector/selector.js";
import { isUniversal } from "./written-form.js";

/** A plan whose new code has addresses. */
export interface Located extends Plan {
  readonly code: { readonly place: Place; readonly newCode: NewCode } | undefined;
  /** The rewritten probes in their new places, by where they were. */
  readonly placed: ReadonlyMap<Vaddr, PlacedProbe>;
  readonly guard: ForkGuard | undefined;
  /** Why probes are something plainer than universal, where all others are that. */
  readonly notUniversal?: ReadonlyMap<Vaddr, Refusal>;
  /** The code that sets the selector, where a probe asks it. */
  readonly selector: SelectorCode | undefined;
}

/** What is placed: the detours of a plan, and after their code the guard, where one is asked for. */
export interface Load {
  readonly plan: Plan;
  readonly guard: ForkGuardPlan | undefined;
  readonly selector: SelectorPlan | undefined;
  /** Universal probes may be something else where not all have room. */
  readonly hasChoice: boolean;
  /** The probes that libraries bring into a static program: where not all have a place, they are the first to go. */
  readonly ofLibraries: ReadonlySet<Vaddr>;
  readonly names: ProbeNames;
}

/**
 * Finds the best place that holds everything. Where there is none, as many detours as fit are placed, and the others
 * are skipped. A guard needs a place even where no probe does: where it has none, the answer is why.
 * @param placesFor asked where anything is to be placed
 */
export function locate(load: Load, placesFor: () => Places): Located | string {
  const { plan, guard } = load;
  const detours = detoursOf(plan);
  if (detours.length === 0 && guard === undefined) return located(plan, undefined);
  const { places, obstacle } = placesFor();
  let reason = obstacle;
  for (const place of places) {
    const newCode = encodeDetours(detours, place.start, load.names);
    if (newCode.bytes.length > place.capacity) continue;
    const whole = settled(load, place, newCode, failedIn(newCode));
    if (typeof whole !== "string") return whole;
    reason = whole;
  }
  // Where everything has a place without a guard, all of it in a layout that needs none is worth more.
  if (guard !== undefined && places.some((place) => encodeWithin(load, detours, place) !== undefined)) return reason;
  if (load.selector !== undefined && load.hasChoice)
    return `there is no room for all of them and for what sets their selector: ${reason}`;
  for (const place of places) {
    const some = most(load, place, (chosen) => {
      const newCode = encodeWithin(load, chosen, place);
      if (newCode === undefined) return undefined;
      const part = settled(load, place, newCode, withoutRoom(detours, newCode, place, obstacle));
      return typeof part === "string" ? undefined : part;
    });
    if (some !== undefined) return some;
  }
  if (guard !== undefined) return reason;
  return located(plan, undefined, new Map(detours.map((proposal) => [proposal, refuse("no-place", obstacle)])));
}

/**
 * A plan with its new code in a place, and after it the guard and what sets the selector; or why they cannot be there.
 */
function settled(
  { plan, guard, selector }: Load,
  place: Place,
  newCode: NewCode,
  failed: ReadonlyMap<Proposal, Refusal>,
): Located | string {
  const isEmpty = guard === undefined && newCode.chunks.length === 0;
  const bare = located(plan, isEmpty ? undefined : { place, newCode }, failed);
  const guarded =
    guard === undefined ? { newCode, guard } : withForkGuard(guard, place, newCode, bare.placed, selector?.selector);
  if (typeof guarded === "string") return guarded;
  const whole = { ...bare, code: bare.code && { place, newCode: guarded.newCode }, guard: guarded.guard };
  if (selector === undefined || ![...bare.placed.values()].some(({ form }) => isUniversal(form))) return whole;
  const init = guarded.guard && callsFirst(selector) ? guardInit(guarded.guard) : undefined;
  const selecting = withSelector(selector, place, guarded.newCode, init);
  if (typeof selecting === "string") return selecting;
  return { ...whole, code: { place, newCode: selecting.newCode }, selector: selecting.code };
}

function encodeWithin({ names }: Load, detours: readonly Proposal[], place: Place): NewCode | undefined {
  const newCode = encodeDetours(detours, place.start, names);
  return newCode.chunks.length > 0 && newCode.bytes.length <= place.capacity ? newCode : undefined;
}

/** What `encode` makes of as many detours as it can; undefined where that is none. */
function most<T>(
  { plan, ofLibraries, names }: Load,
  place: Place,
  encode: (chosen: readonly Proposal[]) => T | undefined,
): T | undefined {
  const detours = detoursOf(plan);
  const size = new Map(encodeDetours(detours, place.start, names).chunks.map((c) => [c.proposal, c.end - c.start]));
  const rank = (p: Proposal): number => (ofLibraries.has(p.site) ? 1 : 0);
  const inOrder = [...detours].sort((a, b) => rank(a) - rank(b) || (size.get(a) ?? 0) - (size.get(b) ?? 0));
  let best: T | undefined;
  let low = 0;
  let high = inOrder.length;
  while (low < high) {
    const count = (low + high + 1) >> 1;
    const chosen = new Set(inOrder.slice(0, count));
    const made = encode(detours.filter((p) => chosen.has(p)));
    if (made === undefined) high = count - 1;
    else {
      best = made;
      low = count;
    }
  }
  return best;
}

/** Why detours have no place where others have one. */
function withoutRoom(
  detours: readonly Proposal[],
  newCode: NewCode,
  place: Place,
  obstacle: string,
): ReadonlyMap<Proposal, Refusal> {
  const placed = new Set(newCode.chunks.map((c) => c.proposal));
  const reason = refuse(
    "no-place",
    `${obstacle}, and in ${place.capacity} bytes of the last page of code there is no room for all`,
    place.start,
  );
  const refused = failedIn(newCode);
  return new Map(detours.filter((p) => !placed.has(p)).map((p) => [p, refused.get(p) ?? reason]));
}

/**
 * A plan in its place with as many far jumps as there is room for in the program header table, the nearest first.
 * @param locateIt finds a place for a plan whose far jumps make so many segments
 */
export function withFarJumps(
  plan: Plan,
  locateIt: (plan: Plan, farSegments: number) => Located | string,
): Located | string {
  const jumps = plan.proposals.flatMap((p) => farJumpOf(p) ?? []);
  const segments = farSegments(jumps);
  let reasons: readonly Refusal[] = [
    refuse(
      "far-segments",
      `the jumps of other probes by the bytes after them take ${MOST_SEGMENTS} segments already, the most that there may be`,
    ),
  ];
  for (let count = Math.min(segments.length, MOST_SEGMENTS); ; count--) {
    const kept = new Set(segments.slice(0, count).flatMap((s) => s.jumps));
    const isLeft = (p: Proposal): boolean => {
      const far = farJumpOf(p);
      return far !== undefined && !kept.has(far);
    };
    const left = plan.proposals.filter(isLeft);
    const skipped = new Map(plan.skipped);
    for (const { site } of left) skipped.set(site, [...(plan.withoutFar.get(site) ?? []), ...reasons]);
    const result = locateIt({ ...plan, proposals: plan.proposals.filter((p) => !isLeft(p)), skipped }, count);
    if (count === 0) return result;
    const lost = plan.proposals.find((p) => kept.has(farJumpOf(p)!) && !isPlaced(result, p));
    if (lost === undefined) return result;
    reasons = typeof result === "string" ? [refuse("no-place", result)] : (result.skipped.get(lost.site) ?? reasons);
  }
}

const isPlaced = (located: Located | string, proposal: Proposal): boolean =>
  typeof located === "object" && located.proposals.includes(proposal);

/** What could not be encoded, and why. */
const failedIn = ({ failed }: NewCode): ReadonlyMap<Proposal, Refusal> =>
  new Map([...failed].map(([proposal, text]) => [proposal, refuse("out-of-reach", text, proposal.window.start)]));

const detoursOf = ({ proposals }: Plan): Proposal[] => proposals.filter((p) => p.change.kind === "detour");

/** A plan in its place, without a guard so far. */
function located(plan: Plan, code: Located["code"], failed: ReadonlyMap<Proposal, Refusal> = new Map()): Located {
  const skipped = new Map(plan.skipped);
  for (const [proposal, refusal] of failed) for (const site of probesOf(proposal)) skipped.set(site, [refusal]);
  const proposals = plan.proposals.filter((p) => !failed.has(p));
  return {
    ...plan,
    proposals,
    skipped,
    code,
    guard: undefined,
    selector: undefined,
    placed: placedProbes(proposals, code?.newCode),
  };
}

function placedProbes(proposals: readonly Proposal[], newCode: NewCode | undefined): ReadonlyMap<Vaddr, PlacedProbe> {
  const inPlace = proposals.flatMap(({ change }) => (change.kind === "in-place" ? change.probes : []));
  const inNewCode = (newCode?.chunks ?? []).flatMap((chunk) => chunk.probes);
  return new Map([...inPlace, ...inNewCode].map((probe) => [probe.site, probe]));
}
