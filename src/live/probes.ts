/**
 * Probes, of sites that are notes: one that has two places, of which a pass runs one, is one probe, and its hits are those
 * at both.
 */
import type { LongNop } from "../kernel/kernels.js";
import type { LiveSite } from "./live.js";

export interface LiveProbe {
  /** The place that was hit most. */
  readonly site: LiveSite;
  readonly hits: number;
  /** Why one of its places has no uprobe, or null. */
  readonly untraced: string | null;
  /** Which of two places the passes ran, by the nop that kernels patch there; empty where there is one, or no hit. */
  readonly ran: readonly LongNop[];
}

/** The probe whose first or only place is that of a site. @param sites of whole files, in the order of their notes */
export function probeAt(sites: readonly LiveSite[], index: number): LiveProbe {
  const [first, second] = [sites[index]!, sites[index + 1]];
  if (first.twin === null || second === undefined)
    return { site: first, hits: first.hits, untraced: first.untraced, ran: [] };
  return {
    site: second.hits > first.hits ? second : first,
    hits: first.hits + second.hits,
    untraced: first.untraced ?? second.untraced,
    ran: [...(first.hits > 0 ? (["nop10"] as const) : []), ...(second.hits > 0 ? (["nop5"] as const) : [])],
  };
}

export const probesOf = (sites: readonly LiveSite[]): readonly LiveProbe[] =>
  sites.flatMap((site, i) => (site.isSecond ? [] : [probeAt(sites, i)]));
