/**
 * One decoded instruction as plain data: what iced-x86 says, taken out of its WebAssembly object once, with addresses
 * as two words and operands in the few shapes that the semantics tell apart.
 */
import { vaddr } from "../address.js";
import { hasOperandSizePrefix } from "../x86/decode.js";
import { type Instruction as Decoded, iced } from "../x86/iced.js";
import { disassemble } from "../x86/relocate.js";
import { FS_BASE, GS_BASE, highWord, lowWord } from "./state.js";

const { OpKind, Register, RegisterExt, Code } = iced;

/** A 64-bit constant as two words. */
export interface Words {
  readonly lo: number;
  readonly hi: number;
}

export interface GprOperand {
  readonly kind: "gpr";
  /** In bytes. */
  readonly size: 1 | 2 | 4 | 8;
  /** The register's number; for ah, ch, dh, bh that of rax, rcx, rdx, rbx. */
  readonly index: number;
  /** One of ah, ch, dh, bh. */
  readonly high: boolean;
}

export interface MemoryOperand {
  readonly kind: "memory";
  /** In bytes; 0 where nothing is accessed (lea, multi-byte nop). */
  readonly size: number;
  /** Register numbers, or -1. A rip-relative operand has neither, and its address as displacement. */
  readonly base: number;
  readonly index: number;
  readonly scale: number;
  readonly displacement: Words;
  /** The word of the state that holds the segment's base (FS_BASE, GS_BASE), or -1. */
  readonly segment: number;
  /** 4 where an address-size prefix cuts the address to 32 bits, else 8. */
  readonly addressSize: 4 | 8;
}

export type Operand =
  | GprOperand
  | MemoryOperand
  | { readonly kind: "xmm"; readonly index: number; readonly size: 16 }
  /** Sign-extended to 64 bits as the instruction says; `size` is that of the encoding's value, in bytes. */
  | { readonly kind: "immediate"; readonly size: number; readonly value: Words }
  /** The target of a direct branch. */
  | { readonly kind: "target"; readonly address: Words }
  /** The implied [rsi] and [rdi] of string instructions. */
  | { readonly kind: "string"; readonly pointer: "rsi" | "rdi"; readonly segment: number; readonly addressSize: 4 | 8 }
  /** A register of another kind (segment, x87, mmx, ymm, control): its iced number. */
  | { readonly kind: "other"; readonly register: number };

export interface Instruction {
  /** iced's Code and Mnemonic. */
  readonly code: number;
  readonly mnemonic: number;
  /** In bytes. */
  readonly length: number;
  /** Runtime address of the instruction and of the one after it. */
  readonly at: Words;
  readonly next: Words;
  readonly operands: readonly Operand[];
  readonly rep: boolean;
  readonly repne: boolean;
  readonly lock: boolean;
  /** It may not go on to the next instruction: branches, traps, what cannot be decoded. */
  readonly endsBlock: boolean;
  /** Disassembly. */
  readonly text: string;
}

/** A program counter as two words. */
export const wordsOf = (address: number): Words => ({ lo: lowWord(address), hi: highWord(address) });

const wordsOfBig = (value: bigint): Words => ({
  lo: Number(BigInt.asIntN(32, value)),
  hi: Number(BigInt.asIntN(32, value >> 32n)),
});

const scratch = new iced.Instruction();

/**
 * Decodes instructions from `bytes`, which stand at runtime address `address`: up to one that ends a block, at most
 * `most`, or until the bytes end. The last bytes may hold only a part of an instruction: that is left out. Nobody may
 * write to `bytes` later.
 */
export function decodeInstructions(bytes: Uint8Array, address: number, most: number): Instruction[] {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  decoder.ip = BigInt(address);
  const decoded: Instruction[] = [];
  try {
    for (let at = 0; at < bytes.length && decoded.length < most; ) {
      decoder.decodeOut(scratch);
      if (scratch.code === Code.INVALID && decoder.lastError === iced.DecoderError.NoMoreBytes) break;
      // Whoever asks how many instructions have run stands at the beginning of a block, where that is known.
      if (asksForCount(scratch.mnemonic) && decoded.length > 0) break;
      const instruction = new DecodedInstruction(scratch, address + at, bytes, at);
      decoded.push(instruction);
      at += instruction.length;
      if (instruction.endsBlock) break;
    }
  } finally {
    decoder.free();
  }
  return decoded;
}

