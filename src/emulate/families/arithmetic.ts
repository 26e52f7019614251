/**
 * Integer addition and subtraction: add, adc, sub, sbb, cmp, inc, dec, neg (Intel SDM vol. 2; flags in vol. 1,
 * 3.4.3.1).
 *
 * 8- and 16-bit operands are shifted up to the top of the word first: then the carry out of bit 31 and the sign are
 * those of the operand, as they are for 32 bits. The carry out of a sum of a and b is the top bit of (a & b) | ((a | b)
 * & ~sum); the borrow of a difference is that of (~a & b) | ((~a | b) & difference). So CF comes without comparing,
 * carry-in or not.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import { fusedBinary, fusedComparison } from "../fused.js";
import type { Instruction } from "../instruction.js";
import { type Compile, type Family, getOf, putBackOf, type Step, sizeOf, updateOf } from "../operands.js";
import { FA, FC, FO, FP, FS, FZ } from "../state.js";

/** Computes, sets flags, returns the low word of the result; the high one is in `cpu.hi`. */
export type Alu = (cpu: Core, a: number, aHi: number, b: number, bHi: number) => number;

/** The four widths of an operation, by size in bytes. */
export type AluBySize = Readonly<Record<1 | 2 | 4 | 8, Alu>>;

function setFlags(cpu: Core, result: number, carry: number, overflow: number, adjust: number, parity: number): void {
  const w = cpu.w;
  w[FZ] = result;
  w[FS] = result;
  w[FP] = parity;
  w[FC] = carry;
  w[FO] = overflow;
  w[FA] = adjust;
}

const addNarrow =
  (shift: 16 | 24, carries: boolean): Alu =>
  (cpu, aLow, _aHi, bLow) => {
    const a = aLow << shift;
    const b = bLow << shift;
    const carryIn = carries ? cpu.w[FC]! << shift : 0;
    const sum = (a + b + carryIn) | 0;
    const carry = ((a & b) | ((a | b) & ~sum)) >>> 31;
    setFlags(cpu, sum, carry, (a ^ sum) & (b ^ sum), (a ^ b ^ sum) >>> shift, sum >>> shift);
    return sum >>> shift;
  };

const subNarrow =
  (shift: 16 | 24, borrows: boolean): Alu =>
  (cpu, aLow, _aHi, bLow) => {
    const a = aLow << shift;
    const b = bLow << shift;
    const borrowIn = borrows ? cpu.w[FC]! << shift : 0;
    const difference = (a - b - borrowIn) | 0;
    const borrow = ((~a & b) | ((~a | b) & difference)) >>> 31;
    setFlags(cpu, difference, borrow, (a ^ b) & (a ^ difference), (a ^ b ^ difference) >>> shift, difference >>> shift);
    return difference >>> shift;
  };

// Not the same with a shift of 0: `>>>` would give a number without a sign, which is no 32-bit integer to V8.
const add32 =
  (carries: boolean): Alu =>
  (cpu, a, _aHi, b) => {
    const sum = (a + b + (carries ? cpu.w[FC]! : 0)) | 0;
    const carry = ((a & b) | ((a | b) & ~sum)) >>> 31;
    setFlags(cpu, sum, carry, (a ^ sum) & (b ^ sum), a ^ b ^ sum, sum);
    return sum;
  };

const sub32 =
  (borrows: boolean): Alu =>
  (cpu, a, _aHi, b) => {
    const difference = (a - b - (borrows ? cpu.w[FC]! : 0)) | 0;
    const borrow = ((~a & b) | ((~a | b) & difference)) >>> 31;
    setFlags(cpu, difference, borrow, (a ^ b) & (a ^ difference), a ^ b ^ difference, difference);
    return difference;
  };

const add64 =
  (carries: boolean): Alu =>
  (cpu, a, aHi, b, bHi) => {
    const w = cpu.w;
    const lo = (a + b + (carries ? w[FC]! : 0)) | 0;
    const hi = (aHi + bHi + (((a & b) | ((a | b) & ~lo)) >>> 31)) | 0;
    w[FZ] = lo | hi;
    w[FS] = hi;
    w[FP] = lo;
    w[FC] = ((aHi & bHi) | ((aHi | bHi) & ~hi)) >>> 31;
    w[FO] = (aHi ^ hi) & (bHi ^ hi);
    w[FA] = a ^ b ^ lo;
    cpu.hi = hi;
    return lo;
  };

