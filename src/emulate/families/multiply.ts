/**
 * Multiplication and division: mul, imul, div, idiv (Intel SDM vol. 2).
 *
 * Words are multiplied in halves of 16 bits and divided in digits of 16 bits, in numbers that doubles hold exactly. CF and
 * OF of a product say that its upper half counts; its other flags, and all flags of a division, are undefined: they stay.
 */
import { iced } from "../../x86/iced.js";
import type { Cpu } from "../cpu.js";
import { Fault } from "../fault.js";
import { type Compile, type Family, getOf, putOf, type Step, sizeOf } from "../operands.js";
import { FC, FO, Gpr } from "../state.js";

const RAX = 2 * Gpr.RAX;
const RDX = 2 * Gpr.RDX;
const AX = 4 * Gpr.RAX;
const DX = 4 * Gpr.RDX;
const WORD = 0x1_0000_0000;

function setProductFlags({ w }: Cpu, exceeds: boolean): void {
  w[FC] = exceeds ? 1 : 0;
  w[FO] = exceeds ? -1 : 0;
}

/** The upper word of the product of two words without a sign. */
function multiplyHigh(a: number, b: number): number {
  const aLo = a & 0xffff;
  const aHi = a >>> 16;
  const bLo = b & 0xffff;
  const bHi = b >>> 16;
  const middle = aHi * bLo + ((aLo * bLo) >>> 16);
  const other = aLo * bHi + (middle & 0xffff);
  return (aHi * bHi + (middle >>> 16) + (other >>> 16)) | 0;
}

/** Four words, low first: the product, or the dividend and then quotient (two words) and remainder (two words). */
const wide = new Int32Array(4);

/** The product of two 64-bit values without a sign, into `wide`. */
function multiply64(a: number, aHi: number, b: number, bHi: number): void {
  const word1 = (multiplyHigh(a, b) >>> 0) + (Math.imul(a, bHi) >>> 0) + (Math.imul(aHi, b) >>> 0);
  const word2 =
    (multiplyHigh(a, bHi) >>> 0) +
    (multiplyHigh(aHi, b) >>> 0) +
    (Math.imul(aHi, bHi) >>> 0) +
    Math.floor(word1 / WORD);
  wide[0] = Math.imul(a, b);
  wide[1] = word1;
  wide[2] = word2;
  wide[3] = multiplyHigh(aHi, bHi) + Math.floor(word2 / WORD);
}

/** Takes (lo, hi) from the upper half of `wide`. */
function subtractHigh(lo: number, hi: number): void {
  const difference = (wide[2]! >>> 0) - (lo >>> 0);
  wide[2] = difference;
  wide[3] = wide[3]! - hi - (difference < 0 ? 1 : 0);
}

