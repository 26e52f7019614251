/** The bases as files, for workers. */
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bases } from "./bases.js";
import type { BaseFile } from "./worker.js";

/**
 * Writes each base, and index.json that lists them in order. What is run natively runs as nobody: everybody may read them.
 * @returns what cannot be built on this machine, and why
 */
export async function writeBases(folder: string): Promise<readonly string[]> {
  const { all, missing } = await bases();
  const index = all.map(({ name, runs }, i): BaseFile => ({ name, runs, file: `base-${i}` }));
  for (const [i, { bytes }] of all.entries()) writeFileSync(join(folder, `base-${i}`), bytes, { mode: 0o755 });
  writeFileSync(join(folder, "index.json"), JSON.stringify(index));
  chmodSync(folder, 0o755);
  return missing;
}
