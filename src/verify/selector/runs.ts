/**
 * A selector's code, run in the emulator from every start and with every vDSO: it ends where it should, with registers
 * and stack as they were, and the selector is 1 exactly where it may be.
 */
import { hex, PAGE_SIZE, pageStart, runtimeAddress, type Vaddr } from "../../address.js";
import type { ElfImage } from "../../elf/image.js";
import { Cpu } from "../../emulate/cpu.js";
import { LIMIT } from "../../emulate/fault.js";
import { biasOf, load } from "../../emulate/load.js";
import { stateOf } from "../../emulate/machine-states.js";
import { Perm } from "../../emulate/memory.js";
import { Regions } from "../../emulate/regions.js";
import { Gpr, Rflags } from "../../emulate/state.js";
import { type Block, calls, entries, RETURN, type Start, VDSO } from "./starts.js";
import { damagedOnes, kernels, NOT_SELECTED, SELECTED, type Vdso } from "./vdso.js";

export interface SelectorCode {
  readonly start: Vaddr;
  /** Where it goes on; undefined: it returns. */
  readonly next: Vaddr | undefined;
  readonly selector: Vaddr;
  readonly isEntry: boolean;
}

/** No start and no vDSO takes a tenth of that. */
const MOST_STEPS = 50_000;
/** How much of the stack it may use, in bytes. */
const MOST_STACK = 256;

/** Of a called function's: what it may lose (x86-64 psABI 3.2.1), but for the arguments, which are handed on. */
const LOST = new Set<number>([Gpr.RAX, Gpr.RCX, Gpr.R8, Gpr.R9, Gpr.R10, Gpr.R11]);

/** Registers that have to be what they were: of a program all, for nobody knows what it begins with. */
export const keptRegisters = (isEntry: boolean): readonly number[] =>
  Array.from({ length: 16 }, (_, i) => i).filter((register) => isEntry || !LOST.has(register));

export const nameOf = (register: number): string =>
  Object.entries(Gpr)
    .find(([, number]) => number === register)![0]
    .toLowerCase();

/** What is wrong with it, for people; undefined where nothing is. @throws InputError for a file that cannot be mapped */
export function runSelector(image: ElfImage, code: SelectorCode): string | undefined {
  const machine = new Machine(image, code);
  for (const [start, vdso] of cases(code.isEntry)) {
    const problem = machine.run(start, vdso);
    if (problem !== undefined) return `${problem} (${start.name}; ${vdso?.name ?? "no vDSO there"})`;
  }
  return undefined;
}

/** Every start with a few vDSOs, and every vDSO from a few starts. */
function* cases(isEntry: boolean): Generator<readonly [Start, Vdso]> {
  const starts = isEntry ? entries : calls;
  for (const start of starts) for (const vdso of [SELECTED, NOT_SELECTED]) yield [start, vdso];
  for (const vdso of [...kernels, ...damagedOnes]) yield [starts[0]!, vdso];
}

class Machine {
  private readonly cpu = new Cpu();
  private readonly bias: number;
  private readonly selector: number;
  private mapped: { address: number; size: number }[] = [];
  private problem: string | undefined;
  private turn = 0;

  constructor(
    image: ElfImage,
    private readonly code: SelectorCode,
  ) {
    this.bias = biasOf(image);
    load(new Regions(this.cpu.memory), image, this.bias);
    this.selector = code.selector + this.bias;
  }

  run(start: Start, vdso: Vdso): string | undefined {
    const { cpu } = this;
    const { memory } = cpu;
    memory.onWrite = null;
    this.prepare(start, vdso);
    cpu.w.set(stateOf(9001 + this.turn++, []).words);
    for (const [register, value] of start.registers) cpu.setGpr(register, value);
    cpu.setGpr(Gpr.RSP, BigInt(start.rsp));
    cpu.ip = this.code.start + this.bias;
    const before = Array.from({ length: 16 }, (_, i) => cpu.gpr(i));
    this.problem = undefined;
    memory.onWrite = (address, size) => this.look(start, address, size);
    const ended = this.go();
    memory.onWrite = null;
    return ended ?? this.problem ?? this.judge(start, vdso, before);
  }

  /** Memory as the start has it, and nothing of what was there before. */
  private prepare(start: Start, vdso: Vdso): void {
    const { memory } = this.cpu;
    for (const { address, size } of this.mapped) memory.unmap(runtimeAddress(address), size);
    this.mapped = [];
    for (const block of start.blocks) this.put(block, Perm.RW);
    this.below(start);
    this.put({ address: VDSO, bytes: vdso.bytes }, Perm.RX);
    memory.poke(runtimeAddress(this.selector), new Uint8Array(1));
  }

  private put({ address, bytes }: Block, permissions: number): void {
    const from = pageStart(address);
    const size = Math.ceil((address + bytes.length - from) / PAGE_SIZE) * PAGE_SIZE;
    this.map(from, size, permissions);
    this.cpu.memory.poke(runtimeAddress(address), bytes);
  }

  private map(address: number, size: number, permissions: number): void {
    this.cpu.memory.map(runtimeAddress(address), size, permissions);
    this.mapped.push({ address, size });
  }

  /** The page below rsp, where that is not the page of a block. */
  private below({ rsp, blocks }: Start): void {
    const page = pageStart(rsp - 1);
    if (blocks.every(({ address }) => pageStart(address) !== page)) this.map(page, PAGE_SIZE, Perm.RW);
  }

  private look({ rsp }: Start, address: number, size: number): void {
    const isOwn = address === this.selector && size === 1;
    const isStack = address + size <= rsp && address >= rsp - MOST_STACK;
    if (!isOwn && !isStack) this.problem ??= `it writes ${size} bytes to ${hex(address - this.bias)}`;
  }

  private go(): string | undefined {
    const { cpu, bias, code } = this;
    const end = code.next === undefined ? RETURN : code.next + bias;
    for (let steps = 0; steps < MOST_STEPS; steps++) {
      if (cpu.ip === end) return undefined;
      const outcome = cpu.step();
      if (outcome === LIMIT) continue;
      const where = outcome.kind === "fault" && outcome.address !== null ? ` at ${hex(outcome.address)}` : "";
      return `it ends with "${outcome.kind}"${where}, at ${hex(cpu.ip - bias)}`;
    }
    return "it does not end";
  }

  private judge(start: Start, vdso: Vdso, before: readonly bigint[]): string | undefined {
    const { cpu, code } = this;
    if (code.next === undefined) cpu.setGpr(Gpr.RSP, cpu.gpr(Gpr.RSP) - 8n);
    for (const register of keptRegisters(code.isEntry))
      if (cpu.gpr(register) !== before[register]) return `${nameOf(register)} is not what it was`;
    if ((cpu.rflags & Rflags.DF) !== 0) return "it leaves the direction flag set";
    const [set] = cpu.memory.peek(runtimeAddress(this.selector), 1);
    const wanted = start.isKnown === false ? 0 : vdso.selector;
    if (set === wanted || (start.isKnown === "maybe" && set === 0)) return undefined;
    return `the selector is ${set}, not ${wanted}`;
  }
}
