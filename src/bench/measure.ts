/**
 * What a probe costs on this machine: a hit while it is traced, and a pass while it is not.
 *
 * The sample program and its rewritten self run in turns, so that what else the machine does falls on both; each
 * function is compared with itself, at the same address, before and after, and with the longer nop that was compiled
 * in. Medians are given, and how far the middle half of the runs spreads. Traced, both have an empty BPF program on
 * each probe; a run of its own shows whether the kernel made calls of them. They stand where a tracer that knows the
 * kernel attaches; where the kernel refuses the compiled-in nop10 it has none.
 */
import { spawnSync } from "node:child_process";
import { parseElf } from "../elf/image.js";
import { InputError } from "../errors.js";
import type { KernelFacts, LongNop } from "../kernel/kernels.js";
import { traceCommand } from "../live/live.js";
import { type ProgramFile, writeProgramFile } from "../live/program-file.js";
import { readTracedFile, type Tracing } from "../live/traced-file.js";
import { attachUprobes } from "../live/uprobes.js";
import { rewrite } from "../rewrite/rewrite.js";
import type { RewriteOptions, SiteReport } from "../rewritten/contract.js";
import type { FileLayout } from "../usdt/forms.js";
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
    /**
     * Medians of the ratios of the runs: rewritten to the one-byte nop, and to those compiled in; null where refused.
     */
    readonly toNop: number;
    readonly toNop5: number;
    readonly toNop10: number | null;
    readonly optimized: boolean;
    /** Of a probe with two places: which of them the passes run. */
    readonly ran: LongNop | null;
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

interface CompiledIn {
  /** Null where nothing could be traced, or the kernel refuses it. */
  readonly hit: Figure | null;
  readonly idle: Figure;
  readonly refused: boolean;
}

export interface Costs {
  readonly rounds: number;
  readonly passes: { readonly hit: number; readonly idle: number };
  /** Null where nothing could be traced. */
  readonly tracer: Tracer | null;
  /** What was made of the one-byte nops. */
  readonly layout: FileLayout;
  /** The nops that were compiled in. */
  readonly nop5: CompiledIn;
  readonly nop10: CompiledIn;
  readonly forms: readonly FormCost[];
}

export interface BenchOptions {
  readonly kernel: KernelFacts;
  readonly layout: FileLayout;
  readonly rounds: number;
  readonly hitPasses: number;
  readonly idlePasses: number;
}

/** How the sample is rewritten. */
export const benchRewrite = (layout: FileLayout): RewriteOptions => ({
  kernel: "any",
  layout,
  only: [],
  newBuildId: false,
  tableAtEnd: false,
  keepOffsets: false,
  // One process: no child looks at anything.
  forkGuard: false,
});

/** Nanoseconds a pass of each function of the sample, in one run. */
type Times = ReadonlyMap<SampleFunction, number>;
interface Turn {
  readonly nop: Times;
  readonly rewritten: Times;
}

/**
 * Measures.
 * @param tracefs null where nothing can be traced: then only idle passes are measured
 * @param chosen which of the functions are reported; the compiled-in ones always are
 */
export async function measure(
  tracefs: string | null,
  chosen: readonly SampleFunction[],
  options: BenchOptions,
): Promise<Costs> {
  let hit: readonly Turn[] | null = null;
  let tracer: Tracer | null = null;
  let seen: ReadonlyMap<string, Seen> = new Map();
  if (tracefs !== null) {
    seen = await whatIsSeen(tracefs, options);
    const twins = makeTwins(options.hitPasses, options.layout);
    try {
      [hit, tracer] = await traced(tracefs, twins, options, () => inTurns(twins, options.rounds));
    } finally {
      twins.remove();
    }
  }
  const idle = measureIdle(options);
  const { report } = rewrittenSample(1, options.layout);
  const refused = options.kernel.treats.nop10 === "refused";
  const forms = chosen.map((name) =>
    formCost(name, report.get(name)!, hit, idle, { ...(seen.get(name) ?? UNSEEN), refused }),
  );
  const costOf = (turns: readonly Turn[], nop: LongNop): Figure =>
    figure(turns.map((turn) => turn.rewritten.get(nop)!));
  const compiledIn = (nop: LongNop, isRefused: boolean): CompiledIn => ({
    hit: hit === null || isRefused ? null : costOf(hit, nop),
    idle: costOf(idle, nop),
    refused: isRefused,
  });
  return {
    rounds: options.rounds,
    passes: { hit: options.hitPasses, idle: options.idlePasses },
    tracer,
    layout: options.layout,
    nop5: compiledIn("nop5", false),
    nop10: compiledIn("nop10", refused),
    forms,
  };
}

