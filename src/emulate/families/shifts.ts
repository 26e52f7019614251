/**
 * Shifts and rotates: shl, sal, shr, sar, shld, shrd, rol, ror, rcl, rcr (Intel SDM vol. 2).
 *
 * The count is masked to 6 bits for 64-bit operands and to 5 for all others. A masked count of 0 changes no flag, yet a
 * 32-bit register loses its upper half. OF is defined for a masked count of 1 alone, and CF of shl and shr while the
 * count does not exceed the operand; elsewhere they get whatever the same formula gives. AF is undefined and is
 * cleared.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import { Unimplemented } from "../fault.js";
import { type Compile, type Family, getOf, putBackOf, sizeOf, updateOf } from "../operands.js";
import { FA, FC, FO, FP, FS, FZ } from "../state.js";
import { type Alu, type AluBySize, binary } from "./arithmetic.js";

/** Flags of a result of up to 32 bits: `top` is the result with its sign in bit 31, `overflow` has OF there. */
function setShiftFlags({ w }: Core, top: number, low: number, carry: number, overflow: number): void {
  w[FZ] = top;
  w[FS] = top;
  w[FP] = low;
  w[FC] = carry;
  w[FO] = overflow;
  w[FA] = 0;
}

function setShiftFlags64({ w }: Core, lo: number, hi: number, carry: number, overflow: number): void {
  w[FZ] = lo | hi;
  w[FS] = hi;
  w[FP] = lo;
  w[FC] = carry;
  w[FO] = overflow;
  w[FA] = 0;
}

/** Bit `n` of 64. */
const bit64 = (lo: number, hi: number, n: number): number => ((n < 32 ? lo >>> n : hi >>> (n - 32)) & 1) | 0;

const shlNarrow =
  (bits: 8 | 16): Alu =>
  (cpu, a, _aHi, b) => {
    const count = b & 31;
    if (count === 0) return a;
    const up = 32 - bits;
    const result = (a << count) & (bits === 8 ? 0xff : 0xffff);
    const carry = (((a << (count - 1)) >>> (bits - 1)) & 1) | 0;
    setShiftFlags(cpu, result << up, result, carry, (result << up) ^ (carry << 31));
    return result;
  };

const shl: AluBySize = {
  1: shlNarrow(8),
  2: shlNarrow(16),
  4: (cpu, a, _aHi, b) => {
    const count = b & 31;
    if (count === 0) return a;
    const result = a << count;
    const carry = (a >>> (32 - count)) & 1;
    setShiftFlags(cpu, result, result, carry, result ^ (carry << 31));
    return result;
  },
  8: (cpu, a, aHi, b) => {
    const count = b & 63;
    cpu.hi = aHi;
    if (count === 0) return a;
    const lo = count < 32 ? a << count : 0;
    const hi = count < 32 ? (aHi << count) | (a >>> (32 - count)) : a << (count - 32);
    const carry = bit64(a, aHi, 64 - count);
    setShiftFlags64(cpu, lo, hi, carry, hi ^ (carry << 31));
    cpu.hi = hi;
    return lo;
  },
};

const shrNarrow =
  (bits: 8 | 16): Alu =>
  (cpu, a, _aHi, b) => {
    const count = b & 31;
    if (count === 0) return a;
    const up = 32 - bits;
    const result = a >>> count;
    setShiftFlags(cpu, result << up, result, (a >>> (count - 1)) & 1, a << up);
    return result;
  };

const shr: AluBySize = {
  1: shrNarrow(8),
  2: shrNarrow(16),
  4: (cpu, a, _aHi, b) => {
    const count = b & 31;
    if (count === 0) return a;
    const result = (a >>> count) | 0;
    setShiftFlags(cpu, result, result, (a >>> (count - 1)) & 1, a);
    return result;
  },
  8: (cpu, a, aHi, b) => {
    const count = b & 63;
    cpu.hi = aHi;
    if (count === 0) return a;
    const lo = (count < 32 ? (a >>> count) | (aHi << (32 - count)) : aHi >>> (count - 32)) | 0;
    const hi = count < 32 ? (aHi >>> count) | 0 : 0;
    setShiftFlags64(cpu, lo, hi, bit64(a, aHi, count - 1), aHi);
    cpu.hi = hi;
    return lo;
  },
};

