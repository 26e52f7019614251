/**
 * How each kernel patches a probe: as data, so that a fault is another value and not another program (faults.ts).
 *
 * Facts from Linux, checked against arch/x86/kernel/uprobes.c and kernel/events/uprobes.c:
 *
 * - before 6.18: int3 in byte 0. The kernel emulates a one-byte nop; a copy of any other nop is single-stepped. From
 *   6.11 on return probes make a system call, where before they had an int3.
 * - 6.18 to 7.1: the first hit of a five-byte nop makes its thread patch a call over it: int3 stays in byte 0 while
 *   bytes 1 to 4 get the displacement, then byte 0 becomes e8, all CPUs serializing (an IPI) before, between and
 *   after it. Detaching goes the other way and begins with int3. The trampoline's page is not copied by fork.
 * - from 7.2 on: the same with a ten-byte nop, which becomes lea and call. Detaching leaves the call in bytes 5 to 9,
 *   where they are operands of the nop: a thread may stand between lea and call. Fork copies the trampoline.
 * - Each of these writes is refused where something else is than the phase before has left (verify_insn). That int3 is
 *   written, or byte 0 of the nop, is asked less: only whether int3 is there already, or still (verify_opcode).
 * - Where the call cannot be written, or no trampoline had, that is remembered at the probe (OPTIMIZE_FAIL,
 *   __arch_uprobe_optimize): nobody is given a call any more, and who installs int3 does not look for one
 *   (should_optimize, set_swbp). A probe that cannot be taken away, for a write failed, stays known without a
 *   consumer (uprobe_unregister_nosync).
 */
import { constants } from "node:os";
import { type KernelName, kernelNamed, type LongNop, returnsBySystemCall, type Version } from "../kernel/kernels.js";
import { NOP5, NOP10 } from "../x86/bytes.js";
import { bytesOf } from "./assemble.js";

export const INT3 = 0xcc;
const LEA = bytesOf("48 8d 64 24 80");
export const CALL_SIZE = 5;
export const CALL_OPCODE = 0xe8;

export type Phase =
  /** An IPI to all CPUs: each serializes. */
  | { readonly kind: "sync" }
  /** Bytes [from, to) of the probe become what `what` has there. */
  | {
      readonly kind: "write";
      readonly from: number;
      readonly to: number;
      readonly what: "int3" | "original" | "call";
      /** What has to be there before, or the write is refused; null: anything. */
      readonly expects: Expected | null;
    };

/** int3 in byte 0, whatever follows; what a call begins with (on 7.2 and later lea and the call's first byte). */
export type Expected = "int3" | "call" | "int3 over call";

export const SYNC: Phase = { kind: "sync" };
export const write = (
  from: number,
  to: number,
  what: "int3" | "original" | "call",
  expects: Expected | null = null,
): Phase => ({ kind: "write", from, to, what, expects });

export interface Protocol {
  readonly kernel: KernelName;
  /** The length of the nop that is patched, or 0. */
  readonly patched: number;
  /** What stands in front of the call. */
  readonly lead: Uint8Array;
  /** From int3 over the nop to the call. */
  readonly optimize: readonly Phase[];
  /** From the call to the nop. */
  readonly unoptimize: readonly Phase[];
  readonly trampoline: Uint8Array;
  /** What the lead takes from rsp, and the trampoline's ret gives back. */
  readonly released: number;
  /** What a return probe puts in place of a return address: int3, or code that makes system call 335. */
  readonly returnTrampoline: Uint8Array;
  readonly forkCopiesTrampoline: boolean;
  /** Trampolines are tried from the newest on, or in the order of their addresses. */
  readonly newestTrampolineFirst: boolean;
  /** Trampolines are in a list of their own, and stay there when the program unmaps them. */
  readonly listsTrampolines: boolean;
  /** How a nop of several bytes is run after int3. */
  readonly longNops: "emulated" | "stepped";
  /** errno of the uprobe system call when the trampoline did not make it. */
  readonly refusal: number;

