/**
 * What each instruction of a decoded range does to the general-purpose registers and to memory, in flat arrays: as much
 * as is needed to follow addresses of the stack through a function, and no more. Values other than addresses are of no
 * interest, so an instruction is one of a few kinds that keep an address exact (copy, add a constant, push, pop ...), or it
 * is "generic": then only which registers it writes, and whose values may be in the result.
 *
 * iced-x86 says which registers and memory an instruction uses. It does not tell a register that is part of an address
 * from one whose value is used: that is taken from the operands here.
 */
import { type DecodedCode, Flow } from "./decode.js";
import { type Instruction, iced } from "./iced.js";

/** Numbers of the general-purpose registers, as instructions encode them. */
export const RAX = 0;
export const RDX = 2;
export const RSP = 4;
export const RBP = 5;
export const REGISTER_COUNT = 16;
/** No register. */
export const NONE = -1;

const names = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split(" ");

/** The number of a register by its 64-bit name, or NONE where it is no general-purpose register. */
export const registerNumber = (name: string): number => names.indexOf(name);

export const registerName = (register: number): string => names[register] ?? "none";

/** What becomes of the registers. `target`, `source` and `constant` stand in the arrays of that name. */
export const Kind = {
  /** The registers in `writes` get something made of those in `values`; no more is known. */
  Generic: 0,
  /** target = source + constant, all 64 bits. */
  Add: 1,
  /** rsp -= constant, the value goes to memory. */
  Push: 2,
  /** rsp += constant, then the registers in `writes` come from memory. */
  Pop: 3,
  /** rsp &= constant, a negative power of two. */
  Align: 4,
  /** rsp -= something that is not known here. */
  Allocate: 5,
  /** rsp = rbp + 8, rbp comes from memory. */
  Leave: 6,
  /** rsp -= 8, rbp = rsp, rsp -= constant. */
  Enter: 7,
  Call: 8,
} as const;

/** Bits of `traits`. */
export const Trait = {
  /** The values go to memory or to a register that is not followed. */
  Leaks: 1,
  /** The kernel runs: it may read any memory that it is given an address of. */
  Kernel: 2,
  /** Nothing comes behind it: ud2, hlt. */
  Ends: 4,
  /** std: string instructions go downwards from here on. */
  Downwards: 8,
} as const;

/** Bits of an access's mode; none of them means that an address is made and not used (lea). */
export const Access = {
  Read: 1,
  /** All of its bytes are written, whatever happens. */
  Write: 2,
  /** The place may lie anywhere around: a bit offset, a vector of indices, an address of 32 bits. */
  Vague: 4,
} as const;

/** The size of an access that goes on upwards for an unknown length. */
export const UNBOUNDED = 0x7fffffff;

export interface Effects {
  readonly code: DecodedCode;
  readonly kind: Uint8Array;
  readonly target: Int8Array;
  readonly source: Int8Array;
  readonly constant: Int32Array;
  /** A bit for each register that is written. */
  readonly writes: Uint16Array;
  /** Of those: written only in part, or only perhaps. */
  readonly keeps: Uint16Array;
  readonly values: Uint16Array;
  readonly traits: Uint8Array;
  /** Instruction i has the accesses [firstAccess[i], firstAccess[i + 1]). Registers are those before the instruction. */
  readonly firstAccess: Uint32Array;
  readonly base: Int8Array;
  readonly index: Int8Array;
  readonly displacement: Float64Array;
  readonly size: Int32Array;
  readonly mode: Uint8Array;
}

const { Register, OpAccess, OpKind, Mnemonic, MemorySizeExt } = iced;
const scratch = new iced.Instruction();
const infoFactory = new iced.InstructionInfoFactory();

/** The number of the general-purpose register that contains an iced register, or NONE; -2 for %rip and segments. */
const numbers: Int8Array = Int8Array.from({ length: 256 }, (_, register) => {
  if (register >= Register.AL && register <= Register.R15) {
    const full = iced.RegisterExt.fullRegister(register);
    return full - Register.RAX;
  }
  return NONE;
});