const sarNarrow =
  (bits: 8 | 16): Alu =>
  (cpu, a, _aHi, b) => {
    const count = b & 31;
    if (count === 0) return a;
    const up = 32 - bits;
    const signed = (a << up) >> up;
    const result = (signed >> count) & (bits === 8 ? 0xff : 0xffff);
    setShiftFlags(cpu, result << up, result, (signed >> (count - 1)) & 1, 0);
    return result;
  };

const sar: AluBySize = {
  1: sarNarrow(8),
  2: sarNarrow(16),
  4: (cpu, a, _aHi, b) => {
    const count = b & 31;
    if (count === 0) return a;
    const result = a >> count;
    setShiftFlags(cpu, result, result, (a >> (count - 1)) & 1, 0);
    return result;
  },
  8: (cpu, a, aHi, b) => {
    const count = b & 63;
    cpu.hi = aHi;
    if (count === 0) return a;
    const lo = count < 32 ? (a >>> count) | (aHi << (32 - count)) : aHi >> (count - 32);
    const hi = aHi >> Math.min(count, 31);
    setShiftFlags64(cpu, lo, hi, bit64(a, aHi, count - 1), 0);
    cpu.hi = hi;
    return lo;
  },
};

/** Rotates change CF and OF alone. `top` is the result with its sign in bit 31. */
function setRotateFlags({ w }: Core, carry: number, overflow: number): void {
  w[FC] = carry;
  w[FO] = overflow;
}

const rolNarrow =
  (bits: 8 | 16): Alu =>
  (cpu, a, _aHi, b) => {
    if ((b & 31) === 0) return a;
    const count = b & (bits - 1);
    const result = ((a << count) | (a >>> (bits - count))) & (bits === 8 ? 0xff : 0xffff);
    setRotateFlags(cpu, result & 1, (result << (32 - bits)) ^ (result << 31));
    return result;
  };

const rol: AluBySize = {
  1: rolNarrow(8),
  2: rolNarrow(16),
  4: (cpu, a, _aHi, b) => {
    const count = b & 31;
    if (count === 0) return a;
    const result = (a << count) | (a >>> (32 - count));
    setRotateFlags(cpu, result & 1, result ^ (result << 31));
    return result;
  },
  8: (cpu, a, aHi, b) => {
    const count = b & 63;
    cpu.hi = aHi;
    if (count === 0) return a;
    const lo = rotatedLeft(a, aHi, count);
    const hi = rotatedLeft(aHi, a, count);
    setRotateFlags(cpu, lo & 1, hi ^ (lo << 31));
    cpu.hi = hi;
    return lo;
  },
};

/** The low word of a rotation to the left; with the words exchanged, the high one. */
function rotatedLeft(lo: number, hi: number, count: number): number {
  const n = count & 31;
  const first = count < 32 ? lo : hi;
  const second = count < 32 ? hi : lo;
  return n === 0 ? first : (first << n) | (second >>> (32 - n));
}

const rorNarrow =
  (bits: 8 | 16): Alu =>
  (cpu, a, _aHi, b) => {
    if ((b & 31) === 0) return a;
    const count = b & (bits - 1);
    const result = ((a >>> count) | (a << (bits - count))) & (bits === 8 ? 0xff : 0xffff);
    const top = result << (32 - bits);
    setRotateFlags(cpu, top >>> 31, top ^ (top << 1));
    return result;
  };

const ror: AluBySize = {
  1: rorNarrow(8),
  2: rorNarrow(16),
  4: (cpu, a, _aHi, b) => {
    const count = b & 31;
    if (count === 0) return a;
    const result = (a >>> count) | (a << (32 - count));
    setRotateFlags(cpu, result >>> 31, result ^ (result << 1));
    return result;
  },
  8: (cpu, a, aHi, b) => {
    const count = b & 63;
    cpu.hi = aHi;
    if (count === 0) return a;
    const lo = rotatedLeft(a, aHi, 64 - count);
    const hi = rotatedLeft(aHi, a, 64 - count);
    setRotateFlags(cpu, hi >>> 31, hi ^ (hi << 1));
    cpu.hi = hi;
    return lo;
  },
};

