/**
 * Instructions as steps of the analysis of values: what is read, what is done, what is written. One object an
 * instruction, made once a function; iced-x86 is asked no more after that.
 *
 * Whatever is not listed is an "other" step: the registers that it writes get something unknown.
 */
import type { DecodedCode } from "../../x86/decode.js";
import { iced } from "../../x86/iced.js";

const { Mnemonic, OpKind, Register, OpAccess, MemorySizeExt, ConditionCode } = iced;
type Instruction = InstanceType<typeof iced.Instruction>;
type Decoder = InstanceType<typeof iced.Decoder>;

export type Operand =
  | { readonly kind: "register"; readonly register: number; readonly size: number; readonly high: boolean }
  | { readonly kind: "number"; readonly value: number }
  | MemoryOperand
  /** A vector register, a segment: nothing is known of it. */
  | { readonly kind: "other" };

export interface MemoryOperand {
  readonly kind: "memory";
  /** Numbers of registers, or -1. */
  readonly base: number;
  readonly index: number;
  readonly scale: number;
  /** The displacement, or the link-time address of a %rip-relative operand. */
  readonly displacement: number;
  readonly isRipRelative: boolean;
  /** Thread-local storage. */
  readonly hasSegment: boolean;
  /** Bytes; 0 where it is not known. */
  readonly size: number;
}

export type Operation =
  | "move"
  | "move signed"
  | "address"
  | "add"
  | "subtract"
  | "and"
  | "or"
  | "xor"
  | "multiply"
  | "shift left"
  | "shift right"
  | "rotate"
  | "exchange"
  | "conditional move"
  | "set condition"
  | "push"
  | "pop"
  | "enter"
  | "leave"
  | "sign extend eax"
  | "compare"
  | "call"
  | "jump"
  | "return"
  | "system call"
  | "other";

export interface Step {
  readonly operation: Operation;
  /** Operands as the instruction has them: the first is written, where any is. */
  readonly operands: readonly Operand[];
  /** Of "other": a bit for each register that is written. */
  readonly writes: number;
  /** Of "other": a bit for each register whose value, and not only an address, is read. */
  readonly reads: number;
  /**
   * What "other" does with vector registers: moves whole words of eight bytes from and to memory, adds or changes bits,
   * or anything else.
   */
  readonly vectors: "none" | "moves" | "adds" | "computes";
  /** A store at rdi, which no operand tells of. */
  readonly string: StringStore | undefined;
  /** "other" puts the sum of its operands into the first: xadd. */
  readonly isSum: boolean;
}

/** What a string instruction stores, or a masked store of a vector: so many bytes at a time. */
export interface StringStore {
  readonly size: number;
  readonly isRepeated: boolean;
  readonly content: "rax" | "rsi" | "vector";
}

const [RSP, RBP] = [4, 5];

/** Whether an operand is memory that may be a slot of the stack. */
export const usesStack = (o: Operand): boolean =>
  o.kind === "memory" && (o.base === RSP || o.base === RBP || o.index === RBP) && !o.hasSegment;

const NO_VECTORS = { writes: 0, reads: 0, vectors: "none", string: undefined, isSum: false } as const;
const NOTHING: Step = { operation: "compare", operands: [], ...NO_VECTORS };

const byMnemonic = new Map<number, Operation>([
  [Mnemonic.Mov, "move"],
  [Mnemonic.Movzx, "move"],
  [Mnemonic.Movsx, "move signed"],
  [Mnemonic.Movsxd, "move signed"],
  [Mnemonic.Lea, "address"],
  [Mnemonic.Add, "add"],
  [Mnemonic.Inc, "add"],
  [Mnemonic.Sub, "subtract"],
  [Mnemonic.Dec, "subtract"],
  [Mnemonic.And, "and"],
  [Mnemonic.Or, "or"],
  [Mnemonic.Xor, "xor"],
  [Mnemonic.Shl, "shift left"],
  [Mnemonic.Sal, "shift left"],
  [Mnemonic.Shr, "shift right"],
  [Mnemonic.Sar, "shift right"],
  [Mnemonic.Ror, "rotate"],
  [Mnemonic.Rol, "rotate"],
  [Mnemonic.Xchg, "exchange"],
  [Mnemonic.Push, "push"],
  [Mnemonic.Pop, "pop"],
  [Mnemonic.Leave, "leave"],
  [Mnemonic.Cdqe, "sign extend eax"],
  [Mnemonic.Cmp, "compare"],
  [Mnemonic.Test, "compare"],
  [Mnemonic.Nop, "compare"],
  [Mnemonic.Endbr64, "compare"],
  [Mnemonic.Bt, "compare"],
  [Mnemonic.Call, "call"],
  [Mnemonic.Jmp, "jump"],
  [Mnemonic.Ret, "return"],
  [Mnemonic.Syscall, "system call"],
]);

