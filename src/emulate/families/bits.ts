/**
 * Single bits: bt, bts, btr, btc, and counting them: bsf, bsr, tzcnt, lzcnt, popcnt.
 *
 * A bit offset in a register counts from a memory operand's address as far as it goes, in both directions; one in a
 * register operand or an immediate is taken modulo the operand's size. The bit tests change CF alone: the flags that
 * are undefined stay as they were.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import { Unimplemented } from "../fault.js";
import type { GprOperand, Instruction, MemoryOperand } from "../instruction.js";
import {
  addressOf,
  type Compile,
  type Family,
  type Get,
  getOf,
  memoryReaderAtAddress,
  putBackOf,
  putOf,
  type Step,
  sizeOf,
  UnsupportedOperand,
  updateOf,
} from "../operands.js";
import { FA, FC, FO, FP, FS, FZ } from "../state.js";

/** What becomes of a word whose bit `mask` has been tested. */
type BitChange = (word: number, mask: number) => number;

const set: BitChange = (word, mask) => word | mask;
const reset: BitChange = (word, mask) => word & ~mask;
const complement: BitChange = (word, mask) => word ^ mask;

const bitTest =
  (change: BitChange | null): Compile =>
  (instruction) => {
    const [a, b] = instruction.operands;
    if (a?.kind === "memory" && b?.kind === "gpr") return bitTestFarAway(a, b, change, instruction);
    const size = sizeOf(a!);
    const mask = 8 * size - 1;
    const get = change === null ? getOf(a!) : updateOf(a!);
    const getOffset = getOf(b!);
    const put = change === null ? undefined : putBackOf(a!);
    return (cpu) => {
      const offset = getOffset(cpu) & mask;
      testBit(cpu, get(cpu), offset, change, put);
    };
  };

/** Tests, and perhaps changes, a bit of the value whose low word is `lo` and whose high one is in `cpu.hi`. */
function testBit(
  cpu: Core,
  lo: number,
  offset: number,
  change: BitChange | null,
  put: ((cpu: Core, lo: number, hi: number) => void) | undefined,
): void {
  const hi = cpu.hi;
  const mask = 1 << offset;
  cpu.w[FC] = ((offset < 32 ? lo : hi) & mask) === 0 ? 0 : 1;
  if (change === null || put === undefined) return;
  if (offset < 32) put(cpu, change(lo, mask), hi);
  else put(cpu, lo, change(hi, mask));
}

/** A bit of memory by an offset in a register: it is in the word (of the operand's size) that the offset leads to. */
function bitTestFarAway(a: MemoryOperand, b: GprOperand, change: BitChange | null, instruction: Instruction): Step {
  const { size } = a;
  // Where addresses are cut to 32 bits, the cut comes before the segment's base is added.
  if (a.addressSize === 4 && a.segment >= 0) throw new UnsupportedOperand("bit offset from a 32-bit address");
  const address = addressOf(a);
  const offsetOf = signedOffset(b);
  const read = memoryReaderAtAddress(size);
  const put = change === null ? undefined : putBackOf(a);
  const wordShift = 31 - Math.clz32(8 * size);
  const bytesShift = 31 - Math.clz32(size);
  const mask = 8 * size - 1;
  return (cpu) => {
    const base = address(cpu);
    const baseHi = cpu.addressHi;
    const offset = offsetOf(cpu);
    const offsetHi = cpu.hi;
    // The manuals do not say what is left of such an offset where addresses have 32 bits.
    if (a.addressSize === 4 && offsetHi !== offset >> 31)
      throw new Unimplemented(`${instruction.text} with an offset of more than 32 bits`);
    const words = (offset >>> wordShift) | (offsetHi << (32 - wordShift));
    const wordsHi = offsetHi >> wordShift;
    const bytes = words << bytesShift;
    const bytesHi = bytesShift === 0 ? wordsHi : (wordsHi << bytesShift) | (words >>> (32 - bytesShift));
    const lo = (base + bytes) | 0;
    const hi = a.addressSize === 4 ? 0 : (baseHi + bytesHi + (lo >>> 0 < bytes >>> 0 ? 1 : 0)) | 0;
    cpu.addressLo = lo;
    cpu.addressHi = hi;
    if (change !== null) cpu.memory.probeWrite(lo, hi, size);
    testBit(cpu, read(cpu), offset & mask, change, put);
  };
}

