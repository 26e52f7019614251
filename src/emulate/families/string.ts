/**
 * Strings: movs, stos, lods, scas, cmps, of bytes to quadwords, alone or repeated, in both directions; and xlat.
 *
 * A repeated instruction moves rsi, rdi and rcx with each element. So where an element faults, they say how far it
 * came, as on the hardware, and running the instruction again goes on from there: the one case where a fault leaves a
 * state that has changed. Upwards, movs and stos go by stretches of a page (memory.ts) where nobody has to be told of a
 * write.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import type { Instruction, Operand } from "../instruction.js";
import {
  addressOf,
  type Compile,
  type Family,
  getOf,
  memoryReaderAtAddress,
  memoryWriterAtAddress,
  putOf,
  type Step,
} from "../operands.js";
import { DF, FZ, Gpr } from "../state.js";
import { sub } from "./arithmetic.js";

const { Mnemonic } = iced;
const RAX = 2 * Gpr.RAX;
const RCX = 2 * Gpr.RCX;
const RSI = 2 * Gpr.RSI;
const RDI = 2 * Gpr.RDI;

type Size = 1 | 2 | 4 | 8;
/** No stretch is longer than a page. */
const LONGEST_STRETCH = 4096;

/** Where an element is: the register, and how addresses are made of it. */
interface Pointer {
  readonly register: number;
  readonly segment: number;
  /** Addresses and rcx have 32 bits. */
  readonly narrow: boolean;
}

function pointerOf(operand: Operand | undefined): Pointer | undefined {
  if (operand?.kind !== "string") return undefined;
  const { pointer, segment, addressSize } = operand;
  return { register: pointer === "rsi" ? RSI : RDI, segment, narrow: addressSize === 4 };
}

/** Leaves the address in `cpu.addressLo`, `cpu.addressHi`. */
function point(cpu: Core, { register, segment, narrow }: Pointer): void {
  const { w } = cpu;
  let lo = w[register]!;
  let hi = narrow ? 0 : w[register + 1]!;
  if (segment >= 0) {
    const base = w[segment]!;
    lo = (lo + base) | 0;
    hi = (hi + w[segment + 1]! + (lo >>> 0 < base >>> 0 ? 1 : 0)) | 0;
  }
  cpu.addressLo = lo;
  cpu.addressHi = hi;
}

/** Moves a pointer by some bytes, up or down. */
function advance(w: Int32Array, { register, narrow }: Pointer, bytes: number): void {
  const old = w[register]!;
  const lo = (old + bytes) | 0;
  if (narrow) w[register + 1] = 0;
  else if (bytes >= 0) w[register + 1] = w[register + 1]! + (lo >>> 0 < old >>> 0 ? 1 : 0);
  else w[register + 1] = w[register + 1]! - (lo >>> 0 > old >>> 0 ? 1 : 0);
  w[register] = lo;
}

const isCounted = (w: Int32Array, narrow: boolean): boolean => (narrow ? w[RCX]! : w[RCX]! | w[RCX + 1]!) !== 0;

function countDown(w: Int32Array, narrow: boolean, by: number): void {
  const old = w[RCX]!;
  w[RCX] = (old - by) | 0;
  if (narrow) w[RCX + 1] = 0;
  else if (old >>> 0 < by) w[RCX + 1] = (w[RCX + 1]! - 1) | 0;
}

/** How many bytes a repeated instruction has left, as far as one stretch may go. */
function bytesLeft(w: Int32Array, narrow: boolean, size: number): number {
  const count = w[RCX]! >>> 0;
  return count > LONGEST_STRETCH || (!narrow && w[RCX + 1] !== 0) ? LONGEST_STRETCH : count * size;
}

/** The element's step, repeated while rcx lasts. */
function repeated(narrow: boolean, element: Step): Step {
  return (cpu) => {
    const { w } = cpu;
    while (isCounted(w, narrow)) {
      element(cpu);
      countDown(w, narrow, 1);
    }
  };
}

/** For scas and cmps: until ZF is what the prefix asks for. */
function repeatedWhile(narrow: boolean, equal: boolean, element: Step): Step {
  return (cpu) => {
    const { w } = cpu;
    while (isCounted(w, narrow)) {
      element(cpu);
      countDown(w, narrow, 1);
      if ((w[FZ] === 0) !== equal) return;
    }
  };
}

const movs =
  (size: Size): Compile =>
  ({ operands, rep, repne }) => {
    const to = pointerOf(operands[0]);
    const from = pointerOf(operands[1]);
    if (to === undefined || from === undefined) return undefined;
    const read = memoryReaderAtAddress(size);
    const write = memoryWriterAtAddress(size);
    const element: Step = (cpu) => {
      const { w } = cpu;
      point(cpu, from);
      const lo = read(cpu);
      const hi = cpu.hi;
      point(cpu, to);
      write(cpu, lo, hi);
      const by = w[DF] === 0 ? size : -size;
      advance(w, from, by);
      advance(w, to, by);
    };
    if (!rep && !repne) return element;
    const { narrow } = to;
    return (cpu) => {
      const { w, memory } = cpu;
      while (isCounted(w, narrow)) {
        if (w[DF] === 0) {
          point(cpu, from);
          const fromLo = cpu.addressLo;
          const fromHi = cpu.addressHi;
          point(cpu, to);
          const most = bytesLeft(w, narrow, size);
          const done = memory.copyStretch(cpu.addressLo, cpu.addressHi, fromLo, fromHi, most, size);
          if (done > 0) {
            advance(w, from, done);
            advance(w, to, done);
            countDown(w, narrow, done / size);
            continue;
          }
        }
        element(cpu);
        countDown(w, narrow, 1);
      }
    };
  };

