/**
 * Operands, compiled: each becomes a small function that reads or writes it, chosen once when the instruction is
 * decoded.
 *
 * A reader returns the value's low word, 8- and 16-bit values without a sign; the high word of a 64-bit value is in
 * `cpu.hi`. A reader of memory leaves the runtime address in `cpu.addressLo`, `cpu.addressHi`.
 *
 * An instruction that reads, computes and writes the same operand uses `updateOf` to read (for memory it makes sure
 * that writing will not fault) and `putBackOf` to write where it read. So every fault comes before the first change of
 * state.
 */
import type { Core } from "./core.js";
import type { Instruction, MemoryOperand, Operand } from "./instruction.js";
import { ZERO } from "./state.js";

/**
 * Thrown when an instruction is compiled with an operand that its family does not handle: then it is not implemented.
 */
export class UnsupportedOperand extends Error {}

/** One instruction: changes the CPU's state; throws Fault or Unimplemented before it has changed anything. */
export type Step = (cpu: Core) => void;

/** Reads an operand: the low word; the high word of 64 bits is in `cpu.hi`. */
export type Get = (cpu: Core) => number;

/** Writes an operand; `hi` counts for 64 bits only. Writing 32 bits of a general-purpose register clears the rest. */
export type Put = (cpu: Core, lo: number, hi: number) => void;

/** Computes an address: the low word; the high one is in `cpu.addressHi`. It is also left in `cpu.addressLo`. */
export type AddressOf = (cpu: Core) => number;

export function addressOf(operand: MemoryOperand): AddressOf {
  const { base, index, scale, segment, addressSize } = operand;
  const { lo: d, hi: dHi } = operand.displacement;
  if (segment >= 0 || addressSize === 4) return generalAddress(operand);
  const b = 2 * base;
  const x = 2 * index;
  if (base < 0 && index < 0)
    return (cpu) => {
      cpu.addressHi = dHi;
      cpu.addressLo = d;
      return d;
    };
  if (index < 0)
    return (cpu) => {
      const w = cpu.w;
      const lo = (w[b]! + d) | 0;
      cpu.addressHi = (w[b + 1]! + dHi + (lo >>> 0 < d >>> 0 ? 1 : 0)) | 0;
      cpu.addressLo = lo;
      return lo;
    };
  if (base < 0) return generalAddress(operand);
  const shift = 31 - Math.clz32(scale);
  return (cpu) => {
    const w = cpu.w;
    const xLo = w[x]!;
    const scaled = xLo << shift;
    const scaledHi = (w[x + 1]! << shift) | (shift === 0 ? 0 : xLo >>> (32 - shift));
    const sum = (w[b]! + scaled) | 0;
    const sumHi = w[b + 1]! + scaledHi + (sum >>> 0 < scaled >>> 0 ? 1 : 0);
    const lo = (sum + d) | 0;
    cpu.addressHi = (sumHi + dHi + (lo >>> 0 < d >>> 0 ? 1 : 0)) | 0;
    cpu.addressLo = lo;
    return lo;
  };
}

/** All forms: absent registers count as ZERO, which is a register that nobody writes. */
function generalAddress({ base, index, scale, segment, addressSize, displacement }: MemoryOperand): AddressOf {
  const shift = 31 - Math.clz32(scale);
  const carryShift = 32 - shift;
  const b = base < 0 ? ZERO : 2 * base;
  const x = index < 0 ? ZERO : 2 * index;
  const s = segment < 0 ? ZERO : segment;
  const { lo: d, hi: dHi } = displacement;
  const narrow = addressSize === 4;
  return (cpu) => {
    const w = cpu.w;
    const xLo = w[x]!;
    const scaled = xLo << shift;
    const scaledHi = (w[x + 1]! << shift) | (shift === 0 ? 0 : xLo >>> carryShift);
    const sum = (w[b]! + scaled) | 0;
    const sumHi = w[b + 1]! + scaledHi + (sum >>> 0 < scaled >>> 0 ? 1 : 0);
    const offset = (sum + d) | 0;
    const offsetHi = narrow ? 0 : (sumHi + dHi + (offset >>> 0 < d >>> 0 ? 1 : 0)) | 0;
    const from = w[s]!;
    const lo = (offset + from) | 0;
    cpu.addressHi = (offsetHi + w[s + 1]! + (lo >>> 0 < from >>> 0 ? 1 : 0)) | 0;
    cpu.addressLo = lo;
    return lo;
  };
}

/** Reads an operand of 1, 2, 4 or 8 bytes; an immediate comes sign-extended to 64 bits. */
export function getOf(operand: Operand): Get {
  switch (operand.kind) {
    case "gpr":
      return registerReader(operand.index, operand.size, operand.high);
    case "immediate": {
      const { lo, hi } = operand.value;
      return (cpu) => {
        cpu.hi = hi;
        return lo;
      };
    }
    case "memory":
      return memoryReader(operand);
    default:
      throw new UnsupportedOperand(`no integer operand: ${operand.kind}`);
  }
}

function registerReader(index: number, size: number, high: boolean): Get {
  const word = 2 * index;
  const half = 4 * index;
  const byte = 8 * index + (high ? 1 : 0);
  switch (size) {
    case 8:
      return (cpu) => {
        cpu.hi = cpu.w[word + 1]!;
        return cpu.w[word]!;
      };
    case 4:
      return (cpu) => cpu.w[word]!;
    case 2:
      return (cpu) => cpu.h[half]!;
    default:
      return (cpu) => cpu.b[byte]!;
  }
}

