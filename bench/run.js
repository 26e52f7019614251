/**
 * `npm run bench [FILE]`: what rewriting and listing cost, as ratios to what everybody knows the cost of.
 *
 *     rewrite FILE     against   objcopy copying FILE      at most 10 times, and 400 MB at the peak
 *     list FILE        against   node -e 0                 at most 2 times
 *
 * The two of a pair run in turns, so that what else the machine does falls on both; medians are compared. FILE is
 * Debian's libjvm.so (24 MB, 531 probes) unless another is given. Memory is measured in a run of its own.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const ROUNDS = 15;
const file = process.argv[2] ?? "/usr/lib/jvm/java-17-openjdk-amd64/lib/server/libjvm.so";
const program = fileURLToPath(new URL("../bin/usdt-nop5.js", import.meta.url));
const built = fileURLToPath(new URL("../dist", import.meta.url));

if (!existsSync(file) || !existsSync(built)) {
  console.error(existsSync(file) ? "bench: run `npm run build` first" : `bench: ${file} does not exist`);
  process.exit(1);
}

const place = mkdtempSync(join(tmpdir(), "usdt-nop5-bench-"));
process.on("exit", () => rmSync(place, { recursive: true, force: true }));

const node = (...args) => ({ command: process.execPath, args });
const copy = { command: "objcopy", args: [file, join(place, "copied")] };
const rewrite = node(program, "rewrite", file, "-o", join(place, "rewritten"), "--drop-attribute", "owner");
const list = node(program, "list", file);
const nothing = node("-e", "0");

/** Runs it once; milliseconds. */
function timed({ command, args }) {
  const start = process.hrtime.bigint();
  const { status, error, stderr } = spawnSync(command, args, { stdio: ["ignore", "ignore", "pipe"] });
  const elapsed = Number(process.hrtime.bigint() - start) / 1e6;
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? `exit ${status}\n${stderr}`}`);
  return elapsed;
}

const median = (values) => values.toSorted((a, b) => a - b)[values.length >> 1];

/** Medians of two commands that run in turns, after one run each that is not counted. */
function inTurns(one, other) {
  const times = [[], []];
  for (let round = -1; round < ROUNDS; round++) {
    for (const [i, what] of [one, other].entries()) {
      const elapsed = timed(what);
      if (round >= 0) times[i].push(elapsed);
    }
  }
  return times.map(median);
}

/** Peak resident memory of a Node program in MB: it writes its own figure to descriptor 3 when it ends. */
function peak({ command, args }) {
  const hook =
    'import fs from "node:fs"; process.on("exit", () => fs.writeSync(3, String(process.resourceUsage().maxRSS)))';
  const { output } = spawnSync(command, ["--import", `data:text/javascript,${encodeURIComponent(hook)}`, ...args], {
    stdio: ["ignore", "ignore", "inherit", "pipe"],
  });
  return Number(output[3]) / 1024;
}

const row = (name, measured, reference, limit) =>
  console.log(`${name.padEnd(34)} ${measured.padStart(10)} ${reference.padStart(10)} ${limit}`);
const ms = (value) => `${value.toFixed(0)} ms`;
const mb = (value) => `${value.toFixed(0)} MB`;
const ratio = (value, limit) => `${value.toFixed(2).padStart(7)}   at most ${limit}${value > limit ? "  MISSED" : ""}`;

console.log(`${file}, medians of ${ROUNDS} runs in turns\n`);
row("", "ours", "theirs", "  ratio");
/** @type {[string, object, object, number][]} */
const pairs = [
  ["list / node -e 0", list, nothing, 2],
  ["rewrite / objcopy", rewrite, copy, 10],
];
for (const [name, ours, theirs, limit] of pairs) {
  const [a, b] = inTurns(ours, theirs);
  row(name, ms(a), ms(b), ratio(a / b, limit));
}
row("list, peak memory", mb(peak(list)), mb(peak(nothing)), "");
const memory = peak(rewrite);
row("rewrite, peak memory", mb(memory), mb(peak(nothing)), `          at most 400 MB${memory > 400 ? "  MISSED" : ""}`);
