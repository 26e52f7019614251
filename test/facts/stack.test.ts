/**
 * Small assembly functions (stack.S), each with the answer that is expected beside its probe, and the five Debian packages.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { build } from "../fixtures/build.js";
import { corpus, corpusPath, FETCH_TIMEOUT, fetchPackages } from "../packages/corpus.js";
import { answersOf } from "./answers.js";

const source = fileURLToPath(new URL("./stack.S", import.meta.url));

/** The name of each probe, and the answer that the comment behind it asks for. */
const expected = [...readFileSync(source, "utf8").matchAll(/^.*\bprobe +(\w+).*# (unused|live|unknown)$/gm)].map(
  (m) => ({ name: m[1]!, answer: m[2]! }),
);

describe("assembly functions", async () => {
  const built = await build({
    output: "stack.so",
    compiler: "gcc",
    sources: [source],
    flags: ["-shared", "-nostdlib"],
  });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  const answers = new Map(answersOf(parseElf(readFileSync(built.path))).map((a) => [a.name, a]));

  it("every probe has an expected answer", () => {
    expect([...answers.keys()].sort()).toEqual(expected.map((e) => e.name).sort());
  });

  it.each(expected)("$name: $answer", ({ name, answer }) => {
    const found = answers.get(name)!;
    expect(found.redZone, found.because).toBe(answer);
    expect(found.because).not.toBe("");
  });
});

describe("Debian packages", () => {
  it("at most 5 % of the sites are unknown", { timeout: FETCH_TIMEOUT }, () => {
    fetchPackages();
    const lines: string[] = [];
    for (const [name, file] of Object.entries(corpus)) {
      const answers = answersOf(parseElf(readFileSync(corpusPath(file))));
      expect(answers.length).toBe(file.sites);
      const count = (kind: string): number => answers.filter((a) => a.redZone === kind).length;
      const [unused, live, unknown] = ["unused", "live", "unknown"].map(count) as [number, number, number];
      lines.push([name, unused, live, unknown].map((c) => String(c).padStart(10)).join(""));
      expect(unused + live + unknown).toBe(file.sites);
      expect(unknown / file.sites).toBeLessThanOrEqual(0.05);
    }
    console.log([["", "unused", "live", "unknown"].map((c) => c.padStart(10)).join(""), ...lines].join("\n"));
  });
});
