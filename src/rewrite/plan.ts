/**
 * The plan: for each site the first tactic that is proved safe, or the reason why none is. All sites of a file are planned
 * together, in the order of their addresses, so that windows never overlap: where the one of a site would reach into the
 * one before it, the two become one.
 */
import { hex, type Vaddr } from "../address.js";
import type { ProgramFacts } from "../facts/program.js";
import { indexOf } from "../x86/decode.js";
import type { Proposal, SiteContext, Stretch, Tactic, WantedProbe } from "./proposal.js";
import { callThrough } from "./tactics/call-through.js";
import { detour, displace, straddle } from "./tactics/displace.js";
import { hop } from "./tactics/hop.js";
import { inPlace } from "./tactics/in-place.js";
import { retarget } from "./tactics/retarget.js";
import { shift } from "./tactics/shift.js";

/** Cheapest for the running program first. */
const cheapest: readonly Tactic[] = [inPlace, shift, displace, straddle, callThrough, retarget, hop];
/** What leaves the probe where it is comes last: see fork-guard.ts. */
const together: readonly Tactic[] = [displace, straddle, callThrough, retarget, hop, inPlace, shift];

export interface Plan {
  /** In ascending order of their windows, which do not overlap. */
  readonly proposals: readonly Proposal[];
  /** Why a site stays as it is. */
  readonly skipped: ReadonlyMap<Vaddr, string>;
}

/** One address to rewrite: a one-byte nop that some note names. */
export interface WantedSite extends WantedProbe {
  readonly location: Vaddr;
  /** Why the probe cannot go elsewhere: its arguments could not follow. Undefined where they can. */
  readonly pinned: string | undefined;
}

/**
 * @param wanted the sites to rewrite; whether their code can be decoded is found out here
 * @param sites every address that any note names: none of these bytes is room
 * @param inNewCode whether probes are better off in new code than where they are, for they are to lie on few pages
 */
export function planSites(
  facts: ProgramFacts,
  wanted: readonly WantedSite[],
  sites: ReadonlySet<Vaddr>,
  inNewCode: boolean,
): Plan {
  const tactics = inNewCode ? together : cheapest;
  const proposals: Proposal[] = [];
  /** Bytes outside of windows that change: branches led elsewhere, padding that a jump goes through. */
  const claimed: Stretch[] = [];
  const skipped = new Map<Vaddr, string>();
  const candidates = new Map(wanted.map((w) => [w.location, w]));
  const pinned = new Map(wanted.flatMap((w) => (w.pinned === undefined ? [] : [[w.location, w.pinned] as const])));
  const done = new Set<Vaddr>();
  for (const { location: site } of [...wanted].sort((a, b) => a.location - b.location)) {
    if (done.has(site)) continue;
    const context = contextOf(facts, site, candidates, sites);
    if (typeof context === "string") {
      skipped.set(site, context);
      candidates.delete(site);
      continue;
    }
    const previous = proposals.at(-1);
    const obstacle = (p: Proposal): string | undefined => pinObstacle(p, pinned) ?? overlap(p, proposals, claimed);
    const choice = choose(tactics, context, previous, obstacle);
    if (typeof choice === "string") {
      skipped.set(site, choice);
      candidates.delete(site);
      continue;
    }
    if (choice.merged) proposals.pop();
    proposals.push(choice.proposal);
    claimed.push(...outsideOf(choice.proposal));
    for (const probe of probesOf(choice.proposal)) done.add(probe);
  }
  assertDisjoint(proposals);
  return { proposals, skipped };
}

function contextOf(
  facts: ProgramFacts,
  site: Vaddr,
  candidates: ReadonlyMap<Vaddr, WantedProbe>,
  sites: ReadonlySet<Vaddr>,
): SiteContext | string {
  const around = facts.siteCode(site);
  if (typeof around === "string") return around;
  const index = indexOf(around.code, site);
  if (index < 0) return "no instruction of its function begins here";
  return {
    site,
    ...around,
    index,
    facts,
    probe: (address) => candidates.get(address),
    isSite: (address) => sites.has(address),
  };
}

