/** The sample program of the command line's tests, compiled once and kept, and folders to work in. */
import { copyFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";
import { build } from "../fixtures/build.js";

const source = fileURLToPath(new URL("./probes.c", import.meta.url));

/** The path of the compiled sample. It is shared: copy it before changing it. */
export async function sample(...flags: string[]): Promise<string> {
  const built = await build({ output: "probes", compiler: "gcc", sources: [source], flags: ["-O2", ...flags] });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return built.path;
}

/** An empty folder that goes away with the test. */
export function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "usdt-nop5-test-"));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A copy of the sample of its own, alone in a folder. */
export async function sampleCopy(name = "probes"): Promise<string> {
  const path = join(folder(), name);
  copyFileSync(await sample(), path);
  return path;
}
