/**
 * Where execution goes on: jmp, jcc, call, ret, loop, jrcxz. Each of these sets rip itself.
 */
import { iced } from "../../x86/iced.js";
import type { Cpu } from "../cpu.js";
import type { Instruction, Words } from "../instruction.js";
import { type Compile, type Family, type Get, getOf, type Step } from "../operands.js";
import { FZ, Gpr, IP } from "../state.js";
import { type Condition, conditionOf } from "./conditions.js";
import { pop64, push64 } from "./stack.js";

const { Mnemonic } = iced;
const RCX = 2 * Gpr.RCX;
const RSP = 2 * Gpr.RSP;

const goTo = (cpu: Cpu, lo: number, hi: number): void => {
  cpu.w[IP] = lo;
  cpu.w[IP + 1] = hi;
};

/** The target of jmp and call: a constant, or a register or memory operand of 64 bits. Others are not implemented. */
function targetOf(instruction: Instruction): { constant: Words } | { get: Get } | undefined {
  const operand = instruction.operands[0];
  if (operand === undefined) return undefined;
  if (operand.kind === "target") return { constant: operand.address };
  if ((operand.kind !== "gpr" && operand.kind !== "memory") || operand.size !== 8) return undefined;
  return { get: getOf(operand) };
}

const jump: Compile = (instruction) => {
  const target = targetOf(instruction);
  if (target === undefined) return undefined;
  if ("constant" in target) {
    const { lo, hi } = target.constant;
    return (cpu) => goTo(cpu, lo, hi);
  }
  const { get } = target;
  return (cpu) => {
    const lo = get(cpu);
    goTo(cpu, lo, cpu.hi);
  };
};

const call: Compile = (instruction) => {
  const target = targetOf(instruction);
  if (target === undefined) return undefined;
  const { next } = instruction;
  if ("constant" in target) {
    const { lo, hi } = target.constant;
    return (cpu) => {
      push64(cpu, next.lo, next.hi);
      goTo(cpu, lo, hi);
    };
  }
  const { get } = target;
  return (cpu) => {
    const lo = get(cpu);
    const hi = cpu.hi;
    push64(cpu, next.lo, next.hi);
    goTo(cpu, lo, hi);
  };
};

const ret: Compile = (instruction) => {
  const operand = instruction.operands[0];
  const release = operand?.kind === "immediate" ? operand.value.lo & 0xffff : 0;
  if (instruction.code !== iced.Code.Retnq && instruction.code !== iced.Code.Retnq_imm16) return undefined;
  return (cpu) => {
    const lo = pop64(cpu);
    goTo(cpu, lo, cpu.hi);
    if (release === 0) return;
    const w = cpu.w;
    const rsp = (w[RSP]! + release) | 0;
    if (rsp >>> 0 < release) w[RSP + 1] = (w[RSP + 1]! + 1) | 0;
    w[RSP] = rsp;
  };
};

const jumpIf = (instruction: Instruction, condition: Condition): Step | undefined => {
  const target = targetOf(instruction);
  if (target === undefined || !("constant" in target)) return undefined;
  const { lo, hi } = target.constant;
  const { next } = instruction;
  return (cpu) => {
    if (condition(cpu)) goTo(cpu, lo, hi);
    else goTo(cpu, next.lo, next.hi);
  };
};

/** jrcxz and the loops count rcx, or ecx with an address-size prefix, which compilers do not write. */
const countsRcx = (instruction: Instruction): boolean =>
  [
    iced.Code.Jrcxz_rel8_64,
    iced.Code.Loop_rel8_64_RCX,
    iced.Code.Loope_rel8_64_RCX,
    iced.Code.Loopne_rel8_64_RCX,
  ].includes(instruction.code);

function countDown(cpu: Cpu): boolean {
  const w = cpu.w;
  if (w[RCX] === 0) w[RCX + 1] = (w[RCX + 1]! - 1) | 0;
  w[RCX] = (w[RCX]! - 1) | 0;
  return (w[RCX]! | w[RCX + 1]!) !== 0;
}

const counting =
  (condition: Condition): Compile =>
  (instruction) =>
    countsRcx(instruction) ? jumpIf(instruction, condition) : undefined;

const jcc: readonly [number, number][] = [
  [Mnemonic.Jo, iced.ConditionCode.o],
  [Mnemonic.Jno, iced.ConditionCode.no],
  [Mnemonic.Jb, iced.ConditionCode.b],
  [Mnemonic.Jae, iced.ConditionCode.ae],
  [Mnemonic.Je, iced.ConditionCode.e],
  [Mnemonic.Jne, iced.ConditionCode.ne],
  [Mnemonic.Jbe, iced.ConditionCode.be],
  [Mnemonic.Ja, iced.ConditionCode.a],
  [Mnemonic.Js, iced.ConditionCode.s],
  [Mnemonic.Jns, iced.ConditionCode.ns],
  [Mnemonic.Jp, iced.ConditionCode.p],
  [Mnemonic.Jnp, iced.ConditionCode.np],
  [Mnemonic.Jl, iced.ConditionCode.l],
  [Mnemonic.Jge, iced.ConditionCode.ge],
  [Mnemonic.Jle, iced.ConditionCode.le],
  [Mnemonic.Jg, iced.ConditionCode.g],
];

export const control: Family = new Map<number, Compile>([
  [Mnemonic.Jmp, jump],
  [Mnemonic.Call, call],
  [Mnemonic.Ret, ret],
  ...jcc.map(([mnemonic, code]): [number, Compile] => [mnemonic, (i) => jumpIf(i, conditionOf(code))]),
  [Mnemonic.Jrcxz, counting(({ w }) => (w[RCX]! | w[RCX + 1]!) === 0)],
  [Mnemonic.Loop, counting(countDown)],
  [Mnemonic.Loope, counting((cpu) => countDown(cpu) && cpu.w[FZ] === 0)],
  [Mnemonic.Loopne, counting((cpu) => countDown(cpu) && cpu.w[FZ] !== 0)],
]);
