/**
 * What a file says about itself is input like any other: it costs no more memory and time than its bytes, is no reason
 * to leave anything undone, and ends in a result or in one line.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { varints } from "../../src/rewritten/varints.js";
import { type Printed, usdtNop5 } from "../commands/in-process.js";
import { sampleCopy } from "../sample/sample.js";
import { type Forged, forged, memoOf } from "./forged.js";

let original: string;
let rewritten: Buffer;
/** The sample with one of its probes rewritten. */
beforeEach(async () => {
  original = await sampleCopy();
  const output = `${original}.one`;
  expect((await usdtNop5("rewrite", "--only", "sample:add", original, "-o", output)).status).toBe(0);
  rewritten = readFileSync(output);
});

const beside = (name: string): string => join(dirname(original), name);

async function on(file: Forged, command: string, ...options: string[]): Promise<Printed> {
  writeFileSync(beside("forged"), forged(rewritten, file));
  const said = await usdtNop5(command, ...options, beside("forged"));
  expect(said.stderr).not.toContain("a defect in");
  expect(said.stderr).toMatch(/^(?:usdt-nop5: [^\n]+\n)*$/);
  return said;
}

/** The memo of a file that was rewritten whole. */
async function wholeMemo(): Promise<{ options: object; sites: unknown[][] } & Record<string, unknown>> {
  expect((await usdtNop5("rewrite", original, "-o", beside("whole"))).status).toBe(0);
  return JSON.parse(memoOf(parseElf(readFileSync(beside("whole")))));
}

describe("a memo", () => {
  it("is no reason to leave anything undone: it says that there are no sites", async () => {
    const memo = { ...(await wholeMemo()), sites: [], hazards: [] };
    const { status, stdout } = await on(
      { memo: JSON.stringify(memo) },
      "rewrite",
      "--strict",
      "--json",
      "-o",
      beside("out"),
    );
    const { summary } = JSON.parse(stdout) as { summary: { sites: number; skipped: number; rewritten: number } };
    const whole = await usdtNop5("rewrite", "--strict", "--json", original, "-o", beside("whole"));
    expect(status).toBe(whole.status);
    expect(summary).toEqual((JSON.parse(whole.stdout) as { summary: unknown }).summary);
    expect(summary.rewritten).toBeGreaterThan(1);
    if (status === 0) expect(readFileSync(beside("out")).equals(readFileSync(beside("whole")))).toBe(true);
  });

  it.each(["skipped", "already"])("is no reason either: it says that all are %s", async (what) => {
    const memo = await wholeMemo();
    const reason = what === "skipped" ? "because" : null;
    const sites = memo.sites.map(([provider, name, location, , , redZone]) => [
      ...[provider, name, location, location, null, redZone, false, reason, reason],
    ]);
    const { stdout } = await on({ memo: JSON.stringify({ ...memo, sites }) }, "rewrite", "-o", beside("out"));
    expect(stdout).not.toContain("because");
    expect(readFileSync(beside("out")).equals(readFileSync(beside("whole")))).toBe(true);
  });

  it.each<[string, string | Uint8Array]>([
    ["nothing", ""],
    ["null", "null"],
    ["a number", "5"],
    ["a text", '"text"'],
    ["a list", "[]"],
    ["an empty object", "{}"],
    ["100,000 lists in each other", "[".repeat(100_000)],
    ["null in it", '{"options":null,"sites":[null],"forkGuard":7}'],
    ["others in it", '{"options":{"only":{}},"sites":[[7,7,"x"]],"hazards":[7],"forkGuard":{"installed":"yes"}}'],
    ["objects for lists", '{"options":{"only":5},"sites":{"map":1},"hazards":{},"forkGuard":[]}'],
    ["no UTF-8", Buffer.from([0xff, 0xfe, 0x80])],
  ])("of other types makes no difference: %s", async (_what, memo) => {
    const { status } = await on({ memo }, "rewrite", "-o", beside("out"));
    expect(status).toBe(0);
    await wholeMemo();
    expect(readFileSync(beside("out")).equals(readFileSync(beside("whole")))).toBe(true);
    expect([0, 3]).toContain((await on({ memo }, "verify")).status);
    expect((await on({ memo }, "revert", "-o", beside("reverted"))).status).toBe(0);
    expect(readFileSync(beside("reverted")).equals(readFileSync(original))).toBe(true);
  });
});

describe("an undo asks for no more than there is", () => {
  /** An undo with these sizes, words and copies. */
  const undo = (size: number, copies: number[], words: number[]): Uint8Array =>
    varints([size, 0, ...copies, ...words, 0]);
  /** One list of `times` words, each the next of the one before. */
  const run = (times: number): number[] => [1, 2, 2, 3, times];

  it.each<[string, () => Uint8Array]>([
    ["a size of 2^50", () => undo(2 ** 50, [0], [0])],
    ["a size of which most would be zeros", () => undo(2 ** 31, [0], [0])],
    ["2^40 words", () => undo(2 ** 50, [0], run(2 ** 40))],
    ["all words of 2 GiB", () => undo(2 ** 31, [0], run(2 ** 29 - 1))],
    [
      "all words, 20,000 times",
      () => undo(36_000, [0], [20_000, ...Array.from({ length: 20_000 }, () => [2, 2, 3, 8000]).flat()]),
    ],
    ["200,000 copies of nothing", () => undo(36_000, [200_000, ...Array(600_000).fill(0)], [0])],
    ["the same words in many lists", () => undo(36_000, [0], [100_000, ...Array(300_000).fill(2)])],
  ])("%s", async (_what, make) => {
    const file = { undo: make() };
    const before = process.memoryUsage().rss;
    const started = performance.now();
    // Bytes that differ are what verify looks for.
    for (const command of ["revert", "rewrite", "verify"])
      expect([1, ...(command === "verify" ? [3] : [])]).toContain((await on(file, command)).status);
    expect(performance.now() - started).toBeLessThan(10_000);
    expect(process.memoryUsage().rss - before).toBeLessThan(300 * 2 ** 20);
  });
});