/** The sites that a proposal takes care of. */
export function probesOf({ change }: Proposal): readonly Vaddr[] {
  if (change.kind === "in-place") return change.probes.map((p) => p.site);
  return change.body.flatMap((f) => (f.kind === "probe" ? [f.site] : []));
}

/** What a proposal changes outside of its window. */
function outsideOf({ change }: Proposal): readonly Stretch[] {
  if (change.kind !== "detour") return [];
  const branches = change.retargets.map(({ branch }): Stretch => ({ start: branch.at, end: branch.end }));
  return typeof change.via === "object" ? [...branches, change.via.hop] : branches;
}

/** Whether a proposal changes bytes that an earlier one changes, in a window or outside of it. */
function overlap(proposal: Proposal, earlier: readonly Proposal[], claimed: readonly Stretch[]): string | undefined {
  const touch = (a: Stretch, b: Stretch): boolean => a.start < b.end && b.start < a.end;
  const outside = outsideOf(proposal);
  const collides =
    claimed.some((c) => touch(c, proposal.window) || outside.some((o) => touch(c, o))) ||
    (outside.length > 0 && earlier.some(({ window }) => outside.some((o) => touch(o, window))));
  return collides ? "bytes that it needs are needed for another probe" : undefined;
}

/** Why a probe of the proposal must not move. */
function pinObstacle(proposal: Proposal, pinned: ReadonlyMap<Vaddr, string>): string | undefined {
  if (pinned.size === 0) return undefined;
  const { change } = proposal;
  for (const site of probesOf(proposal)) {
    const stays = change.kind === "in-place" && change.probes.some((p) => p.site === site && p.location === site);
    const pin = pinned.get(site);
    if (pin !== undefined && !stays) return pin;
  }
  return undefined;
}

function choose(
  tactics: readonly Tactic[],
  context: SiteContext,
  previous: Proposal | undefined,
  obstacle: (proposal: Proposal) => string | undefined,
): { proposal: Proposal; merged: boolean } | string {
  const reasons: { readonly tactic: Tactic; readonly text: string }[] = [];
  let overlaps = false;
  for (const tactic of tactics) {
    const proposal = tactic(context);
    if (typeof proposal === "string") {
      reasons.push({ tactic, text: proposal });
      continue;
    }
    const inTheWay = obstacle(proposal);
    if (inTheWay !== undefined) reasons.push({ tactic, text: inTheWay });
    else if (previous !== undefined && proposal.window.start < previous.window.end) overlaps = true;
    else return { proposal, merged: false };
  }
  if (overlaps && previous !== undefined) {
    const first = indexOf(context.code, previous.window.start);
    const merged =
      first < 0 ? "the probe before it lies in another function" : detour(context, first, context.index, "straddle");
    if (typeof merged !== "string" && outsideOf(previous).length === 0 && obstacle(merged) === undefined)
      return { proposal: merged, merged: true };
    reasons.push({ tactic: displace, text: `it stands too close behind the probe at ${hex(previous.window.start)}` });
  }
  return bestReason(reasons);
}

/** Those of displace and what comes behind it say most about what is in the way. */
function bestReason(reasons: readonly { readonly tactic: Tactic; readonly text: string }[]): string {
  const best = reasons.filter(({ tactic }) => tactic !== inPlace && tactic !== shift);
  return [...new Set((best.length > 0 ? best : reasons).map((r) => r.text))].join("; ");
}

function assertDisjoint(proposals: readonly Proposal[]): void {
  for (let i = 1; i < proposals.length; i++)
    if (proposals[i]!.window.start < proposals[i - 1]!.window.end)
      throw new Error(`windows overlap at ${hex(proposals[i]!.window.start)}`);
}
