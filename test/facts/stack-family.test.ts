/**
 * The generated family of functions that keep values below rsp: what is judged "unused" is never wrong, by garbage that is
 * put there at every pass and by single-stepping; what is judged "live" is so often enough that the test can fail.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { hex } from "../../src/address.js";
import { parseElf } from "../../src/elf/image.js";
import { COUNT, compileFamily, compilers, levels, variations } from "../redzone/family.js";
import type { Way } from "../redzone/generate.js";
import { stepped, withGarbage } from "../redzone/watch.js";
import { must } from "../run.js";
import { type Answer, answersOf } from "./answers.js";

const wrongOf = (stdout: string): number => Number(/^wrong (\d+) of \d+$/m.exec(stdout)?.[1]);
const placesOf = (answers: readonly Answer[]): number[] => [...new Set(answers.map((a) => a.location))];

/** Ways in which values are below rsp and no pointers or indices: with garbage they give wrong results, and no crash. */
const keepsValues = new Set<string>(["locals", "array", "vectors", "floating", "assembly"] satisfies Way[]);

describe.each(compilers)("%s", (compiler) => {
  describe.each(levels)("%s", (level) => {
    const family = compileFamily(compiler, level);
    const answers = family.then(({ path }) => answersOf(parseElf(readFileSync(path))));
    const judged = async (...kinds: readonly string[]) => (await answers).filter((a) => kinds.includes(a.redZone));

    it("has the expected answers", async () => {
      const { functions, path } = await family;
      expect(functions.length).toBe(COUNT);
      expect(wrongOf(await must(path, []))).toBe(0);
      const found = await answers;
      expect(new Set(found.map((a) => a.name)).size).toBe(COUNT);
      for (const { name, redZone } of functions) {
        if (redZone === undefined) continue;
        for (const a of found.filter((f) => f.name === name))
          expect(`${name} ${a.redZone}`, a.because).toBe(`${name} ${redZone}`);
      }
      const count = (kind: string): string => `${found.filter((a) => a.redZone === kind).length} ${kind}`;
      console.log(`${compiler} ${level}: ${["unused", "live", "unknown"].map(count).join(", ")}`);
    });

    it("survives garbage below rsp where it is unused, and only there", async () => {
      const { path } = await family;
      const clean = await withGarbage(path, placesOf(await judged("unused")));
      expect(clean.stdout).toMatch(/^wrong 0 of \d+\n$/);
      expect(clean.status).toBe(0);
      const values = (await judged("live")).filter((a) => keepsValues.has(a.name.replace(/_\d+$/, "")));
      const broken = await withGarbage(path, placesOf(values));
      expect(broken.status, broken.stderr).toBe(1);
      const functions = new Set([...broken.stdout.matchAll(/^(\w+) \d+$/gm)].map((m) => m[1]!));
      expect(functions.size).toBeGreaterThan(new Set(values.map((a) => a.name)).size / 2);
    });

    it("reads nothing below rsp where it is unused, step by step", async () => {
      const { path } = await family;
      const found = await answers;
      const seen = await stepped(path, placesOf(found), 4);
      expect(seen.size).toBeGreaterThan(0.9 * COUNT);
      const reads = (redZone: string): Answer[] =>
        found.filter((a) => a.redZone === redZone && seen.get(a.location)?.read !== undefined);
      expect(reads("unused").map((a) => `${a.name} ${hex(a.location)} ${seen.get(a.location)!.read}`)).toEqual([]);
      expect(reads("live").length).toBeGreaterThan(COUNT / 3);
    });
  });

  // LONG=1 has each of both compilers, else every second one is built by one of them, by turns.
  const turn = compiler === compilers[0] ? 0 : 2;
  it.each(process.env.LONG === "1" ? variations : variations.filter((_, i) => i % 4 === turn))(
    "reads nothing below rsp where it is unused, step by step: %s",
    async (flags) => {
      const { path, functions } = await compileFamily(compiler, flags);
      const found = answersOf(parseElf(readFileSync(path)));
      const seen = await stepped(path, placesOf(found), 4);
      for (const a of found) {
        const read = seen.get(a.location)?.read;
        if (a.redZone === "unused") expect(read, `${a.name} ${hex(a.location)}: ${a.because}`).toBeUndefined();
        const known = functions.find((f) => f.name === a.name)!.redZone;
        if (known !== undefined) expect(a.redZone, `${a.name}: ${a.because}`).toBe(known);
      }
      expect(found.filter((a) => seen.get(a.location)?.read !== undefined).length).toBeGreaterThan(0);
    },
  );
});
