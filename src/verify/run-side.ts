/**
 * One side in the emulator: the file at its place in an address space, and runs from a state through a window, some way
 * into the code after it, with everything noted that anybody could see.
 *
 * Pages that no file has come into being with a content that follows from the state; after a run they are dropped, and
 * so is every page that was written.
 *
 * On the rewritten side a passed nop5 does what it does once it is traced: the bytes below rsp are overwritten.
 */
import { alignUp, PAGE_SIZE, type RuntimeAddress, runtimeAddress, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage } from "../elf/image.js";
import { type Block, BlockCache } from "../emulate/blocks.js";
import { Event } from "../emulate/core.js";
import { Cpu } from "../emulate/cpu.js";
import { Fault, Unimplemented } from "../emulate/fault.js";
import type { Instruction } from "../emulate/instruction.js";
import { biasOf, load } from "../emulate/load.js";
import { type MachineState, pageContent } from "../emulate/machine-states.js";
import { Perm } from "../emulate/memory.js";
import { addressOf } from "../emulate/operands.js";
import { Regions } from "../emulate/regions.js";
import { Gpr, IP, joinAddress, STATE_WORDS } from "../emulate/state.js";
import { iced } from "../x86/iced.js";

/** Below this nothing is mapped, as in a process. */
const LOWEST = 0x10000;
/** Runtime addresses of programs end here, with a page to spare. */
const HIGHEST = 2 ** 47 - PAGE_SIZE;

/** How many instructions that do something are run after the window: reads of what the probe destroyed show there. */
const BEHIND = 40;
/** A run that does not leave its window, or jumps that lead nowhere, after so many is given up. */
export const MOST_INSIDE = 600;
/** So is one that writes so often, or touches so many pages: a string instruction with a random length. */
const MOST_WRITES = 2000;
const MOST_PAGES = 200;
/**
 * What a traced nop5 may overwrite: 32 bytes as the kernel does it today, but what is promised is to keep off all 128.
 */
const RED_ZONE = 128;
const GARBAGE = new Uint8Array(RED_ZONE).fill(0xa5);

export interface Write {
  readonly address: number;
  readonly bytes: Uint8Array;
}

/** A conditional branch of a window, and whether it was taken. */
export interface BranchRun {
  readonly at: Vaddr;
  readonly taken: boolean;
}

export interface RunEnd {
  /** `behind`: far enough after the window, or elsewhere; `given up`: too long inside. */
  readonly kind: "behind" | "given up" | "fault" | "syscall" | "breakpoint" | "unimplemented";
  readonly detail: string;
}

export interface Run {
  readonly end: RunEnd;
  /** The link-time address of the next instruction. */
  readonly ip: Vaddr;
  readonly words: Int32Array;
  readonly rflags: number;
  readonly writes: readonly Write[];
  /** The last write is the return address of a call in new code: it is another one than the original's. */
  readonly callsFromNew: boolean;
  /** The notes whose probes were passed, in order. */
  readonly passed: readonly number[];
  /** Conditional branches in the window, in the order in which they ran. */
  readonly branches: readonly BranchRun[];
  /** Runtime addresses of memory operands, where they were asked for: in the window, and after it. */
  readonly operands: readonly number[];
  readonly operandsBehind: readonly number[];
  /** What ran in the window. */
  readonly inside: readonly Vaddr[];
  /** What ran after it. */
  readonly behind: readonly Vaddr[];
}

/** What a side has to know of its file. */
interface SideMap {
  /** Whether an address is in a window or in new code. */
  isInside(address: Vaddr): boolean;
  isNew(address: Vaddr): boolean;
  /** Whether the instruction there keeps a register below the red zone, for a universal probe's question. */
  isSave(address: Vaddr): boolean;
  readonly notesAt: ReadonlyMap<Vaddr, readonly number[]>;
  /** Probes that overwrite what lies below rsp once they are traced. */
  readonly destroys: ReadonlySet<Vaddr>;
}

