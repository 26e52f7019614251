/**
 * Functions that keep all registers and the flags: how they begin and end. What they push and pop is said along with
 * the instructions, so that an unwinder finds the caller's frame at each of them.
 */
import type { Vaddr } from "../../../address.js";
import type { Assembler, RegisterName } from "../../../x86/assembler.js";
import { COMPARE_BYTE_WITH_0 } from "../../../x86/distance.js";

/** An endbr64, then the flags and these registers go to the stack. */
export function enter(code: Assembler, registers: readonly RegisterName[]): void {
  code.entry().op("endbr64").op("pushfq").stack(8);
  for (const register of registers) code.push(register);
}

/** Goes on at the label where the selector, a byte, is 0. */
export function unlessSelected(code: Assembler, selector: Vaddr, label: string): void {
  code.leads([COMPARE_BYTE_WITH_0], selector).jumpIf("e", label);
}

/** They come back, and it returns. What follows is for whoever jumps there, with the stack as it was before. */
export function leave(code: Assembler, registers: readonly RegisterName[]): void {
  const { depth } = code;
  for (const register of registers.toReversed()) code.pop(register);
  code.op("popfq").stack(-8).op("ret");
  code.stack(depth - code.depth);
}
