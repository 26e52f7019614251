/**
 * Programs without unusual shapes, at random: rewritten they compute what they did, and verify has nothing to say about any.
 * PLAIN=150 makes so many of them, PLAIN_FROM=25 from that one on; LONG=1 makes 50. Two of three are assembly, the others C.
 */
import { writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must } from "../run.js";
import { plainProgram } from "./plain-programs.js";
import { tryRewriting } from "./tried.js";

const count = Number(process.env.PLAIN ?? (process.env.LONG === "1" ? 50 : 12));
const first = Number(process.env.PLAIN_FROM ?? 0);

describe.skipIf(!canCompile)("programs of plain shapes", () => {
  it("are what they were, and verify says so", { timeout: 1_800_000 }, async () => {
    const problems: string[] = [];
    let [sites, rewritten] = [0, 0];
    for (let seed = first; seed < first + count; seed++) {
      const { name, source, compiler, flags, strip } = plainProgram(seed);
      const [file, path] = [scratch("plain.c"), scratch("plain")];
      writeFileSync(file, source);
      await must(compiler, ["-w", ...flags, file, "-o", path]);
      if (strip) await must("strip", [path]);
      const tried = await tryRewriting(path);
      sites += tried.report.sites.length;
      rewritten += tried.rewritten;
      problems.push(...tried.problems.map((problem) => `${name}: ${problem}`));
    }
    console.log(`${count} programs, ${sites} sites, ${rewritten} rewritten`);
    expect(problems).toEqual([]);
    // Where hardly anything is rewritten nothing is shown.
    expect(rewritten / sites).toBeGreaterThan(0.6);
  });
});