const isFull = (register: number): boolean => register >= Register.RAX && register <= Register.R15;
/** A write of 32 bits clears the upper half, so nothing of the old value stays. */
const replaces = (register: number): boolean => register >= Register.EAX && register <= Register.R15;
/** Registers that a value can be kept in, other than the followed ones. */
const isStorage = (register: number): boolean =>
  (register >= Register.XMM0 && register <= Register.ZMM31) ||
  (register >= Register.K0 && register <= Register.TMM7) ||
  (register >= Register.ES && register <= Register.GS);

/** Collects the arrays of one range; they grow as iced answers. */
class Collector {
  readonly kind: Uint8Array;
  readonly target: Int8Array;
  readonly source: Int8Array;
  readonly constant: Int32Array;
  readonly writes: Uint16Array;
  readonly keeps: Uint16Array;
  readonly values: Uint16Array;
  readonly traits: Uint8Array;
  readonly firstAccess: Uint32Array;
  readonly base: number[] = [];
  readonly index: number[] = [];
  readonly displacement: number[] = [];
  readonly size: number[] = [];
  readonly mode: number[] = [];

  constructor(count: number) {
    this.kind = new Uint8Array(count);
    this.target = new Int8Array(count).fill(NONE);
    this.source = new Int8Array(count).fill(NONE);
    this.constant = new Int32Array(count);
    this.writes = new Uint16Array(count);
    this.keeps = new Uint16Array(count);
    this.values = new Uint16Array(count);
    this.traits = new Uint8Array(count);
    this.firstAccess = new Uint32Array(count + 1);
  }

  access(base: number, index: number, displacement: number, size: number, mode: number): void {
    this.base.push(base);
    this.index.push(index);
    this.displacement.push(displacement);
    this.size.push(size);
    this.mode.push(mode);
  }

  add(i: number, target: number, source: number, constant: number): void {
    this.kind[i] = Kind.Add;
    this.target[i] = target;
    this.source[i] = source;
    this.constant[i] = constant;
  }
}

/** The effects of all instructions of a range. What is not clean has none that could be trusted. */
export function effectsOf(code: DecodedCode): Effects {
  const out = new Collector(code.count);
  const decoder = new iced.Decoder(64, code.bytes, iced.DecoderOptions.None);
  decoder.ip = BigInt(code.start);
  for (let i = 0; i < code.count; i++) {
    out.firstAccess[i] = out.base.length;
    if (isKnown(code, i, out)) continue;
    decoder.position = code.offsets[i]!;
    decoder.decodeOut(scratch);
    if (isFence(scratch) && !(code.flow[i + 1]! & Flow.Conditional)) continue;
    read(scratch, code.flow[i]!, i, out);
  }
  out.firstAccess[code.count] = out.base.length;
  decoder.free();
  return {
    ...out,
    code,
    base: Int8Array.from(out.base),
    index: Int8Array.from(out.index),
    displacement: Float64Array.from(out.displacement),
    size: Int32Array.from(out.size),
    mode: Uint8Array.from(out.mode),
  };
}

