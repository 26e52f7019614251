/**
 * Exceptions through calls that moved into new code: cleanups run, the handler is found, terminate is called where it was;
 * longjmp and pthread_exit go past (programs/throwing.cc).
 */
import { describe, expect, it } from "vitest";
import { usdtNop5 } from "../command.js";
import { canCompile } from "../rewrite/compile.js";
import { run } from "../run.js";
import { build, canRun } from "./pairs.js";

const compilers: readonly (readonly [string, ...string[]])[] = [
  ["g++", "-O2"],
  ["g++", "-Os"],
  ["g++", "-O2", "-no-pie", "-fno-PIC"],
  ["g++", "-O1", "-fnon-call-exceptions"],
  ["g++", "-O2", "-fuse-ld=lld"],
  // Exception tables whose addresses have eight bytes.
  ["g++", "-O2", "-mcmodel=medium", "-no-pie", "-fno-PIC"],
  ["clang++", "-O2"],
];
/** No padding, in which jumps could find room. */
const DENSE = ["functions", "jumps", "labels", "loops"].map((what) => `-falign-${what}=1`);
const usable = await Promise.all(compilers.map(([compiler]) => canRun(compiler)));

describe.skipIf(!canCompile)("exceptions through new code", () => {
  compilers.forEach(([compiler, ...flags], i) => {
    it.skipIf(!usable[i])(`${compiler} ${flags.join(" ")}`, async () => {
      const { before, after, report } = await build("throwing.cc", compiler, [
        "-std=c++14",
        ...flags,
        ...(compiler === "g++" ? DENSE : []),
      ]);
      if (compiler === "g++") expect(report.sites.map((s) => s.tactic)).toContain("displace-call");
      const [was, is] = [await run(before, []), await run(after, [])];
      expect(is).toEqual(was);
      expect(is.stdout).toContain("exception error\n");
      // Thrown past a function that lets nothing out.
      for (const what of ["1", "2", "3", "6"]) {
        const ended = await run(after, [what]);
        expect(ended).toEqual(await run(before, [what]));
        expect(ended).toMatchObject({ status: 3, stdout: "terminate\n" });
      }
      const verified = await usdtNop5("verify", after, "--original", before);
      expect(verified.stderr).toBe("");
      expect(verified.status).toBe(0);
    });
  });
});
