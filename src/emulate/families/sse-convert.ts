/**
 * SSE and SSE2: conversions between integers, floats and doubles (Intel SDM vol. 2, CVT*). Rounding is to nearest, ties
 * to even, except for the cvtt forms, which cut. What does not fit an integer, and a NaN, becomes the "integer
 * indefinite": the most negative one. The mmx forms are not implemented.
 */
import { iced } from "../../x86/iced.js";
import { narrowNan, widenNan } from "../nan.js";
import { type Compile, type Family, getOf, putOf, sizeOf } from "../operands.js";
import { highWord, lowWord, MXCSR_STALE } from "../state.js";
import { ofXmm, sourceOf, type XmmOperation, xmmWord } from "../xmm.js";

const { Mnemonic } = iced;

const INDEFINITE = -0x8000_0000;
const TWO_31 = 2 ** 31;
const TWO_52 = 2 ** 52;
const TWO_63 = 2 ** 63;

/** To the nearest integer, ties to even: what the sum with 2^52 is rounded to, since its last bit is worth one. */
function roundToEven(value: number): number {
  const size = Math.abs(value);
  if (!(size < TWO_52)) return value;
  const rounded = size + TWO_52 - TWO_52;
  return value < 0 ? -rounded : rounded;
}

const toInt32 = (integer: number): number => (integer >= -TWO_31 && integer < TWO_31 ? integer | 0 : INDEFINITE);

// Integers to floating point.

/** cvtsi2sd. 64 bits are the exact sum of two exact doubles, rounded once. */
const doubleOfInteger: Compile = ({ operands }) => {
  const d = xmmWord(operands[0]) >> 1;
  const from = operands[1]!;
  const get = getOf(from);
  if (sizeOf(from) === 4)
    return (cpu) => {
      cpu.f64[d] = get(cpu);
    };
  return (cpu) => {
    const lo = get(cpu) >>> 0;
    cpu.f64[d] = cpu.hi * 0x1_0000_0000 + lo;
    cpu.w[MXCSR_STALE] = 1;
  };
};

/**
 * cvtsi2ss. A double has no room for all 64 bits, and rounding to it first could make a tie where there is none. So the
 * low 11 bits are folded into bit 11, "some bits were set": far below a float's last bit where this can matter, and the
 * sum is exact.
 */
const floatOfInteger: Compile = ({ operands }) => {
  const d = xmmWord(operands[0]);
  const from = operands[1]!;
  const get = getOf(from);
  const wide = sizeOf(from) === 8;
  return (cpu) => {
    const lo = get(cpu);
    if (!wide) cpu.f32[d] = lo;
    else {
      const { hi } = cpu;
      const exact = hi >= -0x20_0000 && hi < 0x20_0000;
      const folded = exact || (lo & 0x7ff) === 0 ? lo : (lo & ~0x7ff) | 0x800;
      cpu.f32[d] = hi * 0x1_0000_0000 + (folded >>> 0);
    }
    cpu.w[MXCSR_STALE] = 1;
  };
};

const floatsOfWords: XmmOperation = ({ w, f32 }, d, s) => {
  for (let i = 0; i < 4; i++) f32[d + i] = w[s + i]!;
  w[MXCSR_STALE] = 1;
};

/** cvtdq2pd: always exact. */
const doublesOfWords: XmmOperation = ({ w, f64 }, d, s) => {
  const first = w[s]!;
  f64[(d >> 1) + 1] = w[s + 1]!;
  f64[d >> 1] = first;
};

// Floating point to integers.

