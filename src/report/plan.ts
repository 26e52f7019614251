/** What `rewrite --plan-json` and `--explain` print: the plan of one file, whole or of some probes. */
import { hex } from "../address.js";
import type { ChangeReport, PlanReport, SitePlan, TrialReport } from "../rewrite/plan-report.js";
import { columns, forPeople, type Style } from "./text.js";

interface Range {
  readonly start: number;
  readonly end: number;
}

const rangeDocument = ({ start, end }: Range): object => ({ start: hex(start), end: hex(end) });
const orNull = (address: number | null): string | null => (address === null ? null : hex(address));

/** One probe: in `--plan-json`, and in `--json` with --explain. */
export const sitePlanDocument = ({ report, range, entries, trials, change }: SitePlan): object => ({
  provider: report.provider,
  name: report.name,
  location: hex(report.location),
  newLocation: hex(report.newLocation),
  status: report.status,
  reason: report.reason,
  reasonCode: report.reasonCode,
  redZone: report.redZone,
  function: range && rangeDocument(range),
  entries: entries.map(({ address, text }) => ({ address: hex(address), text })),
  tried: trials.map(({ at, ...trial }) => ({ ...trial, at: orNull(at) })),
  change: change && changeDocument(change),
});

const changeDocument = ({ tactic, window, via, others, newCode, body, resume, retargets }: ChangeReport): object => ({
  tactic,
  window: rangeDocument(window),
  via,
  others: others.map(rangeDocument),
  newCode: newCode && rangeDocument(newCode),
  body: body.map(({ from, text }) => ({ from: hex(from), text })),
  resume: orNull(resume),
  retargets: retargets.map(({ branch, target, way }) => ({ branch: hex(branch), target: hex(target), way })),
});

/** The document of --plan-json. */
export const planDocument = (input: string, { layout, newCode, sites, edits }: PlanReport): object => ({
  schemaVersion: 1,
  input,
  layout,
  newCode: newCode && { place: newCode.place, start: hex(newCode.start), size: newCode.size },
  sites: sites.map(sitePlanDocument),
  edits: edits.map(({ offset, size }) => ({ offset: hex(offset), size })),
});

/** What one probe went through, for people, with a line end. */
export const explanation = forPeople((plan: SitePlan, style: Style): string => {
  const { report, range, entries, trials, change } = plan;
  const probe = `${report.provider}:${report.name}`;
  const where =
    range === null ? "in no function that is known" : `in the function ${hex(range.start)} to ${hex(range.end)}`;
  const lines = [
    `${style.heading(probe)} at ${hex(report.location)}, ${where}: ${report.status}`,
    `  red zone: ${report.redZone}`,
    ...(entries.length === 0 ? [] : ["  enters the code close by:", ...entries.map(({ text }) => `    ${text}`)]),
    ...(trials.length === 0 ? [] : ["  tried:", ...columns(trials.map(trialRow), "    ")]),
    ...(report.reason === null ? [] : [`  stays as it is (${report.reasonCode}): ${report.reason}`]),
    ...(change === null ? [] : changeLines(change, report.newLocation)),
  ];
  return `${lines.join("\n")}\n`;
});

const trialRow = ({ tactic, outcome, code, text }: TrialReport): string[] => {
  if (outcome === "refused") return [tactic, "no", `${text} (${code})`];
  if (outcome === "chosen") return [tactic, "yes", "chosen"];
  return [tactic, "no", "it would reach into the bytes of the probe before"];
};

function changeLines({ tactic, window, via, newCode, body, resume, retargets }: ChangeReport, now: number): string[] {
  const lines = [`  chosen: ${tactic}; the probe is at ${hex(now)} now`];
  lines.push(`  changed: ${hex(window.start)} to ${hex(window.end)}${via === null ? "" : `, left by ${via}`}`);
  if (newCode !== null) lines.push(`  new code: ${hex(newCode.start)} to ${hex(newCode.end)}`);
  for (const { from, text } of body) lines.push(`    ${text} (from ${hex(from)})`);
  if (resume !== null) lines.push(`    goes on at ${hex(resume)}`);
  for (const { branch, target, way } of retargets)
    lines.push(`  the branch at ${hex(branch)} leads to what was at ${hex(target)} in the new code (${way})`);
  return lines;
}
