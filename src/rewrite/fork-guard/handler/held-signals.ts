/**
 * Keeping signals out of a forked child until its guard has run: a handler directly before the fork, and one directly
 * after it it in the parent. (In the child it is the guard that lets them in again.)
 *
 * Why: a signal that is sent to a whole process group is there when the child runs its first instruction, and the
 * program's handler runs before anything else does. Where that passes a site whose call was copied, the child dies.
 * Signals sent to the group every 0.4 ms killed 436 and 666 of 3,000 children of a traced parent.
 *
 * How
 *     prepare   looks at all sites. Where each is the nop as the file has it, that is all: no system call, nothing written but
 *               the stack. Else, be it only a breakpoint (the kernel may make a call of it before the fork): signals are
 *               blocked, but for those that an instruction raises, and then what was blocked before goes into a slot
 *     parent    takes the slot of its thread, frees it, and blocks what was blocked before; also where the fork has failed.
 *               No slot: nothing
 *     child     the guard does the same when it has mended (child-guard.ts), and empties the table: other threads are not
 *               there any more
 * The slot is claimed when signals are blocked already, so that a handler that forks cannot come in between. A handler
 * of SIGSEGV and the like can: a thread that has a slot holds signals already, and does nothing; the inner fork then
 * gives back what the outer one has held, and the outer one finds nothing to give back.
 *
 * What is left
 * - a tracer that attaches between the look and the fork, together with a signal in the child's first microsecond. To close
 *   that would take two system calls in each fork of each program that nobody traces
 * - more threads than slots between the first handler and the last at one moment
 * - libraries: they have no handlers in the parent (install/child-handler.ts says why)
 * - children of clone(2), which begin with a function, and of system calls of the program's own, as in static programs: their
 *   guard is called from code without a place for what was blocked that parent and child could both find. Some C libraries
 *   block all signals around their own (musl, glibc from 2.41 on)
 * - a filter (seccomp) that kills for rt_sigprocmask kills a traced parent; one that refuses it: nothing is held
 *
 * Handlers are called as the C library calls them. They keep all registers and the flags all the same, as the guard
 * does: so new code may call them in between anything. Raw system calls, no libc, errno is not touched.
 */
import { Assembler, at, type RegisterName } from "../../../x86/assembler.js";
import { NOP5 } from "../../../x86/bytes.js";
import { SITE_ENTRY } from "./guarded-pages.js";
import { enter, leave, unlessSelected } from "./handler-code.js";
import * as linux from "./linux.js";
import {
  CLOBBERED,
  type SignalSlots,
  type SiteTable,
  SLOT_KEY,
  SLOT_MASK,
  SLOT_SIZE,
  setMask,
  slotTable,
} from "./signal-slots.js";

const SAVED: readonly RegisterName[] = ["rax", "rcx", "rdx", "rsi", "rdi"];
const view = new DataView(NOP5.buffer, NOP5.byteOffset);
/** Bytes 0 to 3 of the nop5, and 1 to 4. */
const [HEAD, TAIL] = [view.getUint32(0, true), view.getUint32(1, true)];
const LOCK_CMPXCHG_AT_RDX_WITH_RDI = [0xf0, 0x48, 0x0f, 0xb1, 0x3a];

/**
 * The handler before a fork: a function `void (void)` for __register_atfork, to be linked beside its table of sites.
 */
export function beforeFork(name: string, sites: SiteTable, slots: SignalSlots): Assembler {
  const code = new Assembler({ name, align: 16 });
  enter(code, SAVED);
  if (sites.selector !== undefined) unlessSelected(code, sites.selector, "leave");
  code.address("rdx", sites.table).address("rsi", sites.end).address("rcx", sites.firstSite);
  code.label("look").op("mov", "eax", at("rdx")).op("add", "rax", "rcx");
  code.op("mov", "edi", at("rax")).op("cmp", "edi", HEAD).jumpIf("ne", "traced");
  code.op("mov", "edi", at("rax", 1)).op("cmp", "edi", TAIL).jumpIf("ne", "traced");
  code.op("add", "rdx", SITE_ENTRY).op("cmp", "rdx", "rsi").jumpIf("b", "look");
  code.label("leave");
  leave(code, SAVED);

  code.label("traced");
  slotTable(code, slots);
  code.label("own").op("cmp", "rdi", at("rdx", SLOT_KEY)).jumpIf("e", "leave");
  code.op("add", "rdx", SLOT_SIZE).op("cmp", "rdx", "rcx").jumpIf("b", "own");
  for (const register of CLOBBERED) code.push(register);
  code.op("mov", "eax", linux.SYNCHRONOUS_SIGNALS).op("not", "rax").push("rax");
  // The kernel reads the set before it writes what was blocked.
  code.system(linux.SYS_rt_sigprocmask, linux.SIG_BLOCK, "rsp", "rsp", linux.SIGSET_SIZE);
  code.op("test", "rax", "rax").jumpIf("ne", "not held");
  slotTable(code, slots);
  code.label("claim").op("mov", "eax", 0).raw(LOCK_CMPXCHG_AT_RDX_WITH_RDI).jumpIf("e", "held");
  code.op("add", "rdx", SLOT_SIZE).op("cmp", "rdx", "rcx").jumpIf("b", "claim");
  setMask(code).jump("not held");
  code.label("held").op("mov", "rax", at("rsp")).op("mov", at("rdx", SLOT_MASK), "rax");
  code.label("not held").pop("rax");
  for (const register of CLOBBERED.toReversed()) code.pop(register);
  return code.jump("leave");
}

/** The handler after a fork in the parent, likewise. */
export function behindFork(name: string, slots: SignalSlots): Assembler {
  const code = new Assembler({ name, align: 16 });
  enter(code, SAVED);
  slotTable(code, slots);
  code.label("slot").op("cmp", "rdi", at("rdx", SLOT_KEY)).jumpIf("e", "held");
  code.op("add", "rdx", SLOT_SIZE).op("cmp", "rdx", "rcx").jumpIf("b", "slot");
  code.label("leave");
  leave(code, SAVED);

  code.label("held");
  for (const register of CLOBBERED) code.push(register);
  code.op("mov", "rax", at("rdx", SLOT_MASK)).push("rax").op("mov", at("rdx", SLOT_KEY), 0);
  setMask(code).pop("rax");
  for (const register of CLOBBERED.toReversed()) code.pop(register);
  return code.jump("leave");
}
