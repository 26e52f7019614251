/**
 * How an indirect jump gets its target, as far as the instructions before it say.
 *
 * The search for tables (tables.ts) knows two ways in which a target comes about: a pointer that was loaded or handed over,
 * which a relocation, an absolute word or a lea shows; and a 32-bit word added to a base. A jump that is understood gets its
 * target in one of these ways. Any other arithmetic (16-bit offsets, base minus word, base plus a multiple of an index) may
 * lead anywhere in the function, and then nothing can be proved about it.
 */
import { addressOf, type DecodedCode, Flow, lengthOf } from "../x86/decode.js";
import { iced } from "../x86/iced.js";

const { Code, Mnemonic, OpKind, Register, OpAccess } = iced;
type Instruction = InstanceType<typeof iced.Instruction>;

/** How many instructions before the jump are looked at. */
const LONGEST_CHAIN = 24;

/** The address of the first indirect jump in `code` whose target comes about in a way that is not understood. */
export function unknownJumpIn(code: DecodedCode): number | undefined {
  for (let i = 0; i < code.count; i++) {
    if ((code.flow[i]! & Flow.IndirectJump) === 0) continue;
    if (!isUnderstood(code, i)) return addressOf(code, i);
  }
  return undefined;
}

function isUnderstood(code: DecodedCode, jump: number): boolean {
  const instructions = block(code, jump);
  try {
    const last = instructions.at(-1)!;
    // Through memory: a pointer, whatever its address.
    if (last.opKind(0) === OpKind.Memory) return true;
    return isTarget(instructions, instructions.length - 1, last.opRegister(0), 0);
  } finally {
    for (const instruction of instructions) instruction.free();
  }
}

/** The instructions from the start of the block, or some before the jump, up to the jump itself. */
function block(code: DecodedCode, jump: number): Instruction[] {
  let first = jump;
  const ends = Flow.Jump | Flow.IndirectJump | Flow.Return;
  while (first > 0 && jump - first < LONGEST_CHAIN && (code.flow[first - 1]! & ends) === 0) first--;
  const result: Instruction[] = [];
  const from = code.offsets[first]!;
  const to = code.offsets[jump]! + lengthOf(code, jump);
  const decoder = new iced.Decoder(64, code.bytes.subarray(from, to), iced.DecoderOptions.None);
  decoder.ip = BigInt(code.start + from);
  while (decoder.canDecode) result.push(decoder.decode());
  decoder.free();
  return result;
}

const full = (register: number): number => iced.RegisterExt.fullRegister(register);

/** The last instruction before `end` that writes a register, or -1. */
function writerOf(instructions: readonly Instruction[], end: number, register: number): number {
  const factory = new iced.InstructionInfoFactory();
  try {
    for (let i = end - 1; i >= 0; i--) {
      const info = factory.info(instructions[i]!);
      const used = info.usedRegisters();
      const writes = used.some(
        (u) => full(u.register) === full(register) && u.access !== OpAccess.Read && u.access !== OpAccess.CondRead,
      );
      for (const u of used) u.free();
      info.free();
      if (writes) return i;
    }
    return -1;
  } finally {
    factory.free();
  }
}

/** Whether the register, as it is before instruction `end`, holds a pointer or a base plus a 32-bit word. */
function isTarget(instructions: readonly Instruction[], end: number, register: number, depth: number): boolean {
  const at = writerOf(instructions, end, register);
  // Set before the block, or by its caller: handed over as it is.
  if (at < 0) return true;
  if (depth > 4) return false;
  const writer = instructions[at]!;
  switch (writer.mnemonic) {
    case Mnemonic.Pop:
      return true;
    case Mnemonic.Call:
      return true;
    case Mnemonic.Mov:
      if (writer.opKind(1) === OpKind.Memory) return writer.code === Code.Mov_r64_rm64;
      if (writer.opKind(1) === OpKind.Register) return isTarget(instructions, at, writer.opRegister(1), depth + 1);
      return true;
    case Mnemonic.Lea:
      if (writer.isIpRelMemoryOperand) return true;
      // base + word, as lea writes it
      return (
        writer.memoryIndexScale === 1 &&
        writer.memoryDisplacement === 0n &&
        writer.memoryBase !== Register.None &&
        writer.memoryIndex !== Register.None &&
        (isWord(instructions, at, writer.memoryBase, 0) || isWord(instructions, at, writer.memoryIndex, 0))
      );
    case Mnemonic.Add:
      if (writer.code === Code.Add_r64_rm64 && writer.opKind(1) === OpKind.Memory) return false;
      return (
        writer.opKind(1) === OpKind.Register &&
        (isWord(instructions, at, writer.opRegister(0), 0) || isWord(instructions, at, writer.opRegister(1), 0))
      );
    default:
      // A conditional move chooses between two values; anything else is arithmetic.
      if (iced.ConditionCode.None !== writer.conditionCode && writer.opKind(1) === OpKind.Register)
        return (
          isTarget(instructions, at, writer.opRegister(1), depth + 1) &&
          isTarget(instructions, at, writer.opRegister(0), depth + 1)
        );
      return false;
  }
}

/** Whether the register holds a 32-bit word from memory, sign- or zero-extended. */
function isWord(instructions: readonly Instruction[], end: number, register: number, depth: number): boolean {
  const at = writerOf(instructions, end, register);
  if (at < 0 || depth > 2) return false;
  const writer = instructions[at]!;
  if (writer.code === Code.Movsxd_r64_rm32)
    return writer.opKind(1) === OpKind.Memory || isWord(instructions, at, writer.opRegister(1), depth + 1);
  if (writer.code === Code.Mov_r32_rm32)
    return writer.opKind(1) === OpKind.Memory || isWord(instructions, at, writer.opRegister(1), depth + 1);
  if (writer.mnemonic === Mnemonic.Cdqe) return isWord(instructions, at, Register.EAX, depth + 1);
  if (writer.code === Code.Mov_r64_rm64 && writer.opKind(1) === OpKind.Register)
    return isWord(instructions, at, writer.opRegister(1), depth + 1);
  return false;
}
