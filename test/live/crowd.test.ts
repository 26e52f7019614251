/**
 * `live` where others have 2,000 uprobe events in tracefs, in a group that this test makes and takes away: it counts right, its
 * own events go, and theirs stay.
 */
import { appendFileSync, closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { offsetOf, parseElf } from "../../src/elf/image.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { cannotTrace } from "./kernel.js";
import { build, programSource, rewriteWith } from "./rewriting.js";
import { eventsOf, startTool } from "./tool.js";

const EVENTS = "/sys/kernel/tracing/uprobe_events";
const COUNT = 2000;
/** test/nothing-left.ts knows the name. */
const group = `nop5_crowd_${process.pid}_1`;
const skipped = cannotTrace("live among 2,000 events of others");

const theirs = (): number => readFileSync(EVENTS, "latin1").split(`p:${group}/`).length - 1;

/** One open file and a line a write: tracefs takes each as a definition of its own, and appends. */
function append(lines: readonly string[]): void {
  const fd = openSync(EVENTS, "a");
  try {
    for (const line of lines) writeSync(fd, `${line}\n`);
  } finally {
    closeSync(fd);
  }
}

describe.skipIf(skipped)(`live where there are ${COUNT} events of others`, () => {
  let plain: string;
  let rewritten: string;
  const takeAway = (): void => {
    if (theirs() > 0) appendFileSync(EVENTS, `-:${group}/\n`);
  };
  beforeAll(async () => {
    plain = await build("gcc", programSource("workload.c"), "-O2", "-pthread");
    rewritten = (await rewriteWith(plain, "--layout", "nop5")).path;
    const image = parseElf(readFileSync(plain));
    const offset = offsetOf(image, readUsdtNotes(image)[0]!.location)!;
    process.on("exit", takeAway);
    append(Array.from({ length: COUNT }, (_, i) => `p:${group}/e${i} ${plain}:0x${offset.toString(16)}`));
  });
  afterAll(() => {
    takeAway();
    process.off("exit", takeAway);
    expect(theirs()).toBe(0);
  });

  it("counts each hit, and leaves theirs alone", async () => {
    expect(theirs()).toBe(COUNT);
    const tool = startTool(["live", "--json", "--", rewritten, "threads"]);
    const { status, stdout, stderr } = await tool.ended;
    expect(status, stderr).toBe(0);
    const { sites } = JSON.parse(stdout) as { sites: { hits: number }[] };
    expect(sites).toMatchObject([{ provider: "live", name: "work", hits: 8000 }]);
    expect(eventsOf(tool.pid)).toEqual([]);
    expect(theirs()).toBe(COUNT);
  });

  it("on the file that they are on as well", async () => {
    const tool = startTool(["live", "--json", "--", plain, "threads"]);
    const { status, stdout, stderr } = await tool.ended;
    expect(status, stderr).toBe(0);
    expect((JSON.parse(stdout) as { sites: { hits: number }[] }).sites).toMatchObject([{ hits: 8000 }]);
    expect(eventsOf(tool.pid)).toEqual([]);
    expect(theirs()).toBe(COUNT);
  });
});
