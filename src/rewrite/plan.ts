/**
 * The plan: for each site the first tactic that is proved safe, or the reason why none is. All sites of a file are planned
 * together, in the order of their addresses, so that windows never overlap: where the one of a site would reach into the
 * one before it, the two become one.
 */
import { hex, type Interval, type Vaddr, vaddr } from "../address.js";
import type { ProgramFacts } from "../facts/program.js";
import { JUMP_SIZE } from "../x86/bytes.js";
import { indexOf } from "../x86/decode.js";
import { isPlainBranch } from "../x86/relocate.js";
import { Claims } from "./claims.js";
import type { InputTables } from "./input-tables.js";
import type { Detour, Proposal, SiteContext, Tactic, WantedProbe } from "./proposal.js";
import { callThrough } from "./tactics/call-through.js";
import { detour, displace, straddle } from "./tactics/displace.js";
import { displaceCall } from "./tactics/displace-call.js";
import { evict } from "./tactics/evict.js";
import { hop, hopRetarget, NO_PADDING } from "./tactics/hop.js";
import { inPlace } from "./tactics/in-place.js";
import { punned } from "./tactics/punned.js";
import { retarget, retargetShort } from "./tactics/retarget.js";
import { shift } from "./tactics/shift.js";
import { movesInstruction, stretchesOf } from "./tactics/ways.js";

const toNewCode: readonly Tactic[] = [displace, straddle, callThrough, retarget, hop];
const last: readonly Tactic[] = [retargetShort, hopRetarget, displaceCall];
/** Cheapest for the running program first. */
const cheapest: readonly Tactic[] = [inPlace, shift, ...toNewCode, ...last];
/** What leaves the probe where it is comes late: see fork-guard.ts. */
const together: readonly Tactic[] = [...toNewCode, ...last, inPlace, shift];

const NO_ROOM = `${NO_PADDING}, and no code there can make room`;

