/**
 * Interpreters with computed goto, as compilers make them without optimizing and with what guards indirect jumps: every
 * probe is rewritten, and verify has nothing to say. They store by an index into their own frame, in front of the return
 * address, and their switches add small negative numbers to words that are loaded by an index.
 */
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must } from "../run.js";
import { tryRewriting } from "./tried.js";

const source = fileURLToPath(new URL("./interpreter.c", import.meta.url));
const ways = [
  "gcc -O0",
  "gcc -O2 -pg",
  "gcc -O2 -fno-omit-frame-pointer -mno-red-zone",
  "gcc -O0 -mindirect-branch=thunk -fcf-protection=none",
  "gcc -O2 -mindirect-branch=thunk-inline -fcf-protection=none",
  "clang -O0",
  "clang -O0 -mretpoline",
  "clang -O0 -mlvi-cfi",
];

describe.skipIf(!canCompile)("interpreters", () => {
  it.each(ways)("%s", async (way) => {
    const [compiler, ...flags] = way.split(" ");
    const path = scratch("interpreter");
    await must(compiler!, ["-w", ...flags, source, "-o", path]);
    const { report, rewritten, problems } = await tryRewriting(path);
    expect(problems).toEqual([]);
    expect(report.sites.length).toBeGreaterThanOrEqual(6);
    expect(rewritten).toBe(report.sites.length);
  });
});
