/** What this machine can show, and where its programs are put. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { makeProgram } from "../../../src/patching/programs.js";
import { behindFile } from "../../behind.js";
import { uprobesMissing } from "../../packages/uprobes.js";
import { hexBytes, LiveRun } from "./live.js";
import { type LiveProgram, liveProgram } from "./live-program.js";

/** Why not: found out by trying. */
export async function cannotCompare(): Promise<string | null> {
  const missing = uprobesMissing();
  if (missing !== null) return missing;
  return (await takesCallsBack())
    ? null
    : "detaching leaves the call here (CVE-2026-72357): the cases are about kernels that take it back";
}

async function takesCallsBack(): Promise<boolean> {
  const program = makeProgram("plain");
  const live = liveProgram(program, 1);
  const run = await LiveRun.start(write("detaching", live), live, {
    ...{ program, threads: 1, repairs: false, returns: false },
  });
  try {
    await run.perform({ do: "attach" });
    await run.perform({ do: "pass", thread: 0, times: 1 });
    await run.perform({ do: "detach" });
    return run.observe().spaces[0]!.sites[0] === hexBytes(program.sites[0]!.original);
  } finally {
    await run.stop();
  }
}

/** A kernel that test/kernels/vm has booted: what is wrong with it afterwards goes with it. */
export const isTestKernel = (): boolean => readFileSync("/proc/cmdline", "latin1").includes("rdinit=/init");

let folder: string | undefined;

/** Writes a program that can be run, into a folder that goes away with the tests. Names of uprobes take no blanks. */
export function write(title: string, { bytes }: LiveProgram): string {
  // Made when it is needed: where all tests are skipped nothing would remove it.
  if (folder === undefined) {
    const made = mkdtempSync(path.join(tmpdir(), "conformance-"));
    folder = made;
    behindFile(() => {
      rmSync(made, { recursive: true, force: true });
      folder = undefined;
    });
  }
  const file = path.join(folder, title.replace(/\W+/g, "-"));
  writeFileSync(file, bytes);
  chmodSync(file, 0o755);
  return file;
}
