/**
 * What the model shows in one order after the other, raced on the live kernel: threads pass while uprobes come and go and
 * somebody reads the bytes at the sites all along. Nothing goes wrong, and no bytes are seen that the model never has.
 *
 * Which orders come up is luck: this can show that the model lacks something, not that it has everything.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { runningKernel } from "../../../src/live/running-kernel.js";
import { Model } from "../../../src/patching/model.js";
import { makeProgram, type Program } from "../../../src/patching/programs.js";
import { protocols } from "../../../src/patching/protocol.js";
import { Setup } from "../../../src/patching/setup.js";
import { skipBecause } from "../../packages/skips.js";
import { hexBytes, LiveRun } from "./live.js";
import { liveProgram, withDriver } from "./live-program.js";
import { cannotCompare, write } from "./machine.js";

const THREADS = 2;
/** More than there is time for. */
const PASSES = 1_000_000_000;
const TOGGLES = 6;
/** Where the machine is busy, the reader gets no turn while the sites are traced: the last tracer stays until it had one. */
const READ_WITHIN = 10_000;

/** All that ever stands at each site in the model, whatever the order of things. */
function modelled(program: Program): readonly ReadonlySet<string>[] {
  const setup = new Setup(withDriver(program, THREADS), protocols["6.18"]);
  const model = new Model(setup, { threads: program.sites.length > 1 ? 1 : THREADS, toggles: 1, signals: 0 });
  const seen = setup.sites.map(() => new Set<string>());
  const known = new Set([model.initial().join()]);
  const open = [model.initial()];
  for (let state = open.pop(); state !== undefined; state = open.pop()) {
    setup.sites.forEach((site, i) => {
      seen[i]!.add(hexBytes(setup.codeAt(model.spaceIn(state!, 0), site)));
    });
    for (let actor = 0; actor < model.actors; actor++)
      for (const step of model.steps(state, actor)) {
        expect(step.violation).toBe(null);
        const next = new Int32Array(model.width);
        model.apply(state, actor, step, next);
        if (known.has(next.join())) continue;
        known.add(next.join());
        open.push(next);
      }
  }
  return seen;
}

/**
 * Reads the sites again and again, in a thread of its own. What is read is kept when it is read twice. Words: whether to
 * stop, then for each site whether a call was read, then for each whether its nop was.
 */
const READER = `
const { workerData, parentPort } = require("node:worker_threads");
const { openSync, readSync } = require("node:fs");
const { pid, sites, words } = workerData;
const fd = openSync("/proc/" + pid + "/mem", "r");
const seen = sites.map(() => new Map());
const bytes = Buffer.alloc(16);
for (let turn = 0; Atomics.load(words, 0) === 0; turn++)
  sites.forEach(({ address, size }, i) => {
    const read = () => (readSync(fd, bytes, 0, size, address), bytes.toString("hex", 0, size));
    const first = read();
    if (first !== read()) return;
    seen[i].set(first, (seen[i].get(first) ?? 0) + 1);
    if (first.startsWith("e8")) Atomics.store(words, 1 + i, 1);
    if (first.startsWith("0f")) Atomics.store(words, 1 + sites.length + i, 1);
  });
parentPort.postMessage(seen);
`;

interface Reader {
  /** Whether a call has been read at each site. */
  hasReadCalls(): boolean;
  /** Whether the nop has. */
  hasReadNops(): boolean;
  /** Ends it: what was read at each site, and how often. */
  end(): Promise<readonly ReadonlyMap<string, number>[]>;
}

function readAllAlong(pid: number, program: Program): Reader {
  const words = new Int32Array(new SharedArrayBuffer(4 * (1 + 2 * program.sites.length)));
  const sites = program.sites.map(({ address, original }) => ({ address, size: original.length }));
  const worker = new Worker(READER, { eval: true, workerData: { pid, sites, words } });
  const result = new Promise<readonly ReadonlyMap<string, number>[]>((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
  return {
    hasReadCalls: () => sites.every((_, i) => Atomics.load(words, 1 + i) === 1),
    hasReadNops: () => sites.every((_, i) => Atomics.load(words, 1 + sites.length + i) === 1),
    end: () => {
      Atomics.store(words, 0, 1);
      return result;
    },
  };
}

const otherNop = runningKernel().optimizes === "nop5" ? null : "what is raced here is a nop5";

describe.skipIf(skipBecause("races on the live kernel", otherNop ?? (await cannotCompare())))(
  "threads pass while uprobes come and go",
  () => {
    it.each([
      ["plain", makeProgram("plain")],
      ["live red zone, guarded", makeProgram("redzone", { guard: true })],
      ["sites 3 GiB apart", makeProgram("far")],
    ])("%s", { timeout: 30_000 }, async (title, program) => {
      const live = liveProgram(program, THREADS);
      const run = await LiveRun.start(write(title, live), live, {
        ...{ program, threads: THREADS, repairs: false, returns: false },
      });
      const reader = readAllAlong(run.pid, program);
      try {
        const passing = Promise.all(
          Array.from({ length: THREADS }, (_, thread) => run.perform({ do: "pass", thread, times: PASSES })),
        );
        // On busy cores the reader may get its first turn late.
        const started = Date.now();
        while (!reader.hasReadNops() && Date.now() - started < READ_WITHIN) await sleep(5);
        for (let i = 0; i < TOGGLES; i++) {
          await run.perform({ do: "attach" });
          const attached = Date.now();
          do await sleep(5);
          while (i === TOGGLES - 1 && !reader.hasReadCalls() && Date.now() - attached < READ_WITHIN);
          await run.perform({ do: "detach" });
        }
        run.endPasses();
        const outcomes = await passing;
        const seen = await reader.end();
        const { hits, spaces } = run.observe();
        const read = seen.map((values) => [...values].map(([bytes, n]) => `${bytes} ${n}x`).join(", ")).join(" | ");
        console.log(`${title}: ${hits} hits in ${run.passes} passes, ${TOGGLES} times attached; read ${read}`);
        expect(outcomes).toEqual(["right", "right"]);
        expect(hits).toBeGreaterThan(TOGGLES);
        expect(hits).toBeLessThan(run.passes * program.sites.length);
        expect(spaces[0]!.sites).toEqual(program.sites.map(({ original }) => hexBytes(original)));
        const known = modelled(program);
        seen.forEach((values, site) => {
          expect([...values.keys()].filter((bytes) => !known[site]!.has(bytes))).toEqual([]);
          // The nop, and the call.
          expect([...values.keys()].map((bytes) => bytes.slice(0, 2))).toEqual(expect.arrayContaining(["0f", "e8"]));
        });
        expect(await run.finish()).toBe("exit status 0");
      } finally {
        await reader.end().catch(() => {}); // the thread ends
        await run.stop();
      }
    });
  },
);
