/**
 * A slice of the campaign, always the same one: 150 functions that have something unusual, or nothing, in three layouts. LONG=1
 * takes 300.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import type { Slice } from "./tally.js";

const SEED = 7;
const FUNCTIONS = process.env.LONG === "1" ? 300 : 150;

it(`${FUNCTIONS} functions: none goes wrong, verify is right about all`, { timeout: 600_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), "nop5-campaign-"));
  try {
    const out = join(folder, "slice.json");
    // Who traces runs alone: judge.test.ts says what this leaves out.
    const options = [
      "--seed",
      `${SEED}`,
      "--functions",
      `${FUNCTIONS}`,
      "--jobs",
      "1",
      "--traced-share",
      "0",
      "--out",
      out,
    ];
    const run = spawnSync(process.execPath, ["test/campaign/run.js", ...options], { encoding: "utf8" });
    expect(run.status, run.stdout + run.stderr).toBe(0);
    const { total, errors, findings, broken } = JSON.parse(readFileSync(out, "utf8")) as Slice;
    expect({ errors, findings, broken }).toEqual({ errors: [], findings: [], broken: [] });
    expect(total).toMatchObject({ wrong: 0, wrongTraced: 0, wrongEquivalent: 0, soundDifferent: 0 });
    expect(total.functions).toBeGreaterThanOrEqual(FUNCTIONS - 10);
    // A slice that rewrites nothing proves nothing.
    expect(total.rewritten / total.sites).toBeGreaterThan(0.4);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
