/**
 * Random numbers that are the same everywhere: xoshiro128** on 32-bit integers, and values with a preference for those
 * on which arithmetic goes wrong.
 */

export class Random {
  private a: number;
  private b: number;
  private c: number;
  private d: number;

  /** Seeds are small integers and alike; they are spread over the state by a mixing function (splitmix32). */
  constructor(...seeds: readonly number[]) {
    let s = 0x9e3779b9;
    for (const seed of seeds) s = Math.imul(s ^ mix(seed | 0), 0x85ebca6b);
    const next = () => {
      s = (s + 0x9e3779b9) | 0;
      return mix(s);
    };
    this.a = next();
    this.b = next();
    this.c = next();
    this.d = next() | 1;
  }

  /** 32 bits without a sign. */
  bits(): number {
    const product = Math.imul(this.b, 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9) >>> 0;
    const t = this.b << 9;
    this.c ^= this.a;
    this.d ^= this.b;
    this.b ^= this.c;
    this.a ^= this.d;
    this.c ^= t;
    this.d = (this.d << 11) | (this.d >>> 21);
    return result;
  }

  /** An integer in [0, n). */
  below(n: number): number {
    return Math.floor((this.bits() / 0x1_0000_0000) * n);
  }

  /** An integer in [low, high]. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** True once in n times. */
  oneIn(n: number): boolean {
    return this.below(n) === 0;
  }

  pick<T>(from: readonly T[]): T {
    return from[this.below(from.length)]!;
  }

  bits64(): bigint {
    return (BigInt(this.bits()) << 32n) | BigInt(this.bits());
  }

  /** A 64-bit value: half of them are such that something overflows, borrows or turns its sign at some operand size. */
  integer(): bigint {
    switch (this.below(8)) {
      case 0:
      case 1:
        return this.bits64();
      case 2:
        return BigInt(this.below(70));
      case 3:
        return BigInt.asUintN(64, -BigInt(this.below(70)));
      case 4: {
        // A boundary in each half, so that what an operand of 8, 16 or 32 bits leaves alone is seen.
        const low = this.pick(boundaries) & 0xffffffffn;
        return (BigInt(this.bits()) << 32n) | low;
      }
      case 5:
        return BigInt.asUintN(64, BigInt(BigInt.asIntN(32, BigInt(this.bits()))));
      default:
        return this.pick(boundaries);
    }
  }

  float32(): number {
    return this.oneIn(3) ? this.bits() : this.oneIn(4) ? this.likeFloat32() : this.pick(floats32);
  }

  float64(): bigint {
    return this.oneIn(4) ? this.bits64() : this.oneIn(3) ? this.likeFloat64() : this.pick(floats64);
  }

  special32(): number {
    return this.pick(specials32);
  }

  special64(): bigint {
    return this.pick(specials64);
  }

  /** With an exponent near 0, so that sums and products stay finite and conversions to integers do not all overflow. */
  private likeFloat32(): number {
    const exponent = 127 + this.between(-30, 36);
    return ((this.below(2) << 31) | (exponent << 23) | (this.bits() & (this.oneIn(2) ? 0x7fffff : 0x7ff000))) >>> 0;
  }

  private likeFloat64(): bigint {
    const exponent = BigInt(1023 + this.between(-60, 70));
    const mantissa = this.bits64() & (this.oneIn(2) ? 0xfffffffffffffn : 0xfff0000000000n);
    return (BigInt(this.below(2)) << 63n) | (exponent << 52n) | mantissa;
  }
}

function mix(x: number): number {
  let z = x;
  z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
  z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
  return z ^ (z >>> 15);
}

/** The ends of the ranges of all operand sizes, with and without a sign, and their neighbours. */
const boundaries: readonly bigint[] = [
  ...[7n, 8n, 15n, 16n, 31n, 32n, 52n, 53n, 63n].flatMap((n) => [(1n << n) - 1n, 1n << n, (1n << n) + 1n]),
  0n,
  1n,
  2n,
  0xffffffffffffffffn,
  0xfffffffffffffffen,
  0xffffffff80000000n,
  0xffffffff7fffffffn,
  0xffffffffffff8000n,
  0xffffffffffffff80n,
  0x5555555555555555n,
  0xaaaaaaaaaaaaaaaan,
];

/**
 * Single precision: zeros, ones, denormals, infinities, quiet and signalling NaNs with payloads, ends of integer
 * ranges.
 */
const floats32: readonly number[] = [
  0x00000000, 0x80000000, 0x3f800000, 0xbf800000, 0x40000000, 0x3f000000, 0xbf000000, 0x3fc00000, 0x40200000,
  0x00000001, 0x80000001, 0x007fffff, 0x807fffff, 0x00800000, 0x80800000, 0x7f7fffff, 0xff7fffff, 0x7f800000,
  0xff800000, 0x7fc00000, 0xffc00000, 0x7fc12345, 0xffd54321, 0x7f800001, 0xff800001, 0x7fa5a5a5, 0x4b000001,
  0x4b7fffff, 0x4effffff, 0x4f000000, 0xcf000000, 0xcf000001, 0x5effffff, 0x5f000000, 0xdf000000, 0xdf000001,
  0x3effffff, 0x3f000001, 0x33800000, 0x33800001, 0x0d800000, 0x71000000, 0x40490fdb,
];

const floats64: readonly bigint[] = [
  0x0000000000000000n,
  0x8000000000000000n,
  0x3ff0000000000000n,
  0xbff0000000000000n,
  0x4000000000000000n,
  0x3fe0000000000000n,
  0xbfe0000000000000n,
  0x3ff8000000000000n,
  0x4004000000000000n,
  0x0000000000000001n,
  0x8000000000000001n,
  0x000fffffffffffffn,
  0x0010000000000000n,
  0x8010000000000000n,
  0x7fefffffffffffffn,
  0xffefffffffffffffn,
  0x7ff0000000000000n,
  0xfff0000000000000n,
  0x7ff8000000000000n,
  0xfff8000000000000n,
  0x7ff8123456789abcn,
  0xfffdeadbeef12345n,
  0x7ff0000000000001n,
  0xfff0000000000001n,
  0x7ff5a5a5a5a5a5a5n,
  0x4330000000000001n,
  0x433fffffffffffffn,
  0x41dfffffffc00000n,
  0x41dfffffffe00000n,
  0x41e0000000000000n,
  0xc1e0000000000000n,
  0xc1e0000000100000n,
  0xc1e0000000200000n,
  0x43dfffffffffffffn,
  0x43e0000000000000n,
  0xc3e0000000000000n,
  0xc3e0000000000001n,
  0x3fdfffffffffffffn,
  0x3fe0000000000001n,
  0x36a0000000000000n,
  0x3690000000000001n,
  0x380fffffffffffffn,
  0x47efffffe0000000n,
  0x47effffff0000000n,
  0x47f0000000000000n,
  0x400921fb54442d18n,
];

/** Both zeros, one, both infinities, a quiet and a signalling NaN. */
const specials32: readonly number[] = [0, 0x80000000, 0x3f800000, 0x7f800000, 0xff800000, 0x7fc00123, 0xff800456];

const specials64: readonly bigint[] = [
  0n,
  0x8000000000000000n,
  0x3ff0000000000000n,
  0x7ff0000000000000n,
  0xfff0000000000000n,
  0x7ff8000000000123n,
  0xfff0000000000456n,
];