function formCost(
  name: SampleFunction,
  site: SiteReport,
  hit: readonly Turn[] | null,
  idle: readonly Turn[],
  { optimized, ran, refused }: Seen & { readonly refused: boolean },
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
            toNop10: refused ? null : ratio(hit, (turn) => turn.rewritten.get("nop10")!),
            optimized,
            ran,
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

function rewrittenSample(
  passes: number,
  layout: FileLayout,
): { before: Buffer; after: Buffer; report: Map<string, SiteReport> } {
  const before = sampleProgram(passes);
  const { content, report } = rewrite(parseElf(before), benchRewrite(layout));
  const after = Buffer.alloc(content?.size ?? 0);
  for (const { offset, bytes } of content?.pieces ?? []) after.set(bytes, offset);
  // No layout touches a compiled-in nop10.
  const skipped = report.sites.find((site) => site.status === "skipped" && site.name !== "nop10");
  if (skipped !== undefined) throw new InputError(`the sample's ${skipped.name} was not rewritten: ${skipped.reason}`);
  return { before, after, report: new Map(report.sites.map((site) => [site.name, site])) };
}

function makeTwins(passes: number, layout: FileLayout): Twins {
  const { before, after } = rewrittenSample(passes, layout);
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

function measureIdle({ idlePasses, rounds, layout }: BenchOptions): readonly Turn[] {
  const twins = makeTwins(idlePasses, layout);
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

/** As a tracer does that knows the kernel. */
const tracingFor = (kernel: KernelFacts): Tracing => ({
  kernel,
  ...(kernel.optimizes === null ? {} : { behind: kernel.optimizes }),
});

/** Runs `body` with a tracer on each probe of both. */
async function traced<T>(
  tracefs: string,
  { nop, rewritten }: Twins,
  { kernel }: BenchOptions,
  body: () => T,
): Promise<[T, Tracer]> {
  const places = [nop, rewritten].flatMap(({ path }) => readTracedFile(path, tracingFor(kernel)).places);
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

/** What a run under uprobes shows of a probe. */
interface Seen {
  /** The place that runs becomes a call. */
  readonly optimized: boolean;
  readonly ran: LongNop | null;
}

const UNSEEN: Seen = { optimized: false, ran: null };

/** What becomes of the rewritten probes. @throws InputError where a hit is lost, or counted at both of two places */
async function whatIsSeen(tracefs: string, { kernel, layout }: BenchOptions): Promise<ReadonlyMap<string, Seen>> {
  const PASSES = 1000;
  const { after } = rewrittenSample(PASSES, layout);
  const file = writeProgramFile("rewritten", after);
  try {
    const command = { program: file.path, argv: [file.path], stdio: ["ignore", "ignore", "ignore"] } as const;
    const { sites } = await traceCommand(tracefs, command, [readTracedFile(file.path, tracingFor(kernel))]);
    const seen = new Map<string, Seen>();
    for (const [i, site] of sites.entries()) {
      if (site.isSecond) continue;
      const second = site.twin === null ? undefined : sites[i + 1]!;
      const hits = site.hits + (second?.hits ?? 0);
      if (hits !== PASSES && !site.refused)
        throw new InputError(`the sample's ${site.name}: ${hits} hits of ${PASSES}`);
      const runs = second !== undefined && second.hits > 0 ? second : site;
      const ran = second === undefined ? null : runs === second ? "nop5" : "nop10";
      seen.set(site.name, { optimized: runs.optimized, ran });
    }
    return seen;
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
