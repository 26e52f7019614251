/**
 * Eight threads go through twenty rewritten probes while a tracer comes and goes: the kernel writes int3, calls and nops under
 * running code again and again. The program's sums must be right, every pass counted that certainly was made while the tracer was there, and
 * none that certainly was not.
 *
 * Passes at the moment of attaching or detaching may count or not. The program keeps account of rounds begun and done in
 * memory that is shared with the test; each round passes every probe once. So for each cycle of
 *
 *     done (1)   attach   begun (2)   ...   done (3)   detach   begun (4)
 *
 * the hits of each probe are at least (3) - (2) for each thread and at most (4) - (1). In every tenth cycle the threads rest
 * while the tracer comes and goes: then both are the same number.
 *
 * 120 cycles, which is 2,000 with LONG=1.
 */
import { closeSync, openSync, readSync, writeFileSync, writeSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { nop5 } from "../judges/code.js";
import { attach } from "../packages/uprobes.js";
import { cannotOptimize } from "./kernel.js";
import { type LivingProgram, start } from "./living.js";
import { places } from "./places.js";
import { build, programSource, rewriteWith, scratch } from "./rewriting.js";

const LONG = process.env.LONG === "1";
const CYCLES = LONG ? 2000 : 120;
const THREADS = 8;
const SITES = 20;

/** The memory that the program shares, word by word as stress.c says. */
class Board {
  private readonly fd: number;

  constructor(readonly path: string) {
    writeFileSync(path, Buffer.alloc(8 * 64 * (THREADS + 1)));
    this.fd = openSync(path, "r+");
  }

  order(what: "go on" | "pause" | "end"): void {
    const word = Buffer.alloc(8);
    word.writeUInt8(["go on", "pause", "end"].indexOf(what));
    writeSync(this.fd, word, 0, 8, 0);
  }

  private words(first: number, count: number): readonly number[] {
    const bytes = Buffer.alloc(8 * count);
    readSync(this.fd, bytes, 0, bytes.length, 8 * first);
    return Array.from({ length: count }, (_, i) => Number(bytes.readBigUInt64LE(8 * i)));
  }

  /** Of each thread. */
  private rounds(which: 0 | 1): readonly number[] {
    return Array.from({ length: THREADS }, (_, thread) => this.words(64 + 64 * thread + which, 1)[0]!);
  }

  begun = (): readonly number[] => this.rounds(0);
  done = (): readonly number[] => this.rounds(1);

  async pause(): Promise<void> {
    this.order("pause");
    await this.until(() => this.words(1, 1)[0] === THREADS, "no pause");
  }

  async goOn(): Promise<void> {
    this.order("go on");
    await this.until(() => this.words(1, 1)[0] === 0, "they do not go on");
  }

  async until(condition: () => boolean, otherwise: string): Promise<void> {
    for (let i = 0; !condition(); i++) {
      if (i === 20_000) throw new Error(otherwise);
      await sleep(1);
    }
  }

  close(): void {
    closeSync(this.fd);
  }
}

const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);
const difference = (later: readonly number[], earlier: readonly number[]): number =>
  sum(later.map((n, i) => Math.max(0, n - earlier[i]!)));

/** What stress.c computes in so many rounds, once more. */
function computed(first: number, rounds: number): number {
  const plain = (value: number, n: number): number => {
    const v = (Math.imul(value, 1664525) + n) | 0;
    return v ^ (v >>> 13);
  };
  const leaf = (value: number, n: number): number => {
    const picked = (value + (value & 7) * n) | 0;
    return ((value ^ (value + 7 * n)) + picked) | 0;
  };
  const flags = (value: number, n: number): number => {
    const total = (value >>> 0) + (Math.imul(0x9e3779b9, n) >>> 0);
    return total > 0xffff_ffff ? (total + 1) | 0 : total | 0;
  };
  let value = first;
  for (let round = 0; round < rounds; round++) {
    value = (plain(value, 1) + 1) | 0;
    for (let n = 5; n >= 2; n--) value = plain(value, n);
    for (let n = 5; n >= 1; n--) value = leaf(value, n);
    for (let n = 5; n >= 1; n--) value = flags(value, n);
    for (let n = 1; n <= 3; n++) value = (Math.imul(value, 3) + n) | 0;
  }
  return value >>> 0;
}

interface Outcome {
  /** Probes of a cycle whose hits are more or fewer than can be. */
  readonly miscounted: readonly string[];
  /** Sites seen as calls while the tracer was there, of those looked at. */
  readonly calls: number;
  readonly lookedAt: number;
  /** Threads that have not computed what they should. */
  readonly wrong: number;
  readonly ending: string;
  readonly summary: string;
}

