/**
 * What this machine can show. These tests say what 6.18 to 7.1 do with a nop5 in live programs; on another kernel, without
 * root or without a compiler they are skipped, and the log says why.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { release } from "node:os";
import { kernelOf, parseVersion } from "../../src/kernel/kernels.js";
import { skipBecause } from "../packages/skips.js";
import { uprobesMissing } from "../packages/uprobes.js";

const works = (tool: string, ...args: readonly string[]): boolean =>
  spawnSync(tool, args, { timeout: 10_000 }).status === 0;

export const hasClang = works("clang", "--version");

function compilersMissing(): string | null {
  const header = ["/usr/include/sys/sdt.h", "/usr/include/x86_64-linux-gnu/sys/sdt.h"].some((h) => existsSync(h));
  if (!header) return "no sys/sdt.h (systemtap-sdt-dev)";
  return works("gcc", "--version") ? null : "no gcc";
}

function optimizes(): string | null {
  const known = kernelOf(parseVersion(release())!).optimizes === "nop5";
  return known ? null : `Linux ${release()} does not turn a nop5 into a call`;
}

/** Whether to skip what needs a compiler and uprobes. */
export const cannotTrace = (what: string): boolean => skipBecause(what, compilersMissing() ?? uprobesMissing());

/** Whether to skip what needs a kernel that optimizes nop5, too. */
export const cannotOptimize = (what: string): boolean =>
  skipBecause(what, compilersMissing() ?? uprobesMissing() ?? optimizes());

export const cannotCompile = (what: string): boolean => skipBecause(what, compilersMissing());