function memoryReader(operand: MemoryOperand): Get {
  const address = addressOf(operand);
  switch (operand.size) {
    case 8:
      return (cpu) => {
        const lo = cpu.memory.read64(address(cpu), cpu.addressHi);
        cpu.hi = cpu.memory.hi;
        return lo;
      };
    case 4:
      return (cpu) => cpu.memory.read32(address(cpu), cpu.addressHi);
    case 2:
      return (cpu) => cpu.memory.read16(address(cpu), cpu.addressHi);
    case 1:
      return (cpu) => cpu.memory.read8(address(cpu), cpu.addressHi);
    default:
      throw new UnsupportedOperand(`no integer in ${operand.size} bytes of memory`);
  }
}

/** Reads an operand that the same instruction will write with `putBackOf`. */
export function updateOf(operand: Operand): Get {
  if (operand.kind !== "memory") return getOf(operand);
  const address = addressOf(operand);
  const size = operand.size;
  const read = memoryReaderAtAddress(size);
  return (cpu) => {
    const lo = address(cpu);
    cpu.memory.probeWrite(lo, cpu.addressHi, size);
    return read(cpu);
  };
}

/** Reads `size` bytes of memory from where `cpu.addressLo`, `cpu.addressHi` say. */
export function memoryReaderAtAddress(size: number): Get {
  switch (size) {
    case 8:
      return (cpu) => {
        const lo = cpu.memory.read64(cpu.addressLo, cpu.addressHi);
        cpu.hi = cpu.memory.hi;
        return lo;
      };
    case 4:
      return (cpu) => cpu.memory.read32(cpu.addressLo, cpu.addressHi);
    case 2:
      return (cpu) => cpu.memory.read16(cpu.addressLo, cpu.addressHi);
    case 1:
      return (cpu) => cpu.memory.read8(cpu.addressLo, cpu.addressHi);
    default:
      throw new UnsupportedOperand(`no integer in ${size} bytes of memory`);
  }
}

/** Writes `size` bytes of memory to where `cpu.addressLo`, `cpu.addressHi` say. */
export function memoryWriterAtAddress(size: number): Put {
  switch (size) {
    case 8:
      return (cpu, lo, hi) => cpu.memory.write64(cpu.addressLo, cpu.addressHi, lo, hi);
    case 4:
      return (cpu, lo) => cpu.memory.write32(cpu.addressLo, cpu.addressHi, lo);
    case 2:
      return (cpu, lo) => cpu.memory.write16(cpu.addressLo, cpu.addressHi, lo);
    case 1:
      return (cpu, lo) => cpu.memory.write8(cpu.addressLo, cpu.addressHi, lo);
    default:
      throw new UnsupportedOperand(`no integer in ${size} bytes of memory`);
  }
}

/** Writes where `updateOf`, or another reader of the same operand, has read. */
export function putBackOf(operand: Operand): Put {
  return operand.kind === "memory" ? memoryWriterAtAddress(operand.size) : putOf(operand);
}

/** Writes an operand. */
export function putOf(operand: Operand): Put {
  if (operand.kind === "gpr") return registerWriter(operand.index, operand.size, operand.high);
  if (operand.kind !== "memory") throw new UnsupportedOperand(`cannot write to ${operand.kind}`);
  const address = addressOf(operand);
  switch (operand.size) {
    case 8:
      return (cpu, lo, hi) => cpu.memory.write64(address(cpu), cpu.addressHi, lo, hi);
    case 4:
      return (cpu, lo) => cpu.memory.write32(address(cpu), cpu.addressHi, lo);
    case 2:
      return (cpu, lo) => cpu.memory.write16(address(cpu), cpu.addressHi, lo);
    case 1:
      return (cpu, lo) => cpu.memory.write8(address(cpu), cpu.addressHi, lo);
    default:
      throw new UnsupportedOperand(`no integer in ${operand.size} bytes of memory`);
  }
}

function registerWriter(index: number, size: number, high = false): Put {
  const word = 2 * index;
  const half = 4 * index;
  const byte = 8 * index + (high ? 1 : 0);
  switch (size) {
    case 8:
      return (cpu, lo, hi) => {
        cpu.w[word] = lo;
        cpu.w[word + 1] = hi;
      };
    case 4:
      return (cpu, lo) => {
        cpu.w[word] = lo;
        cpu.w[word + 1] = 0;
      };
    case 2:
      return (cpu, lo) => {
        cpu.h[half] = lo;
      };
    default:
      return (cpu, lo) => {
        cpu.b[byte] = lo;
      };
  }
}

/** The size of an integer operand in bytes, by which the operation is chosen. */
export function sizeOf(operand: Operand): 1 | 2 | 4 | 8 {
  if (operand.kind === "gpr" || operand.kind === "memory" || operand.kind === "immediate") {
    const { size } = operand;
    if (size === 1 || size === 2 || size === 4 || size === 8) return size;
  }
  throw new UnsupportedOperand(`no integer operand: ${operand.kind}`);
}

/** What a family of instructions offers: a step for the instruction, or undefined where it has none. */
export type Compile = (instruction: Instruction) => Step | undefined;
/** Compilers by iced's Mnemonic. */
export type Family = ReadonlyMap<number, Compile>;