function signedOffset(b: GprOperand): Get {
  const get = getOf(b);
  if (b.size === 8) return get;
  const shift = 32 - 8 * b.size;
  return (cpu) => {
    const lo = (get(cpu) << shift) >> shift;
    cpu.hi = lo >> 31;
    return lo;
  };
}

/** The number of zeros below the lowest one of a word; 32 for 0. */
const trailingZeros = (word: number): number => (word === 0 ? 32 : 31 - Math.clz32(word & -word));

function onesIn(word: number): number {
  let v = word - ((word >>> 1) & 0x55555555);
  v = (v & 0x33333333) + ((v >>> 2) & 0x33333333);
  v = (v + (v >>> 4)) & 0x0f0f0f0f;
  return Math.imul(v, 0x01010101) >>> 24;
}

/**
 * bsf and bsr: of zero, ZF is set and the destination stays as it is, with its upper half where it has 32 bits (which
 * the manuals of Intel leave undefined, those of AMD define, and processors of both do). The other flags are undefined:
 * they stay.
 */
const scan =
  (indexOf: (lo: number, hi: number) => number): Compile =>
  ({ operands }) => {
    const [to, from] = operands;
    const wide = sizeOf(from!) === 8;
    const get = getOf(from!);
    const put = putOf(to!);
    return (cpu) => {
      const lo = get(cpu);
      const hi = wide ? cpu.hi : 0;
      cpu.w[FZ] = lo | hi;
      if ((lo | hi) !== 0) put(cpu, indexOf(lo, hi), 0);
    };
  };

const lowest = (lo: number, hi: number): number => (lo !== 0 ? trailingZeros(lo) : 32 + trailingZeros(hi));
const highest = (lo: number, hi: number): number => (hi !== 0 ? 63 - Math.clz32(hi) : 31 - Math.clz32(lo));

/** tzcnt and lzcnt: CF says that the source is 0, ZF that the count is; the other flags are undefined: they stay. */
const count =
  (zeros: (lo: number, hi: number, bits: number) => number): Compile =>
  ({ operands }) => {
    const [to, from] = operands;
    const bits = 8 * sizeOf(from!);
    const get = getOf(from!);
    const put = putOf(to!);
    return (cpu) => {
      const lo = get(cpu);
      const hi = bits === 64 ? cpu.hi : 0;
      const n = (lo | hi) === 0 ? bits : zeros(lo, hi, bits);
      cpu.w[FC] = n === bits ? 1 : 0;
      cpu.w[FZ] = n;
      put(cpu, n, 0);
    };
  };

const popcnt: Compile = ({ operands }) => {
  const [to, from] = operands;
  const wide = sizeOf(from!) === 8;
  const get = getOf(from!);
  const put = putOf(to!);
  return (cpu) => {
    const lo = get(cpu);
    const n = onesIn(lo) + (wide ? onesIn(cpu.hi) : 0);
    const w = cpu.w;
    w[FZ] = n;
    w[FS] = 0;
    w[FP] = 1;
    w[FC] = 0;
    w[FO] = 0;
    w[FA] = 0;
    put(cpu, n, 0);
  };
};

const { Mnemonic } = iced;

export const bits: Family = new Map<number, Compile>([
  [Mnemonic.Bt, bitTest(null)],
  [Mnemonic.Bts, bitTest(set)],
  [Mnemonic.Btr, bitTest(reset)],
  [Mnemonic.Btc, bitTest(complement)],
  [Mnemonic.Bsf, scan(lowest)],
  [Mnemonic.Bsr, scan(highest)],
  [Mnemonic.Tzcnt, count(lowest)],
  [Mnemonic.Lzcnt, count((lo, hi, size) => size - 1 - highest(lo, hi))],
  [Mnemonic.Popcnt, popcnt],
]);