/** The commonest instructions, by their bytes: half of all code, and asking iced costs a microsecond each. */
function isKnown(code: DecodedCode, i: number, out: Collector): boolean {
  const flow = code.flow[i]!;
  const at = code.offsets[i]!;
  const length = code.offsets[i + 1]! - at;
  const first = code.bytes[at]!;
  if (flow & (Flow.Nop | Flow.Landing)) return true;
  // 0x70 to 0x7f, 0f 80 to 0f 8f, eb, e9; not loop and jrcxz.
  if (flow & (Flow.Jump | Flow.Conditional)) return (first & 0xfc) !== 0xe0;
  if (flow & Flow.Call && first === 0xe8) {
    pushes(i, out, Kind.Call, 8);
    return true;
  }
  const short = (first & 0xf0) === 0x50 && length === 1;
  if (short || ((first & 0xfe) === 0x40 && length === 2 && (code.bytes[at + 1]! & 0xf0) === 0x50)) {
    const opcode = short ? first : code.bytes[at + 1]!;
    const register = (opcode & 7) | (short ? 0 : (first & 1) << 3);
    if (opcode < 0x58) {
      pushes(i, out, Kind.Push, 8);
      out.values[i] = 1 << register;
      out.traits[i] = Trait.Leaks;
    } else {
      out.kind[i] = Kind.Pop;
      out.constant[i] = 8;
      out.writes[i] = 1 << register;
      out.access(RSP, NONE, 0, 8, Access.Read);
    }
    return true;
  }
  // mov r64, r64: REX.W 89 /r with mod 11.
  const modrm = code.bytes[at + 2]!;
  if (length === 3 && (first & 0xf8) === 0x48 && code.bytes[at + 1] === 0x89 && modrm >= 0xc0) {
    out.add(i, (modrm & 7) | ((first & 1) << 3), ((modrm >> 3) & 7) | ((first & 4) << 1), 0);
    return true;
  }
  return false;
}

function pushes(i: number, out: Collector, kind: number, size: number): void {
  out.kind[i] = kind;
  out.constant[i] = size;
  out.access(RSP, NONE, -size, size, Access.Write);
}

function read(instruction: Instruction, flow: number, i: number, out: Collector): void {
  const info = infoFactory.info(instruction);
  const memory = info.usedMemory();
  const registers = info.usedRegisters();
  const mnemonic = instruction.mnemonic;
  let leaks = false;
  for (const m of memory) {
    if (addAccess(instruction, m, out)) leaks = true;
    m.free();
  }
  let writes = 0;
  let keeps = 0;
  let reads = 0;
  for (const used of registers) {
    const { register, access } = used;
    used.free();
    const number = numbers[register] ?? NONE;
    const isWrite = access !== OpAccess.Read && access !== OpAccess.CondRead && access !== OpAccess.NoMemAccess;
    const isRead = access !== OpAccess.Write && access !== OpAccess.CondWrite && access !== OpAccess.NoMemAccess;
    if (number < 0) {
      if (isWrite && isStorage(register)) leaks = true;
      continue;
    }
    if (isRead) reads |= 1 << number;
    if (!isWrite) continue;
    writes |= 1 << number;
    if (!replaces(register) || access === OpAccess.CondWrite || access === OpAccess.ReadCondWrite) keeps |= 1 << number;
  }
  out.writes[i] = writes;
  out.keeps[i] = keeps;
  out.values[i] = mnemonic === Mnemonic.Lea ? reads : reads & ~addressOnly(instruction, info, writes);
  info.free();
  if (leaks) out.traits[i]! |= Trait.Leaks;
  if (flow & Flow.Call) {
    out.kind[i] = Kind.Call;
    out.constant[i] = 8;
    out.values[i] = 0;
  } else if (instruction.isStackInstruction) stackInstruction(instruction, i, out);
  else if (writes !== 0) exactArithmetic(instruction, i, out);
  addTraits(mnemonic, flow, i, out);
}

function addTraits(mnemonic: number, flow: number, i: number, out: Collector): void {
  if (mnemonic === Mnemonic.Std) out.traits[i]! |= Trait.Downwards;
  if ((flow & Flow.Trap) === 0) return;
  const ends =
    mnemonic === Mnemonic.Ud0 || mnemonic === Mnemonic.Ud1 || mnemonic === Mnemonic.Ud2 || mnemonic === Mnemonic.Hlt;
  out.traits[i]! |= ends ? Trait.Ends : Trait.Kernel;
  // The result of a system call, which iced does not know of.
  if (!ends) out.writes[i]! |= 1 << RAX;
}

