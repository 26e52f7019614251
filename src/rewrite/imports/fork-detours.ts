/**
 * System calls that may fork, led through new code: the first thing that a child with a copy of the memory runs is the guard.
 *
 *     before   b8 38 00 00 00    mov $56, %eax
 *              0f 05             syscall
 *              48 85 c0          test %rax, %rax
 *     after    b8 38 00 00 00    mov $56, %eax
 *              e9 ......         jmp new
 *     new                        (is it a fork? see below)
 *     copies:  syscall
 *              mov %rax, %rcx ; jrcxz child
 *     back:    lea behind the old syscall, %rcx
 *              test %rax, %rax
 *              jmp back to the program
 *     child:   lea -128(%rsp), %rsp ; call guard ; lea 128(%rsp), %rsp ; jmp back
 *     plain:   syscall ; jmp back
 *
 * All of it leaves the flags alone, and every register as the kernel leaves it: rcx is the only one that is used (syscall
 * takes it for the return address, so that nothing of the program can be in it), and holds the old return address at the
 * end. The stack is touched in a child with a copy of the memory alone, below the red zone.
 *
 * Whether a call is a fork is asked at run time where the code does not tell: number in eax, for clone the flags in edi, for
 * clone3 those in memory at rdi, looked at before the call: behind it, in a child that shares the memory, the parent may have
 * gone on and taken the memory for something else. (A pointer that is neither null nor valid is a SIGSEGV then, not EFAULT.)
 * The bit of the x32 ABI is not looked for.
 *
 * Signals are not kept out before the call, as they are around the C library's fork (guard/held-signals.ts): what was blocked
 * would have to be found again by the child, which may have another stack and another thread pointer than its parent, and a
 * static program need not have a thread pointer at all. A C library that blocks signals around its fork does that here too.
 *
 * The kernel restarts a system call by taking two bytes off the return address and giving eax its number again: that works
 * here as it did there. A handler that compares the return address with labels around the call (deferred cancellation: musl,
 * glibc from 2.41 on) must not be deceived: where anything takes the address right behind it, the call stays.
 */
import { hex, type Interval, type Vaddr, vaddr } from "../../address.js";
import { type CfaRows, DWARF_RSP, rowAt } from "../../elf/cfa-rows.js";
import { describeEntry } from "../../facts/entries.js";
import type { ProgramFacts } from "../../facts/program.js";
import { CLONE_VM, SYS_clone, SYS_clone3, SYS_fork, type SystemCall } from "../../facts/system-calls.js";
import { INT3, JUMP_SIZE, jump } from "../../x86/bytes.js";
import { addressOf, Flow, instructionBytes } from "../../x86/decode.js";
import { disassemble, relocate, traitsOf } from "../../x86/relocate.js";
import type { NamedCode } from "../new-code.js";
import { frozenObstacle, reachObstacle } from "../tactics/safety.js";

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
  if (reach !== undefined) return reach;
  const inside = facts.entries.within(start + 1, end)[0];
  if (inside !== undefined) return `${describeEntry(inside)}, inside the bytes that are needed`;
  const named = facts.entries.within(behind, behind + 1).find((entry) => entry.branches === undefined);
  return named === undefined ? frozenObstacle(facts, start, end) : `${describeEntry(named)}, right behind it`;
}

function questionFor({ numbers, firstArguments }: SystemCall): Question {
  if (numbers === undefined) return "any";
  const calls = numbers.map((number) => number & ~0x40000000);
  if (calls.every((n) => n === SYS_fork)) return "none";
  if (calls.every((n) => n === SYS_clone))
    return firstArguments?.every((flags) => !(flags & CLONE_VM)) ? "none" : "clone";
  return calls.every((n) => n === SYS_clone3) ? "clone3" : "any";
}

interface PlacedForkDetour {
  readonly bytes: Uint8Array;
  /** The new code as a function of its own. */
  readonly named: NamedCode;
  readonly change: { readonly at: Vaddr; readonly bytes: Uint8Array };
}

/**
 * The new code for a detour at link-time address `start`; its length does not depend on the addresses.
 * @param guard the function that a child calls
 */
