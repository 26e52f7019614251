/**
 * Hashes of what is written for some files with several options: `node scripts/outputs.js [--bin PROGRAM] FILE...`. A
 * change of the design must leave them as they are. The carried section is left out, with its size and with where the
 * section headers are, since these depend on how it is encoded.
 */
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const optionSets = [
  [],
  ["--no-fork-guard"],
  ["--layout", "nop5"],
  ["--layout", "nop,nop5"],
  ["--layout", "nop,nop10"],
  ["--kernel", "any"],
  ["--keep-offsets"],
  ["--new-build-id"],
  ["--table-at-end"],
];
const CARRIED = ".usdt_nop5";
const E_SHOFF = 0x28;
const SHDR_SIZE = 64;

const { values, positionals } = parseArgs({ options: { bin: { type: "string" } }, allowPositionals: true });
const program = values.bin ?? fileURLToPath(new URL("../bin/usdt-nop5.js", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "usdt-outputs-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));

/** The file up to the carried section, and the section headers but for that section's size. */
function maskedHash(bytes) {
  const u64 = (at) => Number(bytes.readBigUInt64LE(at));
  const shoff = u64(E_SHOFF);
  const count = bytes.readUInt16LE(0x3c);
  const header = (i) => bytes.subarray(shoff + i * SHDR_SIZE, shoff + (i + 1) * SHDR_SIZE);
  const names = u64(shoff + bytes.readUInt16LE(0x3e) * SHDR_SIZE + 0x18);
  const headers = Array.from({ length: count }, (_, i) => Buffer.from(header(i)));
  const isCarried = (h) => bytes.toString("latin1", names + h.readUInt32LE(0)).startsWith(`${CARRIED}\0`);
  const carried = headers.find(isCarried);
  const end = carried === undefined ? shoff : Number(carried.readBigUInt64LE(0x18));
  carried?.fill(0, 0x20, 0x28);
  // After the headers come bytes that no header describes.
  const body = Buffer.concat([bytes.subarray(0, end), bytes.subarray(shoff + count * SHDR_SIZE)]);
  body.fill(0, E_SHOFF, E_SHOFF + 8);
  return createHash("sha256").update(body).update(Buffer.concat(headers)).digest("hex");
}

for (const file of positionals) {
  for (const options of optionSets) {
    const output = join(folder, "output");
    rmSync(output, { force: true });
    const r = spawnSync(process.execPath, [program, "rewrite", file, "-o", output, ...options], { encoding: "utf8" });
    const hash = r.status === 0 ? maskedHash(readFileSync(output)) : r.stderr.trim().replace(folder, "");
    console.log(`${hash}  ${basename(file)} ${options.join(" ")}`);
  }
}
