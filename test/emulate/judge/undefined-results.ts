/**
 * What an instruction leaves undefined, so that nobody may be held to it: flags, as iced-x86 knows them, and the rules
 * that depend on values (Intel SDM vol. 2, the instruction's "Flags Affected"). Everything else is compared.
 */
import { type Instruction, iced } from "../../../src/x86/iced.js";
import { Record } from "./layout.js";

const { OpKind, RegisterExt, RflagsBits, Register } = iced;

const CF = 1;
const PF = 4;
const AF = 0x10;
const ZF = 0x40;
const SF = 0x80;
const OF = 0x800;

const bits: readonly (readonly [number, number])[] = [
  [RflagsBits.CF, CF],
  [RflagsBits.PF, PF],
  [RflagsBits.AF, AF],
  [RflagsBits.ZF, ZF],
  [RflagsBits.SF, SF],
  [RflagsBits.OF, OF],
];

export interface Undefined {
  /** Bits of rflags. */
  readonly flags: number;
  /** The whole result. */
  readonly result: boolean;
}

export const NOTHING_UNDEFINED: Undefined = { flags: 0, result: false };

/** iced's set of flags as bits of rflags. */
export function rflagsOf(icedBits: number): number {
  let flags = 0;
  for (const [bit, flag] of bits) if (icedBits & bit) flags |= flag;
  return flags;
}

const shifts = /^(sh[lr]|sal|sar)$/;
const rotates = /^r[oc][lr]$/;
const doubleShifts = /^sh[lr]d$/;

/**
 * @param instruction the case's instruction
 * @param before the state before it
 */
export function undefinedResults(instruction: Instruction, mnemonic: string, before: DataView): Undefined {
  if (shifts.test(mnemonic) || rotates.test(mnemonic) || doubleShifts.test(mnemonic))
    return undefinedShift(instruction, mnemonic, before);
  return { flags: rflagsOf(instruction.rflagsUndefined), result: false };
}

function undefinedShift(instruction: Instruction, mnemonic: string, before: DataView): Undefined {
  const size = operandBits(instruction);
  const count = countOf(instruction, before) & (size === 64 ? 63 : 31);
  // Nothing changes, the flags included.
  if (count === 0) return { flags: 0, result: false };
  const overflow = count === 1 ? 0 : OF;
  if (rotates.test(mnemonic)) return { flags: overflow, result: false };
  if (doubleShifts.test(mnemonic)) {
    if (count > size) return { flags: CF | PF | AF | ZF | SF | OF, result: true };
    return { flags: AF | overflow, result: false };
  }
  const carry = mnemonic !== "sar" && count >= size ? CF : 0;
  return { flags: AF | overflow | carry, result: false };
}

function operandBits(instruction: Instruction): number {
  if (instruction.op0Kind === OpKind.Register) return 8 * RegisterExt.size(instruction.op0Register);
  return 8 * iced.MemorySizeExt.size(instruction.memorySize);
}

function countOf(instruction: Instruction, before: DataView): number {
  const last = instruction.opCount - 1;
  if (instruction.opKind(last) === OpKind.Register && instruction.opRegister(last) === Register.CL)
    return before.getUint8(Record.GPR + 8);
  return Number(instruction.immediate(last)) & 0xff;
}
