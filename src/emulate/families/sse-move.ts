/**
 * SSE and SSE2: moving what xmm registers hold, unchanged (Intel SDM vol. 2, MOV*, LDDQU, MASKMOVDQU).
 *
 * Which part of the register a load leaves alone is the point of most of these: movss and movsd clear the rest when
 * they load from memory, and keep it when they move between registers; movlps and movhps always keep the other half.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import type { MemoryOperand } from "../instruction.js";
import { addressOf, type Compile, type Family, getOf, putOf, type Step } from "../operands.js";
import { Gpr, OPERAND } from "../state.js";
import { alignedAddressOf, fetchOf, xmmWord } from "../xmm.js";

const { Mnemonic } = iced;

function copy({ w }: Core, d: number, s: number): void {
  w[d] = w[s]!;
  w[d + 1] = w[s + 1]!;
  w[d + 2] = w[s + 2]!;
  w[d + 3] = w[s + 3]!;
}

function store(operand: MemoryOperand, s: number, aligned: boolean): Step {
  const address = aligned ? alignedAddressOf(operand) : addressOf(operand);
  return (cpu) => {
    const w = cpu.w;
    const lo = address(cpu);
    cpu.memory.write128(lo, cpu.addressHi, w[s]!, w[s + 1]!, w[s + 2]!, w[s + 3]!);
  };
}

/** 16 bytes between registers, from memory, or to memory. */
const whole =
  (aligned: boolean): Compile =>
  ({ operands }) => {
    const [to, from] = operands;
    if (to?.kind === "memory") return store(to, xmmWord(from), aligned);
    const d = xmmWord(to);
    if (from?.kind === "memory") {
      const address = aligned ? alignedAddressOf(from) : addressOf(from);
      return (cpu) => {
        const { w, memory } = cpu;
        memory.read128(address(cpu), cpu.addressHi);
        const q = memory.q;
        w[d] = q[0]!;
        w[d + 1] = q[1]!;
        w[d + 2] = q[2]!;
        w[d + 3] = q[3]!;
      };
    }
    const s = xmmWord(from);
    return (cpu) => copy(cpu, d, s);
  };

/** Stores `operand.size` bytes, 4 or 8, from the words at `s`. */
function storePart(operand: MemoryOperand, s: number): Step {
  const put = putOf(operand);
  return (cpu) => put(cpu, cpu.w[s]!, cpu.w[s + 1]!);
}

/** movss, movsd: `words` of 1 and 2. */
const scalar =
  (words: 1 | 2): Compile =>
  ({ operands }) => {
    const [to, from] = operands;
    // movsd of strings
    if (to?.kind === "string" || from?.kind === "string") return undefined;
    if (to?.kind === "memory") return storePart(to, xmmWord(from));
    const d = xmmWord(to);
    if (from?.kind === "memory") {
      const fetch = fetchOf(from);
      return (cpu) => {
        const w = cpu.w;
        fetch(cpu);
        w[d] = w[OPERAND]!;
        w[d + 1] = words === 2 ? w[OPERAND + 1]! : 0;
        w[d + 2] = 0;
        w[d + 3] = 0;
      };
    }
    const s = xmmWord(from);
    return ({ w }) => {
      w[d] = w[s]!;
      if (words === 2) w[d + 1] = w[s + 1]!;
    };
  };

/**
 * movd and movq: xmm from and to general-purpose registers and memory; movq also between two xmm. The rest of xmm is
 * cleared.
 */
const integer: Compile = ({ operands }) => {
  const [to, from] = operands;
  if (from?.kind === "xmm") {
    const s = xmmWord(from);
    if (to?.kind === "xmm") return lowHalf(xmmWord(to), s);
    if (to?.kind !== "gpr" && to?.kind !== "memory") return undefined; // mmx
    const put = putOf(to);
    return (cpu) => put(cpu, cpu.w[s]!, cpu.w[s + 1]!);
  }
  if (to?.kind !== "xmm" || (from?.kind !== "gpr" && from?.kind !== "memory")) return undefined;
  const d = xmmWord(to);
  const get = getOf(from);
  const wide = from.size === 8;
  return (cpu) => {
    const w = cpu.w;
    w[d] = get(cpu);
    w[d + 1] = wide ? cpu.hi : 0;
    w[d + 2] = 0;
    w[d + 3] = 0;
  };
};

const lowHalf =
  (d: number, s: number): Step =>
  ({ w }) => {
    w[d] = w[s]!;
    w[d + 1] = w[s + 1]!;
    w[d + 2] = 0;
    w[d + 3] = 0;
  };

/** movlps, movhps and their pd forms: one half from or to memory; `half` is that half's first word. */
const halfOf =
  (half: 0 | 2): Compile =>
  ({ operands }) => {
    const [to, from] = operands;
    if (to?.kind === "memory") return storePart(to, xmmWord(from) + half);
    if (from?.kind !== "memory") return undefined;
    const d = xmmWord(to) + half;
    const get = getOf(from);
    return (cpu) => {
      const w = cpu.w;
      w[d] = get(cpu);
      w[d + 1] = cpu.hi;
    };
  };

