/**
 * The commonest operand forms, a step each. Operands are functions of their own (operands.ts), and a call of one costs
 * as much as an instruction's whole work: so a register of 32 or 64 bits, an immediate, and memory at a base register
 * plus a displacement are written out here, with one call left, that of the operation. Other forms get undefined.
 *
 * What these steps do is what the general ones do; both are judged alike.
 */
import type { Core } from "./core.js";
import type { MemoryOperand, Operand } from "./instruction.js";
import type { Step } from "./operands.js";
import { ZERO } from "./state.js";

/** Computes, sets flags, returns the low word of the result; the high one is in `cpu.hi`. */
type Operation = (cpu: Core, a: number, aHi: number, b: number, bHi: number) => number;

/** Memory at a base register, or none, plus a displacement: the base's word in the state. */
function simpleBase(operand: Operand | undefined): { b: number; d: number; dHi: number } | undefined {
  if (operand?.kind !== "memory" || !isSimple(operand)) return undefined;
  const b = operand.base < 0 ? ZERO : 2 * operand.base;
  return { b, d: operand.displacement.lo, dHi: operand.displacement.hi };
}

const isSimple = ({ index, segment, addressSize }: MemoryOperand): boolean =>
  index < 0 && segment < 0 && addressSize === 8;

/** The low word of the address; the high one is left in `cpu.addressHi`. */
function addressAt(cpu: Core, b: number, d: number, dHi: number): number {
  const w = cpu.w;
  const lo = (w[b]! + d) | 0;
  cpu.addressHi = (w[b + 1]! + dHi + (lo >>> 0 < d >>> 0 ? 1 : 0)) | 0;
  return lo;
}

/** `op register, register | immediate | [base + displacement]` with the result in the register. */
export function fusedBinary(a: Operand, b: Operand, operation: Operation): Step | undefined {
  if (a.kind !== "gpr" || a.size < 4) return undefined;
  const t = 2 * a.index;
  if (b.kind === "gpr" && b.size === a.size) {
    const s = 2 * b.index;
    if (a.size === 8)
      return (cpu) => {
        const w = cpu.w;
        w[t] = operation(cpu, w[t]!, w[t + 1]!, w[s]!, w[s + 1]!);
        w[t + 1] = cpu.hi;
      };
    return (cpu) => {
      const w = cpu.w;
      w[t] = operation(cpu, w[t]!, 0, w[s]!, 0);
      w[t + 1] = 0;
    };
  }
  if (b.kind === "immediate") {
    const { lo, hi } = b.value;
    if (a.size === 8)
      return (cpu) => {
        const w = cpu.w;
        w[t] = operation(cpu, w[t]!, w[t + 1]!, lo, hi);
        w[t + 1] = cpu.hi;
      };
    return (cpu) => {
      const w = cpu.w;
      w[t] = operation(cpu, w[t]!, 0, lo, 0);
      w[t + 1] = 0;
    };
  }
  const at = simpleBase(b);
  if (at === undefined || b.kind !== "memory" || b.size !== a.size) return undefined;
  const { b: base, d, dHi } = at;
  if (a.size === 8)
    return (cpu) => {
      const { w, memory } = cpu;
      const lo = memory.read64(addressAt(cpu, base, d, dHi), cpu.addressHi);
      w[t] = operation(cpu, w[t]!, w[t + 1]!, lo, memory.hi);
      w[t + 1] = cpu.hi;
    };
  return (cpu) => {
    const { w, memory } = cpu;
    const lo = memory.read32(addressAt(cpu, base, d, dHi), cpu.addressHi);
    w[t] = operation(cpu, w[t]!, 0, lo, 0);
    w[t + 1] = 0;
  };
}

