/**
 * System calls that may fork, led through new code: the first thing that a child with a copy of the memory runs is the
 * guard.
 *
 *     before   b8 38 00 00 00    mov $56, %eax
 *              0f 05             syscall
 *              48 85 c0          test %rax, %rax
 *     after    b8 38 00 00 00    mov $56, %eax
 *              e9 ......         jmp new
 *     new                        (is it a fork? see below)
 *     copies:  syscall
 *              mov %rax, %rcx ; jrcxz child
 *     back:    lea after the old syscall, %rcx
 *              test %rax, %rax
 *              jmp back to the program
 *     child:   lea -128(%rsp), %rsp ; call guard ; lea 128(%rsp), %rsp ; jmp back
 *     plain:   syscall ; jmp back
 *
 * All of it leaves the flags alone, and every register as the kernel leaves it: rcx is the only one that is used
 * (syscall takes it for the return address, so that nothing of the program can be in it), and holds the old return
 * address at the end. The stack is touched in a child with a copy of the memory alone, below the red zone.
 *
 * Whether a call is a fork is asked at run time where the code does not tell: number in eax, for clone the flags in
 * edi, for clone3 those in memory at rdi, looked at before the call: after it, in a child that shares the memory, the
 * parent may have gone on and taken the memory for something else. (A pointer that is neither null nor valid is a
 * SIGSEGV then, not EFAULT.) The bit of the x32 ABI is not looked for.
 *
 * Signals are not kept out before the call, as they are around the C library's fork (handler/held-signals.ts): what was
 * blocked would have to be found again by the child, which may have another stack and another thread pointer than its
 * parent, and a static program need not have a thread pointer at all. A C library that blocks signals around its fork
 * does that here too.
 *
 * The kernel restarts a system call by taking two bytes off the return address and giving eax its number again: that
 * works here as it did there. A handler that compares the return address with labels around the call (deferred
 * cancellation: musl, glibc from 2.41 on) must not be deceived: where anything takes the address right after it, the
 * call stays.
 */
import { hex, type Interval, type Vaddr, vaddr } from "../../../address.js";
import { DWARF_RSP, rowAt } from "../../../elf/cfa-rows.js";
import { describeEntry } from "../../../facts/entries.js";
import type { ProgramFacts } from "../../../facts/program.js";
import { CLONE_VM, SYS_clone, SYS_clone3, SYS_fork, type SystemCall } from "../../../facts/system-calls.js";
import { Assembler, at } from "../../../x86/assembler.js";
import { JUMP_SIZE } from "../../../x86/bytes.js";
import { addressOf, Flow, instructionBytes } from "../../../x86/decode.js";
import { disassemble, movable, traitsOf } from "../../../x86/relocate.js";
import { frozenObstacle, reachObstacle } from "../../tactics/safety.js";
import { FORK_GUARD } from "./fork-handlers.js";

/** How many instructions before the call are tried. */
const MOST_BEFORE = 6;
const SYSCALL_SIZE = 2;

/** What has to be asked at run time: nothing, or the flags of clone, or of clone3, or the number as well. */
type Question = "none" | "clone" | "clone3" | "any";

interface Moved {
  readonly at: Vaddr;
  readonly bytes: Uint8Array;
}

export interface ForkDetour {
  /** Where the `syscall` stands. */
  readonly call: Vaddr;
  /** The bytes that get new content. */
  readonly window: Interval<Vaddr>;
  readonly question: Question;
  readonly before: readonly Moved[];
  readonly after: readonly Moved[];
  /** Disassembly of the instructions that run at another address. */
  readonly displaced: readonly string[];
  /** Whether the return address stands at rsp all along, and is all that an unwinder looks for. */
  readonly isLeaf: boolean;
}

/**
 * The detour for a system call that may fork, or why there can be none.
 * @param keptFor what else bytes belong to that is to change, for people; undefined where nothing does
 */
export function planForkDetour(
  facts: ProgramFacts,
  call: SystemCall,
  keptFor: (bytes: Interval<Vaddr>) => string | undefined,
): ForkDetour | string {
  const reasons = new Set<string>();
  for (let first = call.index; first >= Math.max(0, call.index - MOST_BEFORE); first--) {
    const detour = detourFrom(facts, call, first, keptFor);
    if (typeof detour !== "string") return detour;
    reasons.add(detour);
  }
  const [first, second] = reasons;
  return `the system call at ${hex(call.at)} cannot be led elsewhere: ${first}${second === undefined ? "" : `; ${second}`}`;
}

function detourFrom(
  facts: ProgramFacts,
  call: SystemCall,
  first: number,
  keptFor: (bytes: Interval<Vaddr>) => string | undefined,
): ForkDetour | string {
  const { code, index } = call;
  const start = addressOf(code, first);
  let next = index + 1;
  while (next < code.count && code.start + code.offsets[next]! - start < JUMP_SIZE) next++;
  const end = vaddr(code.start + code.offsets[next]!);
  if (end - start < JUMP_SIZE) return "the function ends too early for a jump";
  const before: Moved[] = [];
  const after: Moved[] = [];
  for (let i = first; i < next; i++) {
    if (i === index) continue;
    const at = addressOf(code, i);
    const bytes = instructionBytes(code, i);
    if (!isMovable(facts, bytes, at, code.flow[i]!))
      return `${disassemble(bytes, at)} at ${hex(at)} would have to move`;
    (i < index ? before : after).push({ at, bytes });
  }
  const window = { start, end };
  const obstacle = windowObstacle(facts, window, vaddr(call.at + SYSCALL_SIZE));
  if (obstacle !== undefined) return obstacle;
  const kept = keptFor(window);
  if (kept !== undefined) return kept;
  const displaced = [...before, ...after].map(({ at, bytes }) => disassemble(bytes, at));
  return {
    call: call.at,
    window,
    question: questionFor(call),
    before,
    after,
    displaced,
    isLeaf: isLeafAt(facts, window) && ![...before, ...after].some((m) => traitsOf(m.bytes, m.at).usesStackPointer),
  };
}

