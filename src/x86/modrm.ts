/**
 * The ModRM byte and what belongs to it: where an operand ends, and what address one in memory has. Both readers of
 * common instructions go by it (common-instructions.ts, common-effects.ts).
 *
 * Encodings: Intel SDM vol. 2, section 2.1, tables 2-2 and 2-3.
 */
import { NONE, RSP } from "./registers.js";

/** Of instructions with 64-bit addresses: how many bytes a ModRM byte takes with its SIB byte and displacement. */
export function lengthOfModRM(bytes: Uint8Array, at: number): number {
  const modrm = bytes[at]!;
  const mod = modrm >> 6;
  if (mod === 3) return 1;
  const hasSib = (modrm & 7) === 4;
  const base = hasSib ? bytes[at + 1]! & 7 : modrm & 7;
  const displaced = mod === 1 ? 1 : mod === 2 || base === 5 ? 4 : 0;
  return (hasSib ? 2 : 1) + displaced;
}

/** The operand in memory that was parsed last: one object for all. */
export interface MemoryOperand {
  /** Numbers of general registers, or NONE; NONE as well where the base is rip. */
  base: number;
  index: number;
  displacement: number;
  /** The index after its last byte. */
  end: number;
}

const parsed: MemoryOperand = { base: NONE, index: NONE, displacement: 0, end: 0 };

/** Parses the ModRM byte at index `at` and what belongs to it, for an operand in memory. What comes back is reused. */
export function memoryOperand(bytes: Uint8Array, at: number, rex: number): MemoryOperand {
  const modrm = bytes[at]!;
  const mod = modrm >> 6;
  const hasSib = (modrm & 7) === 4;
  const sib = hasSib ? bytes[at + 1]! : modrm;
  const index = ((sib >> 3) & 7) | ((rex & 2) << 2);
  const length = lengthOfModRM(bytes, at);
  parsed.index = hasSib && index !== RSP ? index : NONE;
  parsed.base = mod === 0 && (sib & 7) === 5 ? NONE : (sib & 7) | ((rex & 1) << 3);
  parsed.end = at + length;
  const displaced = length - (hasSib ? 2 : 1);
  parsed.displacement =
    displaced === 0 ? 0 : displaced === 1 ? (bytes[parsed.end - 1]! << 24) >> 24 : int32(bytes, parsed.end - 4);
  return parsed;
}

export const int32 = (bytes: Uint8Array, at: number): number =>
  bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