/** The product of two 64-bit values with a sign, into `wide`. */
function multiplySigned64(a: number, aHi: number, b: number, bHi: number): void {
  multiply64(a, aHi, b, bHi);
  if (aHi < 0) subtractHigh(b, bHi);
  if (bHi < 0) subtractHigh(a, aHi);
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
              // Of numbers with a sign, the upper word is that without one, less each factor where the other is negative.
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

function putProduct32({ w }: Cpu, lo: number, hi: number): void {
  w[RAX] = lo;
  w[RAX + 1] = 0;
  w[RDX] = hi;
  w[RDX + 1] = 0;
}

function putProduct64({ w }: Cpu): void {
  w[RAX] = wide[0]!;
  w[RAX + 1] = wide[1]!;
  w[RDX] = wide[2]!;
  w[RDX + 1] = wide[3]!;
}

const unsignedA64 =
  (get: (cpu: Cpu) => number): Step =>
  (cpu) => {
    const b = get(cpu);
    multiply64(cpu.w[RAX]!, cpu.w[RAX + 1]!, b, cpu.hi);
    putProduct64(cpu);
    setProductFlags(cpu, (wide[2]! | wide[3]!) !== 0);
  };

const signedA64 =
  (get: (cpu: Cpu) => number): Step =>
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
function imul64(cpu: Cpu, a: number, aHi: number, b: number, bHi: number): number {
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

/** hi:lo by d, all without a sign, where hi is less than d: the quotient; the remainder is in `remainder32`. */
function divide64by32(lo: number, hi: number, d: number): number {
  const divisor = d >>> 0;
  const first = (hi >>> 0) * 0x10000 + (lo >>> 16);
  const upper = Math.floor(first / divisor);
  const second = (first - upper * divisor) * 0x10000 + (lo & 0xffff);
  const lower = Math.floor(second / divisor);
  wide[2] = second - lower * divisor;
  return (upper * 0x10000 + lower) | 0;
}

/** Whether (a, aHi) < (b, bHi), without a sign. */
const below64 = (a: number, aHi: number, b: number, bHi: number): boolean =>
  aHi === bHi ? a >>> 0 < b >>> 0 : aHi >>> 0 < bHi >>> 0;

/**
 * Divides the four words of `wide` by (d, dHi), without a sign; the upper half of `wide` is less than the divisor. Leaves
 * the quotient in the lower half, the remainder in the upper one.
 */
function divide128by64(d: number, dHi: number): void {
  if ((wide[2]! | wide[3]!) !== 0) divideByBits(d, dHi);
  else if (dHi === 0) {
    const hi = wide[1]!;
    const upper = divide64by32(hi, 0, d);
    const lower = divide64by32(wide[0]!, wide[2]!, d);
    wide[0] = lower;
    wide[1] = upper;
    wide[3] = 0;
  } else divide64by64(d, dHi);
}

/** The lower half of `wide` by a divisor of more than 32 bits: the quotient has at most 32. */
function divide64by64(d: number, dHi: number): void {
  const lo = wide[0]!;
  const hi = wide[1]!;
  // Doubles give it to within one.
  const estimate = Math.floor(((hi >>> 0) * WORD + (lo >>> 0)) / ((dHi >>> 0) * WORD + (d >>> 0)));
  let quotient = Math.min(estimate, WORD - 1) | 0;
  let product = Math.imul(quotient, d);
  let upper = (multiplyHigh(quotient, d) >>> 0) + (Math.imul(quotient, dHi) >>> 0);
  const beyond = (multiplyHigh(quotient, dHi) >>> 0) + (upper >= WORD ? 1 : 0);
  upper |= 0;
  if (beyond !== 0 || below64(lo, hi, product, upper)) {
    quotient = (quotient - 1) | 0;
    const less = (product >>> 0) - (d >>> 0);
    upper = (upper - dHi - (less < 0 ? 1 : 0)) | 0;
    product = less | 0;
  }
  let rest = (lo - product) | 0;
  let restHi = (hi - upper - (lo >>> 0 < product >>> 0 ? 1 : 0)) | 0;
  if (!below64(rest, restHi, d, dHi)) {
    quotient = (quotient + 1) | 0;
    restHi = (restHi - dHi - (rest >>> 0 < d >>> 0 ? 1 : 0)) | 0;
    rest = (rest - d) | 0;
  }
  wide[0] = quotient;
  wide[1] = 0;
  wide[2] = rest;
  wide[3] = restHi;
}

/** Bit by bit: for dividends of more than 64 bits, which compilers do not write. */
function divideByBits(d: number, dHi: number): void {
  let q = wide[0]!;
  let qHi = wide[1]!;
  let r = wide[2]!;
  let rHi = wide[3]!;
  for (let i = 0; i < 64; i++) {
    const out = rHi < 0;
    rHi = (rHi << 1) | (r >>> 31);
    r = (r << 1) | (qHi >>> 31);
    qHi = (qHi << 1) | (q >>> 31);
    q <<= 1;
    if (out || !below64(r, rHi, d, dHi)) {
      rHi = (rHi - dHi - (r >>> 0 < d >>> 0 ? 1 : 0)) | 0;
      r = (r - d) | 0;
      q |= 1;
    }
  }
  wide[0] = q;
  wide[1] = qHi;
  wide[2] = r;
  wide[3] = rHi;
}

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

function takeDividend({ w }: Cpu): void {
  wide[0] = w[RAX]!;
  wide[1] = w[RAX + 1]!;
  wide[2] = w[RDX]!;
  wide[3] = w[RDX + 1]!;
}

function negateWide(from: 0 | 2, words: 2 | 4): void {
  let carry = 1;
  for (let i = from; i < from + words; i++) {
    const word = (~wide[i]! + carry) | 0;
    carry = carry === 1 && word === 0 ? 1 : 0;
    wide[i] = word;
  }
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

function divideSigned32(cpu: Cpu, d: number): void {
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

function divideSigned64(cpu: Cpu, d: number, dHi: number): void {
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
