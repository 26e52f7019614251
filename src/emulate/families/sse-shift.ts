/**
 * SSE2: packed shifts: psll, psrl, psra of halves, words and quads by an immediate or by the low 64 bits of an operand,
 * and pslldq, psrldq of the whole register by bytes. A count beyond the element's width gives zeroes, or copies of the
 * sign.
 */
import { iced } from "../../x86/iced.js";
import type { Compile, Family } from "../operands.js";
import { immediateByte, sourceOf, xmmWord } from "../xmm.js";

const { Mnemonic } = iced;

/** Shifts the register at word `d` by a count of 0 to 255. */
type Shift = (w: Int32Array, d: number, count: number) => void;

/** More than any element has bits. */
const TOO_MUCH = 255;

/** Shifts each of the four words alike. */
const wordwise =
  (shift: (word: number, count: number) => number): Shift =>
  (w, d, count) => {
    for (let i = d; i < d + 4; i++) w[i] = shift(w[i]!, count);
  };

const leftHalves = wordwise((v, n) => (n > 15 ? 0 : ((v & 0xffff0000) << n) | ((v << n) & 0xffff)));
const rightHalves = wordwise((v, n) => (n > 15 ? 0 : ((v >>> n) & 0xffff0000) | ((v & 0xffff) >>> n)));
const signedHalves = wordwise((v, n) => {
  const by = Math.min(n, 15);
  return ((v >> by) & 0xffff0000) | (((v << 16) >> (16 + by)) & 0xffff);
});
const leftWords = wordwise((v, n) => (n > 31 ? 0 : v << n));
const rightWords = wordwise((v, n) => (n > 31 ? 0 : v >>> n));
const signedWords = wordwise((v, n) => v >> Math.min(n, 31));

const leftQuads: Shift = (w, d, n) => {
  for (let i = d; i < d + 4; i += 2) {
    const lo = w[i]!;
    const hi = w[i + 1]!;
    if (n > 31) {
      w[i + 1] = n > 63 ? 0 : lo << (n - 32);
      w[i] = 0;
    } else if (n > 0) {
      w[i + 1] = (hi << n) | (lo >>> (32 - n));
      w[i] = lo << n;
    }
  }
};

const rightQuads: Shift = (w, d, n) => {
  for (let i = d; i < d + 4; i += 2) {
    const lo = w[i]!;
    const hi = w[i + 1]!;
    if (n > 31) {
      w[i] = n > 63 ? 0 : hi >>> (n - 32);
      w[i + 1] = 0;
    } else if (n > 0) {
      w[i] = (lo >>> n) | (hi << (32 - n));
      w[i + 1] = hi >>> n;
    }
  }
};

const shiftBy =
  (shift: Shift): Compile =>
  ({ operands }) => {
    const d = xmmWord(operands[0]);
    const by = operands[1];
    if (by?.kind === "immediate") {
      const count = immediateByte(by);
      return ({ w }) => shift(w, d, count);
    }
    const source = sourceOf(by);
    return (cpu) => {
      const s = source(cpu);
      shift(cpu.w, d, countIn(cpu.w, s));
    };
  };

const countIn = (w: Int32Array, s: number): number => (w[s + 1] === 0 && w[s]! >>> 0 < TOO_MUCH ? w[s]! : TOO_MUCH);

/** pslldq: bytes move up in the register, zeroes come in; from the top word down, since each is made of lower ones. */
const bytesLeft: Compile = ({ operands }) => {
  const d = xmmWord(operands[0]);
  const by = Math.min(16, immediateByte(operands[1]));
  const words = by >> 2;
  const bits = 8 * (by & 3);
  return ({ w }) => {
    for (let i = 3; i >= 0; i--) {
      const near = i >= words ? w[d + i - words]! : 0;
      const far = i > words ? w[d + i - words - 1]! : 0;
      w[d + i] = bits === 0 ? near : (near << bits) | (far >>> (32 - bits));
    }
  };
};

/** psrldq: the same downwards. */
const bytesRight: Compile = ({ operands }) => {
  const d = xmmWord(operands[0]);
  const by = Math.min(16, immediateByte(operands[1]));
  const words = by >> 2;
  const bits = 8 * (by & 3);
  return ({ w }) => {
    for (let i = 0; i < 4; i++) {
      const near = i + words < 4 ? w[d + i + words]! : 0;
      const far = i + words < 3 ? w[d + i + words + 1]! : 0;
      w[d + i] = bits === 0 ? near : (near >>> bits) | (far << (32 - bits));
    }
  };
};

export const sseShift: Family = new Map<number, Compile>([
  [Mnemonic.Psllw, shiftBy(leftHalves)],
  [Mnemonic.Psrlw, shiftBy(rightHalves)],
  [Mnemonic.Psraw, shiftBy(signedHalves)],
  [Mnemonic.Pslld, shiftBy(leftWords)],
  [Mnemonic.Psrld, shiftBy(rightWords)],
  [Mnemonic.Psrad, shiftBy(signedWords)],
  [Mnemonic.Psllq, shiftBy(leftQuads)],
  [Mnemonic.Psrlq, shiftBy(rightQuads)],
  [Mnemonic.Pslldq, bytesLeft],
  [Mnemonic.Psrldq, bytesRight],
]);
