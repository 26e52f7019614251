/**
 * The plan as data that can be printed: what was known of each probe, what was tried for it, what was chosen, where its
 * new code went, and which bytes of the file change for it. `rewrite --plan-json` and `--explain` show it.
 */
import { type FileOffset, hex, type Interval, type Vaddr } from "../address.js";
import { describeEntry } from "../facts/entries.js";
import type { ProgramFacts } from "../facts/program.js";
import type { SiteReport } from "../rewritten/contract.js";
import type { FileLayout } from "../usdt/forms.js";
import { disassemble } from "../x86/relocate.js";
import type { Edit } from "./edits.js";
import type { Located } from "./locate.js";
import { outsideOf, probesOf } from "./overlaps.js";
import type { Trial } from "./plan.js";
import type { Detour, Fragment, Proposal, TacticName } from "./proposal.js";
import type { RefusalCode } from "./refusal.js";

/** Addresses are link-time addresses, offsets are file offsets of the input. */
export interface PlanReport {
  readonly layout: FileLayout;
  /** Where new code went, or null where there is none. */
  readonly newCode: { readonly place: string; readonly start: Vaddr; readonly size: number } | null;
  /** One for each note. */
  readonly sites: readonly SitePlan[];
  /** Bytes of the input that get others where they stand: what grows or moves is not among them. */
  readonly edits: readonly { readonly offset: FileOffset; readonly size: number }[];
}

export interface SitePlan {
  readonly report: SiteReport;
  /** The part of a function that the probe is in; null where none is known. */
  readonly range: Interval<Vaddr> | null;
  /** What may enter the code close by, as far as it was looked at. */
  readonly entries: readonly { readonly address: Vaddr; readonly text: string }[];
  readonly trials: readonly TrialReport[];
  /** What is done for it; null where it stays as it is. */
  readonly change: ChangeReport | null;
}

export interface TrialReport {
  readonly tactic: TacticName;
  readonly outcome: "chosen" | "overlaps" | "refused";
  readonly code: RefusalCode | null;
  readonly at: Vaddr | null;
  readonly text: string | null;
}

export interface ChangeReport {
  readonly tactic: TacticName;
  /** Bytes that get new content, and how they lead to new code; null where they hold all of it. */
  readonly window: Interval<Vaddr>;
  readonly via: string | null;
  /** Other bytes that change for it or have to stay. */
  readonly others: readonly Interval<Vaddr>[];
  /** Its new code, where it has some, instruction by instruction: probes as their form's name. */
  readonly newCode: Interval<Vaddr> | null;
  readonly body: readonly { readonly from: Vaddr; readonly text: string }[];
  readonly resume: Vaddr | null;
  /** Branches that lead to the new code instead of into the window. */
  readonly retargets: readonly { readonly branch: Vaddr; readonly target: Vaddr; readonly way: string }[];
}

/** How far from the probe entries are told. */
const CLOSE = 32;

export function planReport(
  layout: FileLayout,
  reports: readonly SiteReport[],
  facts: ProgramFacts | undefined,
  located: Located,
  edits: readonly Edit[],
): PlanReport {
  const { code, proposals, trials } = located;
  const chosen = new Map(proposals.flatMap((p) => probesOf(p).map((site) => [site, p] as const)));
  return {
    layout,
    newCode: code === undefined ? null : newCodeOf(code),
    sites: reports.map((report) => {
      const proposal = chosen.get(report.location);
      return {
        report,
        ...surroundings(facts, report.location),
        trials: (trials.get(report.location) ?? []).map(trialReport),
        change: proposal === undefined ? null : changeReport(proposal, located),
      };
    }),
    edits: [...edits].sort((a, b) => a.offset - b.offset).map((e) => ({ offset: e.offset, size: e.new.length })),
  };
}

const newCodeOf = ({ place, newCode }: NonNullable<Located["code"]>): NonNullable<PlanReport["newCode"]> => ({
  place: place.kind,
  start: newCode.start,
  size: newCode.bytes.length,
});

function surroundings(facts: ProgramFacts | undefined, site: Vaddr): Pick<SitePlan, "range" | "entries"> {
  const range = facts?.functions.containing(site);
  if (facts === undefined || range === undefined) return { range: null, entries: [] };
  const entries = facts.entries.within(Math.max(range.start, site - CLOSE), Math.min(range.end, site + CLOSE));
  return {
    range: { start: range.start, end: range.end },
    entries: entries.map((entry) => ({ address: entry.address, text: describeEntry(entry) })),
  };
}

function trialReport({ tactic, outcome }: Trial): TrialReport {
  if (typeof outcome === "string") return { tactic, outcome, code: null, at: null, text: null };
  return { tactic, outcome: "refused", code: outcome.code, at: outcome.at ?? null, text: outcome.text };
}

function changeReport(proposal: Proposal, { code }: Located): ChangeReport {
  const { tactic, window, change, helpers } = proposal;
  const common = { tactic, window, others: [...outsideOf(proposal), ...helpers.map((h) => h.window)].map(bare) };
  if (change.kind === "in-place") return { ...common, via: null, newCode: null, body: [], resume: null, retargets: [] };
  const chunk = code?.newCode.chunks.find((c) => c.proposal === proposal);
  return {
    ...common,
    via: viaWords(change.via),
    newCode: chunk === undefined ? null : bare(chunk),
    body: change.body.map(fragmentReport),
    resume: change.resume ?? null,
    retargets: change.retargets.map(({ branch, target, way }) => ({
      branch: branch.at,
      target,
      way: typeof way === "string" ? way : way.kind,
    })),
  };
}

const bare = ({ start, end }: Interval<Vaddr>): Interval<Vaddr> => ({ start, end });

const plainVia = { jump: "a jump", call: "the call at its end", branches: "the branches that lead there" } as const;

function viaWords(via: Detour["via"]): string {
  if (typeof via === "string") return plainVia[via];
  return "far" in via
    ? `a jump by the bytes after it to ${hex(via.far)}`
    : `a short jump to padding at ${via.hop.map((s) => hex(s.start)).join(", ")}`;
}

const fragmentReport = (fragment: Fragment): ChangeReport["body"][number] =>
  fragment.kind === "probe"
    ? { from: fragment.site, text: fragment.form.guard ? `${fragment.form.layout}, guarded` : fragment.form.layout }
    : { from: fragment.at, text: disassemble(fragment.bytes, fragment.at) };
