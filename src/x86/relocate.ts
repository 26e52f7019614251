/**
 * One instruction, moved to another address: the same effect, encoded anew only where it depends on where it stands.
 *
 * Most instructions do not: their bytes are copied as they are, odd prefixes and all. Those with a %rip-relative
 * operand or a relative branch become forms with a distance, which the linker fills in (link.ts): branches a short one
 * and a near one; loop and jrcxz, which have no near one, a short sequence.
 */
import type { Vaddr } from "../address.js";
import { type Form, leading, type Movable, near } from "./distance.js";
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
 * An instruction as something that can stand elsewhere, or undefined where what it names is not known.
 * @param bytes exactly one instruction
 * @param at where it stands, as a link-time address
 */
export function movable(bytes: Uint8Array, at: Vaddr): Movable | undefined {
  return decodeOne(bytes, at, (instruction) => {
    if (!isRelative(instruction)) return { at, bytes, leads: undefined };
    // Relative to eip: an address that is cut to 32 bits, and which that is the loader decides.
    if (instruction.memoryBase === Register.EIP) return undefined;
    const isMemory = instruction.isIpRelMemoryOperand;
    // Below address 0 is a place to count from as well as any.
    const target = Number(BigInt.asIntN(64, isMemory ? instruction.ipRelMemoryAddress : instruction.nearBranchTarget));
    // What names an address of its own bytes means where it stood; a short branch has no way to say that from
    // elsewhere.
    const isOwn = target >= at && target < at + bytes.length;
    const forms = isOwn ? asItIs(bytes, at) : isMemory ? [pointing(instruction)] : branching(instruction);
    return forms && { at, bytes, leads: { forms, target } };
  });
}

/**
 * The bytes of an instruction for another address.
 * @param to where it shall stand
 * @returns undefined where its operand or target is out of reach from there, or not known
 */
export function relocate(bytes: Uint8Array, from: Vaddr, to: Vaddr): Uint8Array | undefined {
  const { leads } = movable(bytes, from) ?? { leads: null };
  if (leads === null) return undefined;
  return leads === undefined ? bytes : leading(leads.forms, to, leads.target);
}

/** The instruction with a distance of 32 bits, which it has already. */
function asItIs(bytes: Uint8Array, at: Vaddr): readonly Form[] | undefined {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  decoder.ip = BigInt(at);
  const instruction = decoder.decode();
  const constants = decoder.getConstantOffsets(instruction);
  const isMemory = instruction.isIpRelMemoryOperand;
  const field = isMemory ? constants.displacementOffset : constants.immediateOffset;
  const size = isMemory ? constants.displacementSize : constants.immediateSize;
  constants.free();
  instruction.free();
  decoder.free();
  return size === 4 ? [{ bytes, field, width: 4 }] : undefined;
}

/** With a %rip-relative operand: there may be an immediate after the distance. */
function pointing(instruction: Instruction): Form {
  const encoder = new iced.Encoder(64);
  encoder.encode(instruction, instruction.ipRelMemoryAddress);
  const constants = encoder.getConstantOffsets();
  const form: Form = { bytes: encoder.takeBuffer(), field: constants.displacementOffset, width: 4 };
  constants.free();
  encoder.free();
  return form;
}

/** A branch, in its short form, where it has one, and in its near one. */
function branching(instruction: Instruction): readonly Form[] {
  const { Code } = iced;
  if (instruction.isCallNear) return [form(instruction, 4)];
  if (instruction.mnemonic === Mnemonic.Xbegin) {
    const forms = ([2, 4] as const).map((width) => {
      instruction.code = width === 2 ? Code.Xbegin_rel16 : Code.Xbegin_rel32;
      return form(instruction, width);
    });
    return forms;
  }
  if (instruction.isJcxShort || instruction.isLoop || instruction.isLoopcc) {
    const short = form(instruction, 1);
    return [short, near([...Uint8Array.from(short.bytes).subarray(0, short.field), ...OVER_JUMP])];
  }
  instruction.asShortBranch();
  const short = form(instruction, 1);
  instruction.asNearBranch();
  return [short, form(instruction, 4)];
}

/** As it is encoded right at where it leads. */
function form(instruction: Instruction, width: 1 | 2 | 4): Form {
  const encoder = new iced.Encoder(64);
  encoder.encode(instruction, instruction.nearBranchTarget);
  const bytes = encoder.takeBuffer();
  encoder.free();
  return { bytes, field: bytes.length - width, width };
}

/** Whether a branch is a jmp or jcc without prefixes, short or near. */
export const isPlainBranch = (bytes: Uint8Array): boolean =>
  (bytes.length === 2 && (bytes[0] === 0xeb || (bytes[0]! & 0xf0) === 0x70)) ||
  (bytes.length === 5 && bytes[0] === 0xe9) ||
  (bytes.length === 6 && bytes[0] === 0x0f && (bytes[1]! & 0xf0) === 0x80);

/** Over the jump after it, to the one that leads on: what loop and jrcxz need, which have no near form. */
const OVER_JUMP = [0x02, 0xeb, 0x05, 0xe9];

/**
 * A jmp, jcc, loop or jrcxz, with its prefixes, to be led elsewhere over 32 bits; or undefined for any other
 * instruction.
 */
export function nearBranch(bytes: Uint8Array): Form | undefined {
  let prefixes = 0;
  while (BRANCH_PREFIXES.has(bytes[prefixes]!)) prefixes++;
  const [opcode, second] = [bytes[prefixes]!, bytes[prefixes + 1] ?? 0];
  const own = bytes.subarray(0, prefixes);
  if (opcode === 0xeb || opcode === 0xe9) return near([...own, 0xe9]);
  if ((opcode & 0xf0) === 0x70) return near([...own, 0x0f, 0x80 | (opcode & 0x0f)]);
  if (opcode === 0x0f && (second & 0xf0) === 0x80) return near([...own, 0x0f, second]);
  return opcode >= 0xe0 && opcode <= 0xe3 ? near([...own, opcode, ...OVER_JUMP]) : undefined;
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