const stos =
  (size: Size): Compile =>
  ({ operands, rep, repne }) => {
    const to = pointerOf(operands[0]);
    if (to === undefined) return undefined;
    const write = memoryWriterAtAddress(size);
    const element: Step = (cpu) => {
      const { w } = cpu;
      point(cpu, to);
      write(cpu, w[RAX]!, w[RAX + 1]!);
      advance(w, to, w[DF] === 0 ? size : -size);
    };
    if (!rep && !repne) return element;
    const { narrow } = to;
    return (cpu) => {
      const { w, memory } = cpu;
      while (isCounted(w, narrow)) {
        // The first element tells whether the place can be written; the stretch is what follows.
        element(cpu);
        countDown(w, narrow, 1);
        if (w[DF] !== 0 || !isCounted(w, narrow)) continue;
        point(cpu, to);
        const done = memory.repeatStretch(cpu.addressLo, cpu.addressHi, bytesLeft(w, narrow, size), size);
        if (done === 0) continue;
        advance(w, to, done);
        countDown(w, narrow, done / size);
      }
    };
  };

const lods =
  (size: Size): Compile =>
  ({ operands, rep, repne }) => {
    const from = pointerOf(operands[1]);
    if (from === undefined) return undefined;
    const read = memoryReaderAtAddress(size);
    const put = putOf(operands[0]!);
    const element: Step = (cpu) => {
      const { w } = cpu;
      point(cpu, from);
      const lo = read(cpu);
      put(cpu, lo, cpu.hi);
      advance(w, from, w[DF] === 0 ? size : -size);
    };
    return rep || repne ? repeated(from.narrow, element) : element;
  };

/** With the prefix of scas and cmps, if any. */
const comparing = ({ rep, repne }: Instruction, narrow: boolean, element: Step): Step =>
  rep || repne ? repeatedWhile(narrow, !repne, element) : element;

const scas =
  (size: Size): Compile =>
  (instruction) => {
    const { operands } = instruction;
    const to = pointerOf(operands[1]);
    if (to === undefined) return undefined;
    const alu = sub[size];
    const getA = getOf(operands[0]!);
    const read = memoryReaderAtAddress(size);
    return comparing(instruction, to.narrow, (cpu) => {
      const { w } = cpu;
      point(cpu, to);
      const b = read(cpu);
      const bHi = cpu.hi;
      const a = getA(cpu);
      alu(cpu, a, cpu.hi, b, bHi);
      advance(w, to, w[DF] === 0 ? size : -size);
    });
  };

const cmps =
  (size: Size): Compile =>
  (instruction) => {
    const from = pointerOf(instruction.operands[0]);
    const to = pointerOf(instruction.operands[1]);
    if (to === undefined || from === undefined) return undefined;
    const alu = sub[size];
    const read = memoryReaderAtAddress(size);
    return comparing(instruction, to.narrow, (cpu) => {
      const { w } = cpu;
      point(cpu, from);
      const a = read(cpu);
      const aHi = cpu.hi;
      point(cpu, to);
      const b = read(cpu);
      alu(cpu, a, aHi, b, cpu.hi);
      const by = w[DF] === 0 ? size : -size;
      advance(w, from, by);
      advance(w, to, by);
    });
  };

/** xlat: al becomes the byte at rbx + al. */
const xlat: Compile = ({ operands }) => {
  const [table] = operands;
  // A cut address is cut after al has been added.
  if (table?.kind !== "memory" || table.addressSize === 4) return undefined;
  const address = addressOf({ ...table, index: -1, scale: 1 });
  return (cpu) => {
    const base = address(cpu);
    const lo = (base + cpu.b[0]!) | 0;
    const hi = (cpu.addressHi + (lo >>> 0 < base >>> 0 ? 1 : 0)) | 0;
    cpu.b[0] = cpu.memory.read8(lo, hi);
  };
};

export const string: Family = new Map<number, Compile>([
  [Mnemonic.Movsb, movs(1)],
  [Mnemonic.Movsw, movs(2)],
  [Mnemonic.Movsd, movs(4)],
  [Mnemonic.Movsq, movs(8)],
  [Mnemonic.Stosb, stos(1)],
  [Mnemonic.Stosw, stos(2)],
  [Mnemonic.Stosd, stos(4)],
  [Mnemonic.Stosq, stos(8)],
  [Mnemonic.Lodsb, lods(1)],
  [Mnemonic.Lodsw, lods(2)],
  [Mnemonic.Lodsd, lods(4)],
  [Mnemonic.Lodsq, lods(8)],
  [Mnemonic.Scasb, scas(1)],
  [Mnemonic.Scasw, scas(2)],
  [Mnemonic.Scasd, scas(4)],
  [Mnemonic.Scasq, scas(8)],
  [Mnemonic.Cmpsb, cmps(1)],
  [Mnemonic.Cmpsw, cmps(2)],
  [Mnemonic.Cmpsd, cmps(4)],
  [Mnemonic.Cmpsq, cmps(8)],
  [Mnemonic.Xlatb, xlat],
]);