/** Through the carry, an operand of 8 or 16 bits is one of 9 or 17, and the count goes round with it. */
const rclNarrow =
  (bits: 8 | 16): Alu =>
  (cpu, a, _aHi, b) => {
    if ((b & 31) === 0) return a;
    const count = (b & 31) % (bits + 1);
    const from = a | (cpu.w[FC]! << bits);
    const to = count === 0 ? from : (from << count) | (from >>> (bits + 1 - count));
    const carry = (to >>> bits) & 1;
    setRotateFlags(cpu, carry, (to << (32 - bits)) ^ (carry << 31));
    return to & (bits === 8 ? 0xff : 0xffff);
  };

const rcl: AluBySize = {
  1: rclNarrow(8),
  2: rclNarrow(16),
  4: (cpu, a, _aHi, b) => {
    const count = b & 31;
    if (count === 0) return a;
    const result = (a << count) | (cpu.w[FC]! << (count - 1)) | (count === 1 ? 0 : a >>> (33 - count));
    const carry = (a >>> (32 - count)) & 1;
    setRotateFlags(cpu, carry, result ^ (carry << 31));
    return result;
  },
  8: (cpu, a, aHi, b) => {
    const count = b & 63;
    cpu.hi = aHi;
    if (count === 0) return a;
    let lo = a;
    let hi = aHi;
    let carry = cpu.w[FC]!;
    for (let i = 0; i < count; i++) {
      const out = hi >>> 31;
      hi = (hi << 1) | (lo >>> 31);
      lo = (lo << 1) | carry;
      carry = out;
    }
    setRotateFlags(cpu, carry, hi ^ (carry << 31));
    cpu.hi = hi;
    return lo;
  },
};

const rcrNarrow =
  (bits: 8 | 16): Alu =>
  (cpu, a, _aHi, b) => {
    if ((b & 31) === 0) return a;
    const count = (b & 31) % (bits + 1);
    const from = a | (cpu.w[FC]! << bits);
    const to = count === 0 ? from : (from >>> count) | (from << (bits + 1 - count));
    const top = to << (32 - bits);
    setRotateFlags(cpu, (to >>> bits) & 1, top ^ (top << 1));
    return to & (bits === 8 ? 0xff : 0xffff);
  };

const rcr: AluBySize = {
  1: rcrNarrow(8),
  2: rcrNarrow(16),
  4: (cpu, a, _aHi, b) => {
    const count = b & 31;
    if (count === 0) return a;
    const result = (a >>> count) | (cpu.w[FC]! << (32 - count)) | (count === 1 ? 0 : a << (33 - count));
    setRotateFlags(cpu, (a >>> (count - 1)) & 1, result ^ (result << 1));
    return result;
  },
  8: (cpu, a, aHi, b) => {
    const count = b & 63;
    cpu.hi = aHi;
    if (count === 0) return a;
    let lo = a;
    let hi = aHi;
    let carry = cpu.w[FC]!;
    for (let i = 0; i < count; i++) {
      const out = lo & 1;
      lo = (lo >>> 1) | (hi << 31);
      hi = (hi >>> 1) | (carry << 31);
      carry = out;
    }
    setRotateFlags(cpu, carry, hi ^ (hi << 1));
    cpu.hi = hi;
    return lo;
  },
};

/** Shifts `a`, and bits of `b` move in after it. The count is masked and neither 0 nor more than the operand's bits. */
type DoubleShift = (cpu: Core, a: number, aHi: number, b: number, bHi: number, count: number) => number;

