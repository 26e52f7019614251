/**
 * The rewritten file in an address space, as far as its new code needs one: its segments, the words that the loader
 * fills, and a stack. New code runs here by itself: whatever it goes on to elsewhere ends the run, and so do its system
 * calls.
 *
 * Taken down is what ran and what was read, so that bytes which do neither are found; and every access is held against
 * what new code has any business with.
 */
import {
  hex,
  interval,
  PAGE_SIZE,
  pageStart,
  type RuntimeAddress,
  runtimeAddress,
  type Vaddr,
  vaddr,
} from "../../address.js";
import type { ElfImage } from "../../elf/image.js";
import { type Block, BlockCache } from "../../emulate/blocks.js";
import { Event } from "../../emulate/core.js";
import { Cpu } from "../../emulate/cpu.js";
import { Fault, Unimplemented } from "../../emulate/fault.js";
import type { Instruction } from "../../emulate/instruction.js";
import { biasOf, load } from "../../emulate/load.js";
import { pageContent } from "../../emulate/machine-states.js";
import { Memory, Perm } from "../../emulate/memory.js";
import { Regions } from "../../emulate/regions.js";
import { Gpr, highWord, IP, joinAddress, lowWord, STATE_WORDS } from "../../emulate/state.js";
import type { Write } from "../run-side.js";

/** Memory that tells of reads. */
class WatchedMemory extends Memory {
  onRead: ((address: number, size: number) => void) | null = null;

  override read8(lo: number, hi: number): number {
    this.onRead?.(joinAddress(lo, hi), 1);
    return super.read8(lo, hi);
  }

  override read16(lo: number, hi: number): number {
    this.onRead?.(joinAddress(lo, hi), 2);
    return super.read16(lo, hi);
  }

  override read32(lo: number, hi: number): number {
    this.onRead?.(joinAddress(lo, hi), 4);
    return super.read32(lo, hi);
  }

  override read64(lo: number, hi: number): number {
    this.onRead?.(joinAddress(lo, hi), 8);
    return super.read64(lo, hi);
  }

  override read128(lo: number, hi: number): void {
    this.onRead?.(joinAddress(lo, hi), 16);
    super.read128(lo, hi);
  }
}

/** Runtime addresses of the stack. New code may use what lies below rsp; above it is the caller's. */
const STACK_TOP = 0x7ffc_2000_8000;
const STACK_SIZE = 8 * PAGE_SIZE;
/** How much of the stack new code may use, in bytes: a signal's stack may be small. */
export const MOST_STACK = 8192;
const ABOVE = 256;
/** What stands on the stack before a run: nothing may count on zeros there. */
const GARBAGE = new Uint8Array(STACK_SIZE).fill(0xa5);

/** Nothing is mapped here: where execution goes when new code returns, or calls what the loader has found elsewhere. */
export const RETURN = 0x7f10_0000_0000;
const ELSEWHERE = 0x7f20_0000_0000;

/** What the thread pointer leads to: its own address, and nothing else that is new code's business. */
export const THREAD = 0x7ffc_4000_0000;

/** Memory of the program, which hands on pointers to it. */
export const DATA = 0x7ffc_3000_0000;
const DATA_SIZE = PAGE_SIZE;
const isData = (address: number, size: number): boolean => address >= DATA && address + size <= DATA + DATA_SIZE;

export interface End {
  /** `left`: it went on somewhere that is no new code; see Machine.ip. */
  readonly kind: "left" | "syscall" | "breakpoint" | "fault" | "unimplemented" | "endless";
  readonly detail: string;
}

export class Machine {
  readonly memory = new WatchedMemory();
  readonly cpu = new Cpu(this.memory);
  readonly bias: number;
  /** What was wrong with accesses in this run. */
  readonly problems: string[] = [];
  private readonly blocks = new BlockCache(this.memory);
  private readonly ran = new Set<Block>();
  private readonly readParts = new Map<number, number>();
  private readonly elsewhere = new Map<string, number>();
  private mayRead: (address: number, size: number) => boolean = () => true;
  private mayWrite: (address: number, size: number) => boolean = () => false;
  /** Link-time addresses at which runs stop: handlers, where others call them. */
  stops: ReadonlySet<number> = new Set();
  /** A link-time address before which runs stop, in the midst of straight code. */
  stopBefore = Number.NaN;
  private rsp = 0;
  private lowest = 0;
  /** Everything that was written in this run, in order. */
  readonly writes: Write[] = [];
  /** Whose pages come into being where they are touched; undefined: nothing is where nothing is mapped. */
  private seed: number | undefined;
  private readonly made = new Set<RuntimeAddress>();
  /** What the loader has written. */
  private readonly filled = new Map<number, number>();

