/**
 * Operands of SSE instructions. An xmm register is four words of the state, and a memory operand is read into four
 * words after it, so that an operation sees both alike: as the index of a first word.
 *
 * A memory operand of 16 bytes must be aligned to 16, or the access is a general-protection fault (Intel SDM vol. 2,
 * table 2-21); the few instructions that allow any address (movups, movdqu and the like) say so. Smaller ones may stand
 * anywhere.
 */
import type { Core } from "./core.js";
import { Fault } from "./fault.js";
import type { MemoryOperand, Operand } from "./instruction.js";
import { type AddressOf, addressOf, type Compile, type Step, UnsupportedOperand } from "./operands.js";
import { OPERAND, XMM } from "./state.js";

/** Combines the operand at word `s` into the register at word `d`; `s` may be `d`. */
export type XmmOperation = (cpu: Core, d: number, s: number) => void;

/** The word of the state at which an xmm register begins. @throws UnsupportedOperand for any other operand */
export function xmmWord(operand: Operand | undefined): number {
  if (operand?.kind !== "xmm") throw new UnsupportedOperand(`no xmm register: ${operand?.kind}`);
  return XMM + 4 * operand.index;
}

/** An immediate byte. @throws UnsupportedOperand for any other operand */
export function immediateByte(operand: Operand | undefined): number {
  if (operand?.kind !== "immediate") throw new UnsupportedOperand(`no immediate: ${operand?.kind}`);
  return operand.value.lo & 0xff;
}

/** The address of a 16-byte operand; one that is not aligned is a fault when it is computed. */
export function alignedAddressOf(operand: MemoryOperand): AddressOf {
  const address = addressOf(operand);
  return (cpu) => {
    const lo = address(cpu);
    if ((lo & 15) !== 0) throw new Fault("general-protection");
    return lo;
  };
}

/**
 * Reads a memory operand of 4, 8 or 16 bytes into the words OPERAND; those of its words that are not read keep what
 * they hold.
 */
export function fetchOf(operand: MemoryOperand, aligned = true): Step {
  const address = operand.size === 16 && aligned ? alignedAddressOf(operand) : addressOf(operand);
  switch (operand.size) {
    case 16:
      return (cpu) => {
        const { w, memory } = cpu;
        memory.read128(address(cpu), cpu.addressHi);
        const q = memory.q;
        w[OPERAND] = q[0]!;
        w[OPERAND + 1] = q[1]!;
        w[OPERAND + 2] = q[2]!;
        w[OPERAND + 3] = q[3]!;
      };
    case 8:
      return (cpu) => {
        const { w, memory } = cpu;
        w[OPERAND] = memory.read64(address(cpu), cpu.addressHi);
        w[OPERAND + 1] = memory.hi;
      };
    case 4:
      return (cpu) => {
        cpu.w[OPERAND] = cpu.memory.read32(address(cpu), cpu.addressHi);
      };
    default:
      throw new UnsupportedOperand(`no SSE operand of ${operand.size} bytes`);
  }
}

/** Where a source is: the word of a register, or OPERAND, with memory read into it. */
export function sourceOf(operand: Operand | undefined): (cpu: Core) => number {
  if (operand?.kind === "memory") {
    const fetch = fetchOf(operand);
    return (cpu) => {
      fetch(cpu);
      return OPERAND;
    };
  }
  const s = xmmWord(operand);
  return () => s;
}

/** `op xmm, xmm/m`: memory is read whole before the operation changes anything. */
export const ofXmm =
  (operation: XmmOperation): Compile =>
  ({ operands }) =>
    withSource(operation, xmmWord(operands[0]), operands[1]);

/** `op xmm, xmm/m, imm8`; the operation is made once, from the immediate. */
export const ofXmmImmediate =
  (operationOf: (immediate: number) => XmmOperation): Compile =>
  ({ operands }) =>
    withSource(operationOf(immediateByte(operands[2])), xmmWord(operands[0]), operands[1]);

function withSource(operation: XmmOperation, d: number, source: Operand | undefined): Step {
  if (source?.kind === "memory") {
    const fetch = fetchOf(source);
    return (cpu) => {
      fetch(cpu);
      operation(cpu, d, OPERAND);
    };
  }
  const s = xmmWord(source);
  return (cpu) => operation(cpu, d, s);
}