const FIRST_VECTOR = Register.XMM0;
const scratch = new iced.Instruction();
const infoFactory = new iced.InstructionInfoFactory();

/** The steps of a range that decodes, by the index of the instruction. */
export function stepsOf(code: DecodedCode): readonly Step[] {
  const steps: Step[] = [];
  for (let i = 0; i < code.count; i++) steps.push(stepAt(code, i));
  return steps;
}

/**
 * Of the last ranges that were asked about: all of a large library would take more memory than the file. It is kept
 * here and not in a value that is handed on, since a step follows from the bytes of its range alone: nobody sees who
 * asked before, and what is kept never grows.
 */
const kept = new Map<DecodedCode, Step[]>();
const MOST_KEPT = 64;
/** Whoever asks of one instruction asks of its neighbours next. */
let current: { readonly code: DecodedCode; readonly steps: Step[]; readonly decoder: Decoder } | undefined;

/** The step of one instruction. */
export function stepAt(code: DecodedCode, index: number): Step {
  if (current?.code !== code) current = turnTo(code);
  const { steps, decoder } = current;
  const known = steps[index];
  if (known !== undefined) return known;
  decoder.position = code.offsets[index]!;
  decoder.ip = BigInt(code.start + code.offsets[index]!);
  decoder.decodeOut(scratch);
  const step = read(scratch);
  steps[index] = step;
  return step;
}

function turnTo(code: DecodedCode): NonNullable<typeof current> {
  current?.decoder.free();
  const steps = kept.get(code) ?? [];
  kept.delete(code);
  kept.set(code, steps);
  if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value!);
  return { code, steps, decoder: new iced.Decoder(64, code.bytes, iced.DecoderOptions.None) };
}

function read(instruction: Instruction): Step {
  const { mnemonic } = instruction;
  let operation = byMnemonic.get(mnemonic);
  // With nested frames it copies pointers to them: nobody makes such code.
  if (mnemonic === Mnemonic.Enter && instruction.immediate8_2nd === 0) operation = "enter";
  if (operation === undefined && instruction.conditionCode !== ConditionCode.None) {
    if (instruction.isJccShortOrNear || instruction.isLoop || instruction.isLoopcc) operation = "compare";
    else if (instruction.opCount === 2) operation = "conditional move";
    else if (instruction.opCount === 1) operation = "set condition";
  }
  if (operation === "compare" && !instruction.isLoop && !instruction.isLoopcc) return NOTHING;
  if (mnemonic === Mnemonic.Imul && instruction.opCount === 3) operation = "multiply";
  if (operation === undefined || operation === "compare") return other(instruction);
  const operands: Operand[] = [];
  for (let k = 0; k < instruction.opCount; k++) operands.push(operand(instruction, k));
  if (mnemonic === Mnemonic.Inc || mnemonic === Mnemonic.Dec) operands.push({ kind: "number", value: 1 });
  // mov from and to segment and control registers.
  if (operation === "move" && operands[1]?.kind === "other") return other(instruction);
  return { operation, operands, ...NO_VECTORS };
}

/** The number of a general-purpose register, or -1. */
function numberOf(register: number): number {
  if (register < Register.AL || register > Register.R15) return -1;
  return iced.RegisterExt.fullRegister(register) - Register.RAX;
}

function operand(instruction: Instruction, k: number): Operand {
  const kind = instruction.opKind(k);
  if (kind === OpKind.Register) {
    const register = instruction.opRegister(k);
    const number = numberOf(register);
    if (number < 0) return { kind: "other" };
    const high = register >= Register.AH && register <= Register.BH;
    const size = register >= Register.RAX ? 8 : register >= Register.EAX ? 4 : register >= Register.AX ? 2 : 1;
    return { kind: "register", register: number, size, high };
  }
  if (kind === OpKind.Memory) return memoryOperand(instruction);
  if (kind >= OpKind.Immediate8 && kind <= OpKind.Immediate32to64)
    return { kind: "number", value: Number(BigInt.asIntN(64, instruction.immediate(k))) };
  return { kind: "other" };
}

function memoryOperand(instruction: Instruction): MemoryOperand {
  const { memoryBase, memoryIndex } = instruction;
  const isRipRelative = instruction.isIpRelMemoryOperand;
  const segment = instruction.memorySegment;
  return {
    kind: "memory",
    base: isRipRelative ? -1 : numberOf(memoryBase),
    index: numberOf(memoryIndex),
    scale: instruction.memoryIndexScale,
    displacement: isRipRelative
      ? Number(BigInt.asIntN(64, instruction.ipRelMemoryAddress))
      : Number(BigInt.asIntN(64, instruction.memoryDisplacement)),
    isRipRelative,
    hasSegment: segment === Register.FS || segment === Register.GS,
    size: MemorySizeExt.size(instruction.memorySize),
  };
}

