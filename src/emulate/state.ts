/**
 * The registers of one emulated CPU: one buffer, seen through typed arrays, so that a snapshot is a copy, a comparison
 * is a loop, and no register is ever an object.
 *
 * A 64-bit register is two 32-bit words, low word first, since JavaScript's integers are 32 bits wide and a BigInt is
 * an allocation. x86-64 and typed arrays on x86-64 both are little-endian, so `b[8 * i]` is al, `h[4 * i]` is ax, `w[2
 * * i]` is eax.
 *
 * Each arithmetic flag is a word of its own, from which the flag is one comparison away. An operation stores there what
 * it has at hand (a result, a carry) and nobody computes a flag that is not asked for:
 *
 *     ZF  w[FZ] === 0         CF  w[FC] (0 or 1)       AF  w[FA] & 16
 *     SF  w[FS] < 0           OF  w[FO] < 0            PF  even parity of the low byte of w[FP]
 */

/** Words of the state: `w[IP]` is the low word of rip, and so on. */
export const IP = 32;
export const FZ = 34;
export const FS = 35;
export const FP = 36;
export const FC = 37;
export const FO = 38;
export const FA = 39;
/** Direction flag: 0 up, 1 down. */
export const DF = 40;
/** The bits of rflags that programs can set and that have no effect here: TF, NT, AC, ID. */
const OTHER_FLAGS = 41;
export const FS_BASE = 42;
export const GS_BASE = 44;
export const MXCSR = 46;
/** x87 control word. */
export const FPU_CONTROL = 47;
/** xmm0: four words each. */
export const XMM = 48;
/**
 * 1 once floating-point arithmetic has run since MXCSR was set: the exception flags in w[MXCSR] are then those of
 * before, since arithmetic does not track them, and nobody may be given them.
 */
export const MXCSR_STALE = XMM + 16 * 4;
export const STATE_WORDS = MXCSR_STALE + 1;
/** After the state: four words for the memory operand of an SSE instruction while it runs (xmm.ts). */
export const OPERAND = XMM + 17 * 4;
/** Two words that are always zero: the base register of an address that has none. */
export const ZERO = OPERAND + 4;
const BUFFER_WORDS = ZERO + 2;

/** General-purpose registers by their number in encodings. */
export const Gpr = {
  RAX: 0,
  RCX: 1,
  RDX: 2,
  RBX: 3,
  RSP: 4,
  RBP: 5,
  RSI: 6,
  RDI: 7,
  R8: 8,
  R9: 9,
  R10: 10,
  R11: 11,
  R12: 12,
  R13: 13,
  R14: 14,
  R15: 15,
} as const;

/** Bits of rflags. */
export const Rflags = {
  CF: 1,
  PF: 4,
  AF: 0x10,
  ZF: 0x40,
  SF: 0x80,
  DF: 0x400,
  OF: 0x800,
  /** Bit 1, which is always set, and IF, which user mode sees set. */
  ALWAYS: 0x202,
  /** TF, NT, AC, ID. */
  OTHER: 0x100 | 0x4000 | 0x40000 | 0x200000,
} as const;

/** What a new program finds: all exceptions masked, rounding to nearest, for x87 with 64 bits. */
export const DEFAULT_MXCSR = 0x1f80;
export const DEFAULT_FPU_CONTROL = 0x37f;

export class State {
  readonly buffer = new ArrayBuffer(BUFFER_WORDS * 4);
  /** Words: see the constants above. */
  readonly w = new Int32Array(this.buffer);
  readonly h = new Uint16Array(this.buffer);
  readonly b = new Uint8Array(this.buffer);
  readonly f32 = new Float32Array(this.buffer);
  /** xmm i, its low double: f64[(XMM + 4 * i) / 2]. */
  readonly f64 = new Float64Array(this.buffer);

  constructor() {
    this.w[FZ] = 1;
    this.w[FP] = 1;
    this.w[MXCSR] = DEFAULT_MXCSR;
    this.w[FPU_CONTROL] = DEFAULT_FPU_CONTROL;
  }

  /** rflags as pushf stores it. */
  get rflags(): number {
    const w = this.w;
    return (
      Rflags.ALWAYS |
      w[OTHER_FLAGS]! |
      (w[FC]! & 1) |
      (parity(w[FP]!) ? Rflags.PF : 0) |
      (w[FA]! & Rflags.AF) |
      (w[FZ] === 0 ? Rflags.ZF : 0) |
      (w[FS]! < 0 ? Rflags.SF : 0) |
      (w[DF]! & 1 ? Rflags.DF : 0) |
      (w[FO]! < 0 ? Rflags.OF : 0)
    );
  }

  /** Sets rflags as popf does in user mode. */
  set rflags(value: number) {
    const w = this.w;
    w[FC] = value & Rflags.CF;
    w[FP] = value & Rflags.PF ? 0 : 1;
    w[FA] = value & Rflags.AF;
    w[FZ] = value & Rflags.ZF ? 0 : 1;
    w[FS] = value & Rflags.SF ? -1 : 0;
    w[DF] = value & Rflags.DF ? 1 : 0;
    w[FO] = value & Rflags.OF ? -1 : 0;
    w[OTHER_FLAGS] = value & Rflags.OTHER;
  }

  /** A general-purpose register, without a sign. Not for hot paths. */
  gpr(index: number): bigint {
    return joinWords(this.w[2 * index]!, this.w[2 * index + 1]!);
  }

  setGpr(index: number, value: bigint): void {
    this.w[2 * index] = Number(BigInt.asIntN(32, value));
    this.w[2 * index + 1] = Number(BigInt.asIntN(32, value >> 32n));
  }

  /** rip as a number: exact for all addresses that user mode can run at. */
  get ip(): number {
    return joinAddress(this.w[IP]!, this.w[IP + 1]!);
  }

  set ip(address: number) {
    this.w[IP] = lowWord(address);
    this.w[IP + 1] = highWord(address);
  }

  copyFrom(other: State): void {
    this.w.set(other.w);
  }
}

/** Whether the low byte of `value` has an even number of ones: PF. */
export function parity(value: number): boolean {
  // 0x6996 has the parity of each nibble.
  return ((0x6996 >> ((value ^ (value >> 4)) & 15)) & 1) === 0;
}

/** The low and high word of an address or another exact integer; also negative ones, in two's complement. */
export const lowWord = (value: number): number => value | 0;
export const highWord = (value: number): number => Math.floor(value / 0x1_0000_0000) | 0;

/** An address from its words: exact below 2^53. */
export const joinAddress = (lo: number, hi: number): number => (hi >>> 0) * 0x1_0000_0000 + (lo >>> 0);

/** 64 bits without a sign. */
const joinWords = (lo: number, hi: number): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);
