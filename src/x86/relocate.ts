/**
 * One instruction, moved to another address: the same effect, encoded anew only where it depends on where it stands.
 *
 * Most instructions do not: their bytes are copied as they are, odd prefixes and all. Those with a %rip-relative operand
 * or a relative branch are re-encoded by iced-x86's BlockEncoder, which turns short branches into near ones and
 * loop/jrcxz, which have no near form, into a short sequence.
 */
import type { Vaddr } from "../address.js";
import { type Instruction, iced } from "./iced.js";

/** What a tactic has to know of one instruction before it moves it. */
export interface InstructionTraits {
  /** Encoded anew when it moves. */
  readonly dependsOnAddress: boolean;
  /** Reads or writes memory, divides, or may fault in another way: unwinding may start at it. */
  readonly mayTrap: boolean;
  /** Changes rsp or rbp. */
  readonly changesFrame: boolean;
  /** Reads or writes rsp, as an operand, as part of an address or without naming it. */
  readonly usesStackPointer: boolean;
  /** Disassembly, in the syntax that the report uses. */
  readonly text: string;
}

const { Register, OpAccess, Mnemonic, FlowControl } = iced;
const formatter = new iced.Formatter(iced.FormatterSyntax.Nasm);
formatter.spaceAfterOperandSeparator = false;
formatter.hexPrefix = "0x";
formatter.hexSuffix = "";
formatter.uppercaseHex = false;
const infoFactory = new iced.InstructionInfoFactory();

/** Decodes the one instruction in `bytes`, lends it to `use`, and frees it. */
export function decodeOne<T>(
  bytes: Uint8Array,
  at: Vaddr,
  use: (instruction: InstanceType<typeof iced.Instruction>) => T,
): T {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  decoder.ip = BigInt(at);
  const instruction = decoder.decode();
  try {
    return use(instruction);
  } finally {
    instruction.free();
    decoder.free();
  }
}

const isRelative = (instruction: Instruction): boolean => instruction.isIpRelMemoryOperand || isBranch(instruction);

/** Whether its constant is a distance to where it leads. */
const isBranch = (instruction: Instruction): boolean =>
  instruction.isJccShortOrNear ||
  instruction.isJmpShortOrNear ||
  instruction.isCallNear ||
  instruction.isJcxShort ||
  instruction.isLoop ||
  instruction.isLoopcc ||
  instruction.mnemonic === Mnemonic.Xbegin;

/** What moving the one instruction in `bytes` at link-time address `at` would mean. */
export function traitsOf(bytes: Uint8Array, at: Vaddr): InstructionTraits {
  return decodeOne(bytes, at, (instruction) => {
    const info = infoFactory.info(instruction);
    const memory = info.usedMemory();
    const registers = info.usedRegisters();
    let changesFrame = instruction.isStackInstruction;
    let usesStackPointer = instruction.isStackInstruction;
    let floating = instruction.encoding !== iced.EncodingKind.Legacy;
    for (const used of registers) {
      const full = iced.RegisterExt.fullRegister(used.register);
      const writes = used.access !== OpAccess.Read && used.access !== OpAccess.CondRead;
      if (writes && (full === Register.RSP || full === Register.RBP)) changesFrame = true;
      if (full === Register.RSP) usesStackPointer = true;
      if (isFloating(used.register)) floating = true;
      used.free();
    }
    const accessesMemory = memory.some((m) => m.access !== OpAccess.NoMemAccess);
    for (const m of memory) m.free();
    info.free();
    const divides = instruction.mnemonic === Mnemonic.Div || instruction.mnemonic === Mnemonic.Idiv;
    return {
      dependsOnAddress: isRelative(instruction),
      mayTrap: accessesMemory || divides || floating || instruction.flowControl === FlowControl.Exception,
      changesFrame,
      usesStackPointer,
      text: formatter.format(instruction),
    };
  });
}

/** Floating-point exceptions may be unmasked: whatever touches a vector or x87 register may trap. */
const isFloating = (register: number): boolean =>
  (register >= Register.XMM0 && register <= Register.ZMM31) || (register >= Register.ST0 && register <= Register.ST7);

/**
 * The bytes of an instruction for another address.
 * @param bytes exactly one instruction
 * @param from where it stands, as a link-time address
 * @param to where it shall stand
 * @returns undefined where its operand or target is out of reach from there, or not known
 */
export function relocate(bytes: Uint8Array, from: Vaddr, to: Vaddr): Uint8Array | undefined {
  return decodeOne(bytes, from, (instruction) => {
    if (!isRelative(instruction)) return bytes;
    // Relative to eip: an address that is cut to 32 bits, and which that is the loader decides.
    if (instruction.memoryBase === Register.EIP) return undefined;
    // What names an address of its own bytes means where it stood: the encoder would take that for a label that moves along.
    const named = instruction.isIpRelMemoryOperand ? instruction.ipRelMemoryAddress : instruction.nearBranchTarget;
    if (named >= BigInt(from) && named < BigInt(from + bytes.length)) return renamed(bytes, from, to);
    const encoder = new iced.BlockEncoder(64, iced.BlockEncoderOptions.None);
    try {
      encoder.add(instruction);
      return encoder.encode(BigInt(to));
    } catch {
      return undefined;
    } finally {
      encoder.free();
    }
  });
}

