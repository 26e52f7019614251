/**
 * The flags themselves: clc, stc, cmc, cld, std, lahf, sahf, pushf, popf.
 */
import { iced } from "../../x86/iced.js";
import type { Core } from "../core.js";
import { Unimplemented } from "../fault.js";
import type { Compile, Family } from "../operands.js";
import { DF, FC, Gpr, Rflags } from "../state.js";
import { pop16, pop64, push16, push64 } from "./stack.js";

const { Mnemonic, Code } = iced;
const AH = 8 * Gpr.RAX + 1;
const RSP = 2 * Gpr.RSP;
/** What lahf and sahf know: SF, ZF, AF, PF, CF; bit 1 is always set. */
const LOW_FLAGS = Rflags.SF | Rflags.ZF | Rflags.AF | Rflags.PF | Rflags.CF;
const LOW_ALWAYS = 2;
/** TF and AC, which make further instructions trap: nobody does that here. */
const TRAPPING = 0x100 | 0x40000;

const pushf: Compile = ({ code }) => {
  if (code === Code.Pushfq) return (cpu) => push64(cpu, cpu.rflags, 0);
  if (code === Code.Pushfw) return (cpu) => push16(cpu, cpu.rflags & 0xffff);
  return undefined;
};

function setFlags(cpu: Core, value: number, text: string): void {
  if ((value & TRAPPING) !== 0) throw new Unimplemented(`${text} that sets TF or AC`);
  cpu.rflags = value;
}

const popf: Compile = (instruction) => {
  const { code } = instruction;
  if (code !== Code.Popfq && code !== Code.Popfw) return undefined;
  return (cpu) => {
    const { w } = cpu;
    const before = w[RSP]!;
    const beforeHi = w[RSP + 1]!;
    // Popped 16 bits leave the upper flags alone.
    const value = code === Code.Popfq ? pop64(cpu) : pop16(cpu) | (cpu.rflags & ~0xffff);
    try {
      setFlags(cpu, value, instruction.text);
    } catch (error) {
      w[RSP] = before;
      w[RSP + 1] = beforeHi;
      throw error;
    }
  };
};

export const flags: Family = new Map<number, Compile>([
  [
    Mnemonic.Clc,
    () => (cpu) => {
      cpu.w[FC] = 0;
    },
  ],
  [
    Mnemonic.Stc,
    () => (cpu) => {
      cpu.w[FC] = 1;
    },
  ],
  [
    Mnemonic.Cmc,
    () => (cpu) => {
      cpu.w[FC] = cpu.w[FC]! ^ 1;
    },
  ],
  [
    Mnemonic.Cld,
    () => (cpu) => {
      cpu.w[DF] = 0;
    },
  ],
  [
    Mnemonic.Std,
    () => (cpu) => {
      cpu.w[DF] = 1;
    },
  ],
  [
    Mnemonic.Lahf,
    () => (cpu) => {
      cpu.b[AH] = (cpu.rflags & LOW_FLAGS) | LOW_ALWAYS;
    },
  ],
  [
    Mnemonic.Sahf,
    () => (cpu) => {
      cpu.rflags = (cpu.rflags & ~LOW_FLAGS) | (cpu.b[AH]! & LOW_FLAGS);
    },
  ],
  [Mnemonic.Pushf, pushf],
  [Mnemonic.Pushfq, pushf],
  [Mnemonic.Popf, popf],
  [Mnemonic.Popfq, popf],
]);
