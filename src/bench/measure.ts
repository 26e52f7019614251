/**
 * What a probe costs on this machine: a hit while it is traced, and a pass while it is not.
 *
 * The sample program and its rewritten self run in turns, so that what else the machine does falls on both; each function is
 * compared with itself, at the same address, before and after, and with the nop5 that was compiled in. Medians are
 * given, and how far the middle half of the runs spreads. Traced, both have an empty BPF program on each probe; a run of
 * its own shows whether the kernel made calls of them.
 */
import { spawnSync } from "node:child_process";
import { parseElf } from "../elf/image.js";
import { InputError } from "../errors.js";
import { traceCommand } from "../live/live.js";
import { type ProgramFile, writeProgramFile } from "../live/program-file.js";
import { readTracedFile } from "../live/traced-file.js";
import { attachUprobes } from "../live/uprobes.js";
import { rewrite } from "../rewrite/rewrite.js";
import type { RewriteOptions, SiteReport } from "../rewritten/contract.js";
import { attachEmptyProbes } from "./empty-probe.js";
import { RECORD_SIZE, type SampleFunction, sampleFunctions, sampleProgram } from "./sample.js";

/** A median in nanoseconds, and the interquartile range as a fraction of it. */
export interface Figure {
  readonly ns: number;
  readonly spread: number;
}

/** One probe before and after rewriting. */
export interface FormCost {
  readonly function: SampleFunction;
  readonly tactic: string | null;
  readonly guard: boolean;
  /** Null where nothing could be traced. */
  readonly hit: {
    readonly nop: Figure;
    readonly rewritten: Figure;
    /** Medians of the ratios of the runs: rewritten to the one-byte nop, and to the compiled-in nop5. */
    readonly toNop: number;
    readonly toNop5: number;
    readonly optimized: boolean;
  } | null;
  readonly idle: {
    readonly nop: Figure;
    readonly rewritten: Figure;
    /** Median of what the rewritten pass takes longer, in ns, and the interquartile range of that. */
    readonly extra: number;
    readonly noise: number;
  };
}

/** What was attached for the hits: an empty BPF program, or, where the kernel does not take that, a tracefs event. */
export type Tracer = "bpf" | "tracefs";

export interface Costs {
  readonly rounds: number;
  readonly passes: { readonly hit: number; readonly idle: number };
  /** Null where nothing could be traced. */
  readonly tracer: Tracer | null;
  /** The nop5 that was compiled in. */
  readonly nop5: { readonly hit: Figure | null; readonly idle: Figure };
  readonly forms: readonly FormCost[];
}

export interface BenchOptions {
  readonly rounds: number;
  readonly hitPasses: number;
  readonly idlePasses: number;
}

export const REWRITE: RewriteOptions = {
  kernel: "6.18",
  layout: "nop5",
  only: [],
  newBuildId: false,
  tableAtEnd: false,
  keepOffsets: false,
  // One process: no child looks at anything.
  forkGuard: false,
};

/** Nanoseconds a pass of each function of the sample, in one run. */
type Times = ReadonlyMap<SampleFunction, number>;
interface Turn {
  readonly nop: Times;
  readonly rewritten: Times;
}

/**
 * Measures.
 * @param tracefs null where nothing can be traced: then only idle passes are measured
 * @param chosen which of the functions are reported; the compiled-in nop5 always is
 */
export async function measure(
  tracefs: string | null,
  chosen: readonly SampleFunction[],
  options: BenchOptions,
): Promise<Costs> {
  let hit: readonly Turn[] | null = null;
  let tracer: Tracer | null = null;
  let optimized: ReadonlyMap<string, boolean> = new Map();
  if (tracefs !== null) {
    optimized = await whatIsOptimized(tracefs);
    const twins = makeTwins(options.hitPasses);
    try {
      [hit, tracer] = await traced(tracefs, twins, () => inTurns(twins, options.rounds));
    } finally {
      twins.remove();
    }
  }
  const idle = measureIdle(options);
  const { report } = rewrittenSample(1);
  const forms = chosen.map((name) => formCost(name, report.get(name)!, hit, idle, optimized.get(name) ?? false));
  const nop5 = (turns: readonly Turn[]): Figure => figure(turns.map((turn) => turn.rewritten.get("nop5")!));
  return {
    rounds: options.rounds,
    passes: { hit: options.hitPasses, idle: options.idlePasses },
    tracer,
    nop5: { hit: hit === null ? null : nop5(hit), idle: nop5(idle) },
    forms,
  };
}

