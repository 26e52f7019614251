/**
 * The stack: push, pop, leave, enter without nesting; pushf and popf are with the flags. What is pushed is 8 bytes
 * long, or 2 with an operand-size prefix.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import { type Compile, type Family, getOf, putOf, sizeOf } from "../operands.js";
import { Gpr } from "../state.js";

const { Mnemonic, Code } = iced;
const RSP = 2 * Gpr.RSP;
const RBP = 2 * Gpr.RBP;

/** Pushes 8 bytes; rsp changes only once they are written. */
export function push64(cpu: Core, lo: number, hi: number): void {
  const w = cpu.w;
  const old = w[RSP]!;
  const rsp = (old - 8) | 0;
  const rspHi = old >>> 0 < 8 ? (w[RSP + 1]! - 1) | 0 : w[RSP + 1]!;
  cpu.memory.write64(rsp, rspHi, lo, hi);
  w[RSP] = rsp;
  w[RSP + 1] = rspHi;
}

/** Pops 8 bytes: the low word is returned, the high one is in `cpu.hi`. */
export function pop64(cpu: Core): number {
  const w = cpu.w;
  const lo = cpu.memory.read64(w[RSP]!, w[RSP + 1]!);
  cpu.hi = cpu.memory.hi;
  raiseRsp(cpu, 8);
  return lo;
}

/** Pushes 2 bytes. */
export function push16(cpu: Core, value: number): void {
  const w = cpu.w;
  const old = w[RSP]!;
  const rsp = (old - 2) | 0;
  const rspHi = old >>> 0 < 2 ? (w[RSP + 1]! - 1) | 0 : w[RSP + 1]!;
  cpu.memory.write16(rsp, rspHi, value);
  w[RSP] = rsp;
  w[RSP + 1] = rspHi;
}

/** Pops 2 bytes, without a sign. */
export function pop16(cpu: Core): number {
  const w = cpu.w;
  const value = cpu.memory.read16(w[RSP]!, w[RSP + 1]!);
  raiseRsp(cpu, 2);
  return value;
}

function raiseRsp({ w }: Core, by: number): void {
  const rsp = (w[RSP]! + by) | 0;
  if (rsp >>> 0 < by) w[RSP + 1] = (w[RSP + 1]! + 1) | 0;
  w[RSP] = rsp;
}

const push: Compile = ({ code, operands }) => {
  const operand = operands[0]!;
  const get = getOf(operand);
  // Immediates come sign-extended; 2 bytes of them are pushed with an operand-size prefix only.
  const narrow =
    operand.kind === "immediate" ? code === Code.Push_imm16 || code === Code.Pushw_imm8 : sizeOf(operand) === 2;
  if (narrow) return (cpu) => push16(cpu, get(cpu));
  return (cpu) => {
    const lo = get(cpu);
    push64(cpu, lo, cpu.hi);
  };
};

const pop: Compile = ({ operands }) => {
  const operand = operands[0]!;
  const narrow = sizeOf(operand) === 2;
  const put = putOf(operand);
  if (operand.kind === "gpr")
    return narrow
      ? (cpu) => put(cpu, pop16(cpu), 0)
      : (cpu) => {
          const lo = pop64(cpu);
          put(cpu, lo, cpu.hi);
        };
  // An address that goes by rsp counts from the raised rsp (SDM, POP); a write that faults takes the pop back.
  return (cpu) => {
    const { w } = cpu;
    const before = w[RSP]!;
    const beforeHi = w[RSP + 1]!;
    const lo = narrow ? pop16(cpu) : pop64(cpu);
    try {
      put(cpu, lo, cpu.hi);
    } catch (error) {
      w[RSP] = before;
      w[RSP + 1] = beforeHi;
      throw error;
    }
  };
};

const leave: Compile = (instruction) => {
  if (instruction.code !== Code.Leaveq) return undefined;
  return (cpu) => {
    const { w } = cpu;
    const at = w[RBP]!;
    const atHi = w[RBP + 1]!;
    const lo = cpu.memory.read64(at, atHi);
    w[RSP] = at;
    w[RSP + 1] = atHi;
    raiseRsp(cpu, 8);
    w[RBP] = lo;
    w[RBP + 1] = cpu.memory.hi;
  };
};

/**
 * enter size, 0: pushes rbp, points rbp there and makes room. A nesting level copies frame pointers: nobody writes
 * that.
 */
const enter: Compile = ({ code, operands }) => {
  const [size, level] = operands;
  if (code !== Code.Enterq_imm16_imm8 || size?.kind !== "immediate" || level?.kind !== "immediate") return undefined;
  if ((level.value.lo & 31) !== 0) return undefined;
  const room = size.value.lo & 0xffff;
  return (cpu) => {
    const { w } = cpu;
    // The processor makes sure that the place where rsp ends up can be written.
    const old = w[RSP]!;
    const below = 8 + room;
    const end = (old - below) | 0;
    const endHi = (w[RSP + 1]! - (old >>> 0 < below ? 1 : 0)) | 0;
    cpu.memory.probeWrite(end, endHi, 1);
    push64(cpu, w[RBP]!, w[RBP + 1]!);
    w[RBP] = w[RSP]!;
    w[RBP + 1] = w[RSP + 1]!;
    w[RSP] = end;
    w[RSP + 1] = endHi;
  };
};

export const stack: Family = new Map<number, Compile>([
  [Mnemonic.Push, push],
  [Mnemonic.Pop, pop],
  [Mnemonic.Leave, leave],
  [Mnemonic.Enter, enter],
]);
