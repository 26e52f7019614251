/** 64-bit words of a snapshot's memory, as numbers: addresses and small values, exact below 2^53. */
import type { Machine, Snapshot } from "./machine.js";

/** The eight bytes of a value, low byte first. */
export const quadBytes = (value: number): Uint8Array => new Uint8Array(BigInt64Array.of(BigInt(value)).buffer);

/** The word at a runtime address; bytes where nothing is mapped count as zeros. */
export function readQuad(machine: Machine, snapshot: Snapshot, address: number): number {
  let value = 0;
  for (let i = 7; i >= 0; i--) value = value * 256 + (machine.byteAt(snapshot, address + i) ?? 0);
  return value;
}
