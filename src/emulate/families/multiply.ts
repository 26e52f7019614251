/**
 * Multiplication and division: mul, imul, div, idiv (Intel SDM vol. 2).
 *
 * CF and OF of a product say that its upper half counts; its other flags, and all flags of a division, are undefined:
 * they stay.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import { Fault } from "../fault.js";
import { type Compile, type Family, getOf, putOf, type Step, sizeOf } from "../operands.js";
import { FC, FO, Gpr } from "../state.js";
import {
  below64,
  divide64by32,
  divide128by64,
  multiply64,
  multiplyHigh,
  multiplySigned64,
  negateWide,
  wide,
} from "./wide.js";

const RAX = 2 * Gpr.RAX;
const RDX = 2 * Gpr.RDX;
const AX = 4 * Gpr.RAX;
const DX = 4 * Gpr.RDX;

function setProductFlags({ w }: Core, exceeds: boolean): void {
  w[FC] = exceeds ? 1 : 0;
  w[FO] = exceeds ? -1 : 0;
}

/** One operand: rax times it, into rdx:rax, or ax for bytes. */
const multiplyA =
  (signed: boolean): Compile =>
  ({ operands }) => {
    const operand = operands[0]!;
    const get = getOf(operand);
    switch (sizeOf(operand)) {
      case 8:
        return signed ? signedA64(get) : unsignedA64(get);
      case 4:
        return signed
          ? (cpu) => {
              const { w } = cpu;
              const b = get(cpu);
              const a = w[RAX]!;
              // Of numbers with a sign, the upper word is that without one, less each factor where the other is
              // negative.
              const hi = (multiplyHigh(a, b) - (a < 0 ? b : 0) - (b < 0 ? a : 0)) | 0;
              const lo = Math.imul(a, b);
              putProduct32(cpu, lo, hi);
              setProductFlags(cpu, hi !== lo >> 31);
            }
          : (cpu) => {
              const { w } = cpu;
              const b = get(cpu);
              const a = w[RAX]!;
              const hi = multiplyHigh(a, b);
              putProduct32(cpu, Math.imul(a, b), hi);
              setProductFlags(cpu, hi !== 0);
            };
      case 2:
        return (cpu) => {
          const b = get(cpu);
          const a = cpu.h[AX]!;
          const product = signed ? Math.imul((a << 16) >> 16, (b << 16) >> 16) : Math.imul(a, b);
          cpu.h[AX] = product;
          cpu.h[DX] = product >>> 16;
          setProductFlags(cpu, signed ? (product << 16) >> 16 !== product : product >>> 16 !== 0);
        };
      default:
        return (cpu) => {
          const b = get(cpu);
          const a = cpu.b[8 * Gpr.RAX]!;
          const product = signed ? Math.imul((a << 24) >> 24, (b << 24) >> 24) : a * b;
          cpu.h[AX] = product;
          setProductFlags(cpu, signed ? (product << 24) >> 24 !== product : product > 0xff);
        };
    }
  };

function putProduct32({ w }: Core, lo: number, hi: number): void {
  w[RAX] = lo;
  w[RAX + 1] = 0;
  w[RDX] = hi;
  w[RDX + 1] = 0;
}

function putProduct64({ w }: Core): void {
  w[RAX] = wide[0]!;
  w[RAX + 1] = wide[1]!;
  w[RDX] = wide[2]!;
  w[RDX + 1] = wide[3]!;
}

const unsignedA64 =
  (get: (cpu: Core) => number): Step =>
  (cpu) => {
    const b = get(cpu);
    multiply64(cpu.w[RAX]!, cpu.w[RAX + 1]!, b, cpu.hi);
    putProduct64(cpu);
    setProductFlags(cpu, (wide[2]! | wide[3]!) !== 0);
  };

const signedA64 =
  (get: (cpu: Core) => number): Step =>
  (cpu) => {
    const b = get(cpu);
    multiplySigned64(cpu.w[RAX]!, cpu.w[RAX + 1]!, b, cpu.hi);
    putProduct64(cpu);
    const sign = wide[1]! >> 31;
    setProductFlags(cpu, wide[2] !== sign || wide[3] !== sign);
  };

/** imul of two or three operands: the lower half of the product alone is kept. */
const imul: Compile = (instruction) => {
  const { operands } = instruction;
  if (operands.length === 1) return multiplyA(true)(instruction);
  const [to, second, third] = operands;
  const getA = getOf(third === undefined ? to! : second!);
  const getB = getOf(third ?? second!);
  const put = putOf(to!);
  switch (sizeOf(to!)) {
    case 8:
      return (cpu) => {
        const b = getB(cpu);
        const bHi = cpu.hi;
        const a = getA(cpu);
        put(cpu, imul64(cpu, a, cpu.hi, b, bHi), cpu.hi);
      };
    case 4:
      return (cpu) => {
        const b = getB(cpu);
        const a = getA(cpu);
        const product = Math.imul(a, b);
        // A product that does not fit is rounded at most: it stays far from what fits.
        setProductFlags(cpu, a * b !== product);
        put(cpu, product, 0);
      };
    default:
      return (cpu) => {
        const b = getB(cpu);
        const a = getA(cpu);
        const product = Math.imul((a << 16) >> 16, (b << 16) >> 16);
        setProductFlags(cpu, (product << 16) >> 16 !== product);
        put(cpu, product, 0);
      };
  }
};

