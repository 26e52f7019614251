/** What `live` says: the JSON document of the command contract, and a table for people. */
import { hex } from "../address.js";
import type { LiveResult, LiveSite } from "../live/live.js";
import { columns, count, forPeople, type Style } from "./text.js";

/** The document of `live --json`: an entry a note, and at both places of a probe what became of it. */
export const liveDocument = (kernel: string, result: LiveResult): object => ({
  schemaVersion: 1,
  kernel,
  exitCode: result.exitCode,
  signal: result.signal,
  sites: result.sites.map((site, i) => {
    const probe = probeAt(result.sites, site.isSecond ? i - 1 : i);
    return {
      file: site.file,
      provider: site.provider,
      name: site.name,
      location: hex(site.location),
      hits: site.hits,
      twin: site.twin === null ? null : hex(site.twin),
      probeHits: probe.hits,
      ran: probe.ran,
      optimized: site.optimized,
      bytes: site.bytes,
      untraced: site.untraced,
    };
  }),
});

interface LiveRun {
  readonly kernel: string;
  readonly result: LiveResult;
}

/** A probe and how often it was passed: at a place, or at two of which each pass runs one. */
interface LiveProbe {
  /** The place that was hit most. */
  readonly site: LiveSite;
  readonly hits: number;
  readonly untraced: string | null;
  /** Which of two places the passes ran; null where there is one, or none was hit. */
  readonly ran: string | null;
}

/** The probe whose first or only place is that of a site. */
function probeAt(sites: readonly LiveSite[], index: number): LiveProbe {
  const [first, second] = [sites[index]!, sites[index + 1]];
  if (first.twin === null || second === undefined)
    return { site: first, hits: first.hits, untraced: first.untraced, ran: null };
  const ran = [...(first.hits > 0 ? ["nop,nop10"] : []), ...(second.hits > 0 ? ["nop5"] : [])];
  return {
    site: second.hits > first.hits ? second : first,
    hits: first.hits + second.hits,
    untraced: first.untraced ?? second.untraced,
    ran: ran.length === 0 ? null : ran.join(" and "),
  };
}

const probesOf = (sites: readonly LiveSite[]): readonly LiveProbe[] =>
  sites.flatMap((site, i) => (site.isSecond ? [] : [probeAt(sites, i)]));

/** The text of `live`: the probes that were hit or could not be traced, and how the command ended. */
export const liveText = forPeople(({ kernel, result }: LiveRun, style: Style): string => {
  const probes = probesOf(result.sites);
  const shown = probes.filter((probe) => probe.hits > 0 || probe.untraced !== null);
  const row = ({ site, hits, untraced, ran }: LiveProbe): string[] => [
    `${site.provider}:${site.name}`,
    hex(site.location),
    String(hits),
    how(site) + (ran === null ? "" : ` (${ran})`),
    site.bytes ?? "-",
    untraced ?? site.file,
  ];
  const hit = probes.filter((probe) => probe.hits > 0);
  const optimized = hit.filter(({ site }) => site.optimized).length;
  const end = result.signal === null ? `exit status ${result.exitCode}` : `killed by ${result.signal}`;
  const summary = `${end}; ${hit.length} of ${count(probes.length, "probe")} hit, ${optimized} of them optimized (Linux ${kernel})`;
  if (shown.length === 0) return `${style.heading(summary)}\n`;
  const [head, ...rows] = columns([["PROBE", "LOCATION", "HITS", "BY", "BYTES", "FILE"], ...shown.map(row)], "  ");
  return [style.heading(summary), style.quiet(head!), ...rows, ""].join("\n");
});

const how = ({ refused, bytes, optimized }: LiveSite): string =>
  refused ? "refused" : bytes === null ? "?" : optimized ? "call" : "trap";
