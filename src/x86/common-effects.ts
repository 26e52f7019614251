/**
 * The effects of the commonest instructions, straight from their bytes: they make nine tenths of all code, and asking
 * iced for the registers and memory that one uses costs a microsecond, for ten thousands of instructions. Whatever is
 * not listed here, or has a prefix other than REX, is left to iced; a test compares both on real libraries.
 *
 * Encodings: Intel SDM vol. 2, section 2.1 (ModRM, SIB) and appendix A (opcodes).
 */
import { type DecodedCode, Flow } from "./decode.js";
import { Access, type EffectList, Kind, Trait } from "./effect-list.js";
import { int32, type MemoryOperand, memoryOperand } from "./modrm.js";
import { NONE, RAX, RDI, RSP } from "./registers.js";

/** Adds the access of the memory operand; one that no register takes part in is none of the stack. */
function access(out: EffectList, { base, index, displacement }: MemoryOperand, size: number, mode: number): void {
  if (base !== NONE || index !== NONE) out.access(base, index, displacement, size, mode);
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
  // With prefixes it is a call for thread-local storage.
  if (flow & Flow.Call && bytes[end - 5] === 0xe8 && (end - at === 5 || bytes[end - 6] === 0x48)) {
    pushes(i, out, Kind.Call);
    return true;
  }
  if (first === 0x66 && flow === Flow.Lea && bytes[at + 3] === 0x3d && end === at + 8) {
    out.writes[i] = 1 << RDI; // lea for thread-local storage
    return true;
  }
  if (first === 0x66 && toVector(bytes, at, end, flow, i, out)) return true;
  if (first === 0x66 || first === 0xf2 || first === 0xf3)
    return flow === Flow.Next && vector(bytes, at + 1, end, first, out);
  if (first === 0xf0) return isFence(bytes, at, end) && !(code.flow[i + 1]! & Flow.Conditional);
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
  if (opcode >= 0xb8 && opcode <= 0xbf && end - opcodeAt === 5) {
    const register = (opcode & 7) | ((rex & 1) << 3);
    if (register === RSP || rex & 8) return false;
    out.writes[i] = 1 << register; // mov imm32, r32
    return true;
  }
  if (flow & ~(Flow.Lea | Flow.Call)) return false;
  if (opcode === 0xa8 || opcode === 0xa9) return true; // test of al, eax, rax
  if (opcode === 0x05 || opcode === 0x2d) return withAccumulator(bytes, opcodeAt, rex, i, out);
  if (opcode === 0x0f && isVector(bytes[opcodeAt + 1]!)) return vector(bytes, at, end, 0, out);
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

/** add and sub of an immediate to eax or rax. */
function withAccumulator(bytes: Uint8Array, at: number, rex: number, i: number, out: EffectList): boolean {
  const immediate = int32(bytes, at + 1);
  if (rex & 8) out.add(i, RAX, RAX, bytes[at] === 0x05 ? immediate : -immediate);
  else out.writes[i] = out.values[i] = 1 << RAX;
  return true;
}

/** movd and movq from a general-purpose register to a vector: its value is kept there. */
function toVector(bytes: Uint8Array, at: number, end: number, flow: number, i: number, out: EffectList): boolean {
  const rex = (bytes[at + 1]! & 0xf0) === 0x40 ? bytes[at + 1]! : 0;
  const opcodeAt = rex === 0 ? at + 1 : at + 2;
  const modrm = bytes[opcodeAt + 2]!;
  if (flow !== Flow.Next || bytes[opcodeAt] !== 0x0f || bytes[opcodeAt + 1] !== 0x6e) return false;
  if (modrm < 0xc0 || end !== opcodeAt + 3) return false;
  out.values[i] = 1 << ((modrm & 7) | ((rex & 1) << 3));
  out.traits[i] = Trait.Leaks;
  return true;
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
    case 0x84: // test
    case 0x85:
    case 0x38: // cmp
    case 0x39:
    case 0x3a:
    case 0x3b:
      return end === at + 2;
    case 0x01: // add, or, and, sub to the register in rm
    case 0x09:
    case 0x21:
    case 0x29:
      return combine(rm, reg, end === at + 2, i, out);
    case 0x03: // the same to the other one
    case 0x0b:
    case 0x23:
    case 0x2b:
      return combine(reg, rm, end === at + 2, i, out);
    case 0x63: // movsxd
      if (!isWide || reg === RSP || end !== at + 2) return false;
      out.writes[i] = 1 << reg;
      out.values[i] = 1 << rm;
      return true;
    case 0xf6: // test with an immediate
    case 0xf7:
      return (modrm & 0x38) === 0 && end === at + (opcode === 0xf6 ? 3 : 6);
    case 0x31: // xor, both the same: zero
    case 0x33:
      if (rm !== reg || rm === RSP || end !== at + 2) return false;
      out.writes[i] = 1 << rm;
      return true;
    case 0x81:
    case 0x83: {
      // Group 1 with an immediate: /0 add, /1 or, /4 and, /5 sub, /7 cmp.
      const operation = (modrm >> 3) & 7;
      if (end !== at + (opcode === 0x83 ? 3 : 6)) return false;
      const immediate = opcode === 0x83 ? (bytes[at + 2]! << 24) >> 24 : int32(bytes, at + 2);
      if (operation === 7) return true;
      if (isWide && (operation === 0 || operation === 5)) {
        out.add(i, rm, rm, operation === 0 ? immediate : -immediate);
        return true;
      }
      if (rm === RSP || operation === 2 || operation === 3 || operation === 6) return false;
      out.writes[i] = out.values[i] = 1 << rm;
      return true;
    }
    default:
      return false;
  }
}