/** Sets flags; returns the low word, the high one is in `cpu.hi`. */
function imul64(cpu: Core, a: number, aHi: number, b: number, bHi: number): number {
  if (aHi === a >> 31 && bHi === b >> 31) {
    // Both fit in a word, so the product fits.
    cpu.hi = (multiplyHigh(a, b) - (a < 0 ? b : 0) - (b < 0 ? a : 0)) | 0;
    setProductFlags(cpu, false);
    return Math.imul(a, b);
  }
  multiplySigned64(a, aHi, b, bHi);
  const sign = wide[1]! >> 31;
  setProductFlags(cpu, wide[2] !== sign || wide[3] !== sign);
  cpu.hi = wide[1]!;
  return wide[0]!;
}

const divideFault = (): Fault => new Fault("divide");

const divide: Compile = ({ operands }) => {
  const operand = operands[0]!;
  const get = getOf(operand);
  switch (sizeOf(operand)) {
    case 8:
      return (cpu) => {
        const d = get(cpu);
        const dHi = cpu.hi;
        takeDividend(cpu);
        if (!below64(wide[2]!, wide[3]!, d, dHi)) throw divideFault();
        divide128by64(d, dHi);
        putProduct64(cpu);
      };
    case 4:
      return (cpu) => {
        const d = get(cpu);
        const hi = cpu.w[RDX]!;
        if (hi >>> 0 >= d >>> 0) throw divideFault();
        const quotient = divide64by32(cpu.w[RAX]!, hi, d);
        putProduct32(cpu, quotient, wide[2]!);
      };
    case 2:
      return (cpu) => {
        const d = get(cpu);
        const dividend = cpu.h[DX]! * 0x10000 + cpu.h[AX]!;
        if (cpu.h[DX]! >= d) throw divideFault();
        cpu.h[AX] = Math.floor(dividend / d);
        cpu.h[DX] = dividend % d;
      };
    default:
      return (cpu) => {
        const d = get(cpu);
        const dividend = cpu.h[AX]!;
        if (dividend >>> 8 >= d) throw divideFault();
        cpu.h[AX] = Math.floor(dividend / d) | ((dividend % d) << 8);
      };
  }
};

function takeDividend({ w }: Core): void {
  wide[0] = w[RAX]!;
  wide[1] = w[RAX + 1]!;
  wide[2] = w[RDX]!;
  wide[3] = w[RDX + 1]!;
}

/** Quotients are rounded towards zero, remainders have the dividend's sign. */
const divideSigned: Compile = ({ operands }) => {
  const operand = operands[0]!;
  const get = getOf(operand);
  switch (sizeOf(operand)) {
    case 8:
      return (cpu) => {
        const d = get(cpu);
        divideSigned64(cpu, d, cpu.hi);
      };
    case 4:
      return (cpu) => {
        const d = get(cpu);
        divideSigned32(cpu, d);
      };
    case 2:
      return (cpu) => {
        const d = (get(cpu) << 16) >> 16;
        const dividend = (cpu.h[DX]! << 16) | cpu.h[AX]!;
        const quotient = Math.trunc(dividend / d);
        if (d === 0 || quotient < -0x8000 || quotient > 0x7fff) throw divideFault();
        cpu.h[AX] = quotient;
        cpu.h[DX] = dividend - quotient * d;
      };
    default:
      return (cpu) => {
        const d = (get(cpu) << 24) >> 24;
        const dividend = (cpu.h[AX]! << 16) >> 16;
        const quotient = Math.trunc(dividend / d);
        if (d === 0 || quotient < -0x80 || quotient > 0x7f) throw divideFault();
        cpu.h[AX] = (quotient & 0xff) | ((dividend - quotient * d) << 8);
      };
  }
};

function divideSigned32(cpu: Core, d: number): void {
  const lo = cpu.w[RAX]!;
  const hi = cpu.w[RDX]!;
  if (d === 0) throw divideFault();
  const negative = hi < 0;
  const absoluteLo = negative ? -lo | 0 : lo;
  const absoluteHi = negative ? (~hi + (lo === 0 ? 1 : 0)) | 0 : hi;
  const divisor = d < 0 ? -d | 0 : d;
  if (absoluteHi >>> 0 >= divisor >>> 0) throw divideFault();
  const quotient = divide64by32(absoluteLo, absoluteHi, divisor);
  const rest = wide[2]!;
  const opposite = negative !== d < 0;
  // 2^31 fits with a minus alone.
  if (quotient < 0 && !(opposite && quotient === -0x8000_0000)) throw divideFault();
  putProduct32(cpu, opposite ? -quotient | 0 : quotient, negative ? -rest | 0 : rest);
}

function divideSigned64(cpu: Core, d: number, dHi: number): void {
  takeDividend(cpu);
  const negative = wide[3]! < 0;
  const opposite = negative !== dHi < 0;
  if (negative) negateWide(0, 4);
  const divisor = dHi < 0 ? -d | 0 : d;
  const divisorHi = dHi < 0 ? (~dHi + (d === 0 ? 1 : 0)) | 0 : dHi;
  if (!below64(wide[2]!, wide[3]!, divisor, divisorHi)) throw divideFault();
  divide128by64(divisor, divisorHi);
  if (wide[1]! < 0 && !(opposite && wide[0] === 0 && wide[1] === -0x8000_0000)) throw divideFault();
  if (opposite) negateWide(0, 2);
  if (negative) negateWide(2, 2);
  putProduct64(cpu);
}

const { Mnemonic } = iced;

export const multiply: Family = new Map<number, Compile>([
  [Mnemonic.Mul, multiplyA(false)],
  [Mnemonic.Imul, imul],
  [Mnemonic.Div, divide],
  [Mnemonic.Idiv, divideSigned],
]);