const sub64 =
  (borrows: boolean): Alu =>
  (cpu, a, aHi, b, bHi) => {
    const w = cpu.w;
    const lo = (a - b - (borrows ? w[FC]! : 0)) | 0;
    const hi = (aHi - bHi - (((~a & b) | ((~a | b) & lo)) >>> 31)) | 0;
    w[FZ] = lo | hi;
    w[FS] = hi;
    w[FP] = lo;
    w[FC] = ((~aHi & bHi) | ((~aHi | bHi) & hi)) >>> 31;
    w[FO] = (aHi ^ bHi) & (aHi ^ hi);
    w[FA] = a ^ b ^ lo;
    cpu.hi = hi;
    return lo;
  };

const ofAdd = (carries: boolean): AluBySize => ({
  1: addNarrow(24, carries),
  2: addNarrow(16, carries),
  4: add32(carries),
  8: add64(carries),
});

const ofSub = (borrows: boolean): AluBySize => ({
  1: subNarrow(24, borrows),
  2: subNarrow(16, borrows),
  4: sub32(borrows),
  8: sub64(borrows),
});

export const add = ofAdd(false);
export const sub = ofSub(false);
const adc = ofAdd(true);
const sbb = ofSub(true);

/** `op a, b` with the result in a. */
export function binary(instruction: Instruction, operation: AluBySize): Step {
  const [a, b] = instruction.operands as [Instruction["operands"][0], Instruction["operands"][0]];
  const alu = operation[sizeOf(a)];
  const fused = fusedBinary(a, b, alu);
  if (fused !== undefined) return fused;
  const getB = getOf(b);
  const getA = updateOf(a);
  const put = putBackOf(a);
  return (cpu) => {
    const bLo = getB(cpu);
    const bHi = cpu.hi;
    const aLo = getA(cpu);
    const lo = alu(cpu, aLo, cpu.hi, bLo, bHi);
    put(cpu, lo, cpu.hi);
  };
}

/** `op a, b` for the flags alone. */
export function comparison(instruction: Instruction, operation: AluBySize): Step {
  const [a, b] = instruction.operands as [Instruction["operands"][0], Instruction["operands"][0]];
  const alu = operation[sizeOf(a)];
  const fused = fusedComparison(a, b, alu);
  if (fused !== undefined) return fused;
  const getA = getOf(a);
  const getB = getOf(b);
  return (cpu) => {
    const aLo = getA(cpu);
    const aHi = cpu.hi;
    const bLo = getB(cpu);
    alu(cpu, aLo, aHi, bLo, cpu.hi);
  };
}

/** inc and dec: an addition of one that leaves CF alone. */
const byOne =
  (operation: AluBySize): Compile =>
  (instruction) => {
    const operand = instruction.operands[0]!;
    const alu = operation[sizeOf(operand)];
    const get = updateOf(operand);
    const put = putBackOf(operand);
    return (cpu) => {
      const carry = cpu.w[FC]!;
      const value = get(cpu);
      const lo = alu(cpu, value, cpu.hi, 1, 0);
      cpu.w[FC] = carry;
      put(cpu, lo, cpu.hi);
    };
  };

const negate: Compile = (instruction) => {
  const operand = instruction.operands[0]!;
  const alu = sub[sizeOf(operand)];
  const get = updateOf(operand);
  const put = putBackOf(operand);
  return (cpu) => {
    const value = get(cpu);
    const lo = alu(cpu, 0, 0, value, cpu.hi);
    put(cpu, lo, cpu.hi);
  };
};

const { Mnemonic } = iced;

export const arithmetic: Family = new Map<number, Compile>([
  [Mnemonic.Add, (i) => binary(i, add)],
  [Mnemonic.Adc, (i) => binary(i, adc)],
  [Mnemonic.Sub, (i) => binary(i, sub)],
  [Mnemonic.Sbb, (i) => binary(i, sbb)],
  [Mnemonic.Cmp, (i) => comparison(i, sub)],
  [Mnemonic.Inc, byOne(add)],
  [Mnemonic.Dec, byOne(sub)],
  [Mnemonic.Neg, negate],
]);
