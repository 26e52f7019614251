/**
 * Where execution goes on: jmp, jcc, call, ret, loop, jrcxz. Each of these sets rip itself. rep, bnd and notrack
 * prefixes mean nothing here.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import { Fault } from "../fault.js";
import type { Instruction, Words } from "../instruction.js";
import { type Compile, type Family, type Get, getOf, type Step } from "../operands.js";
import { Gpr, IP } from "../state.js";
import * as is from "./conditions.js";
import { push64 } from "./stack.js";

const { Mnemonic, Code } = iced;
const RCX = 2 * Gpr.RCX;
const RSP = 2 * Gpr.RSP;

const goTo = (cpu: Core, lo: number, hi: number): void => {
  cpu.w[IP] = lo;
  cpu.w[IP + 1] = hi;
};

/** Goes where the program has computed. A target that is not canonical faults here, not there, with nothing changed. */
const goToComputed = (cpu: Core, lo: number, hi: number): void => {
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

/** Where a conditional jump goes on. */
interface Ways {
  readonly taken: Words;
  readonly next: Words;
}

function go({ w }: Core, taken: boolean, ways: Ways): void {
  const { lo, hi } = taken ? ways.taken : ways.next;
  w[IP] = lo;
  w[IP + 1] = hi;
}

/** Each condition has a step of its own, of which it is a part, since jumps are every fifth instruction. */
const jcc: readonly [number, (ways: Ways) => Step][] = [
  [Mnemonic.Jo, (t) => (cpu) => go(cpu, is.overflow(cpu), t)],
  [Mnemonic.Jno, (t) => (cpu) => go(cpu, is.notOverflow(cpu), t)],
  [Mnemonic.Jb, (t) => (cpu) => go(cpu, is.below(cpu), t)],
  [Mnemonic.Jae, (t) => (cpu) => go(cpu, is.aboveOrEqual(cpu), t)],
  [Mnemonic.Je, (t) => (cpu) => go(cpu, is.equal(cpu), t)],
  [Mnemonic.Jne, (t) => (cpu) => go(cpu, is.notEqual(cpu), t)],
  [Mnemonic.Jbe, (t) => (cpu) => go(cpu, is.belowOrEqual(cpu), t)],
  [Mnemonic.Ja, (t) => (cpu) => go(cpu, is.above(cpu), t)],
  [Mnemonic.Js, (t) => (cpu) => go(cpu, is.sign(cpu), t)],
  [Mnemonic.Jns, (t) => (cpu) => go(cpu, is.notSign(cpu), t)],
  [Mnemonic.Jp, (t) => (cpu) => go(cpu, is.parityEven(cpu), t)],
  [Mnemonic.Jnp, (t) => (cpu) => go(cpu, is.parityOdd(cpu), t)],
  [Mnemonic.Jl, (t) => (cpu) => go(cpu, is.less(cpu), t)],
  [Mnemonic.Jge, (t) => (cpu) => go(cpu, is.greaterOrEqual(cpu), t)],
  [Mnemonic.Jle, (t) => (cpu) => go(cpu, is.lessOrEqual(cpu), t)],
  [Mnemonic.Jg, (t) => (cpu) => go(cpu, is.greater(cpu), t)],
];

const conditionalJump =
  (stepOf: (ways: Ways) => Step): Compile =>
  (instruction) => {
    const target = targetOf(instruction);
    if (target === undefined || !("constant" in target)) return undefined;
    return stepOf({ taken: target.constant, next: instruction.next });
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

const jumpIfZero: Compile = (instruction) => {
  const narrow = countsEcx(instruction);
  const isZero: is.Condition = ({ w }) => (narrow ? w[RCX]! : w[RCX]! | w[RCX + 1]!) === 0;
  return conditionalJump((ways) => (cpu) => go(cpu, isZero(cpu), ways))(instruction);
};

const loopWhile =
  (condition: is.Condition): Compile =>
  (instruction) => {
    const narrow = countsEcx(instruction);
    return conditionalJump((ways) => (cpu) => go(cpu, countDown(cpu.w, narrow) && condition(cpu), ways))(instruction);
  };

export const control: Family = new Map<number, Compile>([
  [Mnemonic.Jmp, jump],
  [Mnemonic.Call, call],
  [Mnemonic.Ret, ret],
  ...jcc.map(([mnemonic, stepOf]): [number, Compile] => [mnemonic, conditionalJump(stepOf)]),
  [Mnemonic.Jrcxz, jumpIfZero],
  [Mnemonic.Jecxz, jumpIfZero],
  [Mnemonic.Loop, loopWhile(() => true)],
  [Mnemonic.Loope, loopWhile(is.equal)],
  [Mnemonic.Loopne, loopWhile(is.notEqual)],
]);