/** An instruction that names one of its own bytes, by a 32-bit displacement, at another address; a short branch cannot. */
function renamed(bytes: Uint8Array, from: Vaddr, to: Vaddr): Uint8Array | undefined {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  decoder.ip = BigInt(from);
  const instruction = decoder.decode();
  const constants = decoder.getConstantOffsets(instruction);
  const isBranch = !instruction.isIpRelMemoryOperand;
  const at = isBranch ? constants.immediateOffset : constants.displacementOffset;
  const size = isBranch ? constants.immediateSize : constants.displacementSize;
  constants.free();
  instruction.free();
  decoder.free();
  if (size !== 4) return undefined;
  const moved = Uint8Array.from(bytes);
  const view = new DataView(moved.buffer);
  const displacement = view.getInt32(at, true) + from - to;
  if (displacement !== (displacement | 0)) return undefined;
  view.setInt32(at, displacement, true);
  return moved;
}

/** Whether a branch is a jmp or jcc without prefixes, short or near. */
export const isPlainBranch = (bytes: Uint8Array): boolean =>
  (bytes.length === 2 && (bytes[0] === 0xeb || (bytes[0]! & 0xf0) === 0x70)) ||
  (bytes.length === 5 && bytes[0] === 0xe9) ||
  (bytes.length === 6 && bytes[0] === 0x0f && (bytes[1]! & 0xf0) === 0x80);

/** Over the jump behind it, to the one that leads on: what loop and jrcxz need, which have no near form. */
const OVER_JUMP = [0x02, 0xeb, 0x05, 0xe9];

/**
 * A jmp, jcc, loop or jrcxz, with its prefixes, whose distance of 32 bits is the last 4 bytes; or undefined for any other
 * instruction. The distance is 0.
 */
export function nearBranch(bytes: Uint8Array): Uint8Array | undefined {
  let prefixes = 0;
  while (BRANCH_PREFIXES.has(bytes[prefixes]!)) prefixes++;
  const [opcode, second] = [bytes[prefixes]!, bytes[prefixes + 1] ?? 0];
  let near: readonly number[];
  if (opcode === 0xeb || opcode === 0xe9) near = [0xe9];
  else if ((opcode & 0xf0) === 0x70) near = [0x0f, 0x80 | (opcode & 0x0f)];
  else if (opcode === 0x0f && (second & 0xf0) === 0x80) near = [0x0f, second];
  else if (opcode >= 0xe0 && opcode <= 0xe3) near = [opcode, ...OVER_JUMP];
  else return undefined;
  return Uint8Array.from([...bytes.subarray(0, prefixes), ...near, 0, 0, 0, 0]);
}

/** Segments, which are hints here, operand and address size, repeat (bnd) and REX. */
const BRANCH_PREFIXES: ReadonlySet<number> = new Set([
  0x26,
  0x2e,
  0x36,
  0x3e,
  0x64,
  0x65,
  0x67,
  0xf2,
  0xf3,
  ...Array.from({ length: 16 }, (_, i) => 0x40 + i),
]);

/** Disassembles one instruction, for people. */
export function disassemble(bytes: Uint8Array, at: Vaddr): string {
  return decodeOne(bytes, at, (instruction) => formatter.format(instruction));
}

/** A constant in an instruction: an immediate, or the displacement of a memory operand that is not %rip-relative. */
interface Constant {
  /** Where it stands, in bytes from the start of the instruction. */
  readonly offset: number;
  readonly size: number;
  /** As the 32 bits say, without a sign: how an address below 4 GiB looks. */
  readonly value: number;
}

/** The constants of 4 bytes or more in the one instruction in `bytes`. */
export function constantsOf(bytes: Uint8Array, at: Vaddr): readonly Constant[] {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  decoder.ip = BigInt(at);
  const instruction = decoder.decode();
  const offsets = decoder.getConstantOffsets(instruction);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const constants: Constant[] = [];
  const add = (offset: number, size: number): void => {
    if (size >= 4) constants.push({ offset, size, value: view.getUint32(offset, true) });
  };
  if (offsets.hasDisplacement && !instruction.isIpRelMemoryOperand)
    add(offsets.displacementOffset, offsets.displacementSize);
  if (offsets.hasImmediate && !isBranch(instruction)) add(offsets.immediateOffset, offsets.immediateSize);
  offsets.free();
  instruction.free();
  decoder.free();
  return constants;
}

/** The link-time address that an instruction's %rip-relative operand or branch names, or undefined. */
export function namedAddress(bytes: Uint8Array, at: Vaddr): number | undefined {
  return decodeOne(bytes, at, (instruction) => {
    if (instruction.isIpRelMemoryOperand) return Number(instruction.ipRelMemoryAddress);
    return isRelative(instruction) ? Number(instruction.nearBranchTarget) : undefined;
  });
}
