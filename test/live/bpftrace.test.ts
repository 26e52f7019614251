/**
 * The arguments of rewritten probes as bpftrace reads them, against those of the program before: the second judge beside
 * arguments.test.ts, which puts together itself what tracefs reads.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { readNotes } from "../judges/notes.js";
import { skipBecause } from "../packages/skips.js";
import { must } from "../run.js";
import { bpftraceMissing, withBpftrace } from "./bpftrace.js";
import { cannotTrace } from "./kernel.js";
import { build, programSource, rewriteWith, sameLength, scratch } from "./rewriting.js";

/**
 * bpftrace 0.17 takes these for the end of all notes of the file: high bytes, floating values, an index without a base. Symbols
 * it reads from beside the probe instead of the symbol's address: what it shows of them says nothing.
 */
const MISREAD = / ?-?\d+(?:f@\S+|@%[abcd]h|@\(,\S+|@[\w+]*[a-z_]{3,}[\w+]*\(%rip\)|@[a-z]\w*\(,\S+)/g;

/** bpftrace knows arg0 to arg5; what comes behind goes into another note of the same probe. */
const MOST = 6;

const parseable = (source: string): string =>
  source.replace(/^ +PROBE +(\w+), "(.*)"$/gm, (_, name: string, list: string) => {
    const all = list.replace(MISREAD, "").trim().split(" ");
    const rest = all.slice(MOST);
    const more = rest.length === 0 ? "" : `\nNOTE ${name}_more, "${rest.join(" ")}"`;
    return `PROBE ${name}, "${all.slice(0, MOST).join(" ")}"${more}`;
  });

/** Sixteen probes, three of which have two notes. */
const NOTES = 19;

const skipped =
  cannotTrace("arguments, read by bpftrace") || skipBecause("arguments, read by bpftrace", bpftraceMissing());

describe.skipIf(skipped)("arguments, read by bpftrace", () => {
  let program: string;
  let before: readonly string[];

  /** `name: value value ...` for each hit; sorted, for hits on different CPUs have no order. */
  async function read(file: string): Promise<readonly string[]> {
    const probes = (await readNotes(file)).map(({ provider, name, arguments: { length } }) => {
      const values = Array.from({ length }, (_, i) => `, arg${i}`);
      return { provider, name, action: `printf("${name}:${" %ld".repeat(length)}\\n"${values.join("")});` };
    });
    // Without randomization the stack is at the same address in each run.
    const printed = await withBpftrace(file, probes, () => must("setarch", ["-R", file]));
    return printed
      .split("\n")
      .filter((line) => /^\w+:/.test(line))
      .sort();
  }

  beforeAll(async () => {
    const source = scratch("parseable.S");
    writeFileSync(source, parseable(readFileSync(programSource("arguments.S"), "utf8")));
    program = await build("gcc", source, programSource("arguments.c"), "-O2", "-no-pie");
    before = await read(program);
  });

  it("are what the program says", () => {
    expect(before.length).toBe(NOTES * 6);
    expect(before).toContain("constants: -5 1234605616436508552 255 -1 -77 0");
    expect(before).toContain("for_the_note: 36 5");
    expect(before).toContain("indexed: 6 6 0 1");
  });

  it.each(["nop5", "nop,nop5", "nop,nop10"])("are the same with %s", async (layout) => {
    const { path, summary } = await rewriteWith(program, "--layout", layout);
    expect(summary.rewritten).toBe(NOTES);
    expect(await read(sameLength(path, program))).toEqual(before);
  });
});
