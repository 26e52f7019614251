/** What `rewrite` says: the JSON document of the command contract, and a report for people. */
import { hex } from "../address.js";
import { groupBy } from "../grouped.js";
import { type KernelFacts, kernels, STEPPING_FACTOR, type Treatment } from "../kernel/kernels.js";
import type { RewriteReport, SiteReport, SiteStatus } from "../rewritten/contract.js";
import type { HazardCode } from "../rewritten/hazard-codes.js";
import { type FileLayout, treatmentIn } from "../usdt/forms.js";
import { count, forPeople, type Style } from "./text.js";

/** What the command adds to the report of the rewrite itself. */
export interface RewriteRun {
  readonly input: string;
  /** The file that now holds the result, or null where nothing was written. */
  readonly output: string | null;
  /** Why nothing was written, where that is so. */
  readonly unwritten: "dry run" | "strict" | "unmatched" | null;
  readonly report: RewriteReport;
}

/** The document of `rewrite --json`. */
export const rewriteDocument = ({ input, output, report }: RewriteRun): object => ({
  schemaVersion: 1,
  input,
  output,
  layout: report.layout,
  size: { input: report.inputSize, output: report.outputSize },
  summary: summaryOf(report),
  sites: report.sites.map((site) => ({
    provider: site.provider,
    name: site.name,
    location: hex(site.location),
    newLocation: hex(site.newLocation),
    twin: site.twin === null ? null : hex(site.twin),
    status: site.status,
    tactic: site.tactic,
    redZone: site.redZone,
    guard: site.guard,
    reason: site.reason,
    reasonCode: site.reasonCode,
    displaced: site.displaced,
    cost: site.cost,
  })),
  hazards: report.hazards.map(({ code, message }) => ({ code, message })),
  forkGuard: report.forkGuard,
  tracing: tracingOf(report).map(({ kernel, plain, libbpf, probes }) => ({
    kernel: kernel.range,
    plain,
    libbpf,
    probes,
  })),
});

/** What tracers get from so many probes on a kernel. */
interface Tracing {
  readonly kernel: KernelFacts;
  readonly plain: Treatment;
  readonly libbpf: Treatment;
  readonly probes: number;
}

/** What they get from the probes that are as they should be, kernel by kernel, and where they differ kind by kind. */
function tracingOf(report: RewriteReport): Tracing[] {
  const forms = report.sites.flatMap((site) => (site.status === "skipped" ? [] : [formOf(site, report.layout)]));
  return kernels.flatMap((kernel) => {
    const groups = groupBy(forms, (form) => Object.values(treatmentIn(kernel, form)).join());
    return [...groups.values()].map((own) => ({ kernel, ...treatmentIn(kernel, own[0]!), probes: own.length }));
  });
}

/** Of a universal layout some probes have one form, since they could not have two, or are a bare nop5 from the start. */
function formOf({ status, twin }: SiteReport, layout: FileLayout): FileLayout {
  if (layout !== "universal" || twin !== null) return layout;
  return status === "already" ? "nop5" : "nop,nop10";
}

const treatments: Readonly<Record<Treatment, string>> = {
  emulated: "a trap a hit, as for the one-byte nop",
  stepped: `a trap and a single step a hit, about ${STEPPING_FACTOR} times slower than the one-byte nop`,
  optimized: "a call instead of a trap, twice as fast or better",
  refused: "nothing: the kernel refuses the instruction",
};

function tracingLines(report: RewriteReport): string[] {
  const all = tracingOf(report);
  return all.map(({ kernel, plain, libbpf, probes }) => {
    const rest = plain === libbpf ? "" : ` (a libbpf that knows this kernel: ${treatments[libbpf]})`;
    const isOne = all.filter((other) => other.kernel === kernel).length === 1;
    const whose = isOne ? "" : `, ${count(probes, "probe")}`;
    return `  traced on Linux ${kernel.range}${whose}: ${treatments[plain]}${rest}`;
  });
}