/** target = target and source in some way. */
function combine(target: number, source: number, fits: boolean, i: number, out: EffectList): boolean {
  // A register with itself may be a way to write zero.
  if (!fits || target === RSP || target === source) return false;
  out.writes[i] = 1 << target;
  out.values[i] = (1 << target) | (1 << source);
  return true;
}

/** Moves and logic of vectors (0f xx), as they are listed in vector(). */
const isVector = (opcode: number): boolean =>
  opcode === 0x10 || opcode === 0x11 || opcode === 0x28 || opcode === 0x29 || opcode === 0x57;

/** How many bytes a vector's move loads or stores, by its prefix and opcode, or 0 where it is none of these. */
function vectorSize(prefix: number, opcode: number): number {
  switch (opcode) {
    case 0x10: // movups, movupd, movss, movsd
    case 0x11:
      return prefix === 0xf3 ? 4 : prefix === 0xf2 ? 8 : 16;
    case 0x28: // movaps, movapd
    case 0x29:
      return prefix === 0 || prefix === 0x66 ? 16 : 0;
    case 0x6f: // movdqa, movdqu
    case 0x7f:
      return prefix === 0x66 || prefix === 0xf3 ? 16 : 0;
    case 0x57: // xorps, pxor, punpcklqdq
    case 0xef:
    case 0x6c:
      return prefix === 0x66 || (prefix === 0 && opcode === 0x57) ? 16 : 0;
    case 0x7e: // movq, from memory and to it
      return prefix === 0xf3 ? 8 : 0;
    case 0xd6:
      return prefix === 0x66 ? 8 : 0;
    default:
      return 0;
  }
}

/** What stands after the prefix at index `from`: it concerns vector registers, and memory perhaps. */
function vector(bytes: Uint8Array, from: number, end: number, prefix: number, out: EffectList): boolean {
  const rex = (bytes[from]! & 0xf0) === 0x40 ? bytes[from]! : 0;
  const at = rex === 0 ? from : from + 1;
  if (bytes[at] !== 0x0f) return false;
  const opcode = bytes[at + 1]!;
  const size = vectorSize(prefix, opcode);
  if (size === 0) return false;
  if (bytes[at + 2]! >= 0xc0) return end === at + 3;
  const memory = memoryOperand(bytes, at + 2, rex);
  if (memory.end !== end) return false;
  const stores = opcode === 0x11 || opcode === 0x29 || opcode === 0x7f || opcode === 0xd6;
  access(out, memory, size, stores ? Access.Write : Access.Read);
  return true;
}

