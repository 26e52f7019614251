/**
 * The plan: for each site the first tactic that is proved safe, or why none is. All sites of a file are planned
 * together, in the order of their addresses, so that windows never overlap: where the one of a site would reach into
 * the one before it, the two become one.
 */
import { hex, type Interval, type Vaddr } from "../address.js";
import type { ProgramFacts } from "../facts/program.js";
import { addTo } from "../grouped.js";
import { indexOf } from "../x86/decode.js";
import { Claims } from "./claims.js";
import type { InputTables } from "./input-tables.js";
import { combination, longerNops, overwritten } from "./kept-probes.js";
import { type Claim, movedBy, outsideOf, overlap, pinObstacle, probesOf, taken } from "./overlaps.js";
import type { Proposal, SiteContext, Tactic, TacticName, WantedProbe } from "./proposal.js";
import { Refusal, refuse } from "./refusal.js";
import { callThrough } from "./tactics/call-through.js";
import { detour, displace, straddle } from "./tactics/displace.js";
import { displaceCall } from "./tactics/displace-call.js";
import { evict } from "./tactics/evict.js";
import { hop, hopRetarget } from "./tactics/hop.js";
import { inPlace } from "./tactics/in-place.js";
import { punned } from "./tactics/punned.js";
import { retarget, retargetShort } from "./tactics/retarget.js";
import { shift } from "./tactics/shift.js";

type Named = readonly [name: TacticName, tactic: Tactic];

const toNewCode: readonly Named[] = [
  ["displace", displace],
  ["straddle", straddle],
  ["call-through", callThrough],
  ["retarget", retarget],
  ["hop", hop],
];
const last: readonly Named[] = [
  ["retarget-short", retargetShort],
  ["hop-retarget", hopRetarget],
  ["displace-call", displaceCall],
];
const where: readonly Named[] = [
  ["in-place", inPlace],
  ["shift", shift],
];
/** Cheapest for the running program first. */
const cheapest: readonly Named[] = [...where, ...toNewCode, ...last];
/** What leaves the probe where it is comes late: see fork-guard/fork-guard.ts. */
const together: readonly Named[] = [...toNewCode, ...last, ...where];

/** A tactic that was asked for a site, and what came of it. */
export interface Trial {
  readonly tactic: TacticName;
  /** Why it could not; "overlaps" where it would have reached into the window of the probe before; or it was chosen. */
  readonly outcome: Refusal | "overlaps" | "chosen";
}

export interface Plan {
  /** In ascending order of their windows, which do not overlap. */
  readonly proposals: readonly Proposal[];
  /** Why a site stays as it is. */
  readonly skipped: ReadonlyMap<Vaddr, readonly Refusal[]>;
  /** Why a site with a far jump would stay as it is without that. */
  readonly withoutFar: ReadonlyMap<Vaddr, readonly Refusal[]>;
  /** What was tried for each site, in this order. */
  readonly trials: ReadonlyMap<Vaddr, readonly Trial[]>;
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
  const planning = new Planning(tables, wanted, sites, unwindable);
  planning.inOrder(inNewCode ? together : cheapest);
  planning.evictOthers();
  planning.pun();
  return planning.result();
}

class Planning {
  private readonly wanted: readonly WantedSite[];
  private readonly proposals: Proposal[] = [];
  private readonly windows = new Claims<Interval<Vaddr>>();
  /** Bytes outside of windows that change: branches led elsewhere, padding that a jump goes through. */
  private readonly claimed = new Claims<Claim>();
  /** Instructions that run elsewhere. */
  private readonly moved = new Set<Vaddr>();
  /** Detours without a probe. */
  private readonly helpers: Proposal[] = [];
  private readonly skipped = new Map<Vaddr, readonly Refusal[]>();
  private readonly withoutFar = new Map<Vaddr, readonly Refusal[]>();
  private readonly trials = new Map<Vaddr, Trial[]>();
  private readonly candidates: Map<Vaddr, WantedSite>;
  private readonly pinned: ReadonlyMap<Vaddr, string>;
  private readonly done = new Set<Vaddr>();
  private readonly longer: ReadonlyMap<Vaddr, Vaddr>;
  /** All sites, ascending. */
  private readonly ordered: Float64Array;

