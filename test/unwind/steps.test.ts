/**
 * At every instruction of new code a stack walk finds the same frames and the same saved registers as before: the CPU goes
 * through it step by step, and libgcc looks after each (programs/steps.c).
 */
import { describe, expect, it } from "vitest";
import { canCompile } from "../rewrite/compile.js";
import { must } from "../run.js";
import { build, canRun, program, steadily } from "./pairs.js";

const compilers: readonly (readonly [string, ...string[]])[] = [
  ["gcc", "-O2"],
  ["gcc", "-O0"],
  ["gcc", "-O1", "-fno-omit-frame-pointer"],
  ["gcc", "-Os", "-fomit-frame-pointer"],
  ["gcc", "-O2", "-no-pie", "-fno-PIC"],
  ["gcc", "-O2", "-fuse-ld=gold"],
  ["gcc", "-O2", "-fuse-ld=lld"],
  ["clang", "-O2"],
  ["clang", "-O0", "-fomit-frame-pointer"],
];

const usable = await Promise.all(
  compilers.map(async ([compiler, ...flags]) => {
    const linker = flags.find((f) => f.startsWith("-fuse-ld="))?.slice(9);
    return canRun(compiler, "setarch", ...(linker === undefined ? [] : [`ld.${linker}`]));
  }),
);

/** A walk that found nothing is an empty line. */
const steps = (text: string): readonly string[] => text.trimEnd().split("\n");

describe.skipIf(!canCompile)("stacks in new code, step by step", () => {
  compilers.forEach(([compiler, ...flags], i) => {
    // With the guard and without: by turns, and both of the first. LONG=1 tries both of all.
    const both: readonly string[][] = [[], ["--no-fork-guard"]];
    for (const options of both.filter((_, k) => process.env.LONG === "1" || i === 0 || i % 2 === k))
      it.skipIf(!usable[i])(`${compiler} ${flags.join(" ")} ${options.join(" ")}`, async () => {
        const { before, after, report } = await build("steps.c", compiler, ["-rdynamic", ...flags], options);
        expect(report.sites.some((s) => s.tactic !== "in-place")).toBe(true);
        const [was, is] = [await steadily(before), await steadily(after)];
        expect(is.status).toBe(0);
        expect(steps(was.stdout).length).toBeGreaterThan(40);
        expect(steps(is.stdout)).toEqual(steps(was.stdout));
        // Guards and jumps are instructions that were not there: the walk came by them.
        expect(Number(is.stderr)).toBeGreaterThan(Number(was.stderr));
      });
  });

  it.skipIf(!usable[0])("jumps in padding on the way there", async () => {
    const flags = ["-rdynamic", "-O2", program("hops.S")];
    const { before, after, report } = await build("steps.c", "gcc", flags, ["--no-fork-guard"]);
    const tactics = new Map(report.sites.map((s) => [s.name, s.tactic]));
    expect(tactics.get("hop")).toBe("hop");
    expect(tactics.get("relay")).toBe("retarget-short");
    const [was, is] = [await steadily(before), await steadily(after)];
    expect(is.status).toBe(0);
    expect(steps(is.stdout)).toEqual(steps(was.stdout));
    expect(Number(is.stderr)).toBeGreaterThan(Number(was.stderr));
    // Two of them stand in no function: they have a record each, as long as a jump.
    const short = async (file: string): Promise<number> =>
      [...(await must("readelf", ["--debug-dump=frames", file])).matchAll(/ pc=([0-9a-f]+)\.\.([0-9a-f]+)/g)].filter(
        ([, start, end]) => BigInt(`0x${end}`) - BigInt(`0x${start}`) === 5n,
      ).length;
    expect((await short(after)) - (await short(before))).toBe(2);
  });
});
