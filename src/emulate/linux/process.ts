/**
 * What a small Linux knows of its one process, and what its system calls are given. The process has one thread, three
 * descriptors and no files.
 */
import { type RuntimeAddress, runtimeAddress } from "../../address.js";
import type { Cpu } from "../cpu.js";
import { Fault } from "../fault.js";
import { Perm } from "../memory.js";
import type { Regions } from "../regions.js";
import { Gpr, joinAddress } from "../state.js";
import { CallError, Errno } from "./errno.js";
import type { SignalState } from "./signal-state.js";

/** How a program ended. */
export type ProgramEnd =
  | { readonly kind: "exit"; readonly status: number }
  /** By a signal that nothing handles: its number and name. */
  | { readonly kind: "signal"; readonly signal: number; readonly name: string }
  /** It did what is not implemented: an instruction, a system call, or an argument of one. `at` is rip. */
  | { readonly kind: "unimplemented"; readonly what: string; readonly at: RuntimeAddress }
  /** As many instructions as it was given have run. */
  | { readonly kind: "limit" };

export interface Process {
  readonly cpu: Cpu;
  readonly regions: Regions;
  readonly path: string;
  /** The thread's name, NAME_SIZE bytes with a zero at the end. */
  readonly name: Uint8Array;
  /** Paths lead nowhere (ENOENT); else asking for one is not implemented. */
  readonly emptyFileSystem: boolean;
  /** What read(0) reads, and how much of it has been read. */
  readonly input: Uint8Array;
  inputRead: number;
  readonly stdout: Uint8Array[];
  readonly stderr: Uint8Array[];
  /** Descriptors that have been closed. */
  readonly closed: Set<number>;
  /** The program break: its first value and where it is. */
  readonly firstBreak: RuntimeAddress;
  break: RuntimeAddress;
  readonly signals: SignalState;
  /** Set by what ends the process. */
  end: ProgramEnd | null;
}

export const NAME_SIZE = 16;

/** Thrown by what a system call does not implement: an explicit outcome, since an errno would be a guess. */
export class NotImplemented extends Error {}

/** The arguments of a system call. */
export class Arguments {
  constructor(private readonly cpu: Cpu) {}

  /** As a 32-bit int. */
  int(i: number): number {
    return this.cpu.w[2 * argumentRegisters[i]!]!;
  }

  /** As a size or an address, without a sign: exact below 2^53, and beyond still far outside of user space. */
  size(i: number): number {
    const word = 2 * argumentRegisters[i]!;
    return joinAddress(this.cpu.w[word]!, this.cpu.w[word + 1]!);
  }

  address(i: number): RuntimeAddress {
    return runtimeAddress(this.size(i));
  }
}

/** Linux's order (x86-64 psABI, A.2.1). */
const argumentRegisters = [Gpr.RDI, Gpr.RSI, Gpr.RDX, Gpr.R10, Gpr.R8, Gpr.R9];

/** A system call: its result, which is not negative, or CallError; null where it has set all registers itself. */
export type SystemCall = (process: Process, args: Arguments) => number | null;

/** What a family of system calls offers, by number. */
export type SystemCalls = ReadonlyMap<number, SystemCall>;

/** Reads what the process may read. @throws CallError EFAULT */
export function readUser(process: Process, address: RuntimeAddress, size: number): Buffer {
  return transfer(process, address, size, Perm.R, () => Buffer.from(process.cpu.memory.peek(address, size)));
}

/** The bytes in front of the first zero, at most `most`. @throws CallError EFAULT */
export function readUntilZero(process: Process, address: RuntimeAddress, most: number): Uint8Array {
  const bytes: number[] = [];
  while (bytes.length < most) {
    const byte = readUser(process, runtimeAddress(address + bytes.length), 1)[0]!;
    if (byte === 0) break;
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

/** Writes what the process may write. @throws CallError EFAULT */
export function writeUser(process: Process, address: RuntimeAddress, bytes: Uint8Array): void {
  transfer(process, address, bytes.length, Perm.W, () => process.cpu.memory.poke(address, bytes));
}

function transfer<T>(process: Process, address: RuntimeAddress, size: number, needed: number, work: () => T): T {
  for (let at = address; at < address + size; ) {
    const region = process.regions.at(at);
    if (region === undefined || (region.permissions & needed) === 0) throw new CallError(Errno.EFAULT);
    at = region.end;
  }
  try {
    return work();
  } catch (error) {
    if (error instanceof Fault) throw new CallError(Errno.EFAULT);
    throw error;
  }
}