export function encodeForkDetour(detour: ForkDetour, start: Vaddr, guard: Vaddr): PlacedForkDetour | string {
  const code = new ShortCode(start);
  for (const moved of detour.before)
    if (!code.moved(moved)) return `the instruction at ${hex(moved.at)} cannot reach its operand from new code`;
  ask(code, detour.question);
  code.label("copies").raw(SYSCALL).raw([0x48, 0x89, 0xc1]).jrcxz("child"); // mov rcx, rax
  code
    .label("back")
    .raw([0x48, 0x8d, 0x0d])
    .distance(vaddr(detour.call + SYSCALL_SIZE)); // lea rcx, [behind]
  for (const moved of detour.after)
    if (!code.moved(moved)) return `the instruction at ${hex(moved.at)} cannot reach its operand from new code`;
  code.raw([0xe9]).distance(detour.window.end);
  code.label("child").raw([0x48, 0x8d, 0x64, 0x24, -RED_ZONE & 0xff]); // lea rsp, [rsp-128]
  const lower = code.here;
  code.raw([0xe8]).distance(guard);
  code.raw([0x48, 0x8d, 0xa4, 0x24]).word(RED_ZONE); // lea rsp, [rsp+128]
  const higher = code.here;
  code.jumpShort("back");
  const { window } = detour;
  const bytes = new Uint8Array(window.end - window.start).fill(INT3);
  bytes.set(jump(window.start, start));
  const unwind: CfaRows = {
    starts: [start, lower, higher],
    registers: [DWARF_RSP, DWARF_RSP, DWARF_RSP],
    offsets: [RETURN_ADDRESS, RETURN_ADDRESS + RED_ZONE, RETURN_ADDRESS],
  };
  const name = `usdt_nop5.fork_${detour.call.toString(16)}`;
  const named = { name, start, end: code.here, unwind: detour.isLeaf ? unwind : undefined };
  return { bytes: code.finish(), named, change: { at: window.start, bytes } };
}

const SYSCALL = [0x0f, 0x05];

/** Goes on at `copies` for a fork, and does what is none. */
function ask(code: ShortCode, question: Question): void {
  if (question === "none") return;
  if (question === "any") {
    code.raw([0x8d, 0x48, -SYS_fork & 0xff]).jrcxz("copies"); // lea ecx, [rax-57]
    code.raw([0x8d, 0x48, -SYS_clone & 0xff]).jrcxz("clone"); // lea ecx, [rax-56]
    code.raw([0x8d, 0x88]).word(-SYS_clone3).jrcxz("clone3"); // lea ecx, [rax-435]
    code.jumpShort("plain");
  }
  if (question !== "clone") {
    code.label("clone3").raw([0x48, 0x89, 0xf9]).jrcxz("plain"); // mov rcx, rdi
    code.raw([0x8b, 0x0f]); // mov ecx, [rdi]
  }
  if (question === "any") code.jumpShort("flags");
  if (question !== "clone3") code.label("clone").raw([0x89, 0xf9]); // mov ecx, edi
  code.label("flags").raw([0x0f, 0xb6, 0xcd]); // movzx ecx, ch: bits 8 to 15, of which the lowest is CLONE_VM
  code.raw([0x8d, 0x0c, 0xcd]).word(0).raw([0x8d, 0x0c, 0xcd]).word(0); // lea ecx, [rcx*8], twice
  code.raw([0x8d, 0x0c, 0x4d]).word(0); // lea ecx, [rcx*2]
  code.raw([0x0f, 0xb6, 0xc9]).jrcxz("copies"); // movzx ecx, cl
  code.label("plain").raw(SYSCALL).jumpShort("back");
}

/** Code with branches of 8 bits between its labels, and distances of 32 bits to addresses elsewhere. */
class ShortCode {
  readonly #bytes: number[] = [];
  readonly #labels = new Map<string, number>();
  readonly #branches: { readonly place: number; readonly label: string }[] = [];

  constructor(readonly start: Vaddr) {}

  get here(): Vaddr {
    return vaddr(this.start + this.#bytes.length);
  }

  raw(bytes: Iterable<number>): this {
    this.#bytes.push(...bytes);
    return this;
  }

  word(value: number): this {
    return this.raw([0, 8, 16, 24].map((shift) => (value >> shift) & 0xff));
  }

  label(name: string): this {
    this.#labels.set(name, this.#bytes.length);
    return this;
  }

  jrcxz = (label: string): this => this.#branch(0xe3, label);
  jumpShort = (label: string): this => this.#branch(0xeb, label);

  /** The 32 bits at the end of an instruction that leads or points to an address. */
  distance(target: Vaddr): this {
    const distance = target - (this.here + 4);
    if (distance !== (distance | 0)) throw new RangeError(`${hex(target)} is out of reach from new code`);
    return this.word(distance);
  }

  moved({ at, bytes }: Moved): boolean {
    const there = relocate(bytes, at, this.here);
    if (there === undefined) return false;
    this.raw(there);
    return true;
  }

  finish(): Uint8Array {
    const out = Uint8Array.from(this.#bytes);
    for (const { place, label } of this.#branches) {
      const distance = this.#labels.get(label)! - (place + 1);
      if (distance !== (distance << 24) >> 24) throw new RangeError(`the label ${label} is too far away`);
      out[place] = distance & 0xff;
    }
    return out;
  }

  #branch(opcode: number, label: string): this {
    this.#branches.push({ place: this.#bytes.length + 1, label });
    return this.raw([opcode, 0]);
  }
}
