/**
 * Threads that are cancelled asynchronously at each instruction, those of new code too, and at a cancellation point in a function
 * that a call in new code has called: the cleanup handlers of all frames run, and joining says so, as before
 * (programs/async-cancel.c).
 */
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { skipBecause } from "../packages/skips.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { run } from "../run.js";
import { newRecords } from "./faults.js";
import { build, canRun, DENSE } from "./pairs.js";

/**
 * With -fexceptions alone, tables say nothing of instructions that are not calls, and what handlers are there need not have
 * been set up. Without it handlers are found by stack addresses, and only those of pthread_cleanup_push run.
 */
const compilers: readonly (readonly [string, ...string[]])[] = [
  ["gcc", "-O2", "-fexceptions", "-fnon-call-exceptions"],
  ["gcc", "-O2"],
  ["clang", "-O1"],
];
const further: typeof compilers = [
  ["gcc", "-O1", "-fno-omit-frame-pointer", "-fexceptions", "-fnon-call-exceptions"],
  ["gcc", "-O2", "-no-pie", "-fno-PIC", "-fexceptions", "-fnon-call-exceptions"],
  ["gcc", "-O0"],
  ["clang", "-O2"],
];
const all = process.env.LONG === "1" ? [...compilers, ...further] : compilers;
const usable = await Promise.all(all.map(([compiler]) => canRun(compiler, "setarch")));
const skip = skipBecause("asynchronous cancellation", canCompile ? null : "no compiler");

const steadily = (file: string, ...args: readonly string[]) =>
  run("setarch", ["-R", file, ...args], { timeout: 60_000 });

describe.skipIf(skip)("threads that are cancelled in new code", () => {
  all.forEach(([compiler, ...flags], i) => {
    it.skipIf(!usable[i])(`${compiler} ${flags.join(" ")}`, async () => {
      const { before, after, report } = await build("async-cancel.c", compiler, ["-pthread", ...flags, ...DENSE]);
      // Where the others put calls there is another way; what moved then is cancelled just the same.
      if (compiler === "gcc" && flags.includes("-O2"))
        expect(report.sites.map((s) => s.tactic)).toContain("displace-call");
      expect(report.sites.some((s) => s.guard)).toBe(true);
      const [was, is] = [await steadily(before), await steadily(after)];
      expect(was.status).toBe(0);
      expect(was.stdout).toContain("framed many thread cancelled\n");
      expect([is.status, is.signal, is.stdout]).toEqual([0, null, was.stdout]);
      // How many instructions had their turn: guards and jumps are more than there were.
      expect(Number(is.stderr)).toBeGreaterThan(Number(was.stderr));
      console.log(
        `${compiler} ${flags.join(" ")}: cancelled at ${is.stderr.trim()} instructions (${was.stderr.trim()})`,
      );

      const deferred = await steadily(before, "deferred");
      expect(deferred.stdout).toMatch(/thread cancelled\n$/);
      expect(await steadily(after, "deferred")).toEqual(deferred);
    });
  });

  it.skipIf(!usable[0])("does not get so far without unwind information for new code", async () => {
    const [compiler, ...flags] = compilers[0]!;
    const { before, after } = await build("async-cancel.c", compiler, ["-pthread", ...flags, ...DENSE]);
    const bytes = readFileSync(after);
    // Ranges of one byte: libgcc takes the first address from the table in .eh_frame_hdr.
    for (const at of await newRecords(after)) bytes.writeInt32LE(1, at + 12);
    const path = scratch("planted");
    writeFileSync(path, bytes, { mode: 0o755 });
    for (const args of [[], ["deferred"]]) {
      const [was, is] = [await steadily(before, ...args), await steadily(path, ...args)];
      expect([is.status, is.stdout]).not.toEqual([was.status, was.stdout]);
    }
  });
});
