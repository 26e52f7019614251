/**
 * Small assembly functions (flags.S), each with the answer that is expected beside its probe; programs of compilers, and
 * the five Debian packages.
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { type ElfImage, parseElf } from "../../src/elf/image.js";
import { FileFacts } from "../../src/facts/file-facts.js";
import { type FlagFact, FlagFacts } from "../../src/facts/flags.js";
import { gatherFacts } from "../../src/facts/program.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { CodeReader } from "../../src/verify/code-reader.js";
import { FlagReaders } from "../../src/verify/flags-dead.js";
import { build } from "../fixtures/build.js";
import { options, words } from "../fixtures/head.js";
import { allFixtures } from "../fixtures/matrix.js";
import { corpus, corpusPath, FETCH_TIMEOUT, fetchPackages } from "../packages/corpus.js";

const source = fileURLToPath(new URL("./flags.S", import.meta.url));

/** The name of each probe, and the answer that the comment after it asks for. */
const expected = [...readFileSync(source, "utf8").matchAll(/^.*\bprobe +(\w+).*# (dead|alive)$/gm)].map((m) => ({
  name: m[1]!,
  answer: m[2]!,
}));

/** What the facts say of each probe. `verify`, by code of its own, has to say the same. */
function answersOf(image: ElfImage): readonly (FlagFact & { readonly name: string })[] {
  const notes = readUsdtNotes(image);
  const facts = gatherFacts(
    new FileFacts(image),
    notes.map((n) => n.location),
  );
  const flags = new FlagFacts(facts);
  const readers = new FlagReaders(new CodeReader(image), facts);
  return notes.map(({ name, location }) => {
    const fact = flags.deadAt(location);
    const reader = readers.readerAfter(location);
    expect(reader === undefined, `${name}: ${fact.because}, and verify: ${reader}`).toBe(fact.dead);
    return { name, ...fact };
  });
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

const hasRust = spawnSync("rustc", ["--version"]).status === 0;

describe.skipIf(!hasRust)("Rust (rustc; skipped where there is none)", () => {
  it("preserves_flags keeps a carry over the probe, and without it nothing is kept", async () => {
    const built = await build({
      output: "rust.so",
      compiler: "rustc",
      sources: [fileURLToPath(new URL("./preserves-flags.rs", import.meta.url))],
      flags: ["-O", "--crate-type=cdylib", "-Cpanic=abort", "-Clink-arg=-nostdlib"],
    });
    if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
    const answers = answersOf(parseElf(readFileSync(built.path)));
    expect(Object.fromEntries(answers.map((a) => [a.name, a.dead]))).toEqual({ kept: false, lost: true });
    expect(answers.find((a) => a.name === "kept")!.because).toMatch(/^the instruction at 0x[0-9a-f]+ reads CF$/);
  });
});

describe("C and C++: their compilers take every asm as one that destroys the flags", () => {
  const ways = ["gcc", "clang"].flatMap((compiler) => ["-O0", "-O2"].map((level) => ({ compiler, level, how: "" })));
  // Calls and jumps by pointers go by thunks, whose return is no return.
  ways.push({ compiler: "gcc", level: "-O2", how: "-mindirect-branch=thunk" });
  ways.push({ compiler: "clang", level: "-O2", how: "-mretpoline" });

  it.each(ways)("$compiler $level $how", async ({ compiler, level, how }) => {
    const alive: string[] = [];
    let probes = 0;
    for (const { name, file, head } of allFixtures()) {
      if (head.compilers !== undefined && !words(head.compilers).includes(compiler)) continue;
      const further = file.endsWith(".cc") ? ["-lstdc++"] : [];
      const flags = [
        level,
        ...(how === "" ? [] : [how, "-fcf-protection=none"]),
        ...options(head.flags),
        ...further,
        "-Wno-unused-command-line-argument",
      ];
      const built = await build({ output: name, compiler, sources: [file], flags });
      if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
      const answers = answersOf(parseElf(readFileSync(built.path)));
      probes += answers.length;
      // Not optimized, its jumps go by slots of the stack: no tactic knows where they lead, either.
      const isOpen = ({ because }: FlagFact): boolean =>
        name === "computed-goto" && level === "-O0" && because.includes("nothing is known of where the jump");
      alive.push(...answers.filter((a) => !a.dead && !isOpen(a)).map((a) => `${name} ${a.name}: ${a.because}`));
    }
    expect(probes).toBeGreaterThan(50);
    expect(alive).toEqual([]);
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
