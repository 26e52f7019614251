/** What this machine can show, and where its programs are put. */
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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

const takesCallsBack = (): Promise<boolean> =>
  trying("detaching", async (run, nop) => {
    await run.perform({ do: "attach" });
    await run.perform({ do: "pass", thread: 0, times: 1 });
    await run.perform({ do: "detach" });
    return run.observe().spaces[0]!.sites[0] === nop;
  });

/** Why nobody can write over a program's code from outside, or null: proc_mem.force_override may forbid it. */
export const cannotOverwrite = (): Promise<string | null> =>
  trying("overwriting", async (run) => {
    try {
      await run.perform({ do: "act", act: "overwrite", who: "program" });
      return null;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EIO") throw error;
      return "/proc/PID/mem does not write to code here (proc_mem.force_override)";
    }
  });

/** Something done with a program that has a probe. */
async function trying<T>(what: string, does: (run: LiveRun, nop: string) => Promise<T>): Promise<T> {
  const program = makeProgram("plain");
  const live = liveProgram(program, 1);
  const run = await LiveRun.start(write(what, live), live, {
    ...{ program, threads: 1, repairs: false, returns: false },
  });
  try {
    return await does(run, hexBytes(program.sites[0]!.original));
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
  // A file of its own each time: a kernel that could not remove a uprobe keeps it for the file that it was in.
  const file = path.join(folder, `${readdirSync(folder).length}-${title.replace(/\W+/g, "-")}`);
  writeFileSync(file, bytes);
  chmodSync(file, 0o755);
  return file;
}
