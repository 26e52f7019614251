/**
 * Where new code gets no unwind information the report says so, with the reason and how many probes it is about; and it says
 * nothing where there was none before either.
 */
import { describe, expect, it } from "vitest";
import { rewrite } from "../command.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must } from "../run.js";
import { canRun, program } from "./pairs.js";

const hasObjcopy = await canRun("objcopy");

async function compiled(...flags: readonly string[]): Promise<string> {
  const file = scratch("missing");
  await must("gcc", ["-w", "-O2", ...flags, program("steps.c"), "-o", file]);
  return file;
}

/** The report on a file. */
const reportOn = (file: string, ...options: readonly string[]) => rewrite(file, `${file}.nop5`, ...options);

const unwindHazards = (report: Awaited<ReturnType<typeof reportOn>>): readonly string[] =>
  report.hazards.flatMap(({ code, message }) => (code === "unwind" ? [message] : []));

describe.skipIf(!canCompile)("what is said of missing unwind information", () => {
  it("nothing where there is some", async () => {
    const report = await reportOn(await compiled());
    expect(report.summary.rewritten).toBeGreaterThan(5);
    expect(unwindHazards(report)).toEqual([]);
  });

  it.skipIf(!hasObjcopy)("the reason, and how many probes", async () => {
    const file = await compiled();
    await must("objcopy", ["--set-section-flags", ".eh_frame=alloc,data,contents", file]);
    const report = await reportOn(file, "--no-fork-guard", "--layout", "nop5");
    const moved = report.sites.filter((s) => s.tactic !== null && !["in-place", "shift"].includes(s.tactic));
    const [message, ...more] = unwindHazards(report);
    expect(more).toEqual([]);
    expect(message).toMatch(new RegExp(`new code of ${moved.length} probes? .*: \\.eh_frame is writable`));
  });

  it("nothing where there was none", async () => {
    const report = await reportOn(
      await compiled("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-exceptions"),
    );
    expect(report.sites.some((s) => s.status === "rewritten" && s.tactic !== "in-place")).toBe(true);
    expect(unwindHazards(report)).toEqual([]);
  });
});