export interface Plan {
  /** In ascending order of their windows, which do not overlap. */
  readonly proposals: readonly Proposal[];
  /** Why a site stays as it is. */
  readonly skipped: ReadonlyMap<Vaddr, string>;
  /** Why a site with a far jump would stay as it is without that. */
  readonly withoutFar?: ReadonlyMap<Vaddr, string>;
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
 * @param unwindable whether return addresses in new code can be unwound, so that calls may move
 */
export function planSites(
  tables: InputTables,
  wanted: readonly WantedSite[],
  sites: ReadonlySet<Vaddr>,
  inNewCode: boolean,
  unwindable: boolean,
): Plan {
  const { facts } = tables;
  const tactics = inNewCode ? together : cheapest;
  const proposals: Proposal[] = [];
  const windows = new Claims<Interval<Vaddr>>();
  /** Bytes outside of windows that change: branches led elsewhere, padding that a jump goes through. */
  const claimed = new Claims<Claim>();
  /** Instructions that run elsewhere. */
  const moved = new Set<Vaddr>();
  /** Detours without a probe. */
  const helpers: Proposal[] = [];
  const skipped = new Map<Vaddr, string>();
  const candidates = new Map(wanted.map((w) => [w.location, w]));
  const pinned = new Map(wanted.flatMap((w) => (w.pinned === undefined ? [] : [[w.location, w.pinned] as const])));
  const done = new Set<Vaddr>();
  const changes = (bytes: Interval<Vaddr>): boolean => claimed.some(bytes) || windows.some(bytes);
  const contextIn = (site: Vaddr, around: ReturnType<typeof siteCode>): SiteContext | string => {
    if (typeof around === "string") return around;
    return {
      site,
      ...around,
      facts,
      tables,
      probe: (address) => candidates.get(address),
      isSite: (address) => sites.has(address),
      isFree: (start, end) => !changes({ start, end }),
      isMoved: (address) => moved.has(address),
      unwindable,
      evicts: false,
    };
  };
  const contextOf = (site: Vaddr): SiteContext | string => contextIn(site, siteCode(facts, site));
  /** The same where not all is known of what enters the function. */
  const bareContext = (site: Vaddr): SiteContext | string => contextIn(site, decodedCode(facts, site));
  const accept = (proposal: Proposal): void => {
    proposals.push(proposal);
    windows.add(proposal.window);
    for (const claim of outsideOf(proposal)) claimed.add(claim);
    helpers.push(...proposal.helpers);
    for (const one of [proposal, ...proposal.helpers]) for (const at of movedBy(one)) moved.add(at);
    for (const probe of probesOf(proposal)) done.add(probe);
  };
  const obstacle = (p: Proposal): string | undefined => pinObstacle(p, pinned) ?? overlap(p, windows, claimed);
  const inOrder = [...wanted].sort((a, b) => a.location - b.location);
  for (const { location: site } of inOrder) {
    if (done.has(site)) continue;
    const context = contextOf(site);
    const choice = typeof context === "string" ? context : choose(tactics, context, proposals.at(-1), obstacle);
    if (typeof choice === "string") {
      skipped.set(site, choice);
      candidates.delete(site);
      continue;
    }
    // It has no helpers, and changes nothing outside of its window: else it would not be merged.
    if (choice.merged) {
      const before = proposals.pop()!;
      windows.delete(before.window);
      for (const at of movedBy(before)) moved.delete(at);
    }
    accept(choice.proposal);
  }
  // Other code makes room only where no probe can have it. Neighbours that are left move together.
  const left = inOrder.filter(({ location }) => !done.has(location));
  for (const one of left) candidates.set(one.location, one);
  for (const { location: site } of left) {
    const context = done.has(site) ? "" : contextOf(site);
    if (typeof context === "string") continue;
    const proposal = evict(context);
    if (typeof proposal === "string") skipped.set(site, skipped.get(site)!.replace(NO_PADDING, NO_ROOM));
    else if (!changes(proposal.window) && obstacle(proposal) === undefined) accept(proposal);
  }
  // What needs least knowledge, and costs most.
  const withoutFar = new Map<Vaddr, string>();
  for (const { location: site } of left) {
    if (done.has(site)) continue;
    const context = bareContext(site);
    if (typeof context === "string") continue;
    const proposal = punned(context);
    const why = typeof proposal === "string" ? proposal : obstacle(proposal);
    if (typeof proposal === "object" && why === undefined) {
      accept(proposal);
      withoutFar.set(site, skipped.get(site)!);
    } else skipped.set(site, `${skipped.get(site)!}; ${why}`);
  }
  for (const site of done) skipped.delete(site);
  const all = [...proposals, ...helpers].sort((a, b) => a.window.start - b.window.start);
  assertDisjoint(all);
  return { proposals: all, skipped, withoutFar };
}

/** The code around a site, and which of its instructions the site is; or why there is none. */
function siteCode(facts: ProgramFacts, site: Vaddr): Pick<SiteContext, "code" | "range" | "index"> | string {
  const around = facts.siteCode(site);
  if (typeof around === "string") return around;
  const index = indexOf(around.code, site);
  return index < 0 ? "no instruction of its function begins here" : { ...around, index };
}

/** The same, whatever enters it: where it decodes. */
function decodedCode({ functions }: ProgramFacts, site: Vaddr): ReturnType<typeof siteCode> {
  const range = functions.containing(site);
  if (range === undefined) return "no function is known here";
  const code = functions.code(range);
  const index = code.unclean === undefined ? indexOf(code, site) : -1;
  return index < 0 ? "no instruction is known to begin here" : { code, range, index };
}

/** The sites that a proposal takes care of. */
export function probesOf({ change }: Proposal): readonly Vaddr[] {
  if (change.kind === "in-place") return change.probes.map((p) => p.site);
  return change.body.flatMap((f) => (f.kind === "probe" ? [f.site] : []));
}

/** Bytes outside of a proposal's window that it changes. */
interface Claim extends Interval<Vaddr> {
  /** They change so that the branch there leads elsewhere: where the branch moves, they are free. */
  readonly branch: Vaddr | undefined;
}

function outsideOf({ change, helpers }: Proposal): readonly Claim[] {
  if (change.kind !== "detour") return [];
  const branches = change.retargets.flatMap(({ branch, way, bytes }) =>
    stretchesOf(branch, way).map((s) => ({ ...s, branch: isPlainBranch(bytes) ? branch.at : undefined })),
  );
  const hops = typeof change.via === "object" && "hop" in change.via ? change.via.hop : [];
  const kept = change.kept === undefined ? [] : [change.kept];
  const others = [...hops, ...kept, ...farBytes(change.via), ...helpers.map((h) => h.window)];
  return [...branches, ...others.map((s) => ({ ...s, branch: undefined }))];
}

/** Those of the far jump that a window leads to. */
const farBytes = (via: Detour["via"]): readonly Interval<Vaddr>[] =>
  typeof via === "object" && "far" in via ? [{ start: via.far, end: vaddr(via.far + JUMP_SIZE) }] : [];

/** The instructions that a proposal moves. */
const movedBy = ({ change }: Proposal): readonly Vaddr[] =>
  change.kind === "detour" ? change.body.flatMap((f) => (f.kind === "instruction" ? [f.at] : [])) : [];

/** Whether a proposal changes bytes that an earlier one changes, in a window or outside of it. */
function overlap(proposal: Proposal, windows: Claims<Interval<Vaddr>>, claimed: Claims<Claim>): string | undefined {
  const outside = outsideOf(proposal);
  const stays = ({ branch }: Claim): boolean => branch === undefined || !movesInstruction(proposal, branch);
  const collides =
    [proposal.window, ...outside].some((bytes) => claimed.some(bytes, stays)) || outside.some((o) => windows.some(o));
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
