/**
 * System calls that may fork and lead through new code: the program's own, in static programs mostly.
 *
 *     original     [some instructions] syscall [some more]      in the bytes that a jump of five bytes takes
 *     rewritten    jmp new; int3 ...
 *
 * Both run from the same states, for every number that forks and some that do not, with and without CLONE_VM, as far as
 * the code before it does not say which, and with what the kernel may answer: they ask the kernel for the same, write
 * the same to memory, and go on after those bytes with the same registers and flags. The handler runs where the call
 * was one that copies the memory, and in the child alone.
 *
 * The program's own instructions in the window follow registers to memory: wherever those lead, something is there.
 * From some states they fault all the same, as a quotient may not fit: both do then, and from another state they have
 * to come to an end.
 */
import { hex, type Interval, PAGE_SIZE, runtimeAddress, type Vaddr, vaddr } from "../../address.js";
import type { ElfImage } from "../../elf/image.js";
import { decodeInstructions, type Instruction } from "../../emulate/instruction.js";
import { stateOf } from "../../emulate/machine-states.js";
import { Gpr, joinAddress, STATE_WORDS, XMM } from "../../emulate/state.js";
import { describeEntry } from "../../facts/entries.js";
import type { FileFacts } from "../../facts/file-facts.js";
import { gatherFacts, type ProgramFacts } from "../../facts/program.js";
import { findSystemCalls, numbersOf, type SystemCalls } from "../../facts/system-calls.js";
import { codeFrom } from "../../usdt/sites.js";
import { iced } from "../../x86/iced.js";
import type { Write } from "../run-side.js";
import { DATA, type End, Machine, MOST_STACK } from "./machine.js";

const JUMP_SIZE = 5;
const MOST_BYTES = 64;
const INT3 = 0xcc;
const LIMIT = 4000;
/** Numbers by which registers are told apart; there may be memory. */
const MARK = 0x6100_1000_0000n;
/** So many states are tried until one does not fault. */
const MOST_TRIES = 16;
const RED_ZONE = 128;
const [SYS_read, SYS_getpid, SYS_clone, SYS_fork, SYS_vfork, SYS_clone3] = [0, 39, 56, 57, 58, 435];
const CLONE_VM = 0x100;
const someFlags = [0x11, CLONE_VM | 0x11, 0x0120_0011, 0x4100];
const { Mnemonic } = iced;

export interface ForkDetour {
  /** The bytes of the original that are others: whole instructions. */
  readonly window: Interval<Vaddr>;
  /** Where its system call stands. */
  readonly call: Vaddr;
  /** New code that stands for them. */
  readonly target: number;
}