function forkGuardLines({ forkGuard }: RewriteReport): string[] {
  if (forkGuard === null) return [];
  const { installed, reason, sites, pages } = forkGuard;
  if (!installed) return [`  no fork guard: ${reason}`];
  return [
    `  fork guard: a forked child looks at ${count(sites, "probe")} in ${count(pages, "page")} before anything else runs`,
  ];
}

/** How many probes there are, and what became of them. */
export function summaryOf(report: RewriteReport): { sites: number } & Record<SiteStatus, number> {
  const of = (status: SiteStatus): number => report.sites.filter((site) => site.status === status).length;
  return { sites: report.sites.length, rewritten: of("rewritten"), already: of("already"), skipped: of("skipped") };
}

/**
 * The text of `rewrite`, with a line end.
 * @param accepted hazards that are known, and not told again
 */
export const rewriteText = forPeople((run: RewriteRun, style: Style, accepted: readonly HazardCode[]): string => {
  const { report } = run;
  const summary = summaryOf(report);
  const lines: string[] = [];
  if (summary.sites === 0) lines.push(`${style.heading(run.input)}: no USDT probes, nothing to rewrite`);
  else {
    const parts = [`${summary.rewritten} rewritten`];
    if (summary.already > 0) parts.push(`${summary.already} already done`);
    if (summary.skipped > 0) parts.push(`${summary.skipped} skipped`);
    const head = `${count(summary.sites, "USDT probe")}, layout ${report.layout}: ${parts.join(", ")}`;
    lines.push(`${style.heading(run.input)}: ${head}`);
  }
  for (const site of report.sites) lines.push(...siteLines(site, style));
  lines.push(...tracingLines(report), ...forkGuardLines(report));
  const hazards = report.hazards.filter(({ code }) => !accepted.includes(code));
  for (const { code, message } of hazards) lines.push(`${style.warning(`warning (${code})`)}: ${message}`);
  lines.push(outcome(run), "");
  return lines.join("\n");
});

function siteLines(site: SiteReport, style: Style): string[] {
  const probe = `${site.provider}:${site.name}`;
  if (site.status === "skipped")
    return [`  ${style.warning("skipped")}    ${hex(site.location)} ${probe}: ${site.reason ?? "no reason given"}`];
  if (site.status === "already") return [`  ${style.quiet("already")}    ${hex(site.location)} ${probe}`];
  const moved = site.newLocation === site.location ? "" : ` -> ${hex(site.newLocation)}`;
  const how = [site.tactic, redZoneWords(site), costWords(site)].filter((part) => part !== null).join(", ");
  const lines = [`  ${style.good("rewritten")}  ${hex(site.location)}${moved} ${probe}: ${how}`];
  if (site.displaced.length > 0) lines.push(style.quiet(`             moved: ${site.displaced.join("; ")}`));
  return lines;
}

const redZoneWords = (site: SiteReport): string | null => {
  const guard = site.guard ? ", guarded" : "";
  return site.redZone === "unused" && !site.guard ? null : `red zone ${site.redZone}${guard}`;
};

const costWords = ({ cost }: SiteReport): string | null =>
  cost && `costs ${cost.addressSpace} bytes of address space and ${count(cost.pages, "page")}`;

function outcome({ output, unwritten, report }: RewriteRun): string {
  if (unwritten === "dry run") return `dry run: nothing written${growth(report)}`;
  if (unwritten === "strict") return "--strict: not every probe could be rewritten, nothing written";
  if (unwritten === "unmatched") return "--strict: a pattern of --only matches no probe, nothing written";
  return `written: ${output ?? "nothing"}${growth(report)}`;
}

function growth({ inputSize, outputSize }: RewriteReport): string {
  if (inputSize === outputSize) return ` (${inputSize} bytes, as before)`;
  const percent = inputSize === 0 ? 0 : ((outputSize - inputSize) / inputSize) * 100;
  const sign = percent < 0 ? "" : "+";
  return ` (${inputSize} -> ${outputSize} bytes, ${sign}${percent.toFixed(2)} %)`;
}
