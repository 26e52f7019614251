/**
 * The effects of the commonest instructions, straight from their bytes: they make nine tenths of all code, and asking iced
 * for the registers and memory that one uses costs a microsecond, for ten thousands of instructions. Whatever is not
 * listed here, or has a prefix other than REX, is left to iced; a test compares both on real libraries.
 *
 * Encodings: Intel SDM vol. 2, section 2.1 (ModRM, SIB) and appendix A (opcodes).
 */
import { type DecodedCode, Flow } from "./decode.js";
import { Access, type EffectList, Kind, NONE, RSP, Trait } from "./effect-list.js";

// The memory operand that was parsed last: no object each.
let memoryBase = NONE;
let memoryIndex = NONE;
let displacement = 0;
/** Where the operand ends: the index behind its last byte. */
let operandEnd = 0;

/** Parses the ModRM byte at index `at` and what belongs to it, for a memory operand. */
function parseMemory(bytes: Uint8Array, at: number, rex: number): void {
  const modrm = bytes[at]!;
  const mod = modrm >> 6;
  let rm = modrm & 7;
  let next = at + 1;
  memoryIndex = NONE;
  let wide = mod === 2;
  if (rm === 4) {
    const sib = bytes[next++]!;
    rm = sib & 7;
    const index = ((sib >> 3) & 7) | ((rex & 2) << 2);
    if (index !== RSP) memoryIndex = index;
    memoryBase = rm | ((rex & 1) << 3);
    if (mod === 0 && rm === 5) {
      memoryBase = NONE;
      wide = true;
    }
  } else if (mod === 0 && rm === 5) {
    memoryBase = NONE; // relative to rip
    wide = true;
  } else memoryBase = rm | ((rex & 1) << 3);
  displacement = 0;
  if (wide) {
    displacement = bytes[next]! | (bytes[next + 1]! << 8) | (bytes[next + 2]! << 16) | (bytes[next + 3]! << 24);
    next += 4;
  } else if (mod === 1) displacement = (bytes[next++]! << 24) >> 24;
  operandEnd = next;
}

/** Adds the access of the memory operand; one that no register takes part in is none of the stack. */
function access(out: EffectList, size: number, mode: number): void {
  if (memoryBase !== NONE || memoryIndex !== NONE) out.access(memoryBase, memoryIndex, displacement, size, mode);
}

/** Fills in instruction `i` if it is a common one. @returns whether it was */
export function commonEffect(code: DecodedCode, i: number, out: EffectList): boolean {
  const flow = code.flow[i]!;
  const at = code.offsets[i]!;
  const end = code.offsets[i + 1]!;
  const { bytes } = code;
  const first = bytes[at]!;
  // 0x70 to 0x7f, 0f 80 to 0f 8f, eb, e9; not loop and jrcxz, which use rcx.
  if (flow & (Flow.Jump | Flow.Conditional)) return (first & 0xfc) !== 0xe0;
  if (flow & Flow.Call && first === 0xe8) {
    pushes(i, out, Kind.Call);
    return true;
  }
  if (flow & Flow.Return && first === 0xc3) {
    pops(i, out);
    return true;
  }
  const rex = (first & 0xf0) === 0x40 ? first : 0;
  const opcodeAt = rex === 0 ? at : at + 1;
  const opcode = bytes[opcodeAt]!;
  if ((opcode & 0xf0) === 0x50 && opcodeAt + 1 === end) {
    const register = (opcode & 7) | ((rex & 1) << 3);
    if (opcode < 0x58) {
      pushes(i, out, Kind.Push);
      out.values[i] = 1 << register;
      out.traits[i] = Trait.Leaks;
    } else {
      pops(i, out);
      out.writes[i] = 1 << register;
    }
    return true;
  }
  if (opcode >= 0xb8 && opcode <= 0xbf && rex === 0 && end - at === 5) {
    out.writes[i] = 1 << (opcode & 7); // mov imm32, r32
    return (opcode & 7) !== RSP;
  }
  if (flow & ~(Flow.Lea | Flow.Call)) return false;
  return bytes[opcodeAt + 1]! >= 0xc0 && opcode !== 0x0f
    ? betweenRegisters(bytes, opcodeAt, end, rex, i, out)
    : withMemory(bytes, opcodeAt, end, rex, i, out);
}

function pushes(i: number, out: EffectList, kind: number): void {
  out.kind[i] = kind;
  out.constant[i] = 8;
  out.access(RSP, NONE, -8, 8, Access.Write);
}

function pops(i: number, out: EffectList): void {
  out.kind[i] = Kind.Pop;
  out.constant[i] = 8;
  out.access(RSP, NONE, 0, 8, Access.Read);
}

