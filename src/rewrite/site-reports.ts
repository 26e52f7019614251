/**
 * What is said of each site: by the run that rewrites it, and by one that finds everything done.
 */
import type { Vaddr } from "../address.js";
import type { RedZone, RewriteReport, SiteCost, SiteReport } from "../rewritten/contract.js";
import type { UsdtNote } from "../usdt/notes.js";
import type { Located } from "./locate.js";
import type { Proposal } from "./proposal.js";
import { wordsOf } from "./refusal.js";
import type { Selection } from "./select.js";

/** What was known of the sites before anything was planned. */
interface Known {
  readonly selection: ReadonlyMap<UsdtNote, Selection>;
  readonly redZones: ReadonlyMap<Vaddr, RedZone>;
}

const noReason = { reason: null, reasonCode: null } as const;

/**
 * What became of one note's probe.
 * @param chosen the proposals that are carried out, by the sites they are for
 */
export function reportSite(
  note: UsdtNote,
  { selection, redZones }: Known,
  chosen: ReadonlyMap<Vaddr, Proposal>,
  { placed, skipped }: Located,
  cost: SiteCost | null,
): SiteReport {
  const selected = selection.get(note)!;
  const { provider, name, location } = note;
  const common = { provider, name, location, redZone: redZones.get(location) ?? "unknown" } as const;
  const probe = placed.get(location);
  if (selected.kind === "candidate" && probe !== undefined) {
    const { tactic, displaced } = chosen.get(location)!;
    const { form } = probe;
    return {
      ...common,
      newLocation: probe.location,
      twin: probe.twin?.location ?? null,
      status: "rewritten",
      tactic,
      guard: form.guard,
      ...noReason,
      displaced,
      cost,
    };
  }
  const unchanged = {
    ...common,
    newLocation: location,
    twin: null,
    tactic: null,
    guard: false,
    displaced: [],
    cost: null,
  };
  if (selected.kind === "already") return { ...unchanged, status: "already", ...noReason };
  const refusals = selected.kind === "skipped" ? [selected.refusal] : skipped.get(location)!;
  return { ...unchanged, status: "skipped", reason: wordsOf(refusals), reasonCode: refusals[0]!.code };
}

/** What is said of a file that is already what these options make of its original, which is what `report` is about. */
export const nothingToDo = (report: RewriteReport): RewriteReport => ({
  ...report,
  inputSize: report.outputSize,
  sites: report.sites.map((site) => ({
    ...site,
    location: site.newLocation,
    status: site.reason === null ? "already" : "skipped",
    tactic: null,
    displaced: [],
    cost: null,
  })),
});
