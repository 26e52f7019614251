/** What came of the faults, as a table: a line for each kind, a column for each tactic. */
import type { Finding } from "./judging.js";

const tactics = [
  "in-place",
  "in-place+guard",
  "shift",
  "shift+guard",
  "displace",
  "displace+guard",
  "straddle",
  "straddle+guard",
  "call-through",
  "retarget",
  "retarget+guard",
  "hop",
  "hop+guard",
  "file",
];

const headings = [
  "in-p",
  "+g",
  "shift",
  "+g",
  "displ",
  "+g",
  "strad",
  "+g",
  "call",
  "retar",
  "+g",
  "hop",
  "+g",
  "file",
];

/** A cell: how many were planted, and where not all of them were found, of how many. */
function cell(findings: readonly Finding[], isFound: (f: Finding) => boolean = (f) => f.given && f.alone): string {
  const found = findings.filter(isFound).length;
  return findings.length === 0 ? "." : found === findings.length ? `${found}` : `${found}/${findings.length}`;
}

export function tableOf(findings: readonly Finding[]): string {
  const kinds = [...new Set(findings.map((f) => f.fault.kind))].sort();
  const row = (name: string, of: readonly Finding[]): string[] => [
    name,
    ...tactics.map((tactic) => cell(of.filter((f) => f.fault.tactic === tactic))),
    cell(of),
    ...(["byProof", "byRuns", "byRest"] as const).map((way) => `${of.filter((f) => f[way]).length}`),
  ];
  const rows = [
    ["reported/planted", ...headings, "all", "proof", "runs", "rest"],
    ...kinds.map((kind) =>
      row(
        kind,
        findings.filter((f) => f.fault.kind === kind),
      ),
    ),
    row("all", findings),
  ];
  const widths = rows[0]!.map((_, i) => Math.max(...rows.map((r) => r[i]!.length)));
  const line = (cells: readonly string[]): string =>
    cells.map((text, i) => (i === 0 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))).join("  ");
  return rows.map(line).join("\n");
}
