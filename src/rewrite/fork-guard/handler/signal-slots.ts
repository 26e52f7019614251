/**
 * Where the fork guard leaves what a thread had blocked, from before a fork until after it: a small table of words in
 * memory that can be written. What reads and writes it is in held-signals.ts and child-guard.ts.
 *
 *     key     the thread pointer (%fs:0) of the thread that forks; 0: the slot is free
 *     mask    its blocked signals as the kernel had them
 *
 * A slot is claimed by `lock cmpxchg` of its key and belongs to its thread alone from then on. Its thread has signals
 * blocked all that time, so that none of its signal handlers can come upon it.
 */
import type { Vaddr } from "../../../address.js";
import { type Assembler, at, type RegisterName } from "../../../x86/assembler.js";
import type { Target } from "../../../x86/link.js";
import * as linux from "./linux.js";

export interface SignalSlots {
  /** Link-time address, a multiple of 8. */
  readonly start: Vaddr;
  readonly count: number;
}

/** Where a guard's table of sites stands: u32 distances from the first site. */
export interface SiteTable {
  readonly table: Target;
  readonly end: Target;
  readonly firstSite: Vaddr;
  /** A byte that is 0 where no kernel makes calls of these sites; undefined where that is not known. */
  readonly selector: Vaddr | undefined;
}

/**
 * Threads that fork at the same moment; more of them go without. The C library lets one at a time through most of a
 * fork.
 */
export const SLOTS = 8;
export const SLOT_SIZE = 16;
export const SLOT_KEY = 0;
export const SLOT_MASK = 8;

/** What a system call changes or takes arguments in, beyond rax, rcx, rdx, rsi and rdi. */
export const CLOBBERED: readonly RegisterName[] = ["r10", "r11"];

/** `mov rdi, %fs:0`: what the ABI keeps there is its own address. */
const THREAD_POINTER_TO_RDI = [0x64, 0x48, 0x8b, 0x3c, 0x25, 0, 0, 0, 0];

/** rdi becomes the key of this thread; rdx and rcx become the start and the end of the table. */
export function slotTable(code: Assembler, slots: SignalSlots): Assembler {
  code.raw(THREAD_POINTER_TO_RDI).address("rdx", slots.start);
  return code.op("lea", "rcx", at("rdx", slots.count * SLOT_SIZE));
}

/** The blocked signals become those at rsp. */
export function setMask(code: Assembler): Assembler {
  return code.system(linux.SYS_rt_sigprocmask, linux.SIG_SETMASK, "rsp", 0, linux.SIGSET_SIZE);
}