export interface RunOptions {
  /** After how many instructions in the window, or after it, the run is given up. */
  readonly most?: number;
  /** Take down where memory operands are. */
  readonly withOperands?: boolean;
  /** No probe is traced: nothing below rsp is overwritten. */
  readonly untraced?: boolean;
}

export class SideRunner {
  readonly cpu = new Cpu();
  readonly bias: number;
  private readonly blocks: BlockCache;
  private readonly dirty = new Set<number>();
  private seed = 0;
  private untraced = false;
  private writes: Write[] = [];

  constructor(
    private readonly image: ElfImage,
    private readonly map: SideMap,
  ) {
    const { memory } = this.cpu;
    memory.onMiss = (page, access) => this.makePage(page, access === "execute");
    this.bias = biasOf(image);
    load(new Regions(memory), image, this.bias);
    this.blocks = new BlockCache(memory);
    const before = memory.onCodeWrite;
    memory.onCodeWrite = (page) => {
      before?.(page);
      this.blocks.forget(page);
    };
  }

  private makePage(page: RuntimeAddress, isExecuted: boolean): boolean {
    if (isExecuted || page < LOWEST || page >= HIGHEST) return false;
    if (this.dirty.size >= MOST_PAGES) throw new TooMuch();
    const { memory } = this.cpu;
    memory.map(page, PAGE_SIZE, Perm.RW);
    memory.poke(page, pageContent(this.seed, page));
    this.dirty.add(page);
    return true;
  }

  /** Runs from a link-time address of a window. */
  run(state: MachineState, start: Vaddr, options: RunOptions = {}): Run {
    const { most = MOST_INSIDE, withOperands = false, untraced = false } = options;
    this.untraced = untraced;
    const { cpu } = this;
    const { memory } = cpu;
    this.prepare(state, start);
    this.writes = [];
    memory.onWrite = (address, size) => {
      if (this.writes.length >= MOST_WRITES) throw new TooMuch();
      if (!this.map.isSave(vaddr(cpu.ip - this.bias))) this.writes.push({ address, bytes: memory.peek(address, size) });
      this.dirty.add(address - (address % PAGE_SIZE));
      const last = address + size - 1;
      this.dirty.add(last - (last % PAGE_SIZE));
    };
    const log = new RunLog(most);
    // A fault is an outcome here, and there are many: where it was thrown is of no use to anybody.
    const { stackTraceLimit } = Error;
    Error.stackTraceLimit = 0;
    let end: RunEnd;
    try {
      end = this.follow(log, withOperands);
    } catch (error) {
      end = endOf(error);
    } finally {
      memory.onWrite = null;
      Error.stackTraceLimit = stackTraceLimit;
    }
    const run: Run = {
      ...log.data(),
      end,
      ip: vaddr(cpu.ip - this.bias),
      words: cpu.w.slice(0, STATE_WORDS),
      rflags: cpu.rflags,
      writes: log.inOrder(this.writes),
      callsFromNew: log.callsFromNew,
    };
    this.cleanUp();
    return run;
  }

  /**
   * The file's bytes at a runtime address, or none. Whole pages are mapped: what stands around a segment is there too.
   */
  fileBytes(address: number, size: number): Uint8Array {
    const at = address - this.bias;
    const { bytes, programHeaders } = this.image;
    for (const { p_type, p_vaddr, p_filesz, p_offset } of programHeaders) {
      if (p_type !== elf.PT_LOAD || at < p_vaddr - (p_vaddr % PAGE_SIZE)) continue;
      if (at >= alignUp(p_vaddr + p_filesz, PAGE_SIZE)) continue;
      const offset = Math.max(0, at - p_vaddr + p_offset);
      return bytes.subarray(offset, offset + size);
    }
    return new Uint8Array(0);
  }

