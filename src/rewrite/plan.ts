/**
 * The plan: for each site the first tactic that is proved safe, or the reason why none is. All sites of a file are planned
 * together, in the order of their addresses, so that windows never overlap: where the one of a site would reach into the
 * one before it, the two become one.
 */
import { hex, type Vaddr } from "../address.js";
import type { Branch } from "../facts/entries.js";
import type { ProgramFacts } from "../facts/program.js";
import { indexOf } from "../x86/decode.js";
import type { Proposal, SiteContext, Tactic } from "./proposal.js";
import { callThrough } from "./tactics/call-through.js";
import { detour, displace, straddle } from "./tactics/displace.js";
import { inPlace } from "./tactics/in-place.js";
import { retarget } from "./tactics/retarget.js";
import { shift } from "./tactics/shift.js";

/** Cheapest for the running program first. */
const tactics: readonly Tactic[] = [inPlace, shift, displace, straddle, callThrough, retarget];

export interface Plan {
  /** In ascending order of their windows, which do not overlap. */
  readonly proposals: readonly Proposal[];
  /** Why a site stays as it is. */
  readonly skipped: ReadonlyMap<Vaddr, string>;
}

/** One address to rewrite: a one-byte nop that some note names. */
export interface WantedSite {
  readonly location: Vaddr;
  readonly readsStackPointer: boolean;
}

/**
 * @param wanted the sites to rewrite; whether their code can be decoded is found out here
 * @param sites every address that any note names: none of these bytes is room
 */
export function planSites(facts: ProgramFacts, wanted: readonly WantedSite[], sites: ReadonlySet<Vaddr>): Plan {
  const proposals: Proposal[] = [];
  /** Branches that have been led elsewhere: no later window may take them along. */
  const claimed: Branch[] = [];
  const skipped = new Map<Vaddr, string>();
  const candidates = new Set(wanted.map((w) => w.location));
  const done = new Set<Vaddr>();
  for (const { location: site, readsStackPointer } of [...wanted].sort((a, b) => a.location - b.location)) {
    if (done.has(site)) continue;
    const context = contextOf(facts, site, readsStackPointer, candidates, sites);
    if (typeof context === "string") {
      skipped.set(site, context);
      candidates.delete(site);
      continue;
    }
    const previous = proposals.at(-1);
    const isFree = (p: Proposal): boolean => !overlapsAny(p, proposals, claimed);
    const choice = choose(context, previous, isFree);
    if (typeof choice === "string") {
      skipped.set(site, choice);
      candidates.delete(site);
      continue;
    }
    if (choice.merged) proposals.pop();
    proposals.push(choice.proposal);
    claimed.push(...retargetsOf(choice.proposal));
    for (const probe of probesOf(choice.proposal)) done.add(probe);
  }
  assertDisjoint(proposals);
  return { proposals, skipped };
}

function contextOf(
  facts: ProgramFacts,
  site: Vaddr,
  readsStackPointer: boolean,
  candidates: ReadonlySet<Vaddr>,
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
    readsStackPointer,
    isProbe: (address) => candidates.has(address),
    isSite: (address) => sites.has(address),
  };
}

/** The sites that a proposal takes care of. */
export function probesOf({ change }: Proposal): readonly Vaddr[] {
  if (change.kind === "in-place") return change.probes.map((p) => p.site);
  return change.body.flatMap((f) => (f.kind === "probe" ? [f.site] : []));
}

const retargetsOf = ({ change }: Proposal): readonly Branch[] =>
  change.kind === "detour" ? change.retargets.map((r) => r.branch) : [];

/** Whether a proposal changes bytes that an earlier one changes, or takes along a branch that an earlier one changes. */
function overlapsAny(proposal: Proposal, earlier: readonly Proposal[], claimed: readonly Branch[]): boolean {
  const { start, end } = proposal.window;
  if (claimed.some((b) => b.at < end && b.end > start)) return true;
  const branches = retargetsOf(proposal);
  return earlier.some(({ window }) => branches.some((b) => b.at < window.end && b.end > window.start));
}

function choose(
  context: SiteContext,
  previous: Proposal | undefined,
  isFree: (proposal: Proposal) => boolean,
): { proposal: Proposal; merged: boolean } | string {
  const reasons: string[] = [];
  let overlaps = false;
  for (const tactic of tactics) {
    const proposal = tactic(context);
    if (typeof proposal === "string") reasons.push(proposal);
    else if (previous !== undefined && proposal.window.start < previous.window.end) overlaps = true;
    else if (!isFree(proposal)) reasons.push("a branch that another probe needs lies in the bytes that would move");
    else return { proposal, merged: false };
  }
  if (overlaps && previous !== undefined) {
    const first = indexOf(context.code, previous.window.start);
    const merged =
      first < 0 ? "the probe before it lies in another function" : detour(context, first, context.index, "straddle");
    if (typeof merged !== "string" && retargetsOf(previous).length === 0 && isFree(merged))
      return { proposal: merged, merged: true };
    reasons.push(`it stands too close behind the probe at ${hex(previous.window.start)}`);
  }
  return bestReason(reasons);
}

/** Reasons come in the order of the tactics; the one of displace says most about what is in the way. */
const bestReason = (reasons: readonly string[]): string =>
  [...new Set(reasons.slice(2))].join("; ") || reasons.join("; ");

function assertDisjoint(proposals: readonly Proposal[]): void {
  for (let i = 1; i < proposals.length; i++)
    if (proposals[i]!.window.start < proposals[i - 1]!.window.end)
      throw new Error(`windows overlap at ${hex(proposals[i]!.window.start)}`);
}