interface UsedMemory {
  readonly access: number;
  readonly base: number;
  readonly index: number;
  readonly displacement: bigint;
  readonly memorySize: number;
  readonly segment: number;
}

/** @returns whether it writes to memory */
function addAccess(instruction: Instruction, m: UsedMemory, out: Collector): boolean {
  const { access, base, index, segment } = m;
  if (access === OpAccess.NoMemAccess || access === OpAccess.None) return false;
  const reads = access !== OpAccess.Write && access !== OpAccess.CondWrite;
  const writes = access !== OpAccess.Read && access !== OpAccess.CondRead;
  // Thread-local storage is no stack; neither are addresses that no register takes part in.
  if (segment === Register.FS || segment === Register.GS) return writes;
  if (base === Register.None && index === Register.None) return writes;
  if (base === Register.RIP || base === Register.EIP) return writes;
  const bytes = MemorySizeExt.size(m.memorySize);
  const certain = (access === OpAccess.Write || access === OpAccess.ReadWrite) && bytes > 0 && !isMasked(instruction);
  const vague =
    isBitOffset(instruction) ||
    (base !== Register.None && !isFull(base)) ||
    (index !== Register.None && !isFull(index)) ||
    // pop with an address through rsp uses the new one: iced has taken care of it, this only makes it less exact.
    (instruction.mnemonic === Mnemonic.Pop && instruction.op0Kind === OpKind.Memory && writes);
  out.access(
    numbers[base] ?? NONE,
    numbers[index] ?? NONE,
    Number(BigInt.asIntN(64, m.displacement)),
    bytes === 0 ? UNBOUNDED : bytes,
    (reads ? Access.Read : 0) | (certain ? Access.Write : 0) | (vague ? Access.Vague : 0),
  );
  return writes;
}

/** bt and its kin with a register as bit offset reach up to 2^60 bytes away from their operand. */
const isBitOffset = (instruction: Instruction): boolean => {
  const { mnemonic } = instruction;
  return (
    (mnemonic === Mnemonic.Bt || mnemonic === Mnemonic.Bts || mnemonic === Mnemonic.Btr || mnemonic === Mnemonic.Btc) &&
    instruction.op0Kind === OpKind.Memory &&
    instruction.op1Kind === OpKind.Register
  );
};

const isMasked = (instruction: Instruction): boolean =>
  instruction.hasOpMask ||
  instruction.mnemonic === Mnemonic.Maskmovdqu ||
  instruction.mnemonic === Mnemonic.Maskmovq ||
  instruction.mnemonic === Mnemonic.Vmaskmovdqu;

/**
 * `lock or $0, mem` and `lock add $0, mem`: compilers make memory fences of them, at places near rsp that hold nothing or
 * anything (LLVM takes -64(%rsp)). The memory stays as it is, and nobody looks at the flags.
 */
const isFence = (instruction: Instruction): boolean =>
  instruction.hasLockPrefix &&
  (instruction.mnemonic === Mnemonic.Or || instruction.mnemonic === Mnemonic.Add) &&
  instruction.op1Kind !== OpKind.Register &&
  instruction.immediate(1) === 0n;

/** Registers that are read as part of an address and not for their value. */
function addressOnly(instruction: Instruction, info: { opAccess(operand: number): number }, writes: number): number {
  let address = instruction.isStackInstruction ? 1 << RSP : 0;
  let explicitReads = 0;
  let explicitWrites = address;
  const count = instruction.opCount;
  for (let k = 0; k < count; k++) {
    const kind = instruction.opKind(k);
    if (kind === OpKind.Memory) address |= bit(instruction.memoryBase) | bit(instruction.memoryIndex);
    else if (kind === OpKind.Register) {
      const access = info.opAccess(k);
      const register = bit(instruction.opRegister(k));
      if (access !== OpAccess.Write && access !== OpAccess.CondWrite) explicitReads |= register;
      if (access !== OpAccess.Read && access !== OpAccess.CondRead) explicitWrites |= register;
    }
  }
  // What an instruction writes without naming it (mul, cmpxchg, string instructions) it may also have read for its value.
  return address & ~explicitReads & ~(writes & ~explicitWrites);
}