  private prepare(state: MachineState, start: Vaddr): void {
    const { cpu } = this;
    this.seed = state.seed;
    cpu.w.set(state.words);
    cpu.ip = start + this.bias;
    cpu.event = Event.None;
    for (const { address, lo, hi } of state.patches) {
      if (address < LOWEST || address >= HIGHEST) continue;
      const bytes = new Uint8Array(new Int32Array([lo, hi]).buffer);
      try {
        cpu.memory.poke(runtimeAddress(address), bytes);
        for (const at of [address, address + 7]) this.dirty.add(at - (at % PAGE_SIZE));
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
      }
    }
  }

  private cleanUp(): void {
    for (const page of this.dirty) this.cpu.memory.unmap(runtimeAddress(page), PAGE_SIZE);
    this.dirty.clear();
  }

  private follow(log: RunLog, withOperands: boolean): RunEnd {
    const { cpu } = this;
    for (;;) {
      const block = this.blocks.at(cpu.w[IP]!, cpu.w[IP + 1]!);
      const stop = this.runBlock(block, log, withOperands);
      if (stop !== undefined) return stop;
      if (cpu.event === Event.None) continue;
      return { kind: cpu.event === Event.Syscall ? "syscall" : "breakpoint", detail: "" };
    }
  }

  private runBlock(block: Block, log: RunLog, withOperands: boolean): RunEnd | undefined {
    const { cpu, map, bias } = this;
    const { instructions, steps } = block;
    for (let i = 0; i < instructions.length; i++) {
      const instruction = instructions[i]!;
      const { lo, hi } = instruction.at;
      const at = vaddr(joinAddress(lo, hi) - bias);
      // A fault, or the end of the run, finds rip here.
      cpu.w[IP] = lo;
      cpu.w[IP + 1] = hi;
      const isInside = map.isInside(at);
      const stop = log.enter(at, isInside, isSilent(instruction));
      if (stop !== undefined) return stop;
      this.pass(at, log);
      if (withOperands) log.noteOperands(cpu, instruction, isInside);
      steps[i]!(cpu);
      if (instruction.endsBlock && this.leaves(instruction, at, isInside, log)) return { kind: "behind", detail: "" };
      if (block.count === 0) {
        if (!instruction.endsBlock) cpu.ip = at + bias + instruction.length;
        return undefined;
      }
    }
    if (steps.length > instructions.length) steps[instructions.length]!(cpu);
    return undefined;
  }

  /** Passing a probe; a traced nop5 is a call, and so is what it does to the bytes below rsp. */
  private pass(at: Vaddr, log: RunLog): void {
    const { cpu, map } = this;
    const notes = map.notesAt.get(at);
    if (notes !== undefined) log.passed.push(...notes);
    if (this.untraced || !map.destroys.has(at)) return;
    const rsp = joinAddress(cpu.w[2 * Gpr.RSP]!, cpu.w[2 * Gpr.RSP + 1]!);
    const from = runtimeAddress(rsp - RED_ZONE);
    try {
      cpu.memory.poke(from, GARBAGE);
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      return;
    }
    this.dirty.add(from - (from % PAGE_SIZE));
    this.dirty.add(rsp - 1 - ((rsp - 1) % PAGE_SIZE));
  }

  /**
   * Takes down what a branch did. @returns whether it ends the run: a call, a return, a jump to wherever a pointer
   * says. Nothing below rsp is handed over there, so what the probe has destroyed may be read as well as anything else.
   */
  private leaves(instruction: Instruction, at: Vaddr, isInside: boolean, log: RunLog): boolean {
    const { cpu, map, bias } = this;
    const { mnemonic, operands } = instruction;
    const ip = vaddr(cpu.ip - bias);
    // One that is made early is in its place where the original calls, with the return address of there.
    if (mnemonic === Mnemonic.Call && map.isNew(at)) log.callsFromNew = true;
    if (operands[0]?.kind !== "target")
      return mnemonic === Mnemonic.Ret || mnemonic === Mnemonic.Jmp || mnemonic === Mnemonic.Call;
    if (isInside && isConditional(instruction)) log.branches.push({ at, taken: ip !== at + instruction.length });
    if (mnemonic === Mnemonic.Call) {
      if (!map.isNew(ip)) return true;
      // The call is made before its time: it is due where the new code goes on to what is called.
      log.early = this.writes.length - 1;
    } else if (log.early >= 0 && map.isNew(at) && !map.isNew(ip)) {
      log.late = this.writes.length;
      return true;
    }
    return false;
  }
}