  constructor(
    private readonly tables: InputTables,
    wanted: readonly WantedSite[],
    private readonly sites: ReadonlySet<Vaddr>,
    private readonly unwindable: boolean,
  ) {
    this.wanted = [...wanted].sort((a, b) => a.location - b.location);
    this.candidates = new Map(wanted.map((w) => [w.location, w]));
    this.pinned = new Map(wanted.flatMap((w) => (w.pinned === undefined ? [] : [[w.location, w.pinned] as const])));
    this.longer = longerNops(tables.facts.image, sites);
    this.ordered = Float64Array.from(sites).sort();
  }

  /** Each site by the first tactic that can, and together with the probe before it where they stand close. */
  inOrder(tactics: readonly Named[]): void {
    for (const { location: site } of this.wanted) {
      if (this.done.has(site)) continue;
      const context = this.contextIn(site, siteCode(this.tables.facts, site));
      const choice = context instanceof Refusal ? { refusals: [context] } : this.choose(tactics, context);
      if ("refusals" in choice) {
        this.skipped.set(site, choice.refusals);
        this.candidates.delete(site);
        continue;
      }
      // It has no helpers, and changes nothing outside of its window: else it would not be merged.
      if (choice.merged) {
        const before = this.proposals.pop()!;
        this.windows.delete(before.window);
        for (const at of movedBy(before)) this.moved.delete(at);
      }
      this.accept(choice.proposal);
    }
  }

  /** Other code makes room only where no probe can have it. Neighbours that are left move together. */
  evictOthers(): void {
    const left = this.left();
    for (const one of left) this.candidates.set(one.location, one);
    for (const { location: site } of left) {
      if (this.done.has(site)) continue;
      const context = this.contextIn(site, siteCode(this.tables.facts, site));
      if (context instanceof Refusal) continue;
      const proposal = evict(context);
      if (proposal instanceof Refusal) {
        this.note(site, "evict", proposal);
        this.skipped.set(site, this.skipped.get(site)!.map(withoutAnyRoom));
        continue;
      }
      const why = this.changes(proposal.window) ? taken(proposal) : this.obstacle(proposal);
      this.note(site, "evict", why ?? "chosen");
      if (why === undefined) this.accept(proposal);
    }
  }

  /** What needs least knowledge, and costs most. */
  pun(): void {
    for (const { location: site } of this.left()) {
      if (this.done.has(site)) continue;
      const context = this.contextIn(site, decodedCode(this.tables.facts, site));
      if (context instanceof Refusal) continue;
      const answer = this.ask(punned, context);
      const known = this.skipped.get(site)!;
      if (answer instanceof Refusal) {
        this.note(site, "punned", answer);
        this.skipped.set(site, [...known, answer]);
      } else {
        this.note(site, "punned", "chosen");
        this.accept(answer);
        this.withoutFar.set(site, known);
      }
    }
  }

  result(): Plan {
    for (const site of this.done) this.skipped.delete(site);
    const proposals = [...this.proposals, ...this.helpers].sort((a, b) => a.window.start - b.window.start);
    assertDisjoint(proposals);
    return { proposals, skipped: this.skipped, withoutFar: this.withoutFar, trials: this.trials };
  }

  private left(): readonly WantedSite[] {
    return this.wanted.filter(({ location }) => !this.done.has(location));
  }

  private note(site: Vaddr, tactic: TacticName, outcome: Trial["outcome"]): void {
    addTo(this.trials, site, { tactic, outcome });
  }

  private changes(bytes: Interval<Vaddr>): boolean {
    return this.claimed.some(bytes) || this.windows.some(bytes);
  }

  private obstacle(proposal: Proposal): Refusal | undefined {
    const isKept = (address: Vaddr): boolean => this.sites.has(address) && !this.done.has(address);
    return (
      pinObstacle(proposal, this.pinned) ??
      overlap(proposal, this.windows, this.claimed) ??
      overwritten(proposal, this.ordered, isKept) ??
      combination(proposal, isKept)
    );
  }

  /** What a tactic proposes, if nothing is in its way. */
  private ask(tactic: Tactic, context: SiteContext): Proposal | Refusal {
    const proposal = tactic(context);
    return proposal instanceof Refusal ? proposal : (this.obstacle(proposal) ?? proposal);
  }

  private contextIn(site: Vaddr, around: ReturnType<typeof siteCode>): SiteContext | Refusal {
    if (around instanceof Refusal) return around;
    return {
      site,
      ...around,
      facts: this.tables.facts,
      tables: this.tables,
      probe: (address) => this.candidates.get(address),
      isSite: (address) => this.sites.has(address) || this.isOfKept(address, site),
      isFree: (start, end) => !this.changes({ start, end }),
      isMoved: (address) => this.moved.has(address),
      unwindable: this.unwindable,
      evicts: false,
    };
  }