function other(instruction: Instruction): Step {
  const count = instruction.opCount;
  const operands: Operand[] = [];
  for (let k = 0; k < count; k++) operands.push(operand(instruction, k));
  // Vector instructions write what they name first, and no general-purpose register besides.
  const first = count > 0 && instruction.opKind(0) === OpKind.Register ? instruction.opRegister(0) : -1;
  const [vectors, string] = [vectorsOf(instruction, operands), stringStore(instruction)];
  if (isVector(first) && string === undefined && !WRITES_INDEX.has(instruction.mnemonic))
    return { operation: "other", operands, writes: 0, reads: 0, vectors, string, isSum: false };
  const info = infoFactory.info(instruction);
  const used = info.usedRegisters();
  let writes = 0;
  let reads = 0;
  for (const { register, access, free } of used.map((u) => ({
    register: u.register,
    access: u.access,
    free: () => u.free(),
  }))) {
    const number = numberOf(register);
    free();
    if (number < 0) continue;
    if (access !== OpAccess.Read && access !== OpAccess.CondRead && access !== OpAccess.NoMemAccess)
      writes |= 1 << number;
    if (access !== OpAccess.Write && access !== OpAccess.CondWrite) reads |= 1 << number;
  }
  info.free();
  for (const o of operands)
    if (o.kind === "memory") reads &= ~((o.base >= 0 ? 1 << o.base : 0) | (o.index >= 0 ? 1 << o.index : 0));
  return {
    operation: "other",
    operands,
    writes,
    reads,
    vectors,
    string,
    isSum: instruction.mnemonic === Mnemonic.Xadd,
  };
}

/** AVX-512's mask registers hold 64 bits, too, and go to and from general registers as they are. */
const isMask = (register: number): boolean => register >= Register.K0 && register <= Register.K7;
const isVector = (register: number): boolean =>
  (register >= FIRST_VECTOR && register <= Register.ZMM31) || isMask(register);
const isAnyVector = (register: number): boolean =>
  isVector(register) || (register >= Register.MM0 && register <= Register.MM7);

function vectorsOf(instruction: Instruction, operands: readonly Operand[]): Step["vectors"] {
  let has = false;
  let isSame = instruction.opCount > 1;
  for (let k = 0; k < instruction.opCount; k++) {
    const register = instruction.opKind(k) === OpKind.Register ? instruction.opRegister(k) : -1;
    has ||= isAnyVector(register);
    isSame &&= register === instruction.opRegister(0) && register >= 0;
  }
  if (!has) return "none";
  if (VECTOR_SUMS.has(instruction.mnemonic) && !isSame) return "adds";
  // From a general-purpose register: who knows what.
  if (operands.some((o, k) => o.kind === "register" && k > 0)) return "computes";
  if (VECTOR_MOVES.has(instruction.mnemonic) || (isSame && VECTOR_ZEROES.has(instruction.mnemonic))) return "moves";
  return operands[0]?.kind === "other" || operands[0]?.kind === "memory" ? "computes" : "moves";
}

function stringStore(instruction: Instruction): StringStore | undefined {
  if (instruction.opCount === 0) return undefined;
  const kind = instruction.opKind(0);
  const isMasked = kind === OpKind.MemorySegRDI || kind === OpKind.MemorySegEDI;
  if (kind !== OpKind.MemoryESRDI && kind !== OpKind.MemoryESEDI && !isMasked) return undefined;
  const isRepeated = instruction.hasRepPrefix || instruction.hasRepnePrefix;
  const content = isMasked ? "vector" : instruction.opKind(1) === OpKind.Register ? "rax" : "rsi";
  return { size: MemorySizeExt.size(instruction.memorySize) || 64, isRepeated, content };
}

const named = (names: RegExp): ReadonlySet<number> =>
  new Set(
    Object.entries(Mnemonic)
      .filter(([name, value]) => names.test(name) && typeof value === "number")
      .map(([, value]) => value as number),
  );
/** Whole words of eight bytes go from memory to memory by these. */
const VECTOR_MOVES = named(
  /^V?(Mov(ss|sd|d|aps|ups|dqa|dqu|apd|upd|dqa32|dqa64|dqu8|dqu16|dqu32|dqu64|q|lps|hps|lpd|hpd|lhps|hlps|ntps|ntdq|ntpd|ddup)|Lddqu|Punpck[lh]qdq|Unpck[lh]pd)$/,
);
const VECTOR_ZEROES = named(/^V?(Pxor|Xorps|Xorpd)$/);
/** Addresses may come of these, or parts of others take the place of a part. */
const VECTOR_SUMS = named(
  /^V?(P(add|sub|or|xor|and|andn|shuf|insr[bwd]|blend|mul|s[lr]l|sra)|(and|andn|or|xor|shuf|blend)ps|(and|andn|or|xor)pd|insertps|K(add|andn?|or|xn?or|not|shift[lr]|unpck))/i,
);
/** These write ecx, too. */
const WRITES_INDEX = named(/^V?Pcmp[ei]stri(64)?$/);
