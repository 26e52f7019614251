/**
 * How long the commonest instructions are and where they lead, straight from their bytes: they make more than nine
 * tenths of all code, and to ask iced for one takes five calls into WebAssembly, for hundreds of thousands of
 * instructions. Whatever is not listed here is left to iced; a test compares both on real programs and on random bytes.
 *
 * Encodings: Intel SDM vol. 2, section 2.1 (ModRM, SIB) and appendix A (opcodes).
 */
import { Flow } from "./flow.js";
import { lengthOfModRM } from "./modrm.js";

/**
 * Beside the bits of Flow: the last byte, or the last four of an instruction of more than two, say how far it leads.
 */
export const NEAR = 1024;

/** What follows an opcode. */
const Form = {
  Unlisted: 0,
  Nothing: 1,
  Imm8: 2,
  Imm32: 3,
  /** An immediate as wide as the register. */
  ImmWide: 4,
  ModRM: 5,
  ModRMImm8: 6,
  ModRMImm32: 7,
  Rel8: 8,
  Rel32: 9,
  /** Opcodes that share a byte, told apart by the reg field of the ModRM byte. */
  Shift: 10,
  ShiftImm8: 11,
  MoveImm8: 12,
  MoveImm32: 13,
  Unary8: 14,
  Unary32: 15,
  IncDec: 16,
  IncCallJumpPush: 17,
  BitTestImm8: 18,
  Nop: 19,
  Lea: 20,
} as const;

function forms(...lists: readonly (readonly [number, readonly number[]])[]): Uint8Array {
  const table = new Uint8Array(256);
  for (const [form, opcodes] of lists) for (const opcode of opcodes) table[opcode] = form;
  return table;
}

const span = (first: number, last: number, step = 1): number[] =>
  Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, i) => first + i * step);

/** add, or, adc, sbb, and, sub, xor, cmp: eight rows of eight. */
const arithmetic = span(0x00, 0x38, 8);
const inArithmetic = (...columns: readonly number[]): number[] =>
  arithmetic.flatMap((row) => columns.map((column) => row + column));

const oneByte = forms(
  [Form.ModRM, [...inArithmetic(0, 1, 2, 3), 0x63, ...span(0x84, 0x8b)]],
  [Form.Imm8, [...inArithmetic(4), 0x6a, 0xa8, ...span(0xb0, 0xb7)]],
  [Form.Imm32, [...inArithmetic(5), 0x68, 0xa9]],
  [Form.ImmWide, span(0xb8, 0xbf)],
  [Form.Nothing, [...span(0x50, 0x5f), 0x90, 0x98, 0x99, 0xa4, 0xa5, 0xaa, 0xab, 0xc3, 0xc9, 0xcc]],
  [Form.ModRMImm8, [0x6b, 0x80, 0x83]],
  [Form.ModRMImm32, [0x69, 0x81]],
  [Form.Rel8, [...span(0x70, 0x7f), 0xeb]],
  [Form.Rel32, [0xe8, 0xe9]],
  [Form.Shift, span(0xd0, 0xd3)],
  [Form.ShiftImm8, [0xc0, 0xc1]],
  [Form.MoveImm8, [0xc6]],
  [Form.MoveImm32, [0xc7]],
  [Form.Unary8, [0xf6]],
  [Form.Unary32, [0xf7]],
  [Form.IncDec, [0xfe]],
  [Form.IncCallJumpPush, [0xff]],
  [Form.Lea, [0x8d]],
);

/** After 0f, without a prefix but REX. */
const twoBytes = forms(
  [Form.ModRM, [0x10, 0x11, 0x14, 0x15, 0x28, 0x29, 0x2e, 0x2f, ...span(0x40, 0x4f), 0x51, ...span(0x54, 0x5f)]],
  [Form.ModRM, [...span(0x90, 0x9f), 0xa3, 0xa5, 0xab, 0xad, 0xaf, 0xb0, 0xb1, 0xb3, 0xb6, 0xb7]],
  [Form.ModRM, [0xbb, 0xbc, 0xbd, 0xbe, 0xbf, 0xc0, 0xc1]],
  [Form.ModRMImm8, [0xa4, 0xac, 0xc6]],
  [Form.Rel32, span(0x80, 0x8f)],
  [Form.Nothing, span(0xc8, 0xcf)],
  [Form.BitTestImm8, [0xba]],
  [Form.Nop, [0x1f]],
);

/** Moves and arithmetic of vectors after 0f, by the prefix before it. */
const arithmeticOfFloats = [0x51, 0x58, 0x59, 0x5a, 0x5c, 0x5d, 0x5e, 0x5f];
const behind66 = forms(
  [Form.ModRM, [0x10, 0x11, 0x14, 0x15, 0x28, 0x29, 0x2e, 0x2f, 0x54, 0x55, 0x56, 0x57, ...arithmeticOfFloats]],
  [Form.ModRM, [0x60, 0x61, 0x62, 0x6c, 0x6d, 0x6e, 0x6f, 0x7e, 0x7f, 0xd4, 0xd6, 0xdb, 0xdf, 0xeb, 0xef, 0xfa, 0xfe]],
  [Form.ModRMImm8, [0x70, 0xc6]],
  [Form.Nop, [0x1f]],
);
const behindF2 = forms([Form.ModRM, [0x10, 0x11, 0x2a, 0x2c, 0x2d, ...arithmeticOfFloats]]);
const behindF3 = forms([Form.ModRM, [0x10, 0x11, 0x2a, 0x2c, 0x2d, 0x5b, 0x6f, 0x7e, 0x7f, ...arithmeticOfFloats]]);