  /** @param isNew whether a link-time address is new code */
  constructor(
    readonly image: ElfImage,
    private readonly isNew: (address: number) => boolean,
  ) {
    this.memory.onMiss = (page, access) => access !== "execute" && this.makePage(page);
    const regions = new Regions(this.memory);
    this.bias = biasOf(image);
    load(regions, image, this.bias);
    regions.map(runtimeAddress(STACK_TOP - STACK_SIZE), STACK_SIZE, Perm.RW);
    regions.map(runtimeAddress(DATA), DATA_SIZE, Perm.RW);
    regions.map(runtimeAddress(THREAD), PAGE_SIZE, Perm.R);
    this.memory.poke(runtimeAddress(THREAD), word(THREAD));
    this.memory.onRead = (address, size) => this.noteRead(address, size);
  }

  /** The link-time address of the next instruction. */
  get ip(): number {
    return this.cpu.ip - this.bias;
  }

  /** The address of a function that the loader finds in a library: nothing can be run there. */
  functionElsewhere(name: string): number {
    let address = this.elsewhere.get(name);
    if (address === undefined) {
      address = ELSEWHERE + 16 * this.elsewhere.size;
      this.elsewhere.set(name, address);
    }
    return address;
  }

  nameElsewhere(address: number): string | undefined {
    return [...this.elsewhere].find(([, at]) => at === address)?.[0];
  }

  /** Writes a word, as the loader does for a relocation. @param address link-time address */
  fill(address: number, value: number): void {
    this.filled.set(address, value);
    this.memory.poke(runtimeAddress(address + this.bias), word(value));
  }

  /** The byte that a guard may ask whether it has anything to do, by its link-time address; undefined: there is none. */
  selector: Vaddr | undefined;

  /** What that byte holds from now on. */
  select(value: 0 | 1): void {
    const { memory } = this;
    const { onWrite } = memory;
    memory.onWrite = null;
    memory.poke(runtimeAddress(this.selector! + this.bias), Uint8Array.of(value));
    memory.onWrite = onWrite;
  }

  /**
   * Makes ready to run new code from a link-time address, called with a return address on the stack.
   * @param words registers and flags; rsp is set here
   * @param mayRead of memory that is neither stack nor new code, by link-time addresses
   * @param mayWrite of memory that is not the stack, likewise
   */
  call(
    start: number,
    words: Int32Array,
    below: number,
    mayRead: (address: number, size: number) => boolean,
    mayWrite: (address: number, size: number) => boolean = () => false,
  ): void {
    const { cpu, memory } = this;
    memory.onWrite = null;
    this.seed = undefined;
    this.writes.length = 0;
    memory.poke(runtimeAddress(STACK_TOP - STACK_SIZE), GARBAGE);
    this.rsp = STACK_TOP - ABOVE - below - 8;
    this.lowest = this.rsp;
    memory.poke(runtimeAddress(this.rsp), word(RETURN));
    cpu.w.set(words.subarray(0, STATE_WORDS));
    cpu.setGpr(Gpr.RSP, BigInt(this.rsp));
    cpu.ip = start + this.bias;
    cpu.event = Event.None;
    this.problems.length = 0;
    this.mayRead = mayRead;
    this.mayWrite = mayWrite;
    memory.onWrite = (address, size) => this.noteWrite(address, size);
  }

  /**
   * Makes ready for instructions of the program itself: registers may lead anywhere, and wherever that is there is
   * memory, with a content that follows from the seed. All that earlier runs wrote is gone.
   */
  callInProgram(start: number, words: Int32Array, below: number, seed: number): void {
    const { memory } = this;
    memory.onWrite = null;
    for (const page of this.made) memory.unmap(page, PAGE_SIZE);
    this.made.clear();
    // The file's own pages come back as the file has them.
    for (const { address, bytes } of this.writes)
      for (const at of [address, address + bytes.length - 1]) memory.unmap(runtimeAddress(pageStart(at)), PAGE_SIZE);
    for (const [address, value] of this.filled) memory.poke(runtimeAddress(address + this.bias), word(value));
    this.call(start, words, below, () => true);
    this.seed = seed;
  }

