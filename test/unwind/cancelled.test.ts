/**
 * A thread is cancelled at every instruction of its functions, those of new code included: the stack is unwound from there,
 * and handlers run in the old function (programs/cancelled.c).
 */
import { describe, expect, it } from "vitest";
import { canCompile } from "../rewrite/compile.js";
import { must } from "../run.js";
import { build } from "./pairs.js";

const outcomes = (text: string): readonly string[] => [...new Set(text.trimEnd().split("\n"))].sort();

describe.skipIf(!canCompile)("asynchronous cancellation", () => {
  const flags = ["-fexceptions", "-fnon-call-exceptions", "-pthread"];
  // What may trap does not move where that is an exception: in such functions there is not always room.
  const mayLeave = ["inner"];
  for (const level of ["-O2", "-Os"])
    for (const options of [[], ["--no-fork-guard"]])
      it(`${level} ${options.join(" ")}`, async () => {
        const { before, after, report } = await build(
          "cancelled.c",
          "gcc",
          [level, ...flags],
          options,
          undefined,
          mayLeave,
        );
        expect(report.sites.map((s) => s.tactic)).toContain("call-through");
        const was = outcomes(await must(before, []));
        expect(was.length).toBeGreaterThan(8);
        // A probe that its call has taken along comes behind the call: the order is another, what may come out is not.
        expect(outcomes(await must(after, []))).toEqual(was);
      });
});