function betweenRegisters(
  bytes: Uint8Array,
  at: number,
  end: number,
  rex: number,
  i: number,
  out: EffectList,
): boolean {
  const opcode = bytes[at]!;
  const modrm = bytes[at + 1]!;
  const rm = (modrm & 7) | ((rex & 1) << 3);
  const reg = ((modrm >> 3) & 7) | ((rex & 4) << 1);
  const isWide = (rex & 8) !== 0;
  switch (opcode) {
    case 0x89:
    case 0x8b: {
      if (end !== at + 2) return false;
      const [target, source] = opcode === 0x89 ? [rm, reg] : [reg, rm];
      if (isWide) out.add(i, target, source, 0);
      else if (target === RSP) return false;
      else {
        out.writes[i] = 1 << target;
        out.values[i] = 1 << source;
      }
      return true;
    }
    case 0x85: // test
    case 0x39: // cmp
    case 0x3b:
      return end === at + 2;
    case 0x31: // xor, both the same: zero
    case 0x33:
      if (rm !== reg || rm === RSP || end !== at + 2) return false;
      out.writes[i] = 1 << rm;
      return true;
    case 0x83: {
      // Group 1 with an immediate of 8 bits: /0 add, /5 sub, /7 cmp.
      const operation = (modrm >> 3) & 7;
      if (end !== at + 3) return false;
      const immediate = (bytes[at + 2]! << 24) >> 24;
      if (operation === 7) return true;
      if (!isWide || (operation !== 0 && operation !== 5)) return false;
      out.add(i, rm, rm, operation === 0 ? immediate : -immediate);
      return true;
    }
    default:
      return false;
  }
}

function withMemory(
  bytes: Uint8Array,
  opcodeAt: number,
  end: number,
  rex: number,
  i: number,
  out: EffectList,
): boolean {
  let at = opcodeAt;
  let opcode = bytes[at]!;
  if (opcode === 0x0f) opcode = 0x0f00 | bytes[++at]!;
  const modrm = bytes[at + 1]!;
  if (modrm >= 0xc0 || !isListed(opcode, (modrm >> 3) & 7)) return false;
  parseMemory(bytes, at + 1, rex);
  const isWide = (rex & 8) !== 0;
  const size = isWide ? 8 : 4;
  const reg = ((modrm >> 3) & 7) | ((rex & 4) << 1);
  switch (opcode) {
    case 0x8b: // mov and movsxd to a register
    case 0x63:
    case 0x0fb6: // movzx, movsx
    case 0x0fb7:
    case 0x0fbe:
    case 0x0fbf:
      if (reg === RSP || operandEnd !== end) return false;
      if (opcode === 0x63 && !isWide) return false;
      access(out, opcode === 0x8b ? size : opcode === 0x63 ? 4 : opcode & 1 ? 2 : 1, Access.Read);
      out.writes[i] = 1 << reg;
      return true;
    case 0x89: // mov from a register
      if (operandEnd !== end) return false;
      access(out, size, Access.Write);
      out.values[i] = 1 << reg;
      out.traits[i] = Trait.Leaks;
      return true;
    case 0x8d: // lea
      if (!isWide || operandEnd !== end || reg === RSP) return false;
      return lea(bytes, at, reg, i, out);
    case 0x85: // test, cmp
    case 0x39:
    case 0x3b:
      if (operandEnd !== end) return false;
      access(out, size, Access.Read);
      return true;
    case 0x83: // cmp with an immediate
      if (operandEnd + 1 !== end) return false;
      access(out, size, Access.Read);
      return true;
    case 0x80:
    case 0xf6: // test
      if (operandEnd + 1 !== end) return false;
      access(out, 1, Access.Read);
      return true;
    case 0xc7: // mov of an immediate
      if (operandEnd + 4 !== end) return false;
      access(out, size, Access.Write);
      return true;
    case 0xff: // call through memory
      if (operandEnd !== end) return false;
      access(out, 8, Access.Read);
      pushes(i, out, Kind.Call);
      return true;
    default:
      return false;
  }
}

/** The opcodes above; those that are a group, with the operation in the ModRM byte. */
function isListed(opcode: number, operation: number): boolean {
  switch (opcode) {
    case 0x83:
    case 0x80:
      return operation === 7;
    case 0xf6:
    case 0xc7:
      return operation === 0;
    case 0xff:
      return operation === 2;
    default:
      return true;
  }
}

function lea(bytes: Uint8Array, at: number, target: number, i: number, out: EffectList): boolean {
  const isRelative = (bytes[at + 1]! & 0xc7) === 0x05;
  if (isRelative) {
    out.writes[i] = 1 << target;
    return true;
  }
  if (memoryBase === NONE) return false;
  out.access(memoryBase, memoryIndex, displacement, 1, 0);
  if (memoryIndex === NONE) out.add(i, target, memoryBase, displacement);
  else {
    out.writes[i] = 1 << target;
    out.values[i] = (1 << memoryBase) | (1 << memoryIndex);
  }
  return true;
}