/** `lock or $0, mem` and `lock add $0, mem` with short immediates: see effects.ts. */
function isFence(bytes: Uint8Array, at: number, end: number): boolean {
  const opcodeAt = (bytes[at + 1]! & 0xf0) === 0x40 ? at + 2 : at + 1;
  const operation = (bytes[opcodeAt + 1]! >> 3) & 7;
  return bytes[opcodeAt] === 0x83 && operation <= 1 && bytes[end - 1] === 0;
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
  const memory = memoryOperand(bytes, at + 1, rex);
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
      if (reg === RSP || memory.end !== end) return false;
      if (opcode === 0x63 && !isWide) return false;
      access(out, memory, opcode === 0x8b ? size : opcode === 0x63 ? 4 : opcode & 1 ? 2 : 1, Access.Read);
      out.writes[i] = 1 << reg;
      return true;
    case 0x89: // mov from a register
      if (memory.end !== end) return false;
      access(out, memory, size, Access.Write);
      out.values[i] = 1 << reg;
      out.traits[i] = Trait.Leaks;
      return true;
    case 0x03: // add, or, and, sub, xor from memory
    case 0x0b:
    case 0x23:
    case 0x2b:
    case 0x33:
      if (reg === RSP || memory.end !== end) return false;
      access(out, memory, size, Access.Read);
      out.writes[i] = out.values[i] = 1 << reg;
      return true;
    case 0x8d: // lea
      if (memory.end !== end || reg === RSP) return false;
      if (!isWide && (memory.base === NONE || rex & 2)) return false;
      if (!isWide) {
        out.writes[i] = 1 << reg;
        out.values[i] = (1 << memory.base) | (memory.index === NONE ? 0 : 1 << memory.index);
        return true;
      }
      return lea(memory, (modrm & 0xc7) === 0x05, reg, i, out);
    case 0x85: // test, cmp
    case 0x39:
    case 0x3b:
      if (memory.end !== end) return false;
      access(out, memory, size, Access.Read);
      return true;
    case 0x83: // cmp with an immediate
      if (memory.end + 1 !== end) return false;
      access(out, memory, size, Access.Read);
      return true;
    case 0x80:
    case 0xf6: // test
      if (memory.end + 1 !== end) return false;
      access(out, memory, 1, Access.Read);
      return true;
    case 0x81:
    case 0xf7:
      if (memory.end + 4 !== end) return false;
      access(out, memory, size, Access.Read);
      return true;
    case 0x38: // cmp, test of a byte
    case 0x3a:
    case 0x84:
      if (memory.end !== end) return false;
      access(out, memory, 1, Access.Read);
      return true;
    case 0xc6: // mov of a byte
      if (memory.end + 1 !== end) return false;
      access(out, memory, 1, Access.Write);
      return true;
    case 0xc7: // mov of an immediate
      if (memory.end + 4 !== end) return false;
      access(out, memory, size, Access.Write);
      return true;
    case 0xff: // call through memory
      if (memory.end !== end) return false;
      access(out, memory, 8, Access.Read);
      pushes(i, out, Kind.Call);
      return true;
    default:
      return false;
  }
}

/** The opcodes above; those that are a group, with the operation in the ModRM byte. */
function isListed(opcode: number, operation: number): boolean {
  switch (opcode) {
    case 0x80:
    case 0x81:
    case 0x83:
      return operation === 7;
    case 0xc6:
    case 0xc7:
    case 0xf6:
    case 0xf7:
      return operation === 0;
    case 0xff:
      return operation === 2;
    default:
      return true;
  }
}

function lea(memory: MemoryOperand, isRelative: boolean, target: number, i: number, out: EffectList): boolean {
  const { base, index, displacement } = memory;
  if (isRelative) {
    out.writes[i] = 1 << target;
    return true;
  }
  if (base === NONE) return false;
  out.access(base, index, displacement, 1, 0);
  if (index === NONE) out.add(i, target, base, displacement);
  else {
    out.writes[i] = 1 << target;
    out.values[i] = (1 << base) | (1 << index);
  }
  return true;
}
