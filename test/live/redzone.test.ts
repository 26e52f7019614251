/**
 * What a function keeps below rsp survives a tracer: a nop5 that Linux 6.18 to 7.1 have patched writes there.
 *
 * A hand-written program and a generated family of leaf functions are compiled with the plain nop, rewritten, and traced at
 * every probe while they check their own results. A probe that was not hit, or not patched into a call, would prove nothing: the
 * test looks for the call in the living process. The same programs compiled with nop5 in the source do get wrong results.
 */
import { writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { attach } from "../packages/uprobes.js";
import { generate } from "../redzone/generate.js";
import { run } from "../run.js";
import { cannotOptimize, hasClang } from "./kernel.js";
import { EndedEarly, start } from "./living.js";
import { distinct, places } from "./places.js";
import { build, programSource, rewriteWith, scratch } from "./rewriting.js";

const SEED = 20_260_701;
const FUNCTIONS = 231;
const CALL = "e8";

interface Traced {
  /** The last line: `wrong N of M`. */
  readonly verdict: string;
  readonly sites: number;
  readonly hits: number;
  /** Sites that were never passed, or did not become a call. */
  readonly idle: readonly string[];
}

/** Runs a program with a uprobe on each of its sites, but for those of some names. */
async function traced(file: string, step = 0n, left: readonly string[] = []): Promise<Traced> {
  const sites = distinct(await places(file, step)).filter((site) => !left.includes(site.note.name));
  const probes = attach(sites.map((site) => site.point));
  try {
    const program = await start(file);
    const hits = probes.hits();
    const idle = sites.filter((site, i) => hits[i] === 0 || program.bytesAt(site.address, 1) !== CALL);
    await program.finish();
    return {
      verdict: verdictOf(program.said),
      sites: sites.length,
      hits: hits.reduce((sum, n) => sum + n, 0),
      idle: idle.map((site) => site.note.name),
    };
  } finally {
    probes.detach();
  }
}

const verdictOf = (said: string): string => /^wrong \d+ of \d+$/m.exec(said)?.[0] ?? `no verdict in: ${said}`;

/** The same of a program that may crash, for a pointer of its own may be overwritten: then what it said until then. */
async function tracedAtRisk(file: string): Promise<string> {
  try {
    return (await traced(file)).verdict;
  } catch (error) {
    if (!(error instanceof EndedEarly)) throw error;
    const wrong = [...error.ending.stdout.matchAll(/^\w+ (\d+)$/gm)].map(([, count]) => Number(count));
    return `${wrong.reduce((sum, n) => sum + n, 0)} wrong results, then killed by ${error.ending.signal}`;
  }
}

/** Compiles a program so that it stays when its work is done. */
async function compile(compiler: string, source: string, ...flags: readonly string[]): Promise<string> {
  const work = await build(compiler, source, ...flags, "-Dmain=work", "-c");
  return build(compiler, programSource("stay.c"), work);
}

/** Where tracers attach: at the note's location, and behind its nop, as libbpf 1.7 does. */
const ways = [
  { layout: "nop5", step: 0n },
  { layout: "nop,nop5", step: 1n },
] as const;

/** The family as a file. */
function family(): string {
  const path = scratch("family.c");
  writeFileSync(path, generate(SEED, FUNCTIONS).source);
  return path;
}

const programs = [
  { made: "by hand", sourceFile: () => programSource("redzone.c"), functions: 2 },
  { made: "from a seed", sourceFile: family, functions: FUNCTIONS },
];
/** With LONG=1 all, else every second one: each compiler, each level and both programs. */
const builds = ["gcc", "clang"].flatMap((compiler, c) =>
  ["-O0", "-O2", "-O3"].flatMap((optimization, o) =>
    programs
      .filter((_, p) => process.env.LONG === "1" || (c + o + p) % 2 === 0)
      .map((program) => ({ compiler, optimization, ...program })),
  ),
);

describe.skipIf(cannotOptimize("what is below rsp"))("what is below rsp", () => {
  describe.each(builds)("in functions made $made, $compiler $optimization", (made) => {
    const { compiler, optimization, sourceFile, functions } = made;
    const skipped = compiler === "clang" && !hasClang;
    const title = `${functions} functions made ${made.made}, ${compiler} ${optimization}`;
    let source: string;
    let program: string;
    beforeAll(async () => {
      source = sourceFile();
      if (!skipped) program = await compile(compiler, source, optimization);
    });

    it.skipIf(skipped).each(ways)("survives a tracer, $layout +$step", async ({ layout, step }) => {
      const { path, summary, sites } = await rewriteWith(program, "--layout", layout);
      // Of so many functions some are in the way of a word that looks like a jump table's by chance.
      const left = sites.filter((site) => site.status !== "rewritten");
      expect(left.filter((site) => !/^what may be a table at /.test(site.reason ?? ""))).toEqual([]);
      expect(left.length).toBeLessThanOrEqual(functions / 100);
      expect(summary.rewritten).toBeGreaterThanOrEqual(functions - left.length);
      const names = left.map((site) => site.name);
      const { idle, ...seen } = await traced(path, step, names);
      const guards = sites.filter((site) => site.guard).length;
      console.log(`${title}, ${layout}: ${seen.sites} sites, ${guards} guarded, ${seen.hits} hits, ${seen.verdict}`);
      expect(idle).toEqual([]);
      expect(seen.verdict).toMatch(/^wrong 0 of/);
    });

    it.skipIf(skipped)("does not survive one of a nop5 in the source", async () => {
      const control = await compile(compiler, source, optimization, "-DREDZONE_NOP5");
      const seen = await tracedAtRisk(control);
      console.log(`${title}, nop5 in the source: ${seen}`);
      expect(seen).toMatch(/^wrong [1-9]|^[1-9]\d* wrong results, then killed by SIG(?:SEGV|BUS|ILL)$/);
      expect(verdictOf((await run(control, [])).stdout), "not traced").toMatch(/^wrong 0 of/);
    });
  });
});