const asksForCount = (mnemonic: number): boolean =>
  mnemonic === iced.Mnemonic.Rdtsc || mnemonic === iced.Mnemonic.Rdtscp;

/**
 * What is asked for only now and then is computed then: tens of thousands of instructions are decoded before the first
 * one of them faults.
 */
class DecodedInstruction implements Instruction {
  readonly code: number;
  readonly mnemonic: number;
  readonly length: number;
  readonly operands: readonly Operand[];
  readonly rep: boolean;
  readonly repne: boolean;
  readonly lock: boolean;
  readonly endsBlock: boolean;

  /** `bytes` holds the instruction at `offset`; its runtime address is `address`. */
  constructor(
    from: Decoded,
    private readonly address: number,
    private readonly bytes: Uint8Array,
    private readonly offset: number,
  ) {
    const operands: Operand[] = [];
    const count = from.opCount;
    for (let i = 0; i < count; i++) operands.push(operandOf(from, i));
    // Intel ignores the prefix, AMD cuts the target to 16 bits (Intel SDM vol. 2, JMP; AMD APM vol. 3): no family takes
    // it. REX.W outweighs it on both: linkers write `66 66 48 e8` for calls of __tls_get_addr.
    if (operands[0]?.kind === "target" && hasOperandSizePrefix(bytes, offset) && !hasRexW(bytes, offset))
      operands[0] = { kind: "other", register: Register.None };
    this.code = from.code;
    this.mnemonic = from.mnemonic;
    this.length = from.length;
    this.operands = operands;
    this.rep = from.hasRepPrefix;
    this.repne = from.hasRepnePrefix;
    this.lock = from.hasLockPrefix;
    this.endsBlock = from.flowControl !== iced.FlowControl.Next || this.code === Code.INVALID;
  }

  get at(): Words {
    return wordsOf(this.address);
  }

  get next(): Words {
    return wordsOf(this.address + this.length);
  }

  get text(): string {
    return disassemble(this.bytes.subarray(this.offset, this.offset + this.length), vaddr(this.address));
  }
}

const LEGACY_PREFIXES = new Set([0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3]);

/**
 * Whether the instruction at an index of `bytes` has a REX prefix, in front of its opcode, that makes it 64 bits wide.
 */
function hasRexW(bytes: Uint8Array, at: number): boolean {
  let i = at;
  while (LEGACY_PREFIXES.has(bytes[i]!)) i++;
  return (bytes[i]! & 0xf8) === 0x48;
}

function operandOf(from: Decoded, i: number): Operand {
  const kind = from.opKind(i);
  switch (kind) {
    case OpKind.Register:
      return registerOperand(from.opRegister(i));
    case OpKind.Memory:
      return memoryOperand(from);
    case OpKind.NearBranch64:
    case OpKind.NearBranch32:
    case OpKind.NearBranch16:
      return { kind: "target", address: wordsOfBig(from.nearBranchTarget) };
    case OpKind.MemorySegRSI:
      return { kind: "string", pointer: "rsi", segment: segmentBase(from.memorySegment), addressSize: 8 };
    case OpKind.MemorySegESI:
      return { kind: "string", pointer: "rsi", segment: segmentBase(from.memorySegment), addressSize: 4 };
    case OpKind.MemoryESRDI:
      return { kind: "string", pointer: "rdi", segment: -1, addressSize: 8 };
    case OpKind.MemoryESEDI:
      return { kind: "string", pointer: "rdi", segment: -1, addressSize: 4 };
    case OpKind.MemorySegRDI:
      return { kind: "string", pointer: "rdi", segment: segmentBase(from.memorySegment), addressSize: 8 };
    case OpKind.MemorySegEDI:
      return { kind: "string", pointer: "rdi", segment: segmentBase(from.memorySegment), addressSize: 4 };
    case OpKind.FarBranch16:
    case OpKind.FarBranch32:
      return { kind: "other", register: Register.None };
    default:
      return { kind: "immediate", size: immediateSize(kind), value: immediateValue(from, kind, i) };
  }
}

