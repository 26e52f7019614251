/** What `live` says: the JSON document of the command contract, and a table for people. */
import { hex } from "../address.js";
import type { LiveResult, LiveSite } from "../live/live.js";
import { type LiveProbe, probeAt, probesOf } from "../live/probes.js";
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
      ran: ranText(probe),
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

/** Which of a probe's two places ran, as `list` calls them; null where it has one, or none was hit. */
const ranText = ({ ran }: LiveProbe): string | null =>
  ran.length === 0 ? null : ran.map((nop) => (nop === "nop5" ? nop : `nop,${nop}`)).join(" and ");

/** The text of `live`: the probes that were hit or could not be traced, and how the command ended. */
export const liveText = forPeople(({ kernel, result }: LiveRun, style: Style): string => {
  const probes = probesOf(result.sites);
  const shown = probes.filter((probe) => probe.hits > 0 || probe.untraced !== null);
  const row = (probe: LiveProbe): string[] => {
    const { site, hits, untraced } = probe;
    const ran = ranText(probe);
    return [
      `${site.provider}:${site.name}`,
      hex(site.location),
      String(hits),
      how(site) + (ran === null ? "" : ` (${ran})`),
      site.bytes ?? "-",
      untraced ?? site.file,
    ];
  };
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
