/**
 * The campaign itself: programs follow from their seed, every kind comes up, and a rewriter that breaks them, with a verify
 * that believes it, is found out.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type ElfImage, offsetOf, parseElf } from "../../src/elf/image.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { dimensions } from "./function.js";
import { bases } from "./generate-address.js";
import { odd } from "./generate-c-odd.js";
import { carries } from "./generate-carry.js";
import { indices } from "./generate-index.js";
import { leaves } from "./generate-leave.js";
import { specials } from "./generate-special.js";
import { combines, tables } from "./generate-table.js";
import { type JudgeOptions, judge } from "./judge.js";
import { buildDriver, generate } from "./program.js";
import { Tally } from "./tally.js";
import type { Toolkit } from "./toolkit.js";

describe("generated programs", () => {
  it("follow from seed and number", () => {
    for (const index of [0, 1, 2, 3]) expect(generate(5, index)).toEqual(generate(5, index));
    expect(generate(5, 0)).not.toEqual(generate(6, 0));
  });

  it("are of every kind, controls among them", () => {
    const functions = Array.from({ length: 900 }, (_, i) => generate(3, i).functions).flat();
    const seen = new Set(functions.flatMap(({ kinds }) => dimensions.map((d) => `${d}: ${kinds[d]}`)));
    const expected = Object.entries({ bases, tables, combines, carries, leaves, indices, specials, odd });
    const names = { bases: "base", tables: "table", combines: "combine", carries: "carry", leaves: "leave" };
    const other = { indices: "index", specials: "special", odd: "special" };
    const missing = expected.flatMap(([list, kinds]) => {
      const dimension = ({ ...names, ...other } as Readonly<Record<string, string>>)[list];
      return Object.keys(kinds).filter((kind) => !seen.has(`${dimension}: ${kind}`));
    });
    expect(missing).toEqual([]);
    const controls = functions.filter(({ unusual }) => unusual === 0).length / functions.length;
    expect(controls).toBeGreaterThan(0.3);
    expect(controls).toBeLessThan(0.55);
  });
});

/** Writes a trap over each site, or nothing, and calls that equivalent. */
function rewriter(trap: boolean): Toolkit {
  const sitesOf = (image: ElfImage) =>
    readUsdtNotes(image).map(({ provider, name, location }) => ({ provider, name, location }));
  const rewrite = (image: ElfImage) => {
    const bytes = Buffer.from(image.bytes);
    for (const { location } of sitesOf(image)) if (trap) bytes[offsetOf(image, location)!] = 0xcc;
    const sites = sitesOf(image).map((site) => ({ ...site, status: "rewritten", tactic: "trap", reason: null }));
    return { report: { sites }, content: { size: bytes.length, pieces: [{ offset: 0, bytes }] } };
  };
  const verify = (image: ElfImage) => ({
    sites: sitesOf(image).map((site) => ({ ...site, verdict: "equivalent", reason: null })),
    findings: [],
  });
  return {
    image: { parseElf },
    rewrite: { rewrite },
    verify: { verify },
    original: { carriedOriginal: () => undefined },
  } as unknown as Toolkit;
}

describe("the judge", () => {
  let options: JudgeOptions;
  beforeAll(() => {
    const folder = mkdtempSync(join(tmpdir(), "usdt-campaign-"));
    options = { seed: 4, folder, driver: buildDriver(folder), tracedShare: 0, keep: null, layout: "nop5" };
  });
  afterAll(() => rmSync(options.folder, { recursive: true, force: true }));

  it("finds each function that a rewriter breaks", () => {
    const tally = new Tally();
    for (const index of [0, 1, 2]) tally.add(judge(rewriter(true), index, options));
    const { total, wrongFiles, wrongFilesEquivalent, broken } = tally.slice(4, 0);
    expect(total.functions).toBeGreaterThan(10);
    // A function that breaks an assumption is wrong as well, and counted elsewhere; a site may stand where nobody comes by.
    expect(total.wrong).toBeGreaterThan(total.functions * 0.8);
    expect(total.wrongEquivalent).toBe(total.wrong);
    expect([wrongFiles, wrongFilesEquivalent]).toEqual([3, 3]);
    expect(broken).toEqual([]);
  });

  it("finds nothing where nothing is changed", () => {
    const tally = new Tally();
    for (const index of [0, 1, 2]) tally.add(judge(rewriter(false), index, options));
    const { wrong, wrongEquivalent, soundDifferent } = tally.slice(4, 0).total;
    expect({ wrong, wrongEquivalent, soundDifferent }).toEqual({ wrong: 0, wrongEquivalent: 0, soundDifferent: 0 });
  });
});
