/**
 * A program run without uprobes and with one on each of its probes: does it do the same?
 *
 * Both runs are alike in all else: no arguments, no input, under the watcher. Output is compared by its digests. A
 * program that says something else each time (the time, its process id) shows nothing by that: where the two runs
 * differ it runs a third time, without uprobes again.
 */
import { createHash } from "node:crypto";
import { release } from "node:os";
import { resolve } from "node:path";
import * as elf from "../elf/constants.js";
import { isMarkedPie } from "../elf/dynamic.js";
import type { ElfImage } from "../elf/image.js";
import { InputError } from "../errors.js";
import { findExecutable } from "./executable.js";
import { type LiveResult, traceCommand } from "./live.js";
import { probesOf } from "./probes.js";
import { readTracedFile } from "./traced-file.js";
import type { Running } from "./watch.js";

export interface LiveComparison {
  readonly kernel: string;
  /** Whether both runs were the same; null where runs without uprobes differ from each other already. */
  readonly same: boolean | null;
  /** What differs: "exit status", "standard output", "standard error". */
  readonly differences: readonly string[];
  /** How the run with uprobes ended. */
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** Probes; one with two places is one. */
  readonly sites: number;
  /** Of them those that were passed, and those of these that the kernel made a call of. */
  readonly hit: number;
  readonly optimized: number;
  readonly hits: number;
}

/** A program that runs longer is no test: milliseconds. */
const TIMEOUT = 60_000;

interface Shown {
  readonly result: LiveResult;
  readonly end: string;
  readonly output: readonly [string, string];
}

/**
 * Runs a program, without arguments.
 * @throws InputError where it is a library, cannot be run or does not end
 */
export async function compareTraced(tracefs: string, path: string, image: ElfImage): Promise<LiveComparison> {
  if (!isProgram(image)) throw new InputError("a shared library cannot be run: --live is for programs");
  const before = await show(tracefs, path, false);
  const traced = await show(tracefs, path, true);
  const differences = differencesOf(before, traced);
  const stable = differences.length === 0 || differencesOf(before, await show(tracefs, path, false)).length === 0;
  const { exitCode, signal, sites } = traced.result;
  const probes = probesOf(sites);
  const hit = probes.filter(({ hits }) => hits > 0);
  return {
    kernel: release(),
    same: stable ? differences.length === 0 : null,
    differences,
    exitCode,
    signal,
    sites: probes.length,
    hit: hit.length,
    optimized: hit.filter(({ site }) => site.optimized).length,
    hits: hit.reduce((sum, { hits }) => sum + hits, 0),
  };
}

/** Programs have fixed addresses, an interpreter, or a mark (static PIE). */
const isProgram = (image: ElfImage): boolean =>
  image.header.e_type === elf.ET_EXEC ||
  image.programHeaders.some((p) => p.p_type === elf.PT_INTERP) ||
  isMarkedPie(image);

async function show(tracefs: string, path: string, uprobes: boolean): Promise<Shown> {
  const { program, argv } = findExecutable(resolve(path), []);
  const digests = [createHash("sha256"), createHash("sha256")] as const;
  let timer: NodeJS.Timeout | undefined;
  let tooLong = false;
  const started = (running: Running): void => {
    timer = setTimeout(() => {
      tooLong = true;
      running.kill("SIGKILL");
    }, TIMEOUT);
  };
  try {
    const result = await traceCommand(
      tracefs,
      {
        program,
        argv,
        stdio: ["ignore", "pipe", "pipe"],
        output: (descriptor, chunk) => void digests[descriptor - 1]?.update(chunk),
      },
      uprobes ? [readTracedFile(path)] : [],
      started,
    );
    if (tooLong) throw new InputError(`did not end within ${TIMEOUT / 1000} seconds: --live is for programs that end`);
    const end = `${result.signal ?? result.exitCode}`;
    return { result, end, output: [digests[0].digest("hex"), digests[1].digest("hex")] };
  } finally {
    clearTimeout(timer);
  }
}

function differencesOf(one: Shown, other: Shown): string[] {
  const differences: string[] = [];
  if (one.end !== other.end) differences.push(`exit status (${one.end}, traced ${other.end})`);
  if (one.output[0] !== other.output[0]) differences.push("standard output");
  if (one.output[1] !== other.output[1]) differences.push("standard error");
  return differences;
}
