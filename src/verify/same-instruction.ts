/**
 * Whether two instructions at different addresses do the same: the same operation on the same operands, a %rip-relative
 * one being the address that it names. Where they branch to is not asked here.
 */

import { Flow } from "../x86/decode.js";
import type { Instruction as Decoded } from "../x86/iced.js";
import { decodeOne } from "../x86/relocate.js";
import type { Instruction } from "./code-reader.js";

export function isSameInstruction(a: Instruction, b: Instruction): boolean {
  if (a.flow !== b.flow) return false;
  const isBranch = (a.flow & (Flow.Jump | Flow.Conditional | Flow.Call | Flow.Transaction)) !== 0;
  if (!isBranch && a.start === b.start) return sameBytes(a.bytes, b.bytes);
  return decodeOne(a.bytes, a.start, (x) =>
    decodeOne(b.bytes, b.start, (y) => {
      if (isBranch && !Number.isNaN(a.target)) return isSameBranch(x, y);
      // Equal but for encoding details that nothing depends on; a %rip-relative operand counts as the address it names.
      return x.isIpRelMemoryOperand || y.isIpRelMemoryOperand ? x.equals(y) : sameBytes(a.bytes, b.bytes);
    }),
  );
}

/** A direct branch may have a short and a near form: the condition and what it counts with must agree. */
function isSameBranch(x: Decoded, y: Decoded): boolean {
  if (x.isJccShortOrNear) return y.isJccShortOrNear && x.conditionCode === y.conditionCode;
  if (x.isJmpShortOrNear) return y.isJmpShortOrNear;
  return x.code === y.code;
}

export const sameBytes = (a: Uint8Array, b: Uint8Array): boolean =>
  a.length === b.length && a.every((byte, i) => byte === b[i]);