/** cvtsd2si and its kin: to a general-purpose register. */
const toRegister =
  (from: "float" | "double", cut: boolean): Compile =>
  ({ operands }) => {
    const [to, operand] = operands;
    if (to?.kind !== "gpr") return undefined;
    const source = sourceOf(operand);
    const put = putOf(to);
    const wide = to.size === 8;
    return (cpu) => {
      const s = source(cpu);
      const value = from === "float" ? cpu.f32[s]! : cpu.f64[s >> 1]!;
      const integer = cut ? Math.trunc(value) : roundToEven(value);
      cpu.w[MXCSR_STALE] = 1;
      if (!wide) put(cpu, toInt32(integer), 0);
      else if (integer >= -TWO_63 && integer < TWO_63) put(cpu, lowWord(integer), highWord(integer));
      else put(cpu, 0, INDEFINITE);
    };
  };

const wordsOfFloats =
  (cut: boolean): XmmOperation =>
  ({ w, f32 }, d, s) => {
    for (let i = 0; i < 4; i++) {
      const value = f32[s + i]!;
      w[d + i] = toInt32(cut ? Math.trunc(value) : roundToEven(value));
    }
    w[MXCSR_STALE] = 1;
  };

const wordsOfDoubles =
  (cut: boolean): XmmOperation =>
  ({ w, f64 }, d, s) => {
    for (let i = 0; i < 2; i++) {
      const value = f64[(s >> 1) + i]!;
      // The first result stands in the first double, which has been read.
      w[d + i] = toInt32(cut ? Math.trunc(value) : roundToEven(value));
    }
    w[d + 2] = 0;
    w[d + 3] = 0;
    w[MXCSR_STALE] = 1;
  };

// Between floats and doubles.

const doubleOfFloat: XmmOperation = ({ w, f32, f64 }, d, s) => {
  const value = f32[s]!;
  if (Number.isNaN(value)) widenNan(w, d, s);
  else f64[d >> 1] = value;
  w[MXCSR_STALE] = 1;
};

const floatOfDouble: XmmOperation = ({ w, f32, f64 }, d, s) => {
  const value = f64[s >> 1]!;
  if (Number.isNaN(value)) narrowNan(w, d, s);
  else f32[d] = value;
  w[MXCSR_STALE] = 1;
};

/** cvtps2pd: the second one first, since the first one covers both floats where source and destination are the same. */
const doublesOfFloats: XmmOperation = (cpu, d, s) => {
  doubleOfFloat(cpu, d + 2, s + 1);
  doubleOfFloat(cpu, d, s);
};

const floatsOfDoubles: XmmOperation = (cpu, d, s) => {
  floatOfDouble(cpu, d, s);
  floatOfDouble(cpu, d + 1, s + 2);
  cpu.w[d + 2] = 0;
  cpu.w[d + 3] = 0;
};

export const sseConvert: Family = new Map<number, Compile>([
  [Mnemonic.Cvtsi2sd, doubleOfInteger],
  [Mnemonic.Cvtsi2ss, floatOfInteger],
  [Mnemonic.Cvtdq2ps, ofXmm(floatsOfWords)],
  [Mnemonic.Cvtdq2pd, ofXmm(doublesOfWords)],
  [Mnemonic.Cvtss2si, toRegister("float", false)],
  [Mnemonic.Cvttss2si, toRegister("float", true)],
  [Mnemonic.Cvtsd2si, toRegister("double", false)],
  [Mnemonic.Cvttsd2si, toRegister("double", true)],
  [Mnemonic.Cvtps2dq, ofXmm(wordsOfFloats(false))],
  [Mnemonic.Cvttps2dq, ofXmm(wordsOfFloats(true))],
  [Mnemonic.Cvtpd2dq, ofXmm(wordsOfDoubles(false))],
  [Mnemonic.Cvttpd2dq, ofXmm(wordsOfDoubles(true))],
  [Mnemonic.Cvtss2sd, ofXmm(doubleOfFloat)],
  [Mnemonic.Cvtsd2ss, ofXmm(floatOfDouble)],
  [Mnemonic.Cvtps2pd, ofXmm(doublesOfFloats)],
  [Mnemonic.Cvtpd2ps, ofXmm(floatsOfDoubles)],
]);
