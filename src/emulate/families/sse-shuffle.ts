/**
 * SSE and SSE2: rearranging elements: shuffles by an immediate, interleaving (unpck, punpck), narrowing with saturation
 * (pack), one half in or out (pinsrw, pextrw). Operations read all that they need before they write, since the source
 * may be the destination.
 */
import { iced } from "../../x86/iced.js";
import { type Compile, type Family, getOf, putOf } from "../operands.js";
import { immediateByte, ofXmm, ofXmmImmediate, type XmmOperation, xmmWord } from "../xmm.js";

const { Mnemonic, Code } = iced;

/** Four words from anywhere: what a register becomes. */
function setWords(w: Int32Array, d: number, w0: number, w1: number, w2: number, w3: number): void {
  w[d] = w0;
  w[d + 1] = w1;
  w[d + 2] = w2;
  w[d + 3] = w3;
}

/** pshufd: each word is chosen from the source by two bits. */
const shuffleWords = (by: number): XmmOperation => {
  const [i0, i1, i2, i3] = choices(by);
  return ({ w }, d, s) => setWords(w, d, w[s + i0]!, w[s + i1]!, w[s + i2]!, w[s + i3]!);
};

/** shufps: two words from the destination, then two from the source. */
const shuffleFloats = (by: number): XmmOperation => {
  const [i0, i1, i2, i3] = choices(by);
  return ({ w }, d, s) => setWords(w, d, w[d + i0]!, w[d + i1]!, w[s + i2]!, w[s + i3]!);
};

/** shufpd: one double from each, chosen by a bit. */
const shuffleDoubles = (by: number): XmmOperation => {
  const first = by & 1 ? 2 : 0;
  const second = by & 2 ? 2 : 0;
  return ({ w }, d, s) => setWords(w, d, w[d + first]!, w[d + first + 1]!, w[s + second]!, w[s + second + 1]!);
};

const choices = (by: number): [number, number, number, number] => [by & 3, (by >> 2) & 3, (by >> 4) & 3, by >> 6];

/**
 * pshuflw, pshufhw: the halves of one half of the register; the other one is copied. `part` is the word where it
 * begins.
 */
const shuffleHalves =
  (part: 0 | 2) =>
  (by: number): XmmOperation => {
    const [i0, i1, i2, i3] = choices(by);
    const kept = 2 - part;
    return ({ w, h }, d, s) => {
      const from = 2 * (s + part);
      const lo = h[from + i0]! | (h[from + i1]! << 16);
      const hi = h[from + i2]! | (h[from + i3]! << 16);
      w[d + kept] = w[s + kept]!;
      w[d + kept + 1] = w[s + kept + 1]!;
      w[d + part] = lo;
      w[d + part + 1] = hi;
    };
  };

/** Bytes or halves of a and b in turn, a's first: of the low or the high half of two words. */
type Interleave = (a: number, b: number) => number;

const lowBytes: Interleave = (a, b) => (a & 0xff) | ((b & 0xff) << 8) | ((a & 0xff00) << 8) | ((b & 0xff00) << 16);
const highBytes: Interleave = (a, b) => lowBytes(a >>> 16, b >>> 16);
const lowHalves: Interleave = (a, b) => (a & 0xffff) | (b << 16);
const highHalves: Interleave = (a, b) => (a >>> 16) | (b & ~0xffff);

/** punpck of elements below a word. `part` is the word at which the half that is used begins. */
const interleave =
  (low: Interleave, high: Interleave, part: 0 | 2): XmmOperation =>
  ({ w }, d, s) => {
    const a = w[d + part]!;
    const b = w[s + part]!;
    const a1 = w[d + part + 1]!;
    const b1 = w[s + part + 1]!;
    setWords(w, d, low(a, b), high(a, b), low(a1, b1), high(a1, b1));
  };

const interleaveWords =
  (part: 0 | 2): XmmOperation =>
  ({ w }, d, s) =>
    setWords(w, d, w[d + part]!, w[s + part]!, w[d + part + 1]!, w[s + part + 1]!);

const interleaveQuads =
  (part: 0 | 2): XmmOperation =>
  ({ w }, d, s) =>
    setWords(w, d, w[d + part]!, w[d + part + 1]!, w[s + part]!, w[s + part + 1]!);

const clamp = (v: number, least: number, most: number): number => (v < least ? least : v > most ? most : v);