/** Runs the program while a tracer comes and goes `cycles` times. */
async function stress(file: string, cycles: number): Promise<Outcome> {
  const sites = await places(file);
  const board = new Board(scratch("board"));
  const probes = attach(sites.map((site) => site.point));
  probes.enable(false);
  let program: LivingProgram | undefined;
  const bytes = (): readonly string[] => sites.map((site) => program!.bytesAt(site.address, 5));
  const miscounted: string[] = [];
  let [least, hits, most, calls, lookedAt] = [0, 0, 0, 0, 0];
  const began = performance.now();
  try {
    program = await start(file, 1_200_000, [board.path]);
    for (let cycle = 0; cycle < cycles; cycle++) {
      const resting = cycle % 10 === 9;
      const hitsBefore = probes.hits();
      if (resting) await board.pause();
      const doneBefore = board.done();
      probes.enable(true);
      const begunBefore = board.begun();
      if (resting) await board.goOn();
      // Most times long enough for the threads to come by, sometimes hardly at all.
      if (cycle % 3 !== 1) await board.until(() => difference(board.done(), begunBefore) > 4 * THREADS, "they stand");
      if (cycle % 3 === 0) {
        calls += bytes().filter((b) => b.startsWith("e8")).length;
        lookedAt += sites.length;
      }
      if (resting) await board.pause();
      const doneAfter = board.done();
      probes.enable(false);
      const begunAfter = board.begun();
      if (resting) {
        expect(bytes()).toEqual(sites.map(() => nop5));
        await board.goOn();
      }
      const [low, high] = [difference(doneAfter, begunBefore), difference(begunAfter, doneBefore)];
      if (resting) expect(high).toBe(low);
      probes.hits().forEach((n, i) => {
        const count = n - hitsBefore[i]!;
        hits += count;
        if (count < low || count > high)
          miscounted.push(`cycle ${cycle}, ${sites[i]!.note.name}: ${count} is not in ${low} to ${high}`);
      });
      least += low * sites.length;
      most += high * sites.length;
    }
    const seconds = (performance.now() - began) / 1000;
    board.order("end");
    const { status, signal, stdout } = await program.finish();
    const lines = [...stdout.matchAll(/^thread (\d): (\d+) rounds, ([0-9a-f]{8})$/gm)];
    const right = lines.filter(
      ([, thread, rounds, value]) => computed(Number(thread) + 1, Number(rounds)) === Number.parseInt(value!, 16),
    );
    const rounds = sum(lines.map((line) => Number(line[2])));
    return {
      miscounted,
      calls,
      lookedAt,
      wrong: THREADS - right.length,
      ending: `${signal ?? `exit ${status}`}`,
      summary: `${cycles} cycles in ${seconds.toFixed(1)} s, ${rounds} rounds of ${sites.length} probes; ${hits} hits, ${least} to ${most} could be`,
    };
  } finally {
    probes.detach();
    board.order("end");
    await program?.finish();
    board.close();
  }
}

describe.skipIf(cannotOptimize("tracers that come and go"))(
  "eight threads, twenty probes, while tracers come and go",
  () => {
    it(`${CYCLES} times`, { timeout: LONG ? 1_200_000 : 120_000 }, async () => {
      const compiled = await build("gcc", programSource("stress.c"), "-O2", "-pthread");
      // With the fork guard no site would stay in place.
      const rewritten = await rewriteWith(compiled, "--layout", "nop5", "--no-fork-guard");
      expect(rewritten.summary).toMatchObject({ sites: SITES, rewritten: SITES });
      // The forms that differ for a thread that is caught in one: in place or moved, guarded, with a return address on the stack.
      expect(rewritten.sites.filter((site) => site.guard).length).toBe(5);
      expect(new Set(rewritten.sites.map((site) => site.tactic)).size).toBeGreaterThanOrEqual(3);
      const { miscounted, calls, lookedAt, wrong, ending, summary } = await stress(rewritten.path, CYCLES);
      console.log(`stress: ${summary}`);
      expect(miscounted).toEqual([]);
      expect([calls, lookedAt]).toEqual([lookedAt, Math.ceil(CYCLES / 3) * SITES]);
      expect([wrong, ending]).toEqual([0, "exit 42"]);
    });

    it("finds the sums wrong where nop5 was put into the source, without guards", async () => {
      const careless = await build("gcc", programSource("stress.c"), "-O2", "-pthread", "-DSTRESS_NOP5");
      const { miscounted, wrong, ending } = await stress(careless, 6);
      expect([miscounted, ending]).toEqual([[], "exit 42"]);
      expect(wrong).toBeGreaterThan(0);
    });
  },
);
