/** What `live` says: the JSON document of the command contract, and a table for people. */
import { hex } from "../address.js";
import type { LiveResult, LiveSite } from "../live/live.js";
import { columns, count, forPeople, type Style } from "./text.js";

/** The document of `live --json`. */
export const liveDocument = (kernel: string, result: LiveResult): object => ({
  schemaVersion: 1,
  kernel,
  exitCode: result.exitCode,
  signal: result.signal,
  sites: result.sites.map((site) => ({
    file: site.file,
    provider: site.provider,
    name: site.name,
    location: hex(site.location),
    hits: site.hits,
    optimized: site.optimized,
    bytes: site.bytes,
    untraced: site.untraced,
  })),
});

interface LiveRun {
  readonly kernel: string;
  readonly result: LiveResult;
}

/** The text of `live`: the sites that were hit or could not be traced, and how the command ended. */
export const liveText = forPeople(({ kernel, result }: LiveRun, style: Style): string => {
  const shown = result.sites.filter((site) => site.hits > 0 || site.untraced !== null);
  const row = (site: LiveSite): string[] => [
    `${site.provider}:${site.name}`,
    hex(site.location),
    String(site.hits),
    site.refused ? "refused" : site.bytes === null ? "?" : site.optimized ? "call" : "trap",
    site.bytes ?? "-",
    site.untraced ?? site.file,
  ];
  const hit = result.sites.filter((site) => site.hits > 0);
  const optimized = hit.filter((site) => site.optimized).length;
  const end = result.signal === null ? `exit status ${result.exitCode}` : `killed by ${result.signal}`;
  const summary = `${end}; ${hit.length} of ${count(result.sites.length, "probe")} hit, ${optimized} of them optimized (Linux ${kernel})`;
  if (shown.length === 0) return `${style.heading(summary)}\n`;
  const [head, ...rows] = columns([["PROBE", "LOCATION", "HITS", "BY", "BYTES", "FILE"], ...shown.map(row)], "  ");
  return [style.heading(summary), style.quiet(head!), ...rows, ""].join("\n");
});
