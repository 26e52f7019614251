/**
 * A thread's shadow stack: return addresses once more, where only calls, returns and the kernel can write. A return
 * to another address than the last one there is a fault.
 *
 * What the kernel does to the stack it does to that as well, by source: the uprobe system call takes the trampoline's
 * return address off before consumers run and puts it back, or what they have made of it, after; replacing a return
 * address replaces the last one there; the uretprobe system call goes back by iret, so that nothing returns to where
 * nothing was called (arch/x86/kernel/uprobes.c: uprobe, uretprobe, arch_uretprobe_hijack_return_addr).
 */
import { hex } from "../address.js";
import type { Violation } from "../explore/system.js";
import { Property, violation } from "./change.js";
import { ipOf, type Ran, spOf } from "./machine.js";
import { CALL_OPCODE } from "./protocol.js";
import type { Setup } from "./setup.js";
import type { Thread } from "./state.js";
import { readQuad } from "./words.js";

const RET = [0xc3, 0xc2];
/** `call register`: ff d0 to ff d7. */
const isCallByRegister = ([first, second = 0]: Uint8Array): boolean => first === 0xff && second >> 3 === 0xd0 >> 3;

/** The thread after an instruction of it; what is wrong where that was a return to another address. */
export function afterInstruction(setup: Setup, thread: Thread, code: Uint8Array, ran: Ran): Thread | Violation {
  const { machine, program } = setup;
  if (!program.shadowStack) return thread;
  const after = machine.valueOf(ran.snapshot);
  if (code[0] === CALL_OPCODE || isCallByRegister(code))
    return { ...thread, shadow: [...thread.shadow, readQuad(machine, after, spOf(after))] };
  if (!RET.includes(code[0]!)) return thread;
  const last = thread.shadow.at(-1);
  if (last === ipOf(after)) return popped(thread);
  const says = last === undefined ? "nothing" : hex(last);
  return violation(
    Property.Killed,
    `A return goes to ${hex(ipOf(after))}, and the shadow stack says ${says}: the thread dies of SIGSEGV.`,
  );
}

const popped = (thread: Thread): Thread => ({ ...thread, shadow: thread.shadow.slice(0, -1) });

/** Whether the kernel has to do with one here. */
const mends = ({ program, protocol }: Setup): boolean => program.shadowStack && protocol.mendsShadowStack;

/** The last return address is taken off: it has to be this one. */
export function takeOff(setup: Setup, thread: Thread, expected: number): Thread | Violation {
  if (!mends(setup)) return thread;
  if (thread.shadow.at(-1) === expected) return popped(thread);
  return violation(Property.Killed, "The trampoline was not called by a call: the thread dies of SIGILL.");
}

/** And put back. */
export const putBack = (setup: Setup, thread: Thread, address: number): Thread =>
  mends(setup) ? { ...thread, shadow: [...thread.shadow, address] } : thread;

/** A return address on the stack was replaced by this one. */
export const replaceLast = (setup: Setup, thread: Thread, address: number): Thread =>
  mends(setup) ? { ...thread, shadow: [...thread.shadow.slice(0, -1), address] } : thread;