function bit(register: number): number {
  const number = numbers[register] ?? NONE;
  return number < 0 ? 0 : 1 << number;
}

function stackInstruction(instruction: Instruction, i: number, out: Collector): void {
  const { mnemonic, stackPointerIncrement } = instruction;
  out.writes[i]! &= ~(1 << RSP);
  out.keeps[i]! &= ~(1 << RSP);
  if (mnemonic === Mnemonic.Leave) out.kind[i] = Kind.Leave;
  else if (mnemonic === Mnemonic.Enter && instruction.immediate8_2nd === 0) {
    out.kind[i] = Kind.Enter;
    out.constant[i] = instruction.immediate16;
  } else if (mnemonic === Mnemonic.Enter) {
    out.writes[i]! |= (1 << RSP) | (1 << RBP); // nested frames: nobody makes them
  } else {
    if (mnemonic === Mnemonic.Pop && instruction.op0Register === Register.RSP) out.writes[i]! |= 1 << RSP;
    out.kind[i] = stackPointerIncrement < 0 ? Kind.Push : Kind.Pop;
    out.constant[i] = Math.abs(stackPointerIncrement);
  }
}

/** Instructions that keep an address exact, and lea, which makes one. */
function exactArithmetic(instruction: Instruction, i: number, out: Collector): void {
  const { mnemonic } = instruction;
  const { op0Register } = instruction;
  if (instruction.op0Kind !== OpKind.Register || !isFull(op0Register)) return;
  const target = numbers[op0Register]!;
  switch (mnemonic) {
    case Mnemonic.Mov:
      if (instruction.op1Kind === OpKind.Register && isFull(instruction.op1Register))
        out.add(i, target, numbers[instruction.op1Register]!, 0);
      return;
    case Mnemonic.Lea:
      lea(instruction, target, i, out);
      return;
    case Mnemonic.Inc:
    case Mnemonic.Dec:
      out.add(i, target, target, mnemonic === Mnemonic.Inc ? 1 : -1);
      return;
    case Mnemonic.Add:
    case Mnemonic.Sub: {
      if (instruction.op1Kind === OpKind.Register || instruction.op1Kind === OpKind.Memory) {
        if (target === RSP && mnemonic === Mnemonic.Sub) out.kind[i] = Kind.Allocate;
        return;
      }
      const value = Number(BigInt.asIntN(64, instruction.immediate(1)));
      out.add(i, target, target, mnemonic === Mnemonic.Add ? value : -value);
      return;
    }
    case Mnemonic.And: {
      if (target !== RSP || instruction.op1Kind === OpKind.Register || instruction.op1Kind === OpKind.Memory) return;
      const value = Number(BigInt.asIntN(64, instruction.immediate(1)));
      if (value >= 0 || (-value & (-value - 1)) !== 0) return;
      out.kind[i] = Kind.Align;
      out.constant[i] = value;
    }
  }
}

function lea(instruction: Instruction, target: number, i: number, out: Collector): void {
  const { memoryBase, memoryIndex } = instruction;
  if (memoryBase === Register.RIP || memoryBase === Register.EIP) return;
  const exact = (register: number): boolean => register === Register.None || isFull(register);
  const displacement = Number(BigInt.asIntN(64, instruction.memoryDisplacement));
  const mode = exact(memoryBase) && exact(memoryIndex) ? 0 : Access.Vague;
  const base = numbers[memoryBase] ?? NONE;
  const index = numbers[memoryIndex] ?? NONE;
  if (base === NONE && index === NONE) return;
  out.access(base, index, displacement, 1, mode);
  if (mode === 0 && base >= 0 && index < 0) out.add(i, target, base, displacement);
}
