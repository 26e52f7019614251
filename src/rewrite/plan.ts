/**
 * The plan: for each site the first tactic that is proved safe, or the reason why none is. All sites of a file are planned
 * together, in the order of their addresses, so that windows never overlap: where the one of a site would reach into the
 * one before it, the two become one.
 */
import { hex, type Vaddr } from "../address.js";
import type { ProgramFacts } from "../facts/program.js";
import { indexOf } from "../x86/decode.js";
import type { Proposal, SiteContext, Tactic } from "./proposal.js";
import { detour, displace, straddle } from "./tactics/displace.js";
import { inPlace } from "./tactics/in-place.js";
import { shift } from "./tactics/shift.js";

/** Cheapest for the running program first. */
const tactics: readonly Tactic[] = [inPlace, shift, displace, straddle];

export interface Plan {
  /** In ascending order of their windows, which do not overlap. */
  readonly proposals: readonly Proposal[];
  /** Why a site stays as it is. */
  readonly skipped: ReadonlyMap<Vaddr, string>;
}

/**
 * @param wanted the sites to rewrite: one-byte nops in decodable code or not, that is found out here
 * @param sites every address that any note names: none of these bytes is room
 */
export function planSites(facts: ProgramFacts, wanted: readonly Vaddr[], sites: ReadonlySet<Vaddr>): Plan {
  const proposals: Proposal[] = [];
  const skipped = new Map<Vaddr, string>();
  const candidates = new Set(wanted);
  const done = new Set<Vaddr>();
  for (const site of [...wanted].sort((a, b) => a - b)) {
    if (done.has(site)) continue;
    const context = contextOf(facts, site, candidates, sites);
    if (typeof context === "string") {
      skipped.set(site, context);
      candidates.delete(site);
      continue;
    }
    const previous = proposals.at(-1);
    const choice = choose(context, previous);
    if (typeof choice === "string") {
      skipped.set(site, choice);
      candidates.delete(site);
      continue;
    }
    if (choice.merged) proposals.pop();
    proposals.push(choice.proposal);
    for (const probe of probesOf(choice.proposal)) done.add(probe);
  }
  assertDisjoint(proposals);
  return { proposals, skipped };
}

function contextOf(
  facts: ProgramFacts,
  site: Vaddr,
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
    isProbe: (address) => candidates.has(address),
    isSite: (address) => sites.has(address),
  };
}

/** The sites that a proposal takes care of. */
export function probesOf({ change }: Proposal): readonly Vaddr[] {
  if (change.kind === "in-place") return change.probes.map((p) => p.site);
  return change.body.flatMap((f) => (f.kind === "probe" ? [f.site] : []));
}

function choose(
  context: SiteContext,
  previous: Proposal | undefined,
): { proposal: Proposal; merged: boolean } | string {
  const reasons: string[] = [];
  let overlaps = false;
  for (const tactic of tactics) {
    const proposal = tactic(context);
    if (typeof proposal === "string") reasons.push(proposal);
    else if (previous !== undefined && proposal.window.start < previous.window.end) overlaps = true;
    else return { proposal, merged: false };
  }
  if (overlaps && previous !== undefined) {
    const first = indexOf(context.code, previous.window.start);
    const merged =
      first < 0 ? "the probe before it lies in another function" : detour(context, first, context.index, "straddle");
    if (typeof merged !== "string") return { proposal: merged, merged: true };
    reasons.push(`together with the probe before it, at ${hex(previous.window.start)}: ${merged}`);
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
