/**
 * What each instruction of a decoded range does to the general-purpose registers and to memory, in flat arrays: as much
 * as is needed to follow addresses of the stack through a function, and no more. Values other than addresses are of no
 * interest, so an instruction is one of a few kinds that keep an address exact (copy, add a constant, push, pop ...),
 * or it is "generic": then only which registers it writes, and whose values may be in the result.
 *
 * iced-x86 says which registers and memory an instruction uses. It does not tell a register that is part of an address
 * from one whose value is used: that is taken from the operands here.
 */
import { commonEffect } from "./common-effects.js";
import { type DecodedCode, Flow } from "./decode.js";
import { Access, EffectList, type Effects, Kind, Trait, UNBOUNDED } from "./effect-list.js";
import { type Instruction, iced } from "./iced.js";
import { NONE, RAX, RBP, RSP } from "./registers.js";

export * from "./effect-list.js";
export * from "./registers.js";

const { Register, OpAccess, OpKind, Mnemonic, MemorySizeExt } = iced;
const scratch = new iced.Instruction();
const infoFactory = new iced.InstructionInfoFactory();
const out = new EffectList();

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

/**
 * The effects of all instructions of a range. What is not clean has none that could be trusted.
 * @param fast false asks iced for the common instructions too: for the test that both say the same
 */
export function effectsOf(code: DecodedCode, fast = true): Effects {
  out.start(code.count);
  // Most functions need none: it would copy their bytes.
  let decoder: InstanceType<typeof iced.Decoder> | undefined;
  for (let i = 0; i < code.count; i++) {
    out.firstAccess[i] = out.accesses;
    if (fast && commonEffect(code, i, out)) continue;
    if (code.flow[i]! & (Flow.Nop | Flow.Landing)) continue;
    decoder ??= new iced.Decoder(64, code.bytes, iced.DecoderOptions.None);
    decoder.position = code.offsets[i]!;
    decoder.decodeOut(scratch);
    if (isFence(scratch) && !(code.flow[i + 1]! & Flow.Conditional)) continue;
    read(scratch, code.flow[i]!, i);
  }
  decoder?.free();
  return out.finish(code);
}

function read(instruction: Instruction, flow: number, i: number): void {
  const info = infoFactory.info(instruction);
  const memory = info.usedMemory();
  const registers = info.usedRegisters();
  const mnemonic = instruction.mnemonic;
  let leaks = false;
  for (const m of memory) {
    if (addAccess(instruction, m)) leaks = true;
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
  if (flow & Flow.Call) {
    out.kind[i] = Kind.Call;
    out.constant[i] = 8;
  } else if (instruction.isStackInstruction) stackInstruction(instruction, i);
  else if (writes !== 0) exactArithmetic(instruction, i);
  const kind = out.kind[i];
  if (kind !== Kind.Generic && kind !== Kind.Pop) out.writes[i] = out.keeps[i] = 0;
  // Values matter where they go somewhere.
  if (out.writes[i] === 0 && (!leaks || kind === Kind.Call)) out.values[i] = 0;
  if (leaks && out.values[i] !== 0) out.traits[i]! |= Trait.Leaks;
  addTraits(mnemonic, flow, i);
}

function addTraits(mnemonic: number, flow: number, i: number): void {
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
function addAccess(instruction: Instruction, m: UsedMemory): boolean {
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
 * `lock or $0, mem` and `lock add $0, mem`: compilers make memory fences of them, at places near rsp that hold nothing
 * or anything (LLVM takes -64(%rsp)). The memory stays as it is, and nobody looks at the flags.
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
  // What an instruction writes without naming it (mul, cmpxchg, string instructions) it may also have read for its
  // value.
  return address & ~explicitReads & ~(writes & ~explicitWrites);
}

function bit(register: number): number {
  const number = numbers[register] ?? NONE;
  return number < 0 ? 0 : 1 << number;
}

function stackInstruction(instruction: Instruction, i: number): void {
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
function exactArithmetic(instruction: Instruction, i: number): void {
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
      lea(instruction, target, i);
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

function lea(instruction: Instruction, target: number, i: number): void {
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