/** The two signed halves of a word as two bytes, saturated. */
const narrowHalves = (v: number, least: number, most: number): number =>
  (clamp((v << 16) >> 16, least, most) & 0xff) | ((clamp(v >> 16, least, most) & 0xff) << 8);

/** packsswb, packuswb: the destination's halves become the low bytes, the source's the high ones. */
const packHalves =
  (least: number, most: number): XmmOperation =>
  ({ w }, d, s) =>
    setWords(
      w,
      d,
      narrowHalves(w[d]!, least, most) | (narrowHalves(w[d + 1]!, least, most) << 16),
      narrowHalves(w[d + 2]!, least, most) | (narrowHalves(w[d + 3]!, least, most) << 16),
      narrowHalves(w[s]!, least, most) | (narrowHalves(w[s + 1]!, least, most) << 16),
      narrowHalves(w[s + 2]!, least, most) | (narrowHalves(w[s + 3]!, least, most) << 16),
    );

const narrowWords = (lo: number, hi: number): number =>
  (clamp(lo, -0x8000, 0x7fff) & 0xffff) | (clamp(hi, -0x8000, 0x7fff) << 16);

const packWords: XmmOperation = ({ w }, d, s) =>
  setWords(
    w,
    d,
    narrowWords(w[d]!, w[d + 1]!),
    narrowWords(w[d + 2]!, w[d + 3]!),
    narrowWords(w[s]!, w[s + 1]!),
    narrowWords(w[s + 2]!, w[s + 3]!),
  );

/** pinsrw: the low 16 bits of a register, or 16 of memory, become one of the eight halves. */
const insertHalf: Compile = ({ operands }) => {
  const from = operands[1]!;
  const at = 2 * xmmWord(operands[0]) + (immediateByte(operands[2]) & 7);
  const get = getOf(from);
  return (cpu) => {
    cpu.h[at] = get(cpu);
  };
};

/** pextrw: one half, zero-extended. Its SSE4.1 form, which can store to memory, is not implemented. */
const extractHalf: Compile = ({ code, operands }) => {
  if (code !== Code.Pextrw_r32_xmm_imm8 && code !== Code.Pextrw_r64_xmm_imm8) return undefined;
  const at = 2 * xmmWord(operands[1]) + (immediateByte(operands[2]) & 7);
  const put = putOf(operands[0]!);
  return (cpu) => put(cpu, cpu.h[at]!, 0);
};

export const sseShuffle: Family = new Map<number, Compile>([
  [Mnemonic.Pshufd, ofXmmImmediate(shuffleWords)],
  [Mnemonic.Pshuflw, ofXmmImmediate(shuffleHalves(0))],
  [Mnemonic.Pshufhw, ofXmmImmediate(shuffleHalves(2))],
  [Mnemonic.Shufps, ofXmmImmediate(shuffleFloats)],
  [Mnemonic.Shufpd, ofXmmImmediate(shuffleDoubles)],
  [Mnemonic.Punpcklbw, ofXmm(interleave(lowBytes, highBytes, 0))],
  [Mnemonic.Punpckhbw, ofXmm(interleave(lowBytes, highBytes, 2))],
  [Mnemonic.Punpcklwd, ofXmm(interleave(lowHalves, highHalves, 0))],
  [Mnemonic.Punpckhwd, ofXmm(interleave(lowHalves, highHalves, 2))],
  [Mnemonic.Punpckldq, ofXmm(interleaveWords(0))],
  [Mnemonic.Unpcklps, ofXmm(interleaveWords(0))],
  [Mnemonic.Punpckhdq, ofXmm(interleaveWords(2))],
  [Mnemonic.Unpckhps, ofXmm(interleaveWords(2))],
  [Mnemonic.Punpcklqdq, ofXmm(interleaveQuads(0))],
  [Mnemonic.Unpcklpd, ofXmm(interleaveQuads(0))],
  [Mnemonic.Punpckhqdq, ofXmm(interleaveQuads(2))],
  [Mnemonic.Unpckhpd, ofXmm(interleaveQuads(2))],
  [Mnemonic.Packsswb, ofXmm(packHalves(-0x80, 0x7f))],
  [Mnemonic.Packuswb, ofXmm(packHalves(0, 0xff))],
  [Mnemonic.Packssdw, ofXmm(packWords)],
  [Mnemonic.Pinsrw, insertHalf],
  [Mnemonic.Pextrw, extractHalf],
]);
