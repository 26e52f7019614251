/**
 * Static programs from their start to their end: the CPU runs, and what it cannot do by itself, a small Linux does.
 */
import { alignUp, PAGE_SIZE, runtimeAddress } from "../../address.js";
import type { ElfImage } from "../../elf/image.js";
import { Cpu } from "../cpu.js";
import { Regions } from "../regions.js";
import { Gpr } from "../state.js";
import { CallError } from "./errno.js";
import { fileCalls } from "./file-calls.js";
import { memoryCalls } from "./memory-calls.js";
import { Arguments, NAME_SIZE, NotImplemented, type Process, type ProgramEnd } from "./process.js";
import { processCalls } from "./process-calls.js";
import { signalCalls } from "./signal-calls.js";
import { SignalState } from "./signal-state.js";
import { deliver, force, signalOf } from "./signals.js";
import { start } from "./start.js";
import { timeCalls } from "./time-calls.js";

export interface RunOptions {
  /** argv; the first is the program's name and path. */
  readonly arguments?: readonly string[];
  /** "NAME=value" each. */
  readonly environment?: readonly string[];
  readonly input?: Uint8Array;
  /** Paths lead nowhere (ENOENT); else a system call with one ends the run as not implemented. */
  readonly emptyFileSystem?: boolean;
  /** Instructions until it is given up. */
  readonly limit?: number;
}

interface ProgramRun {
  readonly end: ProgramEnd;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  readonly instructions: number;
}

const calls = new Map([...memoryCalls, ...fileCalls, ...processCalls, ...timeCalls, ...signalCalls]);

/**
 * Runs a static program.
 * @throws InputError for a program that needs a dynamic linker, or cannot be loaded
 */
export function runProgram(image: ElfImage, options: RunOptions = {}): ProgramRun {
  const process = startProcess(image, options);
  const end = runProcess(process, options.limit ?? Number.MAX_SAFE_INTEGER);
  return {
    end,
    stdout: Buffer.concat(process.stdout),
    stderr: Buffer.concat(process.stderr),
    instructions: process.cpu.instructions,
  };
}

/** A process that has not run yet. @throws InputError as `runProgram` */
function startProcess(image: ElfImage, options: RunOptions = {}): Process {
  const cpu = new Cpu();
  const regions = new Regions(cpu.memory);
  const argv = options.arguments ?? ["/program"];
  const path = argv[0] ?? "/program";
  const loaded = start(cpu, regions, image, { arguments: argv, environment: options.environment ?? [], path });
  const firstBreak = runtimeAddress(alignUp(loaded.end, PAGE_SIZE));
  return {
    cpu,
    regions,
    path,
    name: nameOf(path),
    emptyFileSystem: options.emptyFileSystem ?? false,
    input: options.input ?? new Uint8Array(0),
    inputRead: 0,
    stdout: [],
    stderr: [],
    closed: new Set(),
    firstBreak,
    break: firstBreak,
    signals: new SignalState(),
    end: null,
  };
}

/** A program's first thread is called like its file. */
function nameOf(path: string): Uint8Array {
  const name = new Uint8Array(NAME_SIZE);
  name.set(Buffer.from(path.replace(/^.*\//, "")).subarray(0, NAME_SIZE - 1));
  return name;
}

/** Runs a process until it ends, or for `limit` instructions. */
function runProcess(process: Process, limit: number): ProgramEnd {
  const { cpu } = process;
  const end = cpu.instructions + limit;
  try {
    while (process.end === null) {
      const outcome = cpu.run(end - cpu.instructions);
      switch (outcome.kind) {
        case "limit":
          return { kind: "limit" };
        case "syscall":
          systemCall(process);
          deliver(process);
          break;
        case "unimplemented":
          return { kind: "unimplemented", what: outcome.instruction, at: runtimeAddress(cpu.ip) };
        default:
          force(process, signalOf(process, outcome));
      }
    }
  } catch (error) {
    if (!(error instanceof NotImplemented)) throw error;
    return { kind: "unimplemented", what: error.message, at: runtimeAddress(cpu.ip) };
  }
  return process.end;
}

function systemCall(process: Process): void {
  const { cpu } = process;
  const number = cpu.w[2 * Gpr.RAX]!;
  const call = calls.get(number);
  if (call === undefined) throw new NotImplemented(`system call ${number}`);
  const result = resultOf(() => call(process, new Arguments(cpu)));
  if (result !== null) cpu.setGpr(Gpr.RAX, BigInt(result));
}

function resultOf(call: () => number | null): number | null {
  try {
    return call();
  } catch (error) {
    if (error instanceof CallError) return -error.errno;
    throw error;
  }
}
