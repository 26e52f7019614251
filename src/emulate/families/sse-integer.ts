/**
 * SSE2: packed integers: logic, addition and subtraction with and without saturation, comparisons, minimum, maximum and
 * average, products, and sums of products and differences (Intel SDM vol. 2, P*). No flags change.
 */
import { iced } from "../../x86/iced.js";
import { type LaneOperation, lanesOf } from "../lanes.js";
import type { Compile, Family } from "../operands.js";
import { ofXmm, type XmmOperation } from "../xmm.js";

const { Mnemonic } = iced;

/** The same for each of the four words. */
const byWords =
  (operation: LaneOperation): XmmOperation =>
  ({ w }, d, s) => {
    w[d] = operation(w[d]!, w[s]!);
    w[d + 1] = operation(w[d + 1]!, w[s + 1]!);
    w[d + 2] = operation(w[d + 2]!, w[s + 2]!);
    w[d + 3] = operation(w[d + 3]!, w[s + 3]!);
  };

// Logic is too common to be called word by word.

const and: XmmOperation = ({ w }, d, s) => {
  w[d] = w[d]! & w[s]!;
  w[d + 1] = w[d + 1]! & w[s + 1]!;
  w[d + 2] = w[d + 2]! & w[s + 2]!;
  w[d + 3] = w[d + 3]! & w[s + 3]!;
};

const andNot: XmmOperation = ({ w }, d, s) => {
  w[d] = ~w[d]! & w[s]!;
  w[d + 1] = ~w[d + 1]! & w[s + 1]!;
  w[d + 2] = ~w[d + 2]! & w[s + 2]!;
  w[d + 3] = ~w[d + 3]! & w[s + 3]!;
};

const or: XmmOperation = ({ w }, d, s) => {
  w[d] = w[d]! | w[s]!;
  w[d + 1] = w[d + 1]! | w[s + 1]!;
  w[d + 2] = w[d + 2]! | w[s + 2]!;
  w[d + 3] = w[d + 3]! | w[s + 3]!;
};

const xor: XmmOperation = ({ w }, d, s) => {
  w[d] = w[d]! ^ w[s]!;
  w[d + 1] = w[d + 1]! ^ w[s + 1]!;
  w[d + 2] = w[d + 2]! ^ w[s + 2]!;
  w[d + 3] = w[d + 3]! ^ w[s + 3]!;
};

/** Both 64-bit halves, carries from word to word as in arithmetic.ts. */
const addQuads: XmmOperation = ({ w }, d, s) => {
  for (let i = 0; i < 4; i += 2) {
    const a = w[d + i]!;
    const b = w[s + i]!;
    const lo = (a + b) | 0;
    w[d + i + 1] = w[d + i + 1]! + w[s + i + 1]! + (lo >>> 0 < a >>> 0 ? 1 : 0);
    w[d + i] = lo;
  }
};

const subQuads: XmmOperation = ({ w }, d, s) => {
  for (let i = 0; i < 4; i += 2) {
    const a = w[d + i]!;
    const b = w[s + i]!;
    w[d + i + 1] = w[d + i + 1]! - w[s + i + 1]! - (a >>> 0 < b >>> 0 ? 1 : 0);
    w[d + i] = a - b;
  }
};

/** The same for both halves of a word. */
const byHalves =
  (operation: (a: number, b: number) => number): LaneOperation =>
  (a, b) =>
    (operation(a >> 16, b >> 16) << 16) | (operation((a << 16) >> 16, (b << 16) >> 16) & 0xffff);

const mulLow: LaneOperation = (a, b) => (Math.imul(a >>> 16, b >>> 16) << 16) | (Math.imul(a, b) & 0xffff);

const mulHighUnsigned: LaneOperation = (a, b) =>
  (Math.imul(a >>> 16, b >>> 16) & ~0xffff) | (Math.imul(a & 0xffff, b & 0xffff) >>> 16);

/** The sum of the products of both halves, with signs. */
const mulAdd: LaneOperation = (a, b) => (Math.imul(a >> 16, b >> 16) + Math.imul((a << 16) >> 16, (b << 16) >> 16)) | 0;

/** The high word of a product of two words without signs: of 16-bit parts, whose products and carries are exact. */
function mulHigh32(a: number, b: number): number {
  const aLow = a & 0xffff;
  const aHigh = a >>> 16;
  const bLow = b & 0xffff;
  const bHigh = b >>> 16;
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16);
  const other = aLow * bHigh + (middle & 0xffff);
  return (aHigh * bHigh + (middle >>> 16) + (other >>> 16)) | 0;
}