const { Mnemonic } = iced;

/** Collects what a run shows. */
class RunLog {
  readonly passed: number[] = [];
  readonly branches: BranchRun[] = [];
  readonly operands: number[] = [];
  readonly operandsBehind: number[] = [];
  readonly inside: Vaddr[] = [];
  readonly behind: Vaddr[] = [];
  /**
   * Which write is the return address of a call that is made before its time, and before which write it was due; or -1.
   */
  early = -1;
  late = -1;
  callsFromNew = false;
  private counted = 0;

  constructor(private readonly most: number) {}

  enter(at: Vaddr, isInside: boolean, isSilent: boolean): RunEnd | undefined {
    if (isInside) {
      if (this.behind.length > 0) return { kind: "behind", detail: "" };
      if (this.inside.length >= this.most) return { kind: "given up", detail: "it stays in its window" };
      this.inside.push(at);
      return undefined;
    }
    if (!isSilent && this.counted++ >= BEHIND) return { kind: "behind", detail: "" };
    if (this.behind.length >= this.most) return { kind: "given up", detail: "jumps after the window lead nowhere" };
    this.behind.push(at);
    return undefined;
  }

  noteOperands(cpu: Cpu, { operands, mnemonic }: Instruction, isInside: boolean): void {
    if (mnemonic === Mnemonic.Lea || mnemonic === Mnemonic.Nop) return;
    const list = isInside ? this.operands : this.operandsBehind;
    for (const operand of operands) {
      if (operand.kind === "memory") {
        addressOf(operand)(cpu);
        list.push(joinAddress(cpu.addressLo, cpu.addressHi));
      } else if (operand.kind === "string") {
        const register = operand.pointer === "rsi" ? Gpr.RSI : Gpr.RDI;
        list.push(joinAddress(cpu.w[2 * register]!, cpu.w[2 * register + 1]!));
      }
    }
  }

  /** The writes, with the return address that was pushed early in its place; that is none if the run ended before. */
  inOrder(writes: readonly Write[]): readonly Write[] {
    if (this.early < 0) return writes;
    const rest = writes.filter((_, i) => i !== this.early);
    if (this.late < 0) return rest;
    return [...rest.slice(0, this.late - 1), writes[this.early]!, ...rest.slice(this.late - 1)];
  }

  data(): Pick<Run, "passed" | "branches" | "operands" | "operandsBehind" | "inside" | "behind"> {
    const { passed, branches, operands, operandsBehind, inside, behind } = this;
    return { passed, branches, operands, operandsBehind, inside, behind };
  }
}

/** Nops and direct jumps: both sides may pass different numbers of them. */
const isSilent = ({ mnemonic, operands }: Instruction): boolean =>
  mnemonic === Mnemonic.Nop || (mnemonic === Mnemonic.Jmp && operands[0]?.kind === "target");

const isConditional = ({ mnemonic, operands }: Instruction): boolean =>
  operands[0]?.kind === "target" && mnemonic !== Mnemonic.Jmp && mnemonic !== Mnemonic.Call;

/** One instruction that does more than is worth following. */
class TooMuch extends Error {}

function endOf(error: unknown): RunEnd {
  if (error instanceof TooMuch) return { kind: "given up", detail: "it touches too much memory" };
  if (error instanceof Unimplemented) return { kind: "unimplemented", detail: error.instruction };
  if (!(error instanceof Fault)) throw error;
  const where = error.address === null ? "" : ` at ${error.access} of 0x${error.address.toString(16)}`;
  return { kind: "fault", detail: `${error.kind}${where}` };
}
