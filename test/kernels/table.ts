/**
 * Prints at the end of a run on test kernels what was seen on which: a row for each claim of docs/kernels.md, a column for
 * each kernel.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { kernelOf, parseVersion, kernels as ranges } from "../../src/kernel/kernels.js";
import { type ClaimName, claims } from "./claims.js";
import { SEEN_FILE, type SeenRecord } from "./seen.js";

type Asked = Extract<SeenRecord, { kind: "kernel" }>;

const factsOf = ({ series }: Asked) => kernelOf(parseVersion(series)!);

/** The table as lines; a claim that no test has seen on a kernel was not tried there. */
export function tableOf(records: readonly SeenRecord[]): readonly string[] {
  const kernels = records.filter((one): one is Asked => one.kind === "kernel");
  const seen = new Set(records.flatMap((one) => (one.kind === "seen" ? [`${one.series} ${one.claim}`] : [])));
  const cell = (kernel: Asked, name: ClaimName): string => {
    if (seen.has(`${kernel.series} ${name}`)) return "seen";
    return claims[name].where?.(factsOf(kernel)) === false ? "" : "not tried";
  };
  const names = Object.keys(claims) as ClaimName[];
  const WIDTH = 11;
  const first = Math.max(...names.map((name) => claims[name].words.length)) + 2;
  const row = (head: string, cells: readonly string[]): string =>
    (head.padEnd(first) + cells.map((text) => text.padEnd(WIDTH)).join("")).trimEnd();
  const megabytes = kernels.reduce((sum, { bytes }) => sum + bytes, 0) / 1e6;
  return [
    row(
      "",
      kernels.map(({ version }) => version.split("-")[0]!),
    ),
    ...names.map((name) =>
      row(
        claims[name].words,
        kernels.map((kernel) => cell(kernel, name)),
      ),
    ),
    "",
    ...records.flatMap((one) => (one.kind === "word" ? [one.line] : [])).sort(),
    ...ranges
      .filter(({ name }) => !kernels.some((kernel) => factsOf(kernel).name === name))
      .map(({ range }) => `not tried: Linux ${range}`),
    `${kernels.length} kernels, ${megabytes.toFixed(0)} MB of packages`,
  ];
}

/** Of vitest, in the process that starts those of the test files. */
export function setup(): (() => void) | undefined {
  if ((process.env.KERNELS ?? "") === "") return undefined;
  const folder = mkdtempSync(path.join(tmpdir(), "usdt-seen-"));
  const file = path.join(folder, "seen");
  writeFileSync(file, "");
  process.env[SEEN_FILE] = file;
  return () => {
    const lines = readFileSync(file, "utf8").split("\n").slice(0, -1);
    rmSync(folder, { recursive: true, force: true });
    const records = lines.map((line) => JSON.parse(line) as SeenRecord);
    if (records.length > 0) console.log(`\n${tableOf(records).join("\n")}\n`);
  };
}
