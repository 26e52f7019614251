/**
 * SSE and SSE2: floating-point arithmetic, scalar and packed: add, sub, mul, div, sqrt, min, max (Intel SDM vol. 2).
 *
 * JavaScript's numbers are the CPU's doubles, rounded to nearest as MXCSR always says here (sse-control.ts). For floats
 * the double result is rounded once more, by the store to a Float32Array: with 53 bits for operands of 24 that is the
 * same as rounding once, for these five operations (Figueroa, "When is double rounding innocuous?", 1995), denormal
 * results included. A result that is a NaN is made by words (nan.ts).
 *
 * rcpps, rsqrtps and their scalar forms are not implemented: their results differ from one make of CPU to another.
 *
 * Each operation is written out: a function passed in would return its doubles as objects.
 */
import { iced } from "../../x86/iced.js";
import { nanDouble, nanFloat } from "../nan.js";
import type { Compile, Family } from "../operands.js";
import { MXCSR_STALE } from "../state.js";
import { ofXmm, type XmmOperation } from "../xmm.js";

const { Mnemonic } = iced;

const addDouble: XmmOperation = ({ w, f64 }, d, s) => {
  const result = f64[d >> 1]! + f64[s >> 1]!;
  if (Number.isNaN(result)) nanDouble(w, d, s);
  else f64[d >> 1] = result;
};

const subDouble: XmmOperation = ({ w, f64 }, d, s) => {
  const result = f64[d >> 1]! - f64[s >> 1]!;
  if (Number.isNaN(result)) nanDouble(w, d, s);
  else f64[d >> 1] = result;
};

const mulDouble: XmmOperation = ({ w, f64 }, d, s) => {
  const result = f64[d >> 1]! * f64[s >> 1]!;
  if (Number.isNaN(result)) nanDouble(w, d, s);
  else f64[d >> 1] = result;
};

const divDouble: XmmOperation = ({ w, f64 }, d, s) => {
  const result = f64[d >> 1]! / f64[s >> 1]!;
  if (Number.isNaN(result)) nanDouble(w, d, s);
  else f64[d >> 1] = result;
};

/** The destination is no operand. */
const sqrtDouble: XmmOperation = ({ w, f64 }, d, s) => {
  const result = Math.sqrt(f64[s >> 1]!);
  if (Number.isNaN(result)) {
    copyDouble(w, d, s);
    nanDouble(w, d, s);
  } else f64[d >> 1] = result;
};

/** The second operand, as it is, where they are equal (zeroes of both signs) or one is a NaN. */
const minDouble: XmmOperation = ({ w, f64 }, d, s) => {
  if (!(f64[d >> 1]! < f64[s >> 1]!)) copyDouble(w, d, s);
};

const maxDouble: XmmOperation = ({ w, f64 }, d, s) => {
  if (!(f64[d >> 1]! > f64[s >> 1]!)) copyDouble(w, d, s);
};

function copyDouble(w: Int32Array, d: number, s: number): void {
  w[d] = w[s]!;
  w[d + 1] = w[s + 1]!;
}

const addFloat: XmmOperation = ({ w, f32 }, d, s) => {
  const result = f32[d]! + f32[s]!;
  if (Number.isNaN(result)) nanFloat(w, d, s);
  else f32[d] = result;
};

const subFloat: XmmOperation = ({ w, f32 }, d, s) => {
  const result = f32[d]! - f32[s]!;
  if (Number.isNaN(result)) nanFloat(w, d, s);
  else f32[d] = result;
};

const mulFloat: XmmOperation = ({ w, f32 }, d, s) => {
  const result = f32[d]! * f32[s]!;
  if (Number.isNaN(result)) nanFloat(w, d, s);
  else f32[d] = result;
};

const divFloat: XmmOperation = ({ w, f32 }, d, s) => {
  const result = f32[d]! / f32[s]!;
  if (Number.isNaN(result)) nanFloat(w, d, s);
  else f32[d] = result;
};

const sqrtFloat: XmmOperation = ({ w, f32 }, d, s) => {
  const result = Math.sqrt(f32[s]!);
  if (Number.isNaN(result)) {
    w[d] = w[s]!;
    nanFloat(w, d, s);
  } else f32[d] = result;
};

const minFloat: XmmOperation = ({ w, f32 }, d, s) => {
  if (!(f32[d]! < f32[s]!)) w[d] = w[s]!;
};

const maxFloat: XmmOperation = ({ w, f32 }, d, s) => {
  if (!(f32[d]! > f32[s]!)) w[d] = w[s]!;
};

/** What every operation that may raise an exception flag does besides. */
const scalar = (operation: XmmOperation): Compile =>
  ofXmm((cpu, d, s) => {
    cpu.w[MXCSR_STALE] = 1;
    operation(cpu, d, s);
  });

const twoDoubles = (operation: XmmOperation): Compile =>
  ofXmm((cpu, d, s) => {
    cpu.w[MXCSR_STALE] = 1;
    operation(cpu, d, s);
    operation(cpu, d + 2, s + 2);
  });

const fourFloats = (operation: XmmOperation): Compile =>
  ofXmm((cpu, d, s) => {
    cpu.w[MXCSR_STALE] = 1;
    operation(cpu, d, s);
    operation(cpu, d + 1, s + 1);
    operation(cpu, d + 2, s + 2);
    operation(cpu, d + 3, s + 3);
  });

export const sseFloat: Family = new Map<number, Compile>([
  [Mnemonic.Addsd, scalar(addDouble)],
  [Mnemonic.Subsd, scalar(subDouble)],
  [Mnemonic.Mulsd, scalar(mulDouble)],
  [Mnemonic.Divsd, scalar(divDouble)],
  [Mnemonic.Sqrtsd, scalar(sqrtDouble)],
  [Mnemonic.Minsd, scalar(minDouble)],
  [Mnemonic.Maxsd, scalar(maxDouble)],
  [Mnemonic.Addpd, twoDoubles(addDouble)],
  [Mnemonic.Subpd, twoDoubles(subDouble)],
  [Mnemonic.Mulpd, twoDoubles(mulDouble)],
  [Mnemonic.Divpd, twoDoubles(divDouble)],
  [Mnemonic.Sqrtpd, twoDoubles(sqrtDouble)],
  [Mnemonic.Minpd, twoDoubles(minDouble)],
  [Mnemonic.Maxpd, twoDoubles(maxDouble)],
  [Mnemonic.Addss, scalar(addFloat)],
  [Mnemonic.Subss, scalar(subFloat)],
  [Mnemonic.Mulss, scalar(mulFloat)],
  [Mnemonic.Divss, scalar(divFloat)],
  [Mnemonic.Sqrtss, scalar(sqrtFloat)],
  [Mnemonic.Minss, scalar(minFloat)],
  [Mnemonic.Maxss, scalar(maxFloat)],
  [Mnemonic.Addps, fourFloats(addFloat)],
  [Mnemonic.Subps, fourFloats(subFloat)],
  [Mnemonic.Mulps, fourFloats(mulFloat)],
  [Mnemonic.Divps, fourFloats(divFloat)],
  [Mnemonic.Sqrtps, fourFloats(sqrtFloat)],
  [Mnemonic.Minps, fourFloats(minFloat)],
  [Mnemonic.Maxps, fourFloats(maxFloat)],
]);