function formCost(
  name: SampleFunction,
  site: SiteReport,
  hit: readonly Turn[] | null,
  idle: readonly Turn[],
  optimized: boolean,
): FormCost {
  const pair = (turns: readonly Turn[]) => ({
    nop: figure(turns.map((turn) => turn.nop.get(name)!)),
    rewritten: figure(turns.map((turn) => turn.rewritten.get(name)!)),
  });
  const ratio = (turns: readonly Turn[], to: (turn: Turn) => number): number =>
    quantile(
      turns.map((turn) => turn.rewritten.get(name)! / to(turn)),
      0.5,
    );
  const extra = idle.map((turn) => turn.rewritten.get(name)! - turn.nop.get(name)!);
  return {
    function: name,
    tactic: site.tactic,
    guard: site.guard,
    hit:
      hit === null
        ? null
        : {
            ...pair(hit),
            toNop: ratio(hit, (turn) => turn.nop.get(name)!),
            toNop5: ratio(hit, (turn) => turn.rewritten.get("nop5")!),
            optimized,
          },
    idle: { ...pair(idle), extra: quantile(extra, 0.5), noise: quantile(extra, 0.75) - quantile(extra, 0.25) },
  };
}

interface Twins {
  readonly nop: ProgramFile;
  readonly rewritten: ProgramFile;
  readonly passes: number;
  remove(): void;
}

function rewrittenSample(passes: number): { before: Buffer; after: Buffer; report: Map<string, SiteReport> } {
  const before = sampleProgram(passes);
  const { content, report } = rewrite(parseElf(before), REWRITE);
  const after = Buffer.alloc(content?.size ?? 0);
  for (const { offset, bytes } of content?.pieces ?? []) after.set(bytes, offset);
  const skipped = report.sites.find((site) => site.status === "skipped");
  if (skipped !== undefined) throw new InputError(`the sample's ${skipped.name} was not rewritten: ${skipped.reason}`);
  return { before, after, report: new Map(report.sites.map((site) => [site.name, site])) };
}

function makeTwins(passes: number): Twins {
  const { before, after } = rewrittenSample(passes);
  const nop = writeProgramFile("nop", before);
  try {
    const rewritten = writeProgramFile("rewritten", after);
    const remove = (): void => {
      nop.remove();
      rewritten.remove();
    };
    return { nop, rewritten, passes, remove };
  } catch (error) {
    nop.remove();
    throw error;
  }
}

function measureIdle({ idlePasses, rounds }: BenchOptions): readonly Turn[] {
  const twins = makeTwins(idlePasses);
  try {
    return inTurns(twins, rounds);
  } finally {
    twins.remove();
  }
}

/** One run of each that is not counted, then as many as were asked for, each time the other one first. */
function inTurns({ nop, rewritten, passes }: Twins, rounds: number): readonly Turn[] {
  const turns: Turn[] = [];
  for (let round = 0; round <= rounds; round++) {
    const first = round % 2 === 0 ? timesOf(nop.path, passes) : null;
    const second = timesOf(rewritten.path, passes);
    turns.push({ nop: first ?? timesOf(nop.path, passes), rewritten: second });
  }
  return turns.slice(1);
}

const RUN_TIMEOUT = 120_000;

function timesOf(path: string, passes: number): Times {
  const { status, signal, stdout, error } = spawnSync(path, [], { timeout: RUN_TIMEOUT });
  if (status !== 0 || stdout.length !== sampleFunctions.length * RECORD_SIZE)
    throw new InputError(`the sample did not run: ${error?.message ?? signal ?? `exit status ${status}`}`);
  const seconds = (at: number): number =>
    Number(stdout.readBigInt64LE(at)) * 1e9 + Number(stdout.readBigInt64LE(at + 8));
  const lasted = (i: number): number => seconds(i * RECORD_SIZE + RECORD_SIZE / 2) - seconds(i * RECORD_SIZE);
  return new Map(sampleFunctions.map((name, i) => [name, lasted(i) / passes]));
}

/** Runs `body` with a tracer on each probe of both. */
async function traced<T>(tracefs: string, { nop, rewritten }: Twins, body: () => T): Promise<[T, Tracer]> {
  const places = [nop, rewritten].flatMap(({ path }) => readTracedFile(path).places);
  const remove = await attachEmptyProbes(places);
  if (remove !== null) {
    try {
      return [body(), "bpf"];
    } finally {
      await remove();
    }
  }
  const uprobes = attachUprobes(tracefs, places);
  try {
    return [body(), "tracefs"];
  } finally {
    uprobes.detach();
  }
}

/** Which of the rewritten probes become calls. @throws InputError where a hit is lost */
async function whatIsOptimized(tracefs: string): Promise<ReadonlyMap<string, boolean>> {
  const PASSES = 1000;
  const { after } = rewrittenSample(PASSES);
  const file = writeProgramFile("rewritten", after);
  try {
    const command = { program: file.path, argv: [file.path], stdio: ["ignore", "ignore", "ignore"] } as const;
    const { sites } = await traceCommand(tracefs, command, [readTracedFile(file.path)]);
    const lost = sites.find((site) => site.hits !== PASSES);
    if (lost !== undefined) throw new InputError(`the sample's ${lost.name}: ${lost.hits} hits of ${PASSES}`);
    return new Map(sites.map((site) => [site.name, site.optimized]));
  } finally {
    file.remove();
  }
}

function figure(values: readonly number[]): Figure {
  const ns = quantile(values, 0.5);
  return { ns, spread: (quantile(values, 0.75) - quantile(values, 0.25)) / ns };
}

function quantile(values: readonly number[], part: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * part;
  const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
  return low + (high - low) * (at - Math.floor(at));
}
