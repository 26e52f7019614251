/**
 * Frames in new code that are left other than by returning (programs/leaving.cc): longjmp as interpreters use it, siglongjmp out
 * of signal handlers, at each instruction too; and exceptions that nobody catches: std::terminate is called where it was, which
 * is seen in the message and in gdb's stack when the program aborts.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { gdbMissing } from "../live/gdb.js";
import { skipBecause } from "../packages/skips.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must } from "../run.js";
import { newRecords } from "./faults.js";
import { build, canRun, DENSE, type Pair, steadily } from "./pairs.js";
import { plainName } from "./stacks.js";

const compilers: readonly (readonly [string, ...string[]])[] = [
  ["g++", "-O2", ...DENSE],
  ["g++", "-O1", "-no-pie", "-fno-PIC", ...DENSE],
  ["clang++", "-O2"],
];
const usable = await Promise.all(compilers.map(([compiler]) => canRun(compiler, "setarch")));
const skip = skipBecause("frames that are left", canCompile ? null : "no compiler");
const noGdb = skipBecause("stacks at std::terminate", canCompile ? gdbMissing() : "no compiler");

const PRINT = String.raw`python exec("f = gdb.newest_frame()\nwhile f: print('frame:', f.name(), sep=''); f = f.older()")`;

/** What gdb names when the program has been killed by its own abort, as it says it. */
async function atAbort(file: string, argument: string): Promise<readonly string[]> {
  const quiet = ["-iex", "set debuginfod enabled off", "-ex", `run ${argument} > /dev/null 2>&1`];
  const said = await must("gdb", ["-nx", "-batch", ...quiet, "-ex", PRINT, file], {
    environment: { SHELL: "/bin/sh" },
  });
  expect(said).toContain("SIGABRT");
  return [...said.matchAll(/^frame:(.*)$/gm)].map(([, name]) => name!);
}

const uncaught = ["uncaught", "nothrow", "nested"];

describe.skipIf(skip)("frames in new code that are left", () => {
  compilers.forEach(([compiler, ...flags], i) => {
    describe.skipIf(!usable[i])(`${compiler} ${flags.join(" ")}`, () => {
      let pair: Pair;
      beforeAll(async () => {
        pair = await build("leaving.cc", compiler, flags);
        const tactics = pair.report.sites.map((s) => s.tactic);
        if (compiler === "g++") expect(tactics.filter((t) => t === "displace-call").length).toBe(3);
      }, 300_000);

      it("by longjmp, as Ruby does", async () => {
        const was = await steadily(pair.before, "jumps");
        expect(was.status).toBe(0);
        expect(was.stdout.match(/^ensure 2 1[12]$/gm)?.length).toBeGreaterThan(2);
        expect(await steadily(pair.after, "jumps")).toEqual(was);
      });

      it("by siglongjmp out of a signal handler", async () => {
        const was = await steadily(pair.before, "signals");
        expect(was.stdout).toMatch(/^signals [0-9a-f]{8}\n$/);
        expect(await steadily(pair.after, "signals")).toEqual(was);
      });

      it("by siglongjmp out of a handler that interrupted any instruction", async () => {
        const [was, is] = [await steadily(pair.before, "steps"), await steadily(pair.after, "steps")];
        expect([is.status, is.stdout]).toEqual([0, "steps: 0 wrong\n"]);
        expect(was.stdout).toBe(is.stdout);
        expect(Number(is.stderr)).toBeGreaterThan(Number(was.stderr));
      });

      it("by an exception that nobody catches: the same message", async () => {
        for (const how of uncaught) {
          const was = await steadily(pair.before, how);
          expect([was.signal ?? was.status, was.stderr]).toEqual([
            "SIGABRT",
            "terminate called after throwing an instance of 'std::runtime_error'\n  what():  nobody catches this\n",
          ]);
          expect(await steadily(pair.after, how)).toEqual(was);
        }
      });

      it.skipIf(noGdb)("and the same stack at abort", async () => {
        for (const how of uncaught) {
          const [was, is] = [await atAbort(pair.before, how), await atAbort(pair.after, how)];
          expect(was.join(" ")).toMatch(/_GI_abort .*(?:__cxa_throw|std::terminate).* main$/);
          expect(is.map(plainName)).toEqual(was.map(plainName));
          if (compiler === "g++")
            expect(is.filter((name) => /\.nop5/.test(name)).length).toBe(how === "nested" ? 2 : 1);
        }
      });
    });
  });

  it.skipIf(noGdb || !usable[0])("is seen to be another stack where records of new code are too short", async () => {
    const [compiler, ...flags] = compilers[0]!;
    const { before, after } = await build("leaving.cc", compiler, flags);
    const bytes = readFileSync(after);
    for (const at of await newRecords(after)) bytes.writeInt32LE(1, at + 12);
    const path = scratch("planted");
    writeFileSync(path, bytes, { mode: 0o755 });
    expect((await atAbort(path, "nested")).map(plainName)).not.toEqual(
      (await atAbort(before, "nested")).map(plainName),
    );
  });
});