  /** Whether a longer nop stands here that makes, with the nop before it, a probe that stays what it is. */
  private isOfKept(address: Vaddr, site: Vaddr): boolean {
    const probe = this.longer.get(address);
    if (probe === undefined || probe === site || this.done.has(probe)) return false;
    return !this.candidates.has(probe) || this.skipped.has(probe);
  }

  private accept(proposal: Proposal): void {
    this.proposals.push(proposal);
    this.windows.add(proposal.window);
    for (const claim of outsideOf(proposal)) this.claimed.add(claim);
    this.helpers.push(...proposal.helpers);
    for (const one of [proposal, ...proposal.helpers]) for (const at of movedBy(one)) this.moved.add(at);
    for (const probe of probesOf(proposal)) this.done.add(probe);
  }

  /**
   * The first tactic that can, or one that takes in the probe before; else what most is said by of what is in the way.
   */
  private choose(
    tactics: readonly Named[],
    context: SiteContext,
  ): { readonly proposal: Proposal; readonly merged: boolean } | { readonly refusals: readonly Refusal[] } {
    const { site } = context;
    const previous = this.proposals.at(-1);
    const refusals: { readonly tactic: TacticName; readonly refusal: Refusal }[] = [];
    const fail = (tactic: TacticName, refusal: Refusal): void => {
      refusals.push({ tactic, refusal });
      this.note(site, tactic, refusal);
    };
    let overlaps = false;
    for (const [tactic, propose] of tactics) {
      const proposal = this.ask(propose, context);
      if (proposal instanceof Refusal) fail(tactic, proposal);
      else if (previous !== undefined && proposal.window.start < previous.window.end) {
        overlaps = true;
        this.note(site, tactic, "overlaps");
      } else {
        this.note(site, tactic, "chosen");
        return { proposal, merged: false };
      }
    }
    if (overlaps && previous !== undefined) {
      const first = indexOf(context.code, previous.window.start);
      const merged =
        first < 0
          ? refuse("other-probe", "the probe before it lies in another function", previous.window.start)
          : detour(context, first, context.index, "straddle");
      if (!(merged instanceof Refusal) && outsideOf(previous).length === 0 && this.obstacle(merged) === undefined) {
        this.note(site, "straddle", "chosen");
        return { proposal: merged, merged: true };
      }
      const text = `it stands too close after the probe at ${hex(previous.window.start)}`;
      fail("displace", refuse("other-probe", text, previous.window.start));
    }
    // Those of displace and what comes after it say most about what is in the way.
    const best = refusals.filter(({ tactic }) => tactic !== "in-place" && tactic !== "shift");
    return { refusals: (best.length > 0 ? best : refusals).map((r) => r.refusal) };
  }
}

/** Where no padding has room, other code might have made some. */
const withoutAnyRoom = (refusal: Refusal): Refusal =>
  refusal.code === "no-padding"
    ? refuse(refusal.code, `${refusal.text}, and no code there can make room`, refusal.at)
    : refusal;

/** The code around a site, and which of its instructions the site is; or why there is none. */
function siteCode(facts: ProgramFacts, site: Vaddr): Pick<SiteContext, "code" | "range" | "index"> | Refusal {
  const around = facts.siteCode(site);
  if (typeof around === "string")
    return refuse(decodedCode(facts, site) instanceof Refusal ? "unknown-code" : "unknown-entries", around, site);
  const index = indexOf(around.code, site);
  return index < 0 ? refuse("unknown-code", "no instruction of its function begins here", site) : { ...around, index };
}

/** The same, whatever enters it: where it decodes. */
function decodedCode({ functions }: ProgramFacts, site: Vaddr): ReturnType<typeof siteCode> {
  const range = functions.containing(site);
  if (range === undefined) return refuse("unknown-code", "no function is known here", site);
  const code = functions.code(range);
  const index = code.unclean === undefined ? indexOf(code, site) : -1;
  return index < 0 ? refuse("unknown-code", "no instruction is known to begin here", site) : { code, range, index };
}

function assertDisjoint(proposals: readonly Proposal[]): void {
  for (let i = 1; i < proposals.length; i++)
    if (proposals[i]!.window.start < proposals[i - 1]!.window.end)
      throw new Error(`windows overlap at ${hex(proposals[i]!.window.start)}`);
}
