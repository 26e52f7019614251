/**
 * What was seen, kernel by kernel and claim by claim, from all test files of a run: each runs in a process of its own, so
 * they write into one file, and what it comes to is printed when all have ended (table.ts).
 */
import { appendFileSync } from "node:fs";
import type { ClaimName } from "./claims.js";
import type { TestKernel } from "./machine.js";

/** The environment variable that names the file. */
export const SEEN_FILE = "KERNELS_SEEN";

export type SeenRecord =
  | { readonly kind: "kernel"; readonly series: string; readonly version: string; readonly bytes: number }
  | { readonly kind: "seen"; readonly series: string; readonly claim: ClaimName }
  /** Figures, and why something was not tried. */
  | { readonly kind: "word"; readonly line: string };

function write(record: SeenRecord): void {
  const { [SEEN_FILE]: file } = process.env;
  if (file !== undefined) appendFileSync(file, `${JSON.stringify(record)}\n`);
}

/** Called after what shows it has passed. */
export function seen({ series }: TestKernel, ...of: readonly ClaimName[]): void {
  for (const claim of of) write({ kind: "seen", series, claim });
}

/** Something more to say of a kernel. */
export const said = ({ series, version }: TestKernel, words: string): void =>
  write({ kind: "word", line: `${series.padEnd(5)} ${version.padEnd(18)} ${words}` });

/** Why something was not tried. */
export const notTried = (what: string): void => write({ kind: "word", line: `not tried: ${what}` });

/** A kernel that is asked. */
export const asked = ({ series, version, bytes }: TestKernel): void =>
  write({ kind: "kernel", series, version, bytes });
