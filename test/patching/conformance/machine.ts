/** What this machine can show, and where its programs are put. */
import { chmodSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { treatmentOf } from "../../../src/live/kernel-tests.js";
import { findTracefs } from "../../../src/live/tracefs.js";
import { uprobesMissing } from "../../packages/uprobes.js";
import type { LiveProgram } from "./live-program.js";

/** Why not: found out by trying, for other kernels have other models, and these cases are about 6.18 to 7.2. */
export function cannotCompare(): string | null {
  const missing = uprobesMissing();
  if (missing !== null) return missing;
  const { optimized, trouble } = treatmentOf("nop5", findTracefs().path!);
  return optimized && trouble === null ? null : "this kernel does not turn a nop5 into a call";
}

/** A folder of its own; whoever makes it removes it. */
export const makeFolder = (): string => mkdtempSync(path.join(tmpdir(), "conformance-"));

/** Writes a program that can be run. Names of uprobes take no blanks. */
export function write(folder: string, title: string, { bytes }: LiveProgram): string {
  const file = path.join(folder, title.replace(/\W+/g, "-"));
  writeFileSync(file, bytes);
  chmodSync(file, 0o755);
  return file;
}
