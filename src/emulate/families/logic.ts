/**
 * Bitwise logic: and, or, xor, not, test. CF and OF are cleared; AF, which the manual leaves undefined, is cleared too.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import { type Compile, type Family, getOf, putBackOf, sizeOf, updateOf } from "../operands.js";
import { FA, FC, FO, FP, FS, FZ } from "../state.js";
import { type Alu, type AluBySize, binary, comparison } from "./arithmetic.js";

/** Flags of a result of up to 32 bits: `top` has the operand's sign in bit 31 and nothing but the operand's bits. */
function setLogicFlags({ w }: Core, top: number, low: number): void {
  w[FZ] = top;
  w[FS] = top;
  w[FP] = low;
  w[FC] = 0;
  w[FO] = 0;
  w[FA] = 0;
}

function setLogicFlags64({ w }: Core, lo: number, hi: number): void {
  w[FZ] = lo | hi;
  w[FS] = hi;
  w[FP] = lo;
  w[FC] = 0;
  w[FO] = 0;
  w[FA] = 0;
}

const andShifted =
  (shift: number): Alu =>
  (cpu, a, _aHi, b) => {
    const result = a & b;
    setLogicFlags(cpu, result << shift, result);
    return result;
  };

const orShifted =
  (shift: number): Alu =>
  (cpu, a, _aHi, b) => {
    const result = a | b;
    setLogicFlags(cpu, result << shift, result);
    return result;
  };

const xorShifted =
  (shift: number): Alu =>
  (cpu, a, _aHi, b) => {
    const result = a ^ b;
    setLogicFlags(cpu, result << shift, result);
    return result;
  };

const and: AluBySize = {
  1: andShifted(24),
  2: andShifted(16),
  4: andShifted(0),
  8: (cpu, a, aHi, b, bHi) => {
    const lo = a & b;
    const hi = aHi & bHi;
    setLogicFlags64(cpu, lo, hi);
    cpu.hi = hi;
    return lo;
  },
};

const or: AluBySize = {
  1: orShifted(24),
  2: orShifted(16),
  4: orShifted(0),
  8: (cpu, a, aHi, b, bHi) => {
    const lo = a | b;
    const hi = aHi | bHi;
    setLogicFlags64(cpu, lo, hi);
    cpu.hi = hi;
    return lo;
  },
};

const xor: AluBySize = {
  1: xorShifted(24),
  2: xorShifted(16),
  4: xorShifted(0),
  8: (cpu, a, aHi, b, bHi) => {
    const lo = a ^ b;
    const hi = aHi ^ bHi;
    setLogicFlags64(cpu, lo, hi);
    cpu.hi = hi;
    return lo;
  },
};

/** not changes no flag. */
const not: Compile = ({ operands }) => {
  const operand = operands[0]!;
  sizeOf(operand);
  const get = updateOf(operand);
  const put = putBackOf(operand);
  return (cpu) => {
    const lo = get(cpu);
    put(cpu, ~lo, ~cpu.hi);
  };
};

/** xor of a 32- or 64-bit register with itself, the usual way to write zero. */
const xorOf: Compile = (instruction) => {
  const [a, b] = instruction.operands;
  if (a?.kind !== "gpr" || b?.kind !== "gpr" || a.index !== b.index || a.size < 4) return binary(instruction, xor);
  const d = 2 * a.index;
  return (cpu) => {
    cpu.w[d] = 0;
    cpu.w[d + 1] = 0;
    setLogicFlags64(cpu, 0, 0);
  };
};

/** test of a register with itself, the usual way to compare with zero. */
const test: Compile = (instruction) => {
  const [a, b] = instruction.operands;
  if (a?.kind !== "gpr" || b?.kind !== "gpr" || a.index !== b.index || a.size < 4) return comparison(instruction, and);
  const s = 2 * a.index;
  if (a.size === 8) return (cpu) => setLogicFlags64(cpu, cpu.w[s]!, cpu.w[s + 1]!);
  const get = getOf(a);
  return (cpu) => {
    const value = get(cpu);
    setLogicFlags(cpu, value, value);
  };
};

const { Mnemonic } = iced;

export const logic: Family = new Map<number, Compile>([
  [Mnemonic.And, (i) => binary(i, and)],
  [Mnemonic.Or, (i) => binary(i, or)],
  [Mnemonic.Xor, xorOf],
  [Mnemonic.Test, test],
  [Mnemonic.Not, not],
]);
