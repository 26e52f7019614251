/**
 * Which registers of a range may hold an address of the stack besides rsp, wherever in it: those that get one from rsp
 * or from each other. No order of instructions is looked at, so that it may be more than do; what is stored through one
 * of these may come back from a slot.
 */
import type { DecodedCode } from "../../x86/decode.js";
import { type Operand, type Step, stepsOf } from "./steps.js";

const RSP = 4;
/** rdi, rsi, rdx, rcx, r8 and r9: what a callee gets it may give back in rax. */
const ARGUMENTS = 0b11_1100_0110;

const bit = (o: Operand | undefined): number => (o?.kind === "register" ? 1 << o.register : 0);
/** The registers that an operand in memory is addressed by. */
const addressing = (o: Operand | undefined): number =>
  o?.kind === "memory" ? (o.base >= 0 ? 1 << o.base : 0) | (o.index >= 0 ? 1 << o.index : 0) : 0;

/** A bit for each register that may. */
export function stackRegisters(code: DecodedCode): number {
  const steps = stepsOf(code);
  let [held, isStored] = [1 << RSP, false];
  for (let before = 0; before !== held; ) {
    before = held;
    for (const step of steps) {
      isStored ||= stores(step, held);
      held |= gets(step, held, isStored);
    }
  }
  return held;
}

/**
 * Whether an address of the stack goes where it may be loaded from again. Frame pointers that are pushed come back as
 * such.
 */
function stores({ operation, operands: [first, second] }: Step, held: number): boolean {
  if (operation === "move" || operation === "exchange") return first?.kind === "memory" && (bit(second) & held) !== 0;
  return operation === "push" && first?.kind === "register" && first.register === RSP;
}

/** The registers that get an address of the stack from an instruction. */
function gets({ operation, operands, writes, reads }: Step, held: number, isStored: boolean): number {
  const [first, second] = operands;
  const isFromSlot = isStored && (addressing(second) & held) !== 0;
  switch (operation) {
    case "address":
      return addressing(second) & held ? bit(first) : 0;
    case "compare":
    case "jump":
    case "return":
    case "push":
      return 0;
    case "pop":
      return isStored ? bit(first) : 0;
    case "call":
      return held & ARGUMENTS ? 1 : 0;
    case "other":
      return reads & held || isFromSlot ? writes : 0;
    case "exchange":
      return (bit(first) | bit(second)) & held || isFromSlot ? bit(first) | bit(second) : 0;
    default:
      return bit(second) & held || isFromSlot ? bit(first) : 0;
  }
}