/** The usual kinds come as numbers; the others as BigInt, which costs more. */
function immediateValue(from: Decoded, kind: number, i: number): Words {
  switch (kind) {
    case OpKind.Immediate8:
      return { lo: from.immediate8, hi: 0 };
    case OpKind.Immediate32:
      return { lo: from.immediate32 | 0, hi: 0 };
    case OpKind.Immediate8to16:
    case OpKind.Immediate8to32:
    case OpKind.Immediate8to64:
      return signExtended((from.immediate8 << 24) >> 24);
    case OpKind.Immediate32to64:
      return signExtended(from.immediate32 | 0);
    default:
      return wordsOfBig(from.immediate(i));
  }
}

const signExtended = (value: number): Words => ({ lo: value, hi: value >> 31 });

function immediateSize(kind: number): number {
  switch (kind) {
    case OpKind.Immediate8:
    case OpKind.Immediate8_2nd:
      return 1;
    case OpKind.Immediate16:
    case OpKind.Immediate8to16:
      return 2;
    case OpKind.Immediate32:
    case OpKind.Immediate8to32:
      return 4;
    default:
      return 8;
  }
}

/** Operands that are registers, by iced's number: the same objects for all instructions. */
const registerOperands: (Operand | undefined)[] = [];

function registerOperand(register: number): Operand {
  const known = registerOperands[register];
  if (known !== undefined) return known;
  const operand = describeRegister(register);
  registerOperands[register] = operand;
  return operand;
}

function describeRegister(register: number): Operand {
  if (register >= Register.XMM0 && register <= Register.XMM15)
    return { kind: "xmm", index: register - Register.XMM0, size: 16 };
  const gpr = gprOf(register);
  return gpr ?? { kind: "other", register };
}

function gprOf(register: number): GprOperand | undefined {
  const size = gprSize(register);
  if (size === 0) return undefined;
  const high = register >= Register.AH && register <= Register.BH;
  const full = RegisterExt.fullRegister(register);
  return { kind: "gpr", size, index: full - Register.RAX, high };
}

function gprSize(register: number): 0 | 1 | 2 | 4 | 8 {
  if (register >= Register.AL && register <= Register.R15L) return 1;
  if (register >= Register.AX && register <= Register.R15W) return 2;
  if (register >= Register.EAX && register <= Register.R15D) return 4;
  if (register >= Register.RAX && register <= Register.R15) return 8;
  return 0;
}

function memoryOperand(from: Decoded): Operand {
  const base = from.memoryBase;
  const index = from.memoryIndex;
  const size = iced.MemorySizeExt.size(from.memorySize);
  const relative = base === Register.RIP || base === Register.EIP;
  const narrow = isNarrow(base) || isNarrow(index);
  // Without registers an address-size prefix shows in the displacement alone: iced has cut it.
  return {
    kind: "memory",
    size,
    base: relative ? -1 : numberOf(base),
    index: numberOf(index),
    scale: from.memoryIndexScale,
    displacement: wordsOfBig(from.memoryDisplacement),
    segment: segmentBase(from.memorySegment),
    addressSize: narrow ? 4 : 8,
  };
}

/** The number of a general-purpose register, or -1 for another one and none. */
function numberOf(register: number): number {
  if (register === Register.None) return -1;
  const operand = registerOperand(register);
  return operand.kind === "gpr" ? operand.index : -1;
}

/** Whether an address with this base or index is cut to 32 bits. */
const isNarrow = (register: number): boolean => register === Register.EIP || gprSize(register) === 4;

function segmentBase(segment: number): number {
  if (segment === Register.FS) return FS_BASE;
  return segment === Register.GS ? GS_BASE : -1;
}
