/** What `bench` says: one JSON document, and a table for people. */
import { hex } from "../address.js";
import type { Costs, Figure, FormCost, Tracer } from "../bench/measure.js";
import type { SiteForm } from "../bench/site-form.js";
import type { LongNop } from "../kernel/kernels.js";
import { forms } from "../usdt/forms.js";
import { columns, forPeople, type Style } from "./text.js";

interface BenchRun {
  readonly kernel: string;
  readonly processor: string;
  /** With FILE --site. */
  readonly file: string | null;
  readonly sites: readonly SiteForm[];
  readonly costs: Costs;
}

/**
 * The document of `bench --json`. Times in nanoseconds; `spread` is the interquartile range as a fraction of the
 * median.
 */
export const benchDocument = ({ kernel, processor, file, sites, costs }: BenchRun): object => ({
  schemaVersion: 1,
  kernel,
  processor,
  file,
  sites: sites.map(({ site, measuredAs }) => ({
    provider: site.provider,
    name: site.name,
    location: hex(site.location),
    status: site.status,
    tactic: site.tactic,
    guard: site.guard,
    displaced: site.displaced,
    reason: site.reason,
    measuredAs,
  })),
  rounds: costs.rounds,
  passes: costs.passes,
  tracer: costs.tracer,
  layout: costs.layout,
  nop5: costs.nop5,
  nop10: costs.nop10,
  forms: costs.forms,
});

const tracers: Readonly<Record<Tracer, string>> = {
  bpf: "an empty BPF program",
  tracefs: "a tracefs event, which writes a record a hit",
};

const compiledIn: readonly LongNop[] = ["nop5", "nop10"];

const layoutHead = ({ layout }: Costs): string => layout.toUpperCase();

const ns = ({ ns, spread }: Figure): string => `${ns.toFixed(ns < 10 ? 2 : 0)} +-${(spread * 50).toFixed(0)}%`;

/** The text of `bench`. */
export const benchText = forPeople((run: BenchRun, style: Style): string => {
  const { costs } = run;
  const lines = [
    style.heading(`Linux ${run.kernel}, ${run.processor}`),
    `ns a pass, medians of ${costs.rounds} runs in turns and half of their middle half's spread`,
    ...(costs.tracer === null ? [] : [`traced by ${tracers[costs.tracer]}`]),
    ...siteLines(run),
    "",
  ];
  if (costs.nop5.hit !== null) {
    const rows = costs.forms.map((form) => [label(form), ...hitCells(form, likeOf(form, costs))]);
    const builtIn = compiledIn.map((name) => {
      const { hit, refused } = costs[name];
      return [`compiled-in ${name}`, "", hit === null ? (refused ? "refused" : "?") : ns(hit), "", "", ""];
    });
    const head = ["HIT", "NOP", layoutHead(costs), "TO NOP", "TO COMPILED-IN", ""];
    lines.push(...table([head, ...builtIn, ...rows], style), "");
  }
  const idle = costs.forms.map(({ idle, ...form }) => [
    label(form),
    ns(idle.nop),
    ns(idle.rewritten),
    `${idle.extra >= 0 ? "+" : ""}${idle.extra.toFixed(2)} +-${(idle.noise / 2).toFixed(2)}`,
  ]);
  const builtIn = compiledIn.map((name) => [`compiled-in ${name}`, "", ns(costs[name].idle), ""]);
  lines.push(...table([["NOT TRACED", "NOP", layoutHead(costs), "MORE"], ...builtIn, ...idle], style), "");
  return lines.join("\n");
});

function table(rows: readonly (readonly string[])[], style: Style): string[] {
  const [head, ...rest] = columns(rows, "  ");
  return [style.quiet(head!), ...rest];
}

/** Which compiled-in nop the place is like that is passed. */
const likeOf = ({ hit }: FormCost, { layout }: Costs): LongNop =>
  layout === "universal" ? (hit?.ran ?? "nop5") : forms[layout].nop;

/** @param like which compiled-in nop is like the rewritten one */
function hitCells({ hit }: FormCost, like: LongNop): string[] {
  if (hit === null) return [];
  const { nop, rewritten, toNop, optimized, ran } = hit;
  const how = `${optimized ? "call" : "trap"}${ran === null ? "" : ` (${ran === "nop5" ? "nop5" : "nop,nop10"})`}`;
  const toCompiledIn = { nop5: hit.toNop5, nop10: hit.toNop10 }[like];
  return [ns(nop), ns(rewritten), toNop.toFixed(2), toCompiledIn?.toFixed(2) ?? "-", how];
}

const label = ({ tactic, guard }: Pick<FormCost, "tactic" | "guard">): string =>
  `rewritten, ${tactic ?? "already"}${guard ? ", guard" : ""}`;

function siteLines({ file, sites }: BenchRun): string[] {
  return sites.map(({ site, measuredAs }) => {
    const name = `${file ?? ""}: ${site.provider}:${site.name} at ${hex(site.location)}`;
    if (measuredAs === null) return `${name} is not rewritten: ${site.reason ?? ""}`;
    const form = site.tactic === null ? "is a longer nop already" : `${site.tactic}${site.guard ? ", guard" : ""}`;
    return `${name}: ${form}; its form is measured, in the built-in sample's "${measuredAs}"`;
  });
}