function isLeafAt({ functions }: ProgramFacts, { start, end }: Interval<Vaddr>): boolean {
  const range = functions.containing(start);
  const rows = range && functions.cfaRows(range);
  if (rows === undefined) return false;
  return [start, end].every((at) => {
    const row = rowAt(rows, at);
    return row >= 0 && rows.registers[row] === DWARF_RSP && rows.offsets[row] === RETURN_ADDRESS;
  });
}

const RETURN_ADDRESS = 8;
const RED_ZONE = 128;

/** What does not branch, nor raises a signal where somebody could catch it as an exception. */
function isMovable(facts: ProgramFacts, bytes: Uint8Array, at: Vaddr, flow: number): boolean {
  if ((flow & ~(Flow.Nop | Flow.Lea)) !== 0) return false;
  const range = facts.functions.containing(at);
  const hasHandlers = range !== undefined && facts.functions.fde(range)?.lsda !== undefined;
  return !hasHandlers || !traitsOf(bytes, at).mayTrap;
}

function windowObstacle(facts: ProgramFacts, { start, end }: Interval<Vaddr>, behind: Vaddr): string | undefined {
  const reach = reachObstacle(facts, start, end);
  if (reach !== undefined) return reach.text;
  const inside = facts.entries.within(start + 1, end)[0];
  if (inside !== undefined) return `${describeEntry(inside)}, inside the bytes that are needed`;
  const named = facts.entries.within(behind, behind + 1).find((entry) => entry.branches === undefined);
  return named === undefined ? frozenObstacle(facts, start, end)?.text : `${describeEntry(named)}, right after it`;
}

function questionFor({ numbers, firstArguments }: SystemCall): Question {
  if (numbers === undefined) return "any";
  const calls = numbers.map((number) => number & ~0x40000000);
  if (calls.every((n) => n === SYS_fork)) return "none";
  if (calls.every((n) => n === SYS_clone))
    return firstArguments?.every((flags) => !(flags & CLONE_VM)) ? "none" : "clone";
  return calls.every((n) => n === SYS_clone3) ? "clone3" : "any";
}

/** Symbols: the new code for a detour. */
const codeOf = ({ call }: ForkDetour): string => `usdt_nop5.fork_${call.toString(16)}`;

/** The new code for a detour, or why it cannot move. */
export function forkDetourCode(detour: ForkDetour): Assembler | string {
  const code = new Assembler({ name: codeOf(detour), align: 16 }).entry();
  const move = (instructions: readonly Moved[]): string | undefined => {
    for (const { at: stood, bytes } of instructions) {
      const instruction = movable(bytes, stood);
      if (instruction === undefined) return `the instruction at ${hex(stood)} cannot reach its operand from new code`;
      code.moved(instruction);
    }
    return undefined;
  };
  const obstacle = move(detour.before);
  if (obstacle !== undefined) return obstacle;
  ask(code, detour.question);
  code.label("copies").op("syscall").op("mov", "rcx", "rax").jumpIfRcxIsZero("child");
  code.label("back").address("rcx", detour.call + SYSCALL_SIZE);
  const other = move(detour.after);
  if (other !== undefined) return other;
  code.jump(detour.window.end);
  code.label("child").op("lea", "rsp", at("rsp", -RED_ZONE)).stack(RED_ZONE);
  code.call(FORK_GUARD).op("lea", "rsp", at("rsp", RED_ZONE)).stack(-RED_ZONE);
  return code.jumpShort("back");
}

/** What a detour's window becomes. */
export const forkDetourWindow = (detour: ForkDetour): Assembler =>
  new Assembler({ over: detour.window }).jump(codeOf(detour));

const MOVZX_ECX_CH = [0x0f, 0xb6, 0xcd];
const MOVZX_ECX_CL = [0x0f, 0xb6, 0xc9];
const LEA_ECX_RCX_TIMES_8 = [0x8d, 0x0c, 0xcd, 0, 0, 0, 0];
const LEA_ECX_RCX_TIMES_2 = [0x8d, 0x0c, 0x4d, 0, 0, 0, 0];

/** Goes on at `copies` for a fork, and does what is none. */
function ask(code: Assembler, question: Question): void {
  if (question === "none") return;
  if (question === "any") {
    code.op("lea", "ecx", at("rax", -SYS_fork)).jumpIfRcxIsZero("copies");
    code.op("lea", "ecx", at("rax", -SYS_clone)).jumpIfRcxIsZero("clone");
    code.op("lea", "ecx", at("rax", -SYS_clone3)).jumpIfRcxIsZero("clone3");
    code.jumpShort("plain");
  }
  if (question !== "clone") {
    code.label("clone3").op("mov", "rcx", "rdi").jumpIfRcxIsZero("plain");
    code.op("mov", "ecx", at("rdi"));
  }
  if (question === "any") code.jumpShort("flags");
  if (question !== "clone3") code.label("clone").op("mov", "ecx", "edi");
  // Bits 8 to 15, of which the lowest is CLONE_VM; without touching the flags it moves up until it is all that is left.
  code.label("flags").raw(MOVZX_ECX_CH).raw(LEA_ECX_RCX_TIMES_8).raw(LEA_ECX_RCX_TIMES_8).raw(LEA_ECX_RCX_TIMES_2);
  code.raw(MOVZX_ECX_CL).jumpIfRcxIsZero("copies");
  code.label("plain").op("syscall").jumpShort("back");
}