  // What goes without saying, until a fault takes it away.
  readonly seccompException: boolean;
  /** Under the lock a thread that wants to optimize looks again whether int3 is still there. */
  readonly rechecks: boolean;
  readonly locks: boolean;
  /** Detaching is complete only when no thread is in a handler any more. */
  readonly waitsForReaders: boolean;
  /** A thread whose int3 has no probe looks at the memory: without int3 there it goes on. */
  readonly looksAgain: boolean;
  readonly checksReach: boolean;
  /** Who attaches or detaches recognizes a call by the trampolines of the process that has it, not by its own. */
  readonly looksInTheOther: boolean;
  readonly unmapsTrampoline: boolean;
  readonly patchesAcrossPages: boolean;
  /** The bytes of the nop are one instruction. */
  readonly checksInstruction: boolean;
  readonly displacementError: number;
  /** What the system call does with the registers that consumers see. */
  readonly fixesSp: boolean;
  readonly fixesIp: boolean;
  /** The system call checks where it came from. */
  readonly checksCaller: boolean;
  /** Registers that a consumer has changed reach the program. */
  readonly writesBack: boolean;
  /** A thread that has patched the call in goes on after the nop, and not at the call. */
  readonly skipsAfterPatching: boolean;
  /** Where the system call looks for the probe: so many bytes before the return address. */
  readonly looksBack: number | null;
  /** Detaching lowers the semaphore that attaching has raised. */
  readonly lowersSemaphore: boolean;
  /** A call that is still there in bytes of the nop is patched in again, if its trampoline is. No kernel does that. */
  readonly keepsTrampoline: boolean;
  /** Writes that find other bytes than the protocol has there are refused. */
  readonly checksBytes: boolean;
  /** A probe that could not be taken away everywhere stays known. */
  readonly keepsAfterError: boolean;
  /** A process that could not have a call keeps all others from it, and from being asked whether they have one. */
  readonly failsForAll: boolean;
  /** A thread's shadow stack is changed along with its stack. */
  readonly mendsShadowStack: boolean;
  /** Each phase is a step of its own: see trap.ts. */
  readonly stepsApart: boolean;
}

/** push rcx, r11, rax; mov rax,number; syscall; pop rax, r11, rcx; ret */
const trampoline = (ret: string): Uint8Array => bytesOf(`51 41 53 50 48 c7 c0 50 01 00 00 0f 05 58 41 5b 59 ${ret}`);

/** push rax, rcx, r11; mov rax,number; syscall; pop r11, rcx; ret */
const RETURN_TRAMPOLINE = bytesOf("50 51 41 53 48 c7 c0 4f 01 00 00 0f 05 41 5b 59 c3");

export const UPROBE_CALL = 336;
export const URETPROBE_CALL = 335;

const nops: Readonly<Record<LongNop, Uint8Array>> = { nop5: NOP5, nop10: NOP10 };

/** What the table says of a kernel. */
function known(name: KernelName) {
  const { optimizes, longNops, answers, killsForkedChildren } = kernelNamed(name);
  return {
    kernel: name,
    patched: optimizes === null ? 0 : nops[optimizes].length,
    longNops,
    refusal: constants.errno[answers],
    forkCopiesTrampoline: !killsForkedChildren,
  };
}

const legacy: Protocol = {
  ...known("legacy"),
  lead: new Uint8Array(),
  optimize: [],
  unoptimize: [],
  trampoline: trampoline("c3"),
  released: 0,
  returnTrampoline: Uint8Array.of(INT3),
  newestTrampolineFirst: true,
  listsTrampolines: true,
  seccompException: true,
  rechecks: true,
  locks: true,
  waitsForReaders: true,
  looksAgain: true,
  checksReach: true,
  looksInTheOther: true,
  unmapsTrampoline: false,
  patchesAcrossPages: false,
  checksInstruction: true,
  displacementError: 0,
  fixesSp: true,
  fixesIp: true,
  checksCaller: true,
  writesBack: true,
  skipsAfterPatching: true,
  looksBack: null,
  lowersSemaphore: true,
  keepsTrampoline: false,
  checksBytes: true,
  keepsAfterError: true,
  failsForAll: true,
  mendsShadowStack: true,
  stepsApart: false,
};

const nop5: Protocol = {
  ...legacy,
  ...known("6.18"),
  optimize: [SYNC, write(1, 5, "call", "int3"), SYNC, write(0, 1, "call", "int3"), SYNC],
  unoptimize: [
    ...[write(0, 1, "int3", "call"), SYNC, write(1, 5, "original", "int3"), SYNC],
    ...[write(0, 1, "original", "int3"), SYNC],
  ],
  returnTrampoline: RETURN_TRAMPOLINE,
};

const nop10: Protocol = {
  ...nop5,
  ...known("7.2"),
  lead: LEA,
  optimize: [SYNC, write(1, 10, "call", "int3"), SYNC, write(0, 1, "call", "int3 over call"), SYNC],
  unoptimize: [
    ...[write(0, 1, "int3", "call"), SYNC, write(1, 5, "original", "int3 over call"), SYNC],
    ...[write(0, 1, "original", "int3"), SYNC],
  ],
  trampoline: trampoline("c2 80 00"),
  released: 0x80,
  newestTrampolineFirst: false,
  listsTrampolines: false,
};

export const protocols: Readonly<Record<KernelName, Protocol>> = { legacy, "6.18": nop5, "7.2": nop10 };

/** How a version patches: as its range does; what it puts in place of return addresses is older than those. */
export function protocolOf(name: KernelName, version: Version): Protocol {
  const returnTrampoline = returnsBySystemCall(version) ? RETURN_TRAMPOLINE : Uint8Array.of(INT3);
  return { ...protocols[name], returnTrampoline };
}

/** The nop that a program for this kernel has at its probes. */
export const probeOf = (kernel: KernelName): Uint8Array => nops[kernelNamed(kernel).optimizes ?? "nop5"];