/** movhlps and movlhps: a half to the other half of another register. */
const crossed =
  (to: 0 | 2, from: 0 | 2): Compile =>
  ({ operands }) => {
    const d = xmmWord(operands[0]) + to;
    const s = xmmWord(operands[1]) + from;
    return ({ w }) => {
      w[d] = w[s]!;
      w[d + 1] = w[s + 1]!;
    };
  };

/** Stores that go round the caches: here as others. movnti is of a general-purpose register. */
const nonTemporal: Compile = ({ operands }) => {
  const [to, from] = operands;
  if (to?.kind !== "memory") return undefined;
  return store(to, xmmWord(from), true);
};

const nonTemporalInteger: Compile = ({ operands }) => {
  const get = getOf(operands[1]!);
  const put = putOf(operands[0]!);
  return (cpu) => {
    const lo = get(cpu);
    put(cpu, lo, cpu.hi);
  };
};

/** movmskps, movmskpd, pmovmskb: the signs of the elements, as a number in a 32- or 64-bit register. */
const signs =
  (signsOf: (w: Int32Array, s: number) => number): Compile =>
  ({ operands }) => {
    const s = xmmWord(operands[1]);
    const put = putOf(operands[0]!);
    return (cpu) => put(cpu, signsOf(cpu.w, s), 0);
  };

const signsOfFloats = (w: Int32Array, s: number): number =>
  (w[s]! >>> 31) | ((w[s + 1]! >>> 31) << 1) | ((w[s + 2]! >>> 31) << 2) | ((w[s + 3]! >>> 31) << 3);

const signsOfDoubles = (w: Int32Array, s: number): number => (w[s + 1]! >>> 31) | ((w[s + 3]! >>> 31) << 1);

/**
 * The top bits of a word's four bytes, as four bits: bits 0, 8, 16 and 24 times 2^28 + 2^21 + 2^14 + 2^7 meet in the
 * top four.
 */
const signsOfWord = (word: number): number => Math.imul((word >>> 7) & 0x01010101, 0x10204080) >>> 28;

const signsOfBytes = (w: Int32Array, s: number): number =>
  signsOfWord(w[s]!) | (signsOfWord(w[s + 1]!) << 4) | (signsOfWord(w[s + 2]!) << 8) | (signsOfWord(w[s + 3]!) << 12);

/**
 * maskmovdqu: those bytes of a register whose mask byte has its top bit set, to [rdi]. Whether bytes that are masked
 * out can fault is left to the implementation (SDM): here all 16 can, as on the AMD processors that this was compared
 * with.
 */
const maskedStore: Compile = ({ operands }) => {
  const [to, value, mask] = operands;
  if (to?.kind !== "string") return undefined;
  const bytes = 4 * xmmWord(value);
  const masks = 4 * xmmWord(mask);
  const address = addressOf({
    kind: "memory",
    size: 1,
    base: Gpr.RDI,
    index: -1,
    scale: 1,
    displacement: { lo: 0, hi: 0 },
    segment: to.segment,
    addressSize: to.addressSize,
  });
  return (cpu) => {
    const { b, memory } = cpu;
    const start = address(cpu);
    const startHi = cpu.addressHi;
    memory.probeWrite(start, startHi, 16);
    for (let i = 0; i < 16; i++) {
      const at = (start + i) | 0;
      const atHi = startHi + (at >>> 0 < start >>> 0 ? 1 : 0);
      if (b[masks + i]! & 0x80) memory.write8(at, atHi, b[bytes + i]!);
    }
  };
};

export const sseMove: Family = new Map<number, Compile>([
  [Mnemonic.Movaps, whole(true)],
  [Mnemonic.Movapd, whole(true)],
  [Mnemonic.Movdqa, whole(true)],
  [Mnemonic.Movups, whole(false)],
  [Mnemonic.Movupd, whole(false)],
  [Mnemonic.Movdqu, whole(false)],
  [Mnemonic.Lddqu, whole(false)],
  [Mnemonic.Movss, scalar(1)],
  [Mnemonic.Movsd, scalar(2)],
  [Mnemonic.Movd, integer],
  [Mnemonic.Movq, integer],
  [Mnemonic.Movlps, halfOf(0)],
  [Mnemonic.Movlpd, halfOf(0)],
  [Mnemonic.Movhps, halfOf(2)],
  [Mnemonic.Movhpd, halfOf(2)],
  [Mnemonic.Movhlps, crossed(0, 2)],
  [Mnemonic.Movlhps, crossed(2, 0)],
  [Mnemonic.Movntps, nonTemporal],
  [Mnemonic.Movntpd, nonTemporal],
  [Mnemonic.Movntdq, nonTemporal],
  [Mnemonic.Movnti, nonTemporalInteger],
  [Mnemonic.Movmskps, signs(signsOfFloats)],
  [Mnemonic.Movmskpd, signs(signsOfDoubles)],
  [Mnemonic.Pmovmskb, signs(signsOfBytes)],
  [Mnemonic.Maskmovdqu, maskedStore],
]);
