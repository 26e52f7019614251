/**
 * Rewritten files after strip and its like: gdb's stacks at all probes, and at new code behind them, are the ones of the unrewritten
 * file after the same tool; with the symbols in a file of their own they have their names. And of the five packages
 * eu-elflint and readelf say nothing that they did not say before.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readSections } from "../judges/headers.js";
import { corpus, corpusPath, FETCH_TIMEOUT, fetchPackages } from "../packages/corpus.js";
import { rewriteOnce } from "../packages/rewritten-once.js";
import { type Scratch, scratchDirectory } from "../packages/scratch.js";
import { skipBecause } from "../packages/skips.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must, run } from "../run.js";
import { newRecords } from "./faults.js";
import { build } from "./pairs.js";
import { comparable, comparableStops, framesIn, gdbStacksMissing, stacksAt } from "./stacks.js";

const missing = (tool: string): string | null => (spawnSync(tool, ["--version"]).status === 0 ? null : `no ${tool}`);
const skip = skipBecause("stacks in stripped files", canCompile ? gdbStacksMissing() : "no compiler");

const tools: Readonly<Record<string, { needs: string; isStripped: boolean; apply(file: string): Promise<unknown> }>> = {
  strip: { needs: "strip", isStripped: true, apply: (file) => must("strip", [file]) },
  "strip -g": { needs: "strip", isStripped: false, apply: (file) => must("strip", ["-g", file]) },
  "eu-strip": { needs: "eu-strip", isStripped: true, apply: (file) => must("eu-strip", [file]) },
  "symbols in a file of their own": {
    needs: "objcopy",
    isStripped: false,
    apply: async (file) => {
      await must("objcopy", ["--only-keep-debug", file, `${file}.debug`]);
      await must("strip", [file]);
      await must("objcopy", [`--add-gnu-debuglink=${basename(file)}.debug`, file], { cwd: dirname(file) });
      expect((await readSections(file)).map((s) => s.name)).not.toContain(".symtab");
    },
  },
};

const ways: readonly (readonly string[])[] = [
  ["-O2", "-rdynamic"],
  ["-O2", "-no-pie", "-fno-PIC", "-rdynamic"],
];

describe.skipIf(skip)("stacks in stripped files", () => {
  let frames = 0;
  afterAll(() => console.log(`stripped files: ${frames} frames`));

  async function copyIn(file: string): Promise<string> {
    const folder = scratch("copy");
    mkdirSync(folder);
    const copy = join(folder, basename(file));
    copyFileSync(file, copy);
    return copy;
  }

  for (const flags of ways)
    for (const [name, { needs, isStripped, apply }] of Object.entries(tools))
      it.skipIf(missing(needs) !== null)(`${name}, gcc ${flags.join(" ")}`, async () => {
        const pair = await build("steps.c", "gcc", flags);
        const [before, after] = [await copyIn(pair.before), await copyIn(pair.after)];
        await apply(before);
        await apply(after);
        expect(readFileSync(after).equals(readFileSync(pair.after))).toBe(false);
        const subject = { file: before, arguments: "quiet > /dev/null" };
        const was = await stacksAt(subject, scratch("task"));
        const is = await stacksAt({ ...subject, file: after, steps: 12 }, scratch("task"));
        expect(was.length).toBeGreaterThan(8);
        expect(comparableStops(is, !isStripped, was)).toEqual(comparableStops(was, !isStripped, is));
        for (const { stacks } of is)
          for (const stack of stacks)
            expect(comparable(stack, !isStripped)).toEqual(comparable(stacks[0]!, !isStripped));
        frames += framesIn(is);
      });

  it("are others where the records of new code were damaged first", async () => {
    const pair = await build("steps.c", "gcc", ways[0]!);
    const bytes = readFileSync(pair.after);
    for (const at of await newRecords(pair.after)) bytes.writeInt32LE(1, at + 12);
    const path = scratch("planted");
    writeFileSync(path, bytes, { mode: 0o755 });
    await must("strip", [path]);
    const was = await stacksAt({ file: pair.before, arguments: "quiet > /dev/null" }, scratch("task"));
    const is = await stacksAt({ file: path, arguments: "quiet > /dev/null" }, scratch("task"));
    expect(comparableStops(is, false, was)).not.toEqual(comparableStops(was, false, is));
  });
});

describe("the packages, to other readers", () => {
  let folder: Scratch;
  beforeAll(() => {
    fetchPackages();
    folder = scratchDirectory("readers");
  }, FETCH_TIMEOUT);
  afterAll(() => folder?.remove());

  /** What a tool complains of, with the file's name and all numbers gone: sections have other numbers than they had. */
  const complaints = (text: string, file: string): readonly string[] =>
    [
      ...new Set(
        text
          .replaceAll(file, "FILE")
          .replace(/0x[0-9a-f]+|\d+/g, "N")
          .split("\n"),
      ),
    ].filter((l) => l !== "");

  const readers: Readonly<Record<string, (file: string) => Promise<string>>> = {
    "eu-elflint": async (file) => (await run("eu-elflint", ["--gnu-ld", file])).stdout.replace("No errors\n", ""),
    readelf: async (file) => {
      // 20 MB for libjvm.so: only what it says besides.
      const { status, stderr } = await run("sh", [
        "-c",
        'exec readelf --debug-dump=frames "$1" > /dev/null',
        "-",
        file,
      ]);
      expect(status).toBe(0);
      return stderr;
    },
  };

  const usable = Object.entries(readers).filter(([tool]) => !skipBecause(`complaints of ${tool}`, missing(tool)));

  for (const [name, file] of Object.entries(corpus))
    it(`${usable.map(([tool]) => tool).join(" and ")} find nothing new in ${name}`, async () => {
      const [before, after] = [folder.file(`${name}.before`), folder.file(`${name}.after_`)];
      copyFileSync(corpusPath(file), before);
      await rewriteOnce(before, after);
      for (const [tool, read] of usable) {
        const [was, is] = [complaints(await read(before), before), complaints(await read(after), after)];
        expect(
          is.filter((line) => !was.includes(line)),
          tool,
        ).toEqual([]);
      }
    });

  it("they complain of what is wrong", async () => {
    const [good, bad] = [corpusPath(corpus.libstdcxx), folder.file("bad")];
    const output = folder.file("good");
    await rewriteOnce(good, output);
    const plants: Readonly<Record<string, (bytes: Buffer, records: readonly number[]) => void>> = {
      // e_shnum; the first records' way to their CIE.
      "eu-elflint": (bytes) => bytes.writeUInt16LE(bytes.readUInt16LE(60) + 40, 60),
      readelf: (bytes, records) => records.forEach((at) => void bytes.writeInt32LE(0x7fff_0000, at + 4)),
    };
    for (const [tool, read] of usable) {
      const bytes = readFileSync(output);
      plants[tool]!(bytes, await newRecords(output));
      writeFileSync(bad, bytes);
      const was = complaints(await read(output), output);
      expect(
        complaints(await read(bad), bad).filter((line) => !was.includes(line)),
        tool,
      ).not.toEqual([]);
    }
  });
});
