/**
 * The stack: push, pop, leave, enter without nesting; pushf and popf are with the flags.
 */
import { iced } from "../../x86/iced.js";
import type { Cpu } from "../cpu.js";
import { type Compile, type Family, getOf, putOf } from "../operands.js";
import { Gpr } from "../state.js";

const { Mnemonic } = iced;
const RSP = 2 * Gpr.RSP;
const RBP = 2 * Gpr.RBP;

/** Pushes 8 bytes; rsp changes only once they are written. */
export function push64(cpu: Cpu, lo: number, hi: number): void {
  const w = cpu.w;
  const old = w[RSP]!;
  const rsp = (old - 8) | 0;
  const rspHi = old >>> 0 < 8 ? (w[RSP + 1]! - 1) | 0 : w[RSP + 1]!;
  cpu.memory.write64(rsp, rspHi, lo, hi);
  w[RSP] = rsp;
  w[RSP + 1] = rspHi;
}

/** Pops 8 bytes: the low word is returned, the high one is in `cpu.hi`. */
export function pop64(cpu: Cpu): number {
  const w = cpu.w;
  const lo = cpu.memory.read64(w[RSP]!, w[RSP + 1]!);
  cpu.hi = cpu.memory.hi;
  raiseRsp(cpu, 8);
  return lo;
}

function raiseRsp({ w }: Cpu, by: number): void {
  const rsp = (w[RSP]! + by) | 0;
  if (rsp >>> 0 < by) w[RSP + 1] = (w[RSP + 1]! + 1) | 0;
  w[RSP] = rsp;
}

const push: Compile = (instruction) => {
  const operand = instruction.operands[0]!;
  // push imm8 and imm32 push 8 bytes, sign-extended; a 16-bit push is none that compilers write.
  const wide = operand.kind === "immediate" ? instruction.code !== iced.Code.Push_imm16 : true;
  if (operand.kind === "other" || !wide || instruction.code === iced.Code.Pushw_imm8) return undefined;
  if ((operand.kind === "gpr" || operand.kind === "memory") && operand.size !== 8) return undefined;
  const get = getOf(operand);
  return (cpu) => {
    const lo = get(cpu);
    push64(cpu, lo, cpu.hi);
  };
};

const pop: Compile = (instruction) => {
  const operand = instruction.operands[0]!;
  if ((operand.kind !== "gpr" && operand.kind !== "memory") || operand.size !== 8) return undefined;
  const put = putOf(operand);
  if (operand.kind === "gpr")
    return (cpu) => {
      const lo = pop64(cpu);
      put(cpu, lo, cpu.hi);
    };
  // An address that goes by rsp counts from the raised rsp (SDM, POP); a write that faults takes the pop back.
  return (cpu) => {
    const { w } = cpu;
    const before = w[RSP]!;
    const beforeHi = w[RSP + 1]!;
    const lo = pop64(cpu);
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
  if (instruction.code !== iced.Code.Leaveq) return undefined;
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

export const stack: Family = new Map<number, Compile>([
  [Mnemonic.Push, push],
  [Mnemonic.Pop, pop],
  [Mnemonic.Leave, leave],
]);