/** The detours among the changed bytes of a file. */
export function findForkDetours(
  original: ElfImage,
  rewritten: ElfImage,
  changed: readonly Interval<Vaddr>[],
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
  private readonly original: ElfImage;
  private turn = 0;

  constructor(
    original: FileFacts,
    private readonly machine: Machine,
  ) {
    this.original = original.image;
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
      if (entry.branches === undefined) return `${describeEntry(entry)}, right after the call`;
    const before = new Machine(this.original, (at) => at >= start && at < end);
    before.stopBefore = end;
    const carriers = this.carriers(detour, before);
    for (const number of known.numbers ?? [SYS_fork, SYS_clone, SYS_clone3, SYS_vfork, SYS_getpid, SYS_read])
      for (const flags of (number === SYS_clone ? known.firstArguments : undefined) ?? someFlags)
        for (const result of [0, 4711, -11]) {
          const problem = this.runSome(detour, before, { ...carriers, number, flags, result }, child);
          if (problem !== undefined) return `system call ${number}, flags ${hex(flags)}: ${problem}`;
        }
    return undefined;
  }

  /**
   * In which registers the number and the flags come to the window: instructions of it may move them to their place.
   */
  private carriers({ window }: ForkDetour, before: Machine): Pick<Asked, "numberIn" | "flagsIn"> {
    const { cpu } = before;
    const seed = 8400 + this.turn++;
    cpu.w.set(stateOf(seed, []).words);
    const marks = Object.values(Gpr).map((register) => ({ register, mark: MARK + BigInt(PAGE_SIZE * register) }));
    for (const { register, mark } of marks) cpu.setGpr(register, mark);
    before.callInProgram(window.start, cpu.w.slice(0, STATE_WORDS), 512, seed);
    const isAsked = before.run(LIMIT).kind === "syscall";
    const carrierOf = (wanted: number): number => {
      const found = marks.find(({ mark }) => BigInt.asIntN(32, mark) === BigInt(cpu.w[2 * wanted]!));
      return isAsked && found !== undefined && found.register !== Gpr.RSP ? found.register : wanted;
    };
    return { numberIn: carrierOf(Gpr.RAX), flagsIn: carrierOf(Gpr.RDI) };
  }

  /** Runs from one state after another until both come to an end. */
  private runSome(detour: ForkDetour, before: Machine, asked: Asked, child: number | undefined): string | undefined {
    let isRun = false;
    for (let tries = 0; tries < MOST_TRIES && !isRun; tries++) {
      const outcome = this.run(detour, before, asked, child);
      if (typeof outcome === "string") return outcome;
      isRun = outcome.isWhole;
    }
    return isRun ? undefined : "it never comes to its end";
  }

  /** One run of both from one state. @returns what is not the same, or whether both came to their end */
  private run(
    { window, target }: ForkDetour,
    before: Machine,
    { numberIn, flagsIn, number, flags, result }: Asked,
    child: number | undefined,
  ): string | { readonly isWhole: boolean } {
    const { machine } = this;
    const seed = 8500 + this.turn++;
    const { words } = stateOf(seed, []);
    machine.stops = new Set(child === undefined ? [] : [child]);
    const ends = [before, machine].map((side): RunEnd | string => {
      const { cpu, memory } = side;
      cpu.w.set(words);
      cpu.setGpr(numberIn, BigInt(number));
      cpu.setGpr(flagsIn, BigInt(number === SYS_clone3 ? DATA + 64 : flags));
      const start = side === before ? window.start : target;
      side.callInProgram(start, cpu.w.slice(0, STATE_WORDS), 512 + 8 * (this.turn % 2), seed);
      const bytes = Buffer.alloc(88);
      bytes.writeBigUInt64LE(BigInt(flags));
      memory.poke(runtimeAddress(DATA + 64), bytes);
      const first = side.run(LIMIT);
      if (first.kind === "fault") return endOf(side, undefined, first);
      if (first.kind !== "syscall") return `it ends with "${first.kind}"`;
      const asked = cpu.w.slice(0, STATE_WORDS);
      const rsp = cpu.gpr(Gpr.RSP);
      cpu.setGpr(Gpr.RAX, BigInt.asUintN(64, BigInt(result)));
      let stop = side.run(LIMIT);
      if (side === machine && child !== undefined) {
        const isCopy = result === 0 && copies(asked, flags);
        if (isCopy !== (machine.ip === child)) return isCopy ? "the handler does not run" : "the handler runs";
        if (isCopy) {
          const below = cpu.gpr(Gpr.RSP);
          if (below > rsp - BigInt(RED_ZONE + 8)) return "it writes to bytes below rsp";
          // The handler's return address lies where nothing is anybody's, also where the window moves rsp afterwards.
          if (machine.writes.at(-1)?.address === Number(below)) machine.writes.pop();
          machine.returnFromHandler();
          stop = side.run(LIMIT);
        }
      }
      if (stop.kind !== "fault" && (stop.kind !== "left" || side.ip !== window.end))
        return `it goes on at ${hex(side.ip)}`;
      return endOf(side, asked, stop);
    });
    const [a, b] = ends as [RunEnd | string, RunEnd | string];
    if (typeof b === "string") return b;
    if (typeof a === "string") return a;
    return differenceOf(a, b) ?? { isWhole: a.fault === undefined };
  }
}

/** What is asked of the kernel, as far as the code before the window does not say, and what it answers. */
interface Asked {
  readonly numberIn: number;
  readonly flagsIn: number;
  readonly number: number;
  readonly flags: number;
  readonly result: number;
}

/** How a run of one side ended. */
interface RunEnd {
  /** Registers as the kernel saw them; undefined where it was asked for nothing. */
  readonly asked: Int32Array | undefined;
  readonly words: Int32Array;
  readonly rflags: number;
  readonly writes: readonly Write[];
  /** What was wrong with accesses: the program's own instructions may do what new code may not. */
  readonly problems: readonly string[];
  readonly fault: string | undefined;
}

function endOf({ cpu, writes, problems }: Machine, asked: Int32Array | undefined, stop: End): RunEnd {
  // What lies below the red zone is nobody's.
  const lowest = Number(cpu.gpr(Gpr.RSP)) - RED_ZONE;
  return {
    asked,
    words: cpu.w.slice(0, STATE_WORDS),
    rflags: cpu.rflags,
    writes: writes.filter(({ address }) => address >= lowest || address < lowest - MOST_STACK),
    problems: [...problems],
    fault: stop.kind === "fault" ? stop.detail : undefined,
  };
}

function differenceOf(a: RunEnd, b: RunEnd): string | undefined {
  if (a.fault !== b.fault) return `it ends with "${b.fault ?? "no fault"}", not with "${a.fault ?? "no fault"}"`;
  if ((a.asked === undefined) !== (b.asked === undefined)) return "the kernel is asked in one of them";
  // rcx and r11 are the kernel's own.
  if (a.asked !== undefined && differ(a.asked, b.asked!, [Gpr.RCX, Gpr.R11]))
    return "the kernel is asked for something else";
  const problem = b.problems.find((p) => !a.problems.includes(p));
  if (problem !== undefined) return problem;
  const isSame = ({ address, bytes }: Write, other: Write | undefined): boolean =>
    other !== undefined && address === other.address && Buffer.compare(bytes, other.bytes) === 0;
  if (a.writes.length !== b.writes.length || !a.writes.every((write, i) => isSame(write, b.writes[i])))
    return "what is written to memory is not the same";
  if (a.rflags !== b.rflags) return "the flags are not the same";
  return differ(a.words, b.words, []) ? "registers are not the same" : undefined;
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
