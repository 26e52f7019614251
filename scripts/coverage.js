/**
 * How much of some files is rewritten, and what for the rest is not: `node scripts/coverage.js [--bin PROGRAM] FILE...`
 * prints a row of a table for each file (docs/proof.md has such a table), then why probes stay as they are. PROGRAM is
 * another build of usdt-nop5, to compare with. Rewritten files go to a folder of their own, which is removed.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({ options: { bin: { type: "string" } }, allowPositionals: true });
const program = values.bin ?? fileURLToPath(new URL("../bin/usdt-nop5.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "usdt-coverage-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

/**
 * The document that the program prints, or its error line. `verify` ends with other codes than 0, too, and prints one.
 */
function ask(...args) {
  const r = spawnSync(process.execPath, [program, ...args, "--json"], { encoding: "utf8", maxBuffer: 1 << 28 });
  return r.stdout.startsWith("{") ? JSON.parse(r.stdout) : r.stderr.trim();
}

/** Addresses and operands out: what kind of reason it is. */
const kind = (reason) => reason.replace(/0x[0-9a-f]+/g, "0x…");

const reasons = new Map();
const total = [0, 0, 0, 0, 0, 0, 0, 0];

function row(name, counts) {
  console.log(`| ${[name, ...counts].join(" | ")} |`);
}

/** Sites, moved, punned, in place already, skipped; verdicts on what was rewritten: equivalent, unproved, different. */
function countsOf(rewritten, verdicts) {
  const of = (test) => rewritten.sites.filter(test).length;
  const touched = new Set(rewritten.sites.flatMap((s, i) => (s.status === "rewritten" ? [i] : [])));
  const judged = (verdict) => verdicts.filter((v, i) => touched.has(i) && v === verdict).length;
  return [
    rewritten.sites.length,
    of((s) => s.status === "rewritten" && s.tactic !== "punned"),
    of((s) => s.status === "rewritten" && s.tactic === "punned"),
    of((s) => s.status === "already"),
    of((s) => s.status === "skipped"),
    judged("equivalent"),
    judged("unproved"),
    judged("different"),
  ];
}

row("file", ["probes", "proved", "punned", "fast already", "left", "equivalent", "unproved", "different"]);
row("---", new Array(8).fill("---"));
for (const [i, file] of positionals.entries()) {
  const output = join(folder, `${i}`);
  const rewritten = ask("rewrite", file, "-o", output);
  if (typeof rewritten === "string") {
    console.log(`| ${basename(file)} | ${rewritten} |`);
    continue;
  }
  const verified = rewritten.summary.rewritten === 0 ? { sites: [] } : ask("verify", output);
  if (typeof verified === "string") throw new Error(verified);
  const counts = countsOf(
    rewritten,
    verified.sites.map((s) => s.verdict),
  );
  row(basename(file), counts);
  for (const [n, count] of counts.entries()) total[n] += count;
  for (const s of rewritten.sites) {
    if (s.status === "skipped") reasons.set(kind(s.reason), (reasons.get(kind(s.reason)) ?? 0) + 1);
  }
}
row("together", total);
console.log();
for (const [reason, n] of [...reasons].sort((a, b) => b[1] - a[1])) console.log(`- ${n}: ${reason}`);
