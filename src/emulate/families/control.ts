/**
 * Where execution goes on: jmp, jcc, call, ret, loop, jrcxz. Each of these sets rip itself. rep, bnd and notrack prefixes
 * mean nothing here.
 */
import { iced } from "../../x86/iced.js";
import type { Cpu } from "../cpu.js";
import { Fault } from "../fault.js";
import type { Instruction, Words } from "../instruction.js";
import { type Compile, type Family, type Get, getOf, type Step } from "../operands.js";
import { FZ, Gpr, IP } from "../state.js";
import { type Condition, conditionOf } from "./conditions.js";
import { push64 } from "./stack.js";

const { Mnemonic, Code } = iced;
const RCX = 2 * Gpr.RCX;
const RSP = 2 * Gpr.RSP;

const goTo = (cpu: Cpu, lo: number, hi: number): void => {
  cpu.w[IP] = lo;
  cpu.w[IP + 1] = hi;
};

/** Goes where the program has computed. A target that is not canonical faults here, not there, with nothing changed. */
const goToComputed = (cpu: Cpu, lo: number, hi: number): void => {
  if (hi >>> 15 !== 0) checkCanonical(hi);
  goTo(cpu, lo, hi);
};

function checkCanonical(hi: number): void {
  const top = hi >> 15;
  if (top !== 0 && top !== -1) throw new Fault("general-protection");
}

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
    goToComputed(cpu, lo, cpu.hi);
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
    checkCanonical(hi);
    push64(cpu, next.lo, next.hi);
    goTo(cpu, lo, hi);
  };
};

const ret: Compile = (instruction) => {
  const operand = instruction.operands[0];
  const release = operand?.kind === "immediate" ? operand.value.lo & 0xffff : 0;
  if (instruction.code !== Code.Retnq && instruction.code !== Code.Retnq_imm16) return undefined;
  const raise = 8 + release;
  return (cpu) => {
    const w = cpu.w;
    const at = w[RSP]!;
    const lo = cpu.memory.read64(at, w[RSP + 1]!);
    goToComputed(cpu, lo, cpu.memory.hi);
    const rsp = (at + raise) | 0;
    if (rsp >>> 0 < raise) w[RSP + 1] = (w[RSP + 1]! + 1) | 0;
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

/** jrcxz and the loops count rcx, or ecx with an address-size prefix. */
const countsEcx = ({ code }: Instruction): boolean =>
  code === Code.Jecxz_rel8_64 ||
  code === Code.Loop_rel8_64_ECX ||
  code === Code.Loope_rel8_64_ECX ||
  code === Code.Loopne_rel8_64_ECX;

/** Counts down, says whether anything is left. */
function countDown(w: Int32Array, narrow: boolean): boolean {
  if (narrow) w[RCX + 1] = 0;
  else if (w[RCX] === 0) w[RCX + 1] = (w[RCX + 1]! - 1) | 0;
  w[RCX] = (w[RCX]! - 1) | 0;
  return (w[RCX]! | w[RCX + 1]!) !== 0;
}

const jumpIfZero: Compile = (instruction) =>
  countsEcx(instruction)
    ? jumpIf(instruction, ({ w }) => w[RCX] === 0)
    : jumpIf(instruction, ({ w }) => (w[RCX]! | w[RCX + 1]!) === 0);

const loopWhile =
  (condition: (w: Int32Array) => boolean): Compile =>
  (instruction) => {
    const narrow = countsEcx(instruction);
    return jumpIf(instruction, ({ w }) => countDown(w, narrow) && condition(w));
  };

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
  [Mnemonic.Jrcxz, jumpIfZero],
  [Mnemonic.Jecxz, jumpIfZero],
  [Mnemonic.Loop, loopWhile(() => true)],
  [Mnemonic.Loope, loopWhile((w) => w[FZ] === 0)],
  [Mnemonic.Loopne, loopWhile((w) => w[FZ] !== 0)],
]);
