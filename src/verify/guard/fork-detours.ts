/**
 * System calls that may fork and lead through new code: the program's own, in static programs mostly.
 *
 *     original     [some instructions] syscall [some more]      in the bytes that a jump of five bytes takes
 *     rewritten    jmp new; int3 ...
 *
 * Both run from the same states, for every number that forks and some that do not, with and without CLONE_VM, as far as the code
 * before it does not say which, and with what the kernel may answer: they ask the kernel for the same, and go on behind those bytes with the same registers and flags. The
 * handler runs where the call was one that copies the memory, and in the child alone.
 */
import { hex, runtimeAddress, type Vaddr, vaddr } from "../../address.js";
import type { ElfImage } from "../../elf/image.js";
import { decodeInstructions, type Instruction } from "../../emulate/instruction.js";
import { Gpr, joinAddress, STATE_WORDS, XMM } from "../../emulate/state.js";
import { describeEntry } from "../../facts/entries.js";
import { gatherFacts, type ProgramFacts } from "../../facts/program.js";
import { findSystemCalls, numbersOf, type SystemCalls } from "../../facts/system-calls.js";
import { codeFrom } from "../../usdt/sites.js";
import { iced } from "../../x86/iced.js";
import type { Stretch } from "../changed-code.js";
import { stateOf } from "../machine-states.js";
import { DATA, Machine } from "./machine.js";

const JUMP_SIZE = 5;
const MOST_BYTES = 64;
const INT3 = 0xcc;
const LIMIT = 4000;
const RED_ZONE = 128;
const [SYS_read, SYS_getpid, SYS_clone, SYS_fork, SYS_vfork, SYS_clone3] = [0, 39, 56, 57, 58, 435];
const CLONE_VM = 0x100;
const someFlags = [0x11, CLONE_VM | 0x11, 0x0120_0011, 0x4100];
const { Mnemonic } = iced;

export interface ForkDetour {
  /** The bytes of the original that are others: whole instructions. */
  readonly window: Stretch;
  /** Where its system call stands. */
  readonly call: Vaddr;
  /** New code that stands for them. */
  readonly target: number;
}

/** The detours among the changed bytes of a file. */
export function findForkDetours(
  original: ElfImage,
  rewritten: ElfImage,
  changed: readonly Stretch[],
  isNew: (address: number) => boolean,
): readonly ForkDetour[] {
  const found: ForkDetour[] = [];
  let behind = 0;
  for (const { start } of changed) {
    if (start < behind) continue;
    const detour = detourAt(original, rewritten, start, isNew);
    if (detour === undefined) continue;
    found.push(detour);
    behind = detour.window.end;
  }
  return found;
}

function detourAt(
  original: ElfImage,
  rewritten: ElfImage,
  start: Vaddr,
  isNew: (address: number) => boolean,
): ForkDetour | undefined {
  const [before, now] = [original, rewritten].map((image) => codeFrom(image, start)?.subarray(0, MOST_BYTES));
  if (before == null || now == null || now.length < JUMP_SIZE || now[0] !== 0xe9) return undefined;
  const target = start + JUMP_SIZE + now.readInt32LE(1);
  if (!isNew(target)) return undefined;
  let end: number = start;
  let call: number | undefined;
  // What stands before the call may be as long as the jump by itself.
  while (end < start + JUMP_SIZE || (call === undefined && now[end - start] === INT3)) {
    const [instruction] = decodeInstructions(before.subarray(end - start), end, 1);
    if (instruction === undefined || instruction.length === 0) return undefined;
    if (instruction.mnemonic === Mnemonic.Syscall) call = end;
    else if (instruction.endsBlock) return undefined;
    end += instruction.length;
  }
  if (call === undefined || now.subarray(JUMP_SIZE, end - start).some((byte) => byte !== INT3)) return undefined;
  return { window: { start, end: vaddr(end) }, call: vaddr(call), target };
}

/** The handler that new code calls in a child: the one function in new code that it calls. */
export function calledHandler(machine: Machine, isNew: (address: number) => boolean): number | undefined {
  const isCall = ({ mnemonic, operands }: Instruction): boolean =>
    mnemonic === Mnemonic.Call && operands[0]?.kind === "target";
  for (const { operands } of machine.branches.filter(isCall)) {
    const [operand] = operands;
    if (operand?.kind !== "target") continue;
    const target = joinAddress(operand.address.lo, operand.address.hi) - machine.bias;
    if (isNew(target)) return target;
  }
  return undefined;
}

/** Judges detours; the facts about the original are gathered once. */
export class ForkDetours {
  /** What the code of the original tells of its system calls, and of what leads there. */
  private readonly known: SystemCalls;
  private readonly facts: ProgramFacts | undefined;
  private turn = 0;

  constructor(
    private readonly original: ElfImage,
    private readonly machine: Machine,
  ) {
    const own = findSystemCalls(original);
    this.facts = own.places.length === 0 ? undefined : gatherFacts(original, own.places);
    this.known = this.facts === undefined ? { calls: [], unclear: own.unclear } : numbersOf(own, this.facts);
  }