  private makePage(page: RuntimeAddress): boolean {
    if (this.seed === undefined || page < LOWEST || page >= HIGHEST || this.made.size >= MOST_PAGES) return false;
    this.memory.map(page, PAGE_SIZE, Perm.RW);
    this.memory.poke(page, pageContent(this.seed, page));
    this.made.add(page);
    return true;
  }

  /** Runs until new code asks for something, or goes elsewhere; call it again to go on. @param limit instructions */
  run(limit: number): End {
    const { cpu } = this;
    const { stackTraceLimit } = Error;
    Error.stackTraceLimit = 0;
    try {
      for (let count = 0; count < limit; ) {
        if (!this.isNew(this.ip) || this.stops.has(this.ip)) return { kind: "left", detail: "" };
        const block = this.blocks.at(cpu.w[IP]!, cpu.w[IP + 1]!);
        this.ran.add(block);
        const cut = Number.isNaN(this.stopBefore) ? -1 : this.indexIn(block);
        if (cut > 0) {
          for (const step of block.steps.slice(0, cut)) step(cpu);
          cpu.ip = this.stopBefore + this.bias;
          return { kind: "left", detail: "" };
        }
        for (const step of block.steps) step(cpu);
        count += block.instructions.length;
        if (cpu.event === Event.None) continue;
        const kind = cpu.event === Event.Syscall ? "syscall" : "breakpoint";
        cpu.event = Event.None;
        return { kind, detail: "" };
      }
    } catch (error) {
      if (error instanceof Unimplemented) return { kind: "unimplemented", detail: error.instruction };
      if (!(error instanceof Fault)) throw error;
      const where = error.address === null ? "" : `, ${error.access} at ${hex(error.address)}`;
      return { kind: "fault", detail: `${error.kind}${where}` };
    } finally {
      Error.stackTraceLimit = stackTraceLimit;
    }
    return { kind: "endless", detail: "" };
  }

  /** Which instruction of a block stands at `stopBefore`, or -1. */
  private indexIn({ instructions }: Block): number {
    return instructions.findIndex(({ at }) => joinAddress(at.lo, at.hi) - this.bias === this.stopBefore);
  }

  /** Returns from the child handler, which keeps everything. */
  returnFromHandler(): void {
    const { cpu, memory } = this;
    const rsp = Number(cpu.gpr(Gpr.RSP));
    cpu.ip = Number(Buffer.from(memory.peek(runtimeAddress(rsp), 8)).readBigUInt64LE(0));
    cpu.setGpr(Gpr.RSP, BigInt(rsp + 8));
  }

  /**
   * Whether new code came back to its caller: the return address taken off the stack, and the caller's part as it was.
   */
  get hasReturned(): boolean {
    return this.cpu.ip === RETURN && this.rspIs(8);
  }

  /** Whether rsp is so many bytes above where it was at the call. */
  rspIs(above: number): boolean {
    return this.cpu.gpr(Gpr.RSP) === BigInt(this.rsp + above);
  }

  /** The caller's part of the stack, and the return address, as they were. */
  get callersStackIsWhole(): boolean {
    const bytes = this.memory.peek(runtimeAddress(this.rsp), STACK_TOP - this.rsp);
    const above = bytes.subarray(8);
    return (
      Buffer.compare(bytes.subarray(0, 8), word(RETURN)) === 0 &&
      Buffer.compare(above, GARBAGE.subarray(0, above.length)) === 0
    );
  }

  /** Returns from a function that is elsewhere, as that leaves things: what it need not keep is lost. */
  returnFrom(result: number): void {
    const { cpu, memory } = this;
    const rsp = Number(cpu.gpr(Gpr.RSP));
    const back = Buffer.from(memory.peek(runtimeAddress(rsp), 8)).readBigUInt64LE(0);
    const { onWrite } = this;
    memory.onWrite = null;
    memory.poke(runtimeAddress(rsp - LOST), new Uint8Array(LOST + 8).fill(0x5a));
    memory.onWrite = onWrite;
    for (const register of NOT_KEPT) cpu.setGpr(register, 0x5a5a_5a5a_5a5a_5a00n + BigInt(register));
    cpu.w.fill(0x5a5a5a5a, XMM_START, XMM_START + 64);
    cpu.rflags = 0x8d5;
    cpu.setGpr(Gpr.RAX, BigInt(result));
    cpu.setGpr(Gpr.RSP, BigInt(rsp + 8));
    cpu.w[IP] = lowWord(Number(back));
    cpu.w[IP + 1] = highWord(Number(back));
  }

