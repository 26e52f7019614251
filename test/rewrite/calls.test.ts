/**
 * Calls that move to new code, and what is done with their return addresses: exceptions thrown through them, handlers and
 * cleanups beside them, longjmp and setcontext back to them, cancellation, walks of the stack. The rewritten program says
 * what the other one says, and ends as it ends.
 */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { rewrite, usdtNop5 } from "../command.js";
import { build } from "../fixtures/build.js";
import { run } from "../run.js";
import { canCompile, scratch } from "./compile.js";

const modes = [
  "catches",
  "noexcept",
  "uncaught",
  "jumps",
  "contexts",
  "forks",
  "walks",
  "pointers",
  "looks",
  "cancels",
];
const builds = [
  ["g++", "-O2"],
  ["g++", "-O0"],
  ["g++", "-O2", "-fcf-protection=full"],
  ["g++", "-Os", "-no-pie", "-fno-pie"],
  ["clang++", "-O1"],
  ["clang++", "-O1", "-fuse-ld=lld"],
] as const satisfies readonly (readonly [string, ...string[]])[];
const isThere = (compiler: string): boolean =>
  ["/usr/bin", "/usr/local/bin"].some((d) => existsSync(`${d}/${compiler}`));

describe.skipIf(!canCompile)("calls that move", () => {
  it.skipIf(!isThere("g++")).each(builds)("%s %s %s", { timeout: 300_000 }, async (...command) => {
    const [compiler, ...flags] = command as readonly string[] as [string, ...string[]];
    if (!isThere(compiler)) return;
    const source = fileURLToPath(new URL("./calls.cc", import.meta.url));
    const built = await build({ output: "calls", compiler, sources: [source], flags: [...flags, "-pthread"] });
    if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
    const output = scratch("rewritten");
    const { sites } = await rewrite(built.path, output);
    const moved = sites.filter((s) => s.tactic === "displace-call");
    // Callees that are not known, or look at their return address, keep their calls where they are; so do results that are put
    // on the stack between the call and the probe, as at -O0.
    expect(moved.length, JSON.stringify(sites.map((s) => [s.name, s.tactic, s.reason]))).toBeGreaterThanOrEqual(3);
    for (const mode of [...modes, "recurse"]) {
      const said = await run(built.path, [mode]);
      const now = await run(output, [mode]);
      expect([mode, now.status, now.signal, now.stdout, now.stderr]).toEqual([
        mode,
        said.status,
        said.signal,
        said.stdout,
        said.stderr,
      ]);
    }
    const verified = await usdtNop5("verify", "--json", output);
    const { summary, sites: verdicts } = JSON.parse(verified.stdout) as {
      summary: { different: number; unproved: number };
      sites: { reason: string | null }[];
    };
    expect([summary.different, summary.unproved, verdicts.map((v) => v.reason)]).toEqual([
      0,
      0,
      verdicts.map(() => null),
    ]);
  });
});
