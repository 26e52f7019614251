/**
 * Code of the handler that no run has come by, since with the tables of this file none can: where its sites lie in one
 * page, nothing is asked for a second one.
 *
 * It is where branches of the code that ran lead, it does nothing but look and branch, and it leads back to code that
 * ran: then it is harmless whatever brings execution there.
 */

import { type Interval, interval, runtimeAddress, type Vaddr, vaddr } from "../../address.js";
import { Fault } from "../../emulate/fault.js";
import { decodeInstructions, type Instruction } from "../../emulate/instruction.js";
import { joinAddress } from "../../emulate/state.js";
import { touches } from "../../intervals.js";
import { iced } from "../../x86/iced.js";
import type { Machine } from "./machine.js";

const { Mnemonic } = iced;
const LONGEST = 15;

/** What the instructions at which runs ended lead to besides, as link-time addresses. @param ran what ran */
export function unvisitedCode(machine: Machine, ran: readonly Interval<Vaddr>[]): Interval<Vaddr>[] {
  const found = new Map<Vaddr, Interval<Vaddr>>();
  const open = machine.branches.flatMap((branch) => ways(branch));
  for (let at = open.pop(); at !== undefined; at = open.pop()) {
    const start = vaddr(at - machine.bias);
    if (found.has(start) || touches(ran, start, start + 1)) continue;
    const instruction = instructionAt(machine, at);
    // What it does is told as new code that nothing leads to.
    if (instruction === undefined || !onlyLooks(instruction)) continue;
    found.set(start, interval(start, instruction.length));
    open.push(...ways(instruction));
  }
  return [...found.values()];
}

function instructionAt({ memory }: Machine, at: number): Instruction | undefined {
  try {
    return decodeInstructions(memory.fetch(runtimeAddress(at), LONGEST), at, 1)[0];
  } catch (error) {
    if (error instanceof Fault) return undefined;
    throw error;
  }
}

/** Where execution goes on after an instruction: runtime addresses. */
function ways({ mnemonic, operands, endsBlock, next }: Instruction): number[] {
  const behind = joinAddress(next.lo, next.hi);
  const [operand] = operands;
  if (operand?.kind === "target") {
    const target = joinAddress(operand.address.lo, operand.address.hi);
    return mnemonic === Mnemonic.Jmp ? [target] : [target, behind];
  }
  return endsBlock ? [] : [behind];
}

/** Loads, comparisons and direct jumps. */
function onlyLooks({ mnemonic, operands }: Instruction): boolean {
  const [first] = operands;
  if (mnemonic === Mnemonic.Cmp || mnemonic === Mnemonic.Test) return true;
  if (mnemonic === Mnemonic.Mov || mnemonic === Mnemonic.Movzx) return first?.kind === "gpr";
  return first?.kind === "target" && mnemonic !== Mnemonic.Call;
}
