/** What `verify` says: the JSON document of the command contract, and a report for people. */
import { hex } from "../address.js";
import type { LiveComparison } from "../live/compare.js";
import type { Difference, SiteVerdict, Verdict, VerifyReport } from "../verify/contract.js";
import { columns, count, forPeople, type Style } from "./text.js";

/** What the command adds to the report of the verification itself. */
export interface VerifyRun {
  readonly input: string;
  readonly report: VerifyReport;
  /** With --live. */
  readonly live: LiveComparison | null;
}

type VerifySummary = { readonly sites: number } & Readonly<Record<Verdict, number>>;

/**
 * How many probes there are, and what was found. `different` counts probes, and one more if the rest of the file
 * differs: it is 0 if and only if nothing does.
 */
export function summaryOf({ sites, findings }: VerifyReport): VerifySummary {
  const of = (verdict: Verdict): number => sites.filter((site) => site.verdict === verdict).length;
  return {
    sites: sites.length,
    equivalent: of("equivalent"),
    unproved: of("unproved"),
    different: of("different") + (findings.length > 0 ? 1 : 0),
  };
}

/** The document of `verify --json`. */
export const verifyDocument = ({ input, report, live }: VerifyRun): object => ({
  schemaVersion: 1,
  input,
  summary: summaryOf(report),
  sites: report.sites.map((site) => ({
    provider: site.provider,
    name: site.name,
    location: hex(site.location),
    newLocation: hex(site.newLocation),
    twin: site.twin === null ? null : hex(site.twin),
    verdict: site.verdict,
    states: site.states,
    reason: site.reason,
    difference: site.difference,
  })),
  findings: report.findings.map(({ where, what }) => ({ where, what })),
  uncompared: report.uncompared,
  forkGuard: report.forkGuard,
  live,
});

/** How many lines of one kind are printed; the JSON document has all. */
const MOST_LINES = 40;

/** The text of `verify`, with a line end. */
export const verifyText = forPeople(({ input, report, live }: VerifyRun, style: Style): string => {
  const lines = [headline(input, report, style)];
  for (const site of report.sites) if (site.verdict !== "equivalent") lines.push(...siteLines(site, style));
  lines.push(
    ...limited(report.findings.map(({ where, what }) => `  ${style.warning("different")}   ${where}: ${what}`)),
    ...limited(report.uncompared.map((what) => style.quiet(`  not compared: ${what}`))),
  );
  if (live !== null) lines.push(liveLine(live, style));
  return `${lines.join("\n")}\n`;
});

function headline(input: string, report: VerifyReport, style: Style): string {
  const { sites, equivalent, unproved } = summaryOf(report);
  const different = report.sites.filter((site) => site.verdict === "different").length;
  const parts = [`${equivalent} equivalent`];
  if (unproved > 0) parts.push(`${unproved} unproved`);
  if (different > 0) parts.push(style.warning(`${different} different`));
  const found = report.findings.length;
  const same = `the rest of ${report.uncompared.length === 0 ? "the file" : "what is loaded"} is as it was`;
  const rest = found === 0 ? same : style.warning(`${count(found, "other difference")}`);
  return `${style.heading(input)}: ${count(sites, "USDT probe")}: ${parts.join(", ")}; ${rest}`;
}

/** What the runs without and with uprobes showed. */
function liveLine(live: LiveComparison, style: Style): string {
  const traced = `${live.hit} of ${count(live.sites, "probe")} hit ${count(live.hits, "time")}, ${live.optimized} optimized`;
  const what =
    live.same === true
      ? "the same with uprobes and without"
      : style.warning(
          `${live.differences.join(", ")}: not the same with uprobes${live.same === null ? ", nor from run to run without" : ""}`,
        );
  return `  run on Linux ${live.kernel}: ${what}; ${traced}`;
}

const limited = (lines: readonly string[]): string[] =>
  lines.length <= MOST_LINES
    ? [...lines]
    : [...lines.slice(0, MOST_LINES), `  and ${lines.length - MOST_LINES} more (--json lists them)`];

function siteLines(site: SiteVerdict, style: Style): string[] {
  const { provider, name, location, newLocation, verdict, reason, difference } = site;
  const moved = newLocation === location ? "" : ` -> ${hex(newLocation)}`;
  const word = style.warning(verdict.padEnd(9));
  const line = `  ${word}   ${hex(location)}${moved} ${provider}:${name}: ${reason ?? "no reason given"}`;
  return difference === null || verdict !== "different" ? [line] : [line, ...differenceLines(difference, style)];
}

/** The state that shows it, as a table, and what ran on both sides. */
function differenceLines({ rows, originalTrace, rewrittenTrace }: Difference, style: Style): string[] {
  const indent = "              ";
  const lines: string[] = [];
  if (rows.length > 0) {
    const cells = rows.map(({ name, before, original, rewritten }) => [name, before, original, rewritten]);
    const [head, ...rest] = columns([["", "BEFORE", "ORIGINAL", "REWRITTEN"], ...cells], indent);
    lines.push(style.quiet(head!), ...rest);
  }
  if (originalTrace.length > 0 || rewrittenTrace.length > 0) {
    const length = Math.max(originalTrace.length, rewrittenTrace.length);
    const cells = Array.from({ length }, (_, i) => [originalTrace[i] ?? "", rewrittenTrace[i] ?? ""]);
    const [head, ...rest] = columns([["ORIGINAL RAN", "REWRITTEN RAN"], ...cells], indent);
    lines.push(style.quiet(head!), ...rest);
  }
  return lines;
}
