/**
 * Small assembly functions (flags.S), each with the answer that is expected beside its probe; programs of compilers, and
 * the five Debian packages.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { type ElfImage, parseElf } from "../../src/elf/image.js";
import { FileFacts } from "../../src/facts/file-facts.js";
import { type FlagFact, FlagFacts } from "../../src/facts/flags.js";
import { gatherFacts } from "../../src/facts/program.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { build } from "../fixtures/build.js";
import { corpus, corpusPath, FETCH_TIMEOUT, fetchPackages } from "../packages/corpus.js";

const source = fileURLToPath(new URL("./flags.S", import.meta.url));

/** The name of each probe, and the answer that the comment after it asks for. */
const expected = [...readFileSync(source, "utf8").matchAll(/^.*\bprobe +(\w+).*# (dead|alive)$/gm)].map((m) => ({
  name: m[1]!,
  answer: m[2]!,
}));

function answersOf(image: ElfImage): readonly (FlagFact & { readonly name: string })[] {
  const notes = readUsdtNotes(image);
  const facts = gatherFacts(
    new FileFacts(image),
    notes.map((n) => n.location),
  );
  const flags = new FlagFacts(facts);
  return notes.map(({ name, location }) => ({ name, ...flags.deadAt(location) }));
}

describe("assembly functions", async () => {
  const built = await build({
    output: "flags.so",
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
    const { dead, because } = answers.get(name)!;
    expect(dead ? "dead" : "alive", because).toBe(answer);
    expect(because).not.toBe("");
  });
});

describe("Debian packages", () => {
  it("at all sites the flags are dead", { timeout: FETCH_TIMEOUT }, () => {
    fetchPackages();
    for (const [name, file] of Object.entries(corpus)) {
      const answers = answersOf(parseElf(readFileSync(corpusPath(file))));
      expect(answers.length).toBe(file.sites);
      const alive = answers.filter((a) => !a.dead).map((a) => `${a.name}: ${a.because}`);
      expect(alive, name).toEqual([]);
    }
  });
});