const shld: Readonly<Record<2 | 4 | 8, DoubleShift>> = {
  2: (cpu, a, _aHi, b, _bHi, count) => {
    const result = ((a << count) | (b >>> (16 - count))) & 0xffff;
    setShiftFlags(cpu, result << 16, result, (a >>> (16 - count)) & 1, (a ^ result) << 16);
    return result;
  },
  4: (cpu, a, _aHi, b, _bHi, count) => {
    const result = (a << count) | (b >>> (32 - count));
    setShiftFlags(cpu, result, result, (a >>> (32 - count)) & 1, a ^ result);
    return result;
  },
  8: (cpu, a, aHi, b, bHi, count) => {
    const n = count & 31;
    // The upper three of the four words b, a; by 32 bits or more they move on by one.
    const top = count < 32 ? aHi : a;
    const middle = count < 32 ? a : bHi;
    const bottom = count < 32 ? bHi : b;
    const hi = n === 0 ? top : (top << n) | (middle >>> (32 - n));
    const lo = n === 0 ? middle : (middle << n) | (bottom >>> (32 - n));
    setShiftFlags64(cpu, lo, hi, bit64(a, aHi, 64 - count), aHi ^ hi);
    cpu.hi = hi;
    return lo;
  },
};

const shrd: Readonly<Record<2 | 4 | 8, DoubleShift>> = {
  2: (cpu, a, _aHi, b, _bHi, count) => {
    const result = ((a >>> count) | (b << (16 - count))) & 0xffff;
    setShiftFlags(cpu, result << 16, result, (a >>> (count - 1)) & 1, (a ^ result) << 16);
    return result;
  },
  4: (cpu, a, _aHi, b, _bHi, count) => {
    const result = (a >>> count) | (b << (32 - count));
    setShiftFlags(cpu, result, result, (a >>> (count - 1)) & 1, a ^ result);
    return result;
  },
  8: (cpu, a, aHi, b, bHi, count) => {
    const n = count & 31;
    const bottom = count < 32 ? a : aHi;
    const middle = count < 32 ? aHi : b;
    const top = count < 32 ? b : bHi;
    const lo = n === 0 ? bottom : (bottom >>> n) | (middle << (32 - n));
    const hi = n === 0 ? middle : (middle >>> n) | (top << (32 - n));
    setShiftFlags64(cpu, lo, hi, bit64(a, aHi, count - 1), aHi ^ hi);
    cpu.hi = hi;
    return lo;
  },
};

const doubleShift =
  (operation: Readonly<Record<2 | 4 | 8, DoubleShift>>): Compile =>
  (instruction) => {
    const [a, b, by] = instruction.operands;
    const size = sizeOf(a!);
    if (size === 1) return undefined;
    const shift = operation[size];
    const mask = size === 8 ? 63 : 31;
    const getA = updateOf(a!);
    const getB = getOf(b!);
    const getCount = getOf(by!);
    const put = putBackOf(a!);
    return (cpu) => {
      const count = getCount(cpu) & mask;
      const bLo = getB(cpu);
      const bHi = cpu.hi;
      const aLo = getA(cpu);
      // Only 16 bits can be shifted by more than they are; the result is undefined then.
      if (count > 8 * size) throw new Unimplemented(`${instruction.text} by ${count}`);
      const lo = count === 0 ? aLo : shift(cpu, aLo, cpu.hi, bLo, bHi, count);
      put(cpu, lo, cpu.hi);
    };
  };

const { Mnemonic } = iced;

export const shifts: Family = new Map<number, Compile>([
  [Mnemonic.Shl, (i) => binary(i, shl)],
  [Mnemonic.Sal, (i) => binary(i, shl)],
  [Mnemonic.Shr, (i) => binary(i, shr)],
  [Mnemonic.Sar, (i) => binary(i, sar)],
  [Mnemonic.Rol, (i) => binary(i, rol)],
  [Mnemonic.Ror, (i) => binary(i, ror)],
  [Mnemonic.Rcl, (i) => binary(i, rcl)],
  [Mnemonic.Rcr, (i) => binary(i, rcr)],
  [Mnemonic.Shld, doubleShift(shld)],
  [Mnemonic.Shrd, doubleShift(shrd)],
]);
