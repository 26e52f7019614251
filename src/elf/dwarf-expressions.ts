/**
 * DWARF expressions in unwind rows, as far as they have to be told apart: does one mean the same where rsp is lower,
 * and where the instruction pointer is another?
 *
 * An expression that reads rsp as `DW_OP_breg7 n` means the same with n raised by as much as rsp is lower. One that
 * reads rip (the PLT's rows do) means something else at every address. What is not known here is not certain.
 *
 * Specification: DWARF 5 sections 2.5 and 7.7.1.
 */
import { encodeSleb } from "./leb128.js";

const DW_OP_breg0 = 0x70;
const RSP = 7;
const RIP = 16;

/** The expression for where rsp is `lower` bytes lower, or undefined where that is not certain. */
export function loweredExpression(expression: Uint8Array, lower: number): Uint8Array | undefined {
  const out: number[] = [];
  let at = 0;
  const copy = (size: number): void => {
    for (let i = 0; i < size; i++) out.push(expression[at++]!);
  };
  const leb = (): number[] => {
    const bytes: number[] = [];
    do bytes.push(expression[at++] ?? 0);
    while (bytes.at(-1)! >= 0x80 && at < expression.length);
    return bytes;
  };
  while (at < expression.length) {
    const op = expression[at]!;
    if (op >= DW_OP_breg0 && op < DW_OP_breg0 + 32) {
      const register = op - DW_OP_breg0;
      if (register === RIP) return undefined;
      copy(1);
      const operand = leb();
      out.push(...(register === RSP ? encodeSleb(signed(operand) + lower) : operand));
      continue;
    }
    const size = operandSize(op);
    if (size === undefined) return undefined;
    copy(1);
    if (size === "leb") out.push(...leb());
    else copy(size);
  }
  return at === expression.length ? Uint8Array.from(out) : undefined;
}

function signed(bytes: readonly number[]): number {
  let value = 0;
  let scale = 1;
  for (const byte of bytes) {
    value += (byte & 0x7f) * scale;
    scale *= 128;
  }
  return bytes.at(-1)! & 0x40 ? value - scale : value;
}

/**
 * How many bytes of operands an operation has; undefined for what is not known, or goes by place (branches, addresses).
 */
function operandSize(op: number): number | "leb" | undefined {
  if (op === 0x06 || (op >= 0x12 && op <= 0x14) || (op >= 0x16 && op <= 0x17)) return 0; // deref, dup, drop, over, swap, rot
  if (op === 0x08 || op === 0x09 || op === 0x15 || op === 0x94) return 1; // const1u, const1s, pick, deref_size
  if (op === 0x0a || op === 0x0b) return 2;
  if (op === 0x0c || op === 0x0d) return 4;
  if (op === 0x0e || op === 0x0f) return 8;
  if (op === 0x10 || op === 0x11 || op === 0x23) return "leb"; // constu, consts, plus_uconst
  if (op >= 0x19 && op <= 0x27) return 0; // abs to xor
  if (op >= 0x29 && op <= 0x2e) return 0; // eq to ne
  if (op >= 0x30 && op <= 0x4f) return 0; // lit0 to lit31
  if (op === 0x96 || op === 0x9c) return 0; // nop, call_frame_cfa
  return undefined;
}