  /** What is wrong with a detour, or undefined. @param child the handler; undefined to let it run */
  judge(detour: ForkDetour, child: number | undefined): string | undefined {
    const { start, end } = detour.window;
    const known = this.known.calls.find((c) => c.at === detour.call);
    const entries = this.facts?.entries;
    if (known === undefined || entries === undefined) return "no system call is known there";
    const { code } = known;
    if (!code.offsets.subarray(0, code.count).includes(start - code.start)) return "it begins within an instruction";
    for (const entry of entries.within(vaddr(start + 1), end))
      return `${describeEntry(entry)}, inside the bytes that are others`;
    // A return address that is compared with labels around the call would be another.
    for (const entry of entries.within(vaddr(detour.call + 2), vaddr(detour.call + 3)))
      if (entry.branches === undefined) return `${describeEntry(entry)}, right behind the call`;
    const before = new Machine(this.original, (at) => at >= start && at < end);
    before.stopBefore = end;
    for (const number of known.numbers ?? [SYS_fork, SYS_clone, SYS_clone3, SYS_vfork, SYS_getpid, SYS_read])
      for (const flags of (number === SYS_clone ? known.firstArguments : undefined) ?? someFlags)
        for (const result of [0, 4711, -11]) {
          const problem = this.run(detour, before, number, flags, result, child);
          if (problem !== undefined) return `system call ${number}, flags ${hex(flags)}: ${problem}`;
        }
    return undefined;
  }

  private run(
    { window, target }: ForkDetour,
    before: Machine,
    number: number,
    flags: number,
    result: number,
    child: number | undefined,
  ): string | undefined {
    const { machine } = this;
    const { words } = stateOf(8500 + this.turn++, []);
    const sides = [
      { side: before, start: window.start as number },
      { side: machine, start: target },
    ];
    machine.stopAt = child ?? Number.NaN;
    const ends: Int32Array[] = [];
    let asked: Int32Array | undefined;
    for (const { side, start } of sides) {
      const { cpu, memory } = side;
      cpu.w.set(words);
      cpu.setGpr(Gpr.RAX, BigInt(number));
      cpu.setGpr(Gpr.RDI, BigInt(number === SYS_clone3 ? DATA + 64 : flags));
      side.call(start, cpu.w.slice(0, STATE_WORDS), 512 + 8 * (this.turn % 2), () => true);
      const bytes = Buffer.alloc(88);
      bytes.writeBigUInt64LE(BigInt(flags));
      memory.poke(runtimeAddress(DATA + 64), bytes);
      const end = side.run(LIMIT);
      if (end.kind !== "syscall") return `it ends with "${end.kind}"`;
      const now = cpu.w.slice(0, STATE_WORDS);
      // What the kernel is asked for; rcx and r11 are its own.
      if (asked === undefined) asked = now;
      else if (differ(asked, now, [Gpr.RCX, Gpr.R11])) return "the kernel is asked for something else";
      const rsp = cpu.gpr(Gpr.RSP);
      cpu.setGpr(Gpr.RAX, BigInt.asUintN(64, BigInt(result)));
      let stop = side.run(LIMIT);
      if (side === machine && child !== undefined) {
        const isCopy = result === 0 && copies(asked, flags);
        if (isCopy !== (machine.ip === child)) return isCopy ? "the handler does not run" : "the handler runs";
        if (isCopy) {
          if (cpu.gpr(Gpr.RSP) > rsp - BigInt(RED_ZONE + 8)) return "it writes to bytes below rsp";
          machine.returnFromHandler();
          stop = side.run(LIMIT);
        }
      }
      if (side.problems.length > 0) return side.problems[0];
      if (stop.kind !== "left" || side.ip !== window.end) return `it goes on at ${hex(side.ip)}`;
      ends.push(cpu.w.slice(0, STATE_WORDS));
      if (cpu.rflags !== (ends.length === 1 ? cpu.rflags : before.cpu.rflags)) return "the flags are not the same";
    }
    return differ(ends[0]!, ends[1]!, []) ? "registers are not the same behind it" : undefined;
  }
}

/** Whether a system call, as the kernel sees it, makes a child that has a copy of the memory. */
function copies(words: Int32Array, flags: number): boolean {
  const number = words[2 * Gpr.RAX]!;
  if (number === SYS_fork) return true;
  const given = number === SYS_clone ? words[2 * Gpr.RDI]! : flags;
  return (number === SYS_clone || number === SYS_clone3) && (given & CLONE_VM) === 0;
}

function differ(a: Int32Array, b: Int32Array, apart: readonly number[]): boolean {
  for (let r = 0; r < 16; r++)
    if (!apart.includes(r) && (a[2 * r] !== b[2 * r] || a[2 * r + 1] !== b[2 * r + 1])) return true;
  for (let i = XMM; i < XMM + 64; i++) if (a[i] !== b[i]) return true;
  return false;
}
