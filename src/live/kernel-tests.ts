/** Runs the tiny programs of kernel-programs.ts, with a uprobe where they have a site, and says what they saw. */
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { kernelThatOptimizes, type LongNop } from "../kernel/kernels.js";
import { NOP5, NOP10 } from "../x86/bytes.js";
import * as programs from "./kernel-programs.js";
import { type KernelProgram, PASSES } from "./kernel-programs.js";
import { isOptimized } from "./memory.js";
import { writeProgramFile } from "./program-file.js";
import { attachUprobes, type Uprobes } from "./uprobes.js";

type ProbedNop = "nop" | LongNop;

const bytesOf: Readonly<Record<ProbedNop, Uint8Array>> = { nop: Uint8Array.of(0x90), nop5: NOP5, nop10: NOP10 };

/** How a program ended, and how often its site was hit; null where it has none or it was not traced. */
export interface Outcome {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly hits: number | null;
}

/** What the kernel made of a nop under a uprobe. */
export interface Treatment {
  readonly optimized: boolean;
  readonly hits: number;
  /** Why there is none, or how the program came to its end, where that was not by exiting. */
  readonly trouble: string | null;
}

const TIMEOUT = 10_000;

/** @param tracefs without it the program runs untraced */
function run(program: KernelProgram, tracefs: string | null): Outcome {
  const file = writeProgramFile("kernel-test", program.bytes);
  try {
    const point = { path: file.path, offset: program.site ?? 0, semaphoreOffset: null };
    const uprobes = program.site === null || tracefs === null ? null : attachUprobes(tracefs, [point]);
    try {
      const { status, signal, error } = spawnSync(file.path, [], { stdio: "ignore", timeout: TIMEOUT });
      if (error !== undefined && status === null && signal === null) throw error;
      return { exitCode: status, signal, hits: uprobes?.hits()[0] ?? null };
    } finally {
      uprobes?.detach();
    }
  } finally {
    file.remove();
  }
}

/** What the kernel does with a uprobe on this nop. */
export function treatmentOf(nop: ProbedNop, tracefs: string): Treatment {
  try {
    const { exitCode, signal, hits } = run(programs.passing(bytesOf[nop]), tracefs);
    const first = exitCode ?? 0;
    const optimized = isOptimized(Uint8Array.of(first)) || (nop === "nop10" && first === LEA);
    return { optimized, hits: hits ?? 0, trouble: signal };
  } catch (error) {
    return { optimized: false, hits: 0, trouble: error instanceof Error ? error.message : String(error) };
  }
}

/** The first byte of `lea -0x80(%rsp),%rsp`, which an optimized nop10 begins with. */
const LEA = 0x48;

/**
 * Whether the kernel takes an optimized site back when a tracer goes that is another process than the traced one; null
 * where the program does not come so far.
 * @param stay keeps the uprobe attached to the end: then nothing is taken back
 */
export const takesBack = (nop: LongNop, tracefs: string, stay = false): Promise<boolean | null> =>
  isWholeAfter(programs.detached(bytesOf[nop], kernelThatOptimizes(nop).givesBack), tracefs, { stay });

/**
 * The same where a second tracer comes before both go, and the program has a copy of the site that no trampoline can
 * be near to.
 * @param hasCopy without one nothing is to be noticed
 */
export const takesBackFromTwo = (nop: LongNop, tracefs: string, hasCopy = true): Promise<boolean | null> => {
  const make = hasCopy ? programs.cornered : programs.detached;
  return isWholeAfter(make(bytesOf[nop], kernelThatOptimizes(nop).givesBack), tracefs, { second: true });
};

async function isWholeAfter(
  program: KernelProgram,
  tracefs: string,
  { stay = false, second = false }: { readonly stay?: boolean; readonly second?: boolean },
): Promise<boolean | null> {
  const file = writeProgramFile("kernel-test", program.bytes);
  const attach = () => attachUprobes(tracefs, [{ path: file.path, offset: program.site!, semaphoreOffset: null }]);
  const tracers: Uprobes[] = [];
  const detach = (): void => {
    for (const tracer of tracers.splice(0)) tracer.detach();
  };
  try {
    tracers.push(attach());
    const child = spawn(file.path, [], { stdio: ["pipe", "pipe", "ignore"], timeout: TIMEOUT });
    const ended = once(child, "exit") as Promise<[number | null, NodeJS.Signals | null]>;
    await Promise.race([once(child.stdout, "data"), ended]);
    if (second) tracers.push(attach());
    if (!stay) detach();
    child.stdin.on("error", () => {}).end("x");
    const [exitCode] = await ended;
    return exitCode === 0 ? true : exitCode === 1 ? false : null;
  } finally {
    detach();
    file.remove();
  }
}

export const overwritesRedZone = (nop: ProbedNop, tracefs: string): Outcome =>
  run(programs.redZone(bytesOf[nop]), tracefs);
export const forkedChild = (nop: ProbedNop, tracefs: string): Outcome => run(programs.forking(bytesOf[nop]), tracefs);
export const confined = (nop: ProbedNop, tracefs: string): Outcome => run(programs.confined(bytesOf[nop]), tracefs);
export const uprobeSystemCall = (): Outcome => run(programs.uprobeSystemCall(), null);
export const shadowStack = (): Outcome => run(programs.shadowStack(), null);

export { PASSES };