/** `op a, b` for the flags alone: of registers, immediates and, as one of the two, memory. */
export function fusedComparison(a: Operand, b: Operand, operation: Operation): Step | undefined {
  if (a.kind === "gpr" && a.size >= 4) {
    const t = 2 * a.index;
    if (b.kind === "gpr" && b.size === a.size) {
      const s = 2 * b.index;
      if (a.size === 8)
        return (cpu) => {
          const w = cpu.w;
          operation(cpu, w[t]!, w[t + 1]!, w[s]!, w[s + 1]!);
        };
      return (cpu) => {
        operation(cpu, cpu.w[t]!, 0, cpu.w[s]!, 0);
      };
    }
    if (b.kind === "immediate") {
      const { lo, hi } = b.value;
      if (a.size === 8)
        return (cpu) => {
          operation(cpu, cpu.w[t]!, cpu.w[t + 1]!, lo, hi);
        };
      return (cpu) => {
        operation(cpu, cpu.w[t]!, 0, lo, 0);
      };
    }
    return undefined;
  }
  const at = simpleBase(a);
  if (at === undefined || a.kind !== "memory" || b.kind !== "immediate") return undefined;
  const { b: base, d, dHi } = at;
  const { lo, hi } = b.value;
  if (a.size === 8)
    return (cpu) => {
      const value = cpu.memory.read64(addressAt(cpu, base, d, dHi), cpu.addressHi);
      operation(cpu, value, cpu.memory.hi, lo, hi);
    };
  if (a.size === 4)
    return (cpu) => {
      operation(cpu, cpu.memory.read32(addressAt(cpu, base, d, dHi), cpu.addressHi), 0, lo, 0);
    };
  if (a.size === 1)
    return (cpu) => {
      operation(cpu, cpu.memory.read8(addressAt(cpu, base, d, dHi), cpu.addressHi), 0, lo, 0);
    };
  return undefined;
}

/** mov between registers, and between a register and memory; of immediates to registers. */
export function fusedMove(to: Operand, from: Operand): Step | undefined {
  if (to.kind === "gpr" && to.size >= 4) return moveToRegister(2 * to.index, to.size === 8, from);
  const at = simpleBase(to);
  if (at === undefined || to.kind !== "memory" || from.kind !== "gpr") return undefined;
  const { b, d, dHi } = at;
  const s = 2 * from.index;
  if (to.size === 8)
    return (cpu) => {
      const { w, memory } = cpu;
      memory.write64(addressAt(cpu, b, d, dHi), cpu.addressHi, w[s]!, w[s + 1]!);
    };
  if (to.size === 4)
    return (cpu) => {
      cpu.memory.write32(addressAt(cpu, b, d, dHi), cpu.addressHi, cpu.w[s]!);
    };
  return undefined;
}

function moveToRegister(t: number, wide: boolean, from: Operand): Step | undefined {
  if (from.kind === "gpr") {
    const s = 2 * from.index;
    if (wide)
      return ({ w }) => {
        w[t] = w[s]!;
        w[t + 1] = w[s + 1]!;
      };
    return ({ w }) => {
      w[t] = w[s]!;
      w[t + 1] = 0;
    };
  }
  if (from.kind === "immediate") {
    const lo = from.value.lo;
    const hi = wide ? from.value.hi : 0;
    return ({ w }) => {
      w[t] = lo;
      w[t + 1] = hi;
    };
  }
  const at = simpleBase(from);
  if (at === undefined) return undefined;
  const { b, d, dHi } = at;
  if (wide)
    return (cpu) => {
      const { w, memory } = cpu;
      const lo = memory.read64(addressAt(cpu, b, d, dHi), cpu.addressHi);
      w[t] = lo;
      w[t + 1] = memory.hi;
    };
  return (cpu) => {
    const { w } = cpu;
    w[t] = cpu.memory.read32(addressAt(cpu, b, d, dHi), cpu.addressHi);
    w[t + 1] = 0;
  };
}

/** lea of a base register plus a displacement, into 64 bits. */
export function fusedLea(to: Operand, from: MemoryOperand): Step | undefined {
  const at = simpleBase(from);
  if (at === undefined || to.kind !== "gpr" || to.size !== 8) return undefined;
  const { b, d, dHi } = at;
  const t = 2 * to.index;
  return (cpu) => {
    const lo = addressAt(cpu, b, d, dHi);
    cpu.w[t] = lo;
    cpu.w[t + 1] = cpu.addressHi;
  };
}