  private get onWrite(): (address: number, size: number) => void {
    return (address, size) => this.noteWrite(address, size);
  }

  /** Whether the kernel may write there: the part of the stack that new code has taken for itself. */
  isOnStack(address: number, size: number): boolean {
    return address >= Number(this.cpu.gpr(Gpr.RSP)) && address + size <= this.rsp;
  }

  /** Bytes that a function elsewhere is given to read, up to a NUL. They count as read. */
  text(address: number): string {
    const bytes: number[] = [];
    for (let at = address; bytes.length < 64; at++) {
      const [byte] = this.memory.peek(runtimeAddress(at), 1);
      this.noteRead(at, 1);
      if (byte === 0) break;
      bytes.push(byte!);
    }
    return Buffer.from(bytes).toString("latin1");
  }

  /** Bytes that the kernel is given to read. */
  given(address: number, size: number): Buffer {
    this.noteRead(address, size);
    return Buffer.from(this.memory.peek(runtimeAddress(address), size));
  }

  /** What ran, as link-time addresses. */
  get executed() {
    return [...this.ran].map(({ lo, hi, instructions }) => {
      const size = instructions.reduce((sum, i) => sum + i.length, 0);
      return interval(vaddr(joinAddress(lo, hi) - this.bias), size);
    });
  }

  /** What ran, from one link-time address to another. */
  instructions(start: number, end: number): Instruction[] {
    const isWithin = ({ at }: Instruction): boolean => {
      const address = joinAddress(at.lo, at.hi) - this.bias;
      return address >= start && address < end;
    };
    return [...this.ran].flatMap((block) => block.instructions.filter(isWithin));
  }

  /** The branches at which blocks that ran ended. */
  get branches(): Instruction[] {
    return [...this.ran].map((block) => block.instructions.at(-1)!);
  }

  /** What was read in new code, as link-time addresses. */
  get read() {
    return [...this.readParts].map(([start, size]) => interval(vaddr(start), size));
  }

  private noteRead(address: number, size: number): void {
    if (address >= STACK_TOP - STACK_SIZE && address < STACK_TOP) {
      if (address > this.rsp) this.wrong(`it reads its caller's stack at rsp + ${address - this.rsp}`);
      return;
    }
    if (isData(address, size) || (address === THREAD && size === 8)) return;
    const at = address - this.bias;
    if (this.mayRead(at, size)) return;
    if (this.isNew(at) && this.isNew(at + size - 1)) {
      if ((this.readParts.get(at) ?? 0) < size) this.readParts.set(at, size);
      return;
    }
    this.wrong(`it reads ${size} bytes at ${hex(at)}`);
  }

  private noteWrite(address: number, size: number): void {
    this.writes.push({ address, bytes: this.memory.peek(runtimeAddress(address), size) });
    if (isData(address, size) || this.mayWrite(address - this.bias, size)) return;
    if (address + size > this.rsp || address < this.rsp - MOST_STACK)
      this.wrong(`it writes to ${hex(address)}, which is not below its stack pointer`);
    if (address < this.lowest) this.lowest = address;
  }

  private wrong(what: string): void {
    if (this.problems.length < MOST_PROBLEMS) this.problems.push(what);
  }
}

/**
 * What `judge` says; or that somebody is given an address where nothing is: the kernel to read from, a function to
 * return to, the loader to write to.
 */
export function unlessAbsent<T>(judge: () => T): T | string {
  try {
    return judge();
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    return `nothing is at ${hex(error.address ?? 0)}, where something is to be read or written`;
  }
}

const MOST_PROBLEMS = 4;
/** Where the program has memory: not in the lowest pages, nor above its half of the address space. */
const LOWEST = 0x10000;
const HIGHEST = 2 ** 47 - PAGE_SIZE;
const MOST_PAGES = 64;
/** Bytes below rsp that a function may use, as far as it matters here. */
const LOST = 256;
const XMM_START = 48;
/** What a called function need not keep (x86-64 psABI 3.2.1). */
const NOT_KEPT = [Gpr.RAX, Gpr.RCX, Gpr.RDX, Gpr.RSI, Gpr.RDI, Gpr.R8, Gpr.R9, Gpr.R10, Gpr.R11];

function word(value: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}