/**
 * The instruction at an index of `bytes`: its length in the lowest 4 bits, above them bits of Flow and NEAR. 0 where it
 * is none of the common ones, or is cut short.
 */
export function commonInstruction(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  let opcodeAt = at;
  let table = oneByte;
  let rex = 0;
  if ((first & 0xf0) === 0x40) {
    rex = first;
    opcodeAt++;
  } else if (first === 0x66 || first === 0xf2 || first === 0xf3) {
    if ((bytes[++opcodeAt]! & 0xf0) === 0x40) rex = bytes[opcodeAt++]!;
    if (bytes[opcodeAt] !== 0x0f) return first === 0x66 ? padded(bytes, at) : 0;
    table = first === 0x66 ? behind66 : first === 0xf2 ? behindF2 : behindF3;
    if (first === 0xf3 && rex === 0 && bytes[at + 2] === 0x1e && bytes[at + 3] === 0xfa) return ENDBR64;
    opcodeAt++;
  }
  if (table === oneByte && bytes[opcodeAt] === 0x0f) {
    table = twoBytes;
    opcodeAt++;
  }
  const opcode = bytes[opcodeAt]!;
  const common = withOpcode(bytes, opcodeAt, opcode, table[opcode]!, table, rex);
  if (common === 0 || opcodeAt + (common & 15) > bytes.length) return 0;
  return common + opcodeAt - at;
}

/**
 * What compilers pad with 66: a nop, and the two instructions that ask for the address of a thread-local variable,
 * which linkers replace by others of the same length (Drepper, "ELF Handling For Thread-Local Storage", 4.1.6).
 */
function padded(bytes: Uint8Array, at: number): number {
  if (bytes[at + 1] === 0x90) return NOP_OF_2;
  if (at + 8 > bytes.length) return 0;
  // lea v(%rip),%rdi
  if (bytes[at + 1] === 0x48 && bytes[at + 2] === 0x8d && bytes[at + 3] === 0x3d) return pack(8, Flow.Lea | NEAR);
  // call __tls_get_addr
  return bytes[at + 1] === 0x66 && bytes[at + 2] === 0x48 && bytes[at + 3] === 0xe8 ? pack(8, Flow.Call | NEAR) : 0;
}

const pack = (length: number, flow: number): number => (flow << 4) | length;
const NOP_OF_2 = pack(2, Flow.Nop);
const ENDBR64 = pack(4, Flow.Landing);

/** As commonInstruction, its length from the opcode's last byte on. */
function withOpcode(
  bytes: Uint8Array,
  at: number,
  opcode: number,
  form: number,
  table: Uint8Array,
  rex: number,
): number {
  switch (form) {
    case Form.Unlisted:
      return 0;
    case Form.Nothing:
      if (table !== oneByte || opcode < 0x60) return 1;
      if (opcode === 0x90) return rex === 0 ? pack(1, Flow.Nop) : 0;
      if (opcode === 0xc3) return rex === 0 ? pack(1, Flow.Return) : 0;
      if (opcode === 0xcc) return rex === 0 ? pack(1, Flow.Trap) : 0;
      return 1;
    case Form.Imm8:
      return 2;
    case Form.Imm32:
      return 5;
    case Form.ImmWide:
      return rex & 8 ? 9 : 5;
    case Form.Rel8:
      return rex === 0 ? pack(2, NEAR | (opcode === 0xeb ? Flow.Jump : Flow.Conditional)) : 0;
    case Form.Rel32: {
      const flow = table === twoBytes ? Flow.Conditional : opcode === 0xe8 ? Flow.Call : Flow.Jump;
      return rex === 0 ? pack(5, NEAR | flow) : 0;
    }
    default:
      return withModRM(bytes, at, form);
  }
}

function withModRM(bytes: Uint8Array, at: number, form: number): number {
  const modrm = bytes[at + 1]!;
  const mod = modrm >> 6;
  const rm = modrm & 7;
  const reg = (modrm >> 3) & 7;
  const length = 1 + lengthOfModRM(bytes, at + 1);
  switch (form) {
    case Form.ModRM:
      return length;
    case Form.ModRMImm8:
      return length + 1;
    case Form.ModRMImm32:
      return length + 4;
    case Form.Shift:
      return reg === 6 ? 0 : length;
    case Form.ShiftImm8:
      return reg === 6 ? 0 : length + 1;
    case Form.MoveImm8:
      return reg === 0 ? length + 1 : 0;
    case Form.MoveImm32:
      return reg === 0 ? length + 4 : 0;
    case Form.Unary8:
      return reg === 0 ? length + 1 : reg === 1 ? 0 : length;
    case Form.Unary32:
      return reg === 0 ? length + 4 : reg === 1 ? 0 : length;
    case Form.IncDec:
      return reg <= 1 ? length : 0;
    case Form.IncCallJumpPush:
      if (reg === 2) return pack(length, Flow.Call);
      if (reg === 4) return pack(length, Flow.IndirectJump);
      return reg <= 1 || reg === 6 ? length : 0;
    case Form.BitTestImm8:
      return reg >= 4 ? length + 1 : 0;
    case Form.Nop:
      return reg === 0 ? pack(length, Flow.Nop) : 0;
    case Form.Lea:
      if (mod === 3) return 0;
      return mod === 0 && rm === 5 ? pack(length, Flow.Lea | NEAR) : length;
    default:
      return 0;
  }
}
