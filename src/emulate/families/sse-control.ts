/**
 * MXCSR and the x87 control word: ldmxcsr, stmxcsr, fnstcw, fldcw, fninit (Intel SDM vol. 1, 10.2.3 and 8.1.5).
 *
 * Arithmetic is done as the default MXCSR says: rounding to nearest, denormals as they are, every exception masked.
 * Loading anything else is not implemented. Nor are the sticky exception flags tracked: MXCSR keeps those that were
 * loaded, and where arithmetic may have raised more since, storing it is not implemented either.
 *
 * Of the x87 FPU there is the control word alone; no instruction that would heed it is implemented.
 */
import { iced } from "../../x86/iced.js";
import { Fault, Unimplemented } from "../fault.js";
import { type Compile, type Family, getOf, putOf } from "../operands.js";
import { FPU_CONTROL, MXCSR, MXCSR_STALE } from "../state.js";

const { Mnemonic } = iced;

/** Bits of MXCSR. */
const FLAGS = 0x3f;
const MASKS = 0x1f80;
/** Bit 17 is AMD's alone (misaligned operands allowed); the others are reserved, and setting them is a fault. */
const MISALIGNED = 0x20000;
const RESERVED = ~0xffff & ~MISALIGNED;

const ldmxcsr: Compile = (instruction) => {
  const get = getOf(instruction.operands[0]!);
  return (cpu) => {
    const value = get(cpu);
    if ((value & RESERVED) !== 0) throw new Fault("general-protection");
    if ((value & ~FLAGS) !== MASKS)
      throw new Unimplemented(`${instruction.text}: rounding, denormals or exceptions other than by default`);
    cpu.w[MXCSR] = value;
    cpu.w[MXCSR_STALE] = 0;
  };
};

const stmxcsr: Compile = (instruction) => {
  const put = putOf(instruction.operands[0]!);
  return (cpu) => {
    if (cpu.w[MXCSR_STALE] !== 0)
      throw new Unimplemented(`${instruction.text}: the exception flags of the floating-point arithmetic before it`);
    put(cpu, cpu.w[MXCSR]!, 0);
  };
};

/** The bits of the control word that can be loaded; bit 6 always reads as one. */
const CONTROL_BITS = 0x1f3f;
const CONTROL_ALWAYS = 0x40;
const DEFAULT_CONTROL = 0x37f;

const fldcw: Compile = ({ operands }) => {
  const get = getOf(operands[0]!);
  return (cpu) => {
    cpu.w[FPU_CONTROL] = (get(cpu) & CONTROL_BITS) | CONTROL_ALWAYS;
  };
};

const fnstcw: Compile = ({ operands }) => {
  const put = putOf(operands[0]!);
  return (cpu) => put(cpu, cpu.w[FPU_CONTROL]!, 0);
};

const fninit: Compile = () => (cpu) => {
  cpu.w[FPU_CONTROL] = DEFAULT_CONTROL;
};

export const sseControl: Family = new Map<number, Compile>([
  [Mnemonic.Ldmxcsr, ldmxcsr],
  [Mnemonic.Stmxcsr, stmxcsr],
  [Mnemonic.Fldcw, fldcw],
  [Mnemonic.Fnstcw, fnstcw],
  [Mnemonic.Fninit, fninit],
]);
