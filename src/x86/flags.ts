/**
 * Which of the status flags (CF, PF, AF, ZF, SF, OF) an instruction reads, and which it writes whatever happens.
 *
 * iced-x86 knows what the manuals say of each instruction. What depends on a count is not in its tables: a shift by cl
 * leaves all flags alone where cl is 0, and so does a string comparison that repeats rcx times where rcx is 0 (Intel SDM
 * vol. 2, SAL/SAR/SHL/SHR and REP). A flag that an instruction leaves undefined is not written either: processors exist
 * that keep it, and what reads it afterwards may see the old one.
 */
import type { Vaddr } from "../address.js";
import { type Instruction, iced } from "./iced.js";
import { decodeOne } from "./relocate.js";

const { FlowControl, Mnemonic, OpKind, Register, RflagsBits } = iced;

/** All status flags, as bits of iced's RflagsBits. The direction flag is none of them: no comparison changes it. */
export const STATUS_FLAGS =
  RflagsBits.CF | RflagsBits.PF | RflagsBits.AF | RflagsBits.ZF | RflagsBits.SF | RflagsBits.OF;

/** Bits of STATUS_FLAGS. */
export interface FlagEffects {
  readonly reads: number;
  /** Gets a value that does not depend on what it was. */
  readonly writes: number;
}

/** What the one instruction in `bytes`, at a link-time address, does to the status flags. */
export const flagEffects = (bytes: Uint8Array, at: Vaddr): FlagEffects => decodeOne(bytes, at, effectsOf);

function effectsOf(instruction: Instruction): FlagEffects {
  if (showsThem(instruction)) return { reads: STATUS_FLAGS, writes: 0 };
  const isRepeated = comparesStrings(instruction) && (instruction.hasRepePrefix || instruction.hasRepnePrefix);
  const mayKeep = isRepeated || shiftsByCl(instruction);
  const { rflagsRead, rflagsWritten, rflagsCleared, rflagsSet } = instruction;
  return {
    reads: rflagsRead & STATUS_FLAGS,
    writes: mayKeep ? 0 : (rflagsWritten | rflagsCleared | rflagsSet) & STATUS_FLAGS,
  };
}

/**
 * Whether somebody who is not in sight gets to see them: the kernel, which puts them into r11 on a system call, a
 * handler of a trap, a hypervisor. iced says of all but interrupts that they are calls.
 */
function showsThem({ flowControl, mnemonic }: Instruction): boolean {
  if (flowControl === FlowControl.Interrupt || mnemonic === Mnemonic.Xabort) return true;
  return flowControl === FlowControl.Call && mnemonic !== Mnemonic.Call;
}

function shiftsByCl(instruction: Instruction): boolean {
  const last = instruction.opCount - 1;
  return (
    last > 0 &&
    SHIFTS.has(instruction.mnemonic) &&
    instruction.opKind(last) === OpKind.Register &&
    instruction.opRegister(last) === Register.CL
  );
}

const SHIFTS: ReadonlySet<number> = new Set([
  Mnemonic.Shl,
  Mnemonic.Sal,
  Mnemonic.Shr,
  Mnemonic.Sar,
  Mnemonic.Rol,
  Mnemonic.Ror,
  Mnemonic.Rcl,
  Mnemonic.Rcr,
  Mnemonic.Shld,
  Mnemonic.Shrd,
]);

const COMPARISONS: ReadonlySet<number> = new Set([
  Mnemonic.Cmpsb,
  Mnemonic.Cmpsw,
  Mnemonic.Cmpsd,
  Mnemonic.Cmpsq,
  Mnemonic.Scasb,
  Mnemonic.Scasw,
  Mnemonic.Scasd,
  Mnemonic.Scasq,
]);

const comparesStrings = (instruction: Instruction): boolean => COMPARISONS.has(instruction.mnemonic);

/** Flags in words, in the order of the manuals: "CF and ZF". */
export function flagNames(flags: number): string {
  const names = NAMES.filter(([bit]) => flags & bit).map(([, name]) => name);
  const last = names.pop() ?? "no flag";
  return names.length === 0 ? last : `${names.join(", ")} and ${last}`;
}

const NAMES: readonly (readonly [number, string])[] = [
  [RflagsBits.CF, "CF"],
  [RflagsBits.PF, "PF"],
  [RflagsBits.AF, "AF"],
  [RflagsBits.ZF, "ZF"],
  [RflagsBits.SF, "SF"],
  [RflagsBits.OF, "OF"],
];