/** pmuludq: the product of the even words, 64 bits each. */
const mulQuads: XmmOperation = ({ w }, d, s) => {
  for (let i = 0; i < 4; i += 2) {
    const a = w[d + i]!;
    const b = w[s + i]!;
    w[d + i] = Math.imul(a, b);
    w[d + i + 1] = mulHigh32(a, b);
  }
};

/** psadbw: per half, the sum of the absolute differences of its bytes. */
const sumOfDifferences: XmmOperation = ({ b, w }, d, s) => {
  for (let i = 0; i < 4; i += 2) {
    let sum = 0;
    for (let k = 4 * i; k < 4 * i + 8; k++) sum += Math.abs(b[4 * d + k]! - b[4 * s + k]!);
    w[d + i] = sum;
    w[d + i + 1] = 0;
  }
};

const bytes = lanesOf(8);
const halves = lanesOf(16);

const wordwise: readonly [number, LaneOperation][] = [
  [Mnemonic.Paddb, bytes.add],
  [Mnemonic.Paddw, halves.add],
  [Mnemonic.Paddd, (a, b) => a + b],
  [Mnemonic.Psubb, bytes.sub],
  [Mnemonic.Psubw, halves.sub],
  [Mnemonic.Psubd, (a, b) => a - b],
  [Mnemonic.Paddsb, bytes.addSigned],
  [Mnemonic.Paddsw, halves.addSigned],
  [Mnemonic.Paddusb, bytes.addUnsigned],
  [Mnemonic.Paddusw, halves.addUnsigned],
  [Mnemonic.Psubsb, bytes.subSigned],
  [Mnemonic.Psubsw, halves.subSigned],
  [Mnemonic.Psubusb, bytes.subUnsigned],
  [Mnemonic.Psubusw, halves.subUnsigned],
  [Mnemonic.Pcmpeqb, bytes.equal],
  [Mnemonic.Pcmpeqw, halves.equal],
  [Mnemonic.Pcmpeqd, (a, b) => (a === b ? -1 : 0)],
  [Mnemonic.Pcmpgtb, bytes.greaterSigned],
  [Mnemonic.Pcmpgtw, halves.greaterSigned],
  [Mnemonic.Pcmpgtd, (a, b) => (a > b ? -1 : 0)],
  [Mnemonic.Pminub, bytes.minUnsigned],
  [Mnemonic.Pmaxub, bytes.maxUnsigned],
  [Mnemonic.Pminsw, halves.minSigned],
  [Mnemonic.Pmaxsw, halves.maxSigned],
  [Mnemonic.Pavgb, bytes.average],
  [Mnemonic.Pavgw, halves.average],
  [Mnemonic.Pmullw, mulLow],
  [Mnemonic.Pmulhuw, mulHighUnsigned],
  [Mnemonic.Pmulhw, byHalves((a, b) => (a * b) >> 16)],
  [Mnemonic.Pmaddwd, mulAdd],
];

export const sseInteger: Family = new Map<number, Compile>([
  ...wordwise.map(([mnemonic, operation]): [number, Compile] => [mnemonic, ofXmm(byWords(operation))]),
  [Mnemonic.Pand, ofXmm(and)],
  [Mnemonic.Andps, ofXmm(and)],
  [Mnemonic.Andpd, ofXmm(and)],
  [Mnemonic.Pandn, ofXmm(andNot)],
  [Mnemonic.Andnps, ofXmm(andNot)],
  [Mnemonic.Andnpd, ofXmm(andNot)],
  [Mnemonic.Por, ofXmm(or)],
  [Mnemonic.Orps, ofXmm(or)],
  [Mnemonic.Orpd, ofXmm(or)],
  [Mnemonic.Pxor, ofXmm(xor)],
  [Mnemonic.Xorps, ofXmm(xor)],
  [Mnemonic.Xorpd, ofXmm(xor)],
  [Mnemonic.Paddq, ofXmm(addQuads)],
  [Mnemonic.Psubq, ofXmm(subQuads)],
  [Mnemonic.Pmuludq, ofXmm(mulQuads)],
  [Mnemonic.Psadbw, ofXmm(sumOfDifferences)],
]);
