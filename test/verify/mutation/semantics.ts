/**
 * What an instruction reads and writes, as far as it is needed to say that a planted change is one: that some state exists
 * from which the changed code ends otherwise. By registers, flags and memory, and by nothing that verification does.
 *
 * A value that a later instruction of the same piece overwrites before anybody uses it makes no difference. So a fault
 * counts as one only if something of what the instruction writes survives: to the end of the piece, to a branch or a call,
 * or as the input of another instruction of which something survives.
 */
import { vaddr } from "../../../src/address.js";
import { iced } from "../../../src/x86/iced.js";

const { Decoder, DecoderOptions, RegisterExt, OpAccess, OpKind, Mnemonic, FlowControl, InstructionInfoFactory } = iced;
type Decoded = InstanceType<typeof iced.Instruction>;
const infoFactory = new InstructionInfoFactory();

/** One instruction of a piece of code. */
export interface Piece {
  readonly address: number;
  readonly bytes: Buffer;
  readonly facts: Facts;
}

export interface Facts {
  readonly mnemonic: number;
  /** The encoding and operand sizes, iced's own numbers. */
  readonly code: number;
  readonly isNop: boolean;
  readonly isInt3: boolean;
  /** Direct branch: the link-time address, else undefined. */
  readonly target: number | undefined;
  readonly isConditional: boolean;
  /** Never goes on behind itself. */
  readonly ends: boolean;
  /** Branches, calls, returns, traps. */
  readonly leaves: boolean;
  /** Full registers, by iced's number; a register in an address counts as read. */
  readonly reads: ReadonlySet<number>;
  readonly writes: ReadonlySet<number>;
  /** Of the written ones those of which nothing old is left. */
  readonly replaces: ReadonlySet<number>;
  /** Bits of RflagsBits; undefined ones count as overwritten, not as written. */
  readonly flagsRead: number;
  readonly flagsWritten: number;
  readonly flagsReplaced: number;
  readonly readsMemory: boolean;
  readonly writesMemory: boolean;
  /** Offset and size of fields, in bytes from the start, or undefined. A %rip-relative displacement is in `ripField`. */
  readonly displacement: Field | undefined;
  readonly ripField: Field | undefined;
  readonly immediate: Field | undefined;
  readonly branchField: Field | undefined;
  /** Two general-purpose registers as operands, of 64 bits. */
  readonly isWidePair: boolean;
  /** Both operands are the same register. */
  readonly isSamePair: boolean;
  /** The text of operands and operation that does not depend on where it stands. */
  readonly text: string;
}

export interface Field {
  readonly offset: number;
  readonly size: number;
}

const formatter = new iced.Formatter(iced.FormatterSyntax.Nasm);

/** Decodes one instruction, or returns undefined where there is none. */
export function decodePiece(bytes: Uint8Array, address: number): Piece | undefined {
  const decoder = new Decoder(64, bytes.subarray(0, 15), DecoderOptions.None);
  decoder.ip = BigInt(address);
  const instruction = decoder.decode();
  try {
    if (instruction.code === iced.Code.INVALID || instruction.length > bytes.length) return undefined;
    const offsets = decoder.getConstantOffsets(instruction);
    const fields = {
      displacement: offsets.hasDisplacement
        ? { offset: offsets.displacementOffset, size: offsets.displacementSize }
        : undefined,
      immediate: offsets.hasImmediate ? { offset: offsets.immediateOffset, size: offsets.immediateSize } : undefined,
    };
    offsets.free();
    return {
      address,
      bytes: Buffer.from(bytes.subarray(0, instruction.length)),
      facts: factsOf(instruction, fields),
    };
  } finally {
    instruction.free();
    decoder.free();
  }
}

/** Decodes [start, end), as far as there are instructions. */
export function decodePieces(bytes: Uint8Array, start: number): Piece[] {
  const found: Piece[] = [];
  for (let at = 0; at < bytes.length; ) {
    const piece = decodePiece(bytes.subarray(at), vaddr(start + at));
    if (piece === undefined) break;
    found.push(piece);
    at += piece.bytes.length;
  }
  return found;
}

function factsOf(x: Decoded, fields: { displacement: Field | undefined; immediate: Field | undefined }): Facts {
  const reads = new Set<number>();
  const writes = new Set<number>();
  const replaces = new Set<number>();
  const info = infoFactory.info(x);
  for (const used of info.usedRegisters()) {
    const full = RegisterExt.fullRegister(used.register);
    const { access } = used;
    const size = RegisterExt.size(used.register);
    const isWritten = [OpAccess.Write, OpAccess.ReadWrite, OpAccess.CondWrite, OpAccess.ReadCondWrite].includes(access);
    if (access !== OpAccess.Write && access !== OpAccess.CondWrite) reads.add(full);
    if (isWritten) writes.add(full);
    // A write of 32 bits clears the upper half.
    if (access === OpAccess.Write && size >= 4 && RegisterExt.isGPR(used.register)) replaces.add(full);
    used.free();
  }
  let [readsMemory, writesMemory] = [false, false];
  for (const used of info.usedMemory()) {
    const { access } = used;
    if ([OpAccess.Read, OpAccess.CondRead, OpAccess.ReadWrite, OpAccess.ReadCondWrite].includes(access))
      readsMemory = true;
    if ([OpAccess.Write, OpAccess.CondWrite, OpAccess.ReadWrite, OpAccess.ReadCondWrite].includes(access))
      writesMemory = true;
    used.free();
  }
  info.free();
  const isBranch = [FlowControl.UnconditionalBranch, FlowControl.ConditionalBranch, FlowControl.Call].includes(
    x.flowControl,
  );
  const isDirect = isBranch && x.opCount > 0 && x.opKind(0) === OpKind.NearBranch64;
  const isPair = x.opCount === 2 && x.opKind(0) === OpKind.Register && x.opKind(1) === OpKind.Register;
  const rip = x.isIpRelMemoryOperand;
  const isNop = x.mnemonic === Mnemonic.Nop || x.mnemonic === Mnemonic.Endbr64 || x.mnemonic === Mnemonic.Fnop;
  return {
    mnemonic: x.mnemonic,
    code: x.code,
    isNop,
    isInt3: x.mnemonic === Mnemonic.Int3,
    target: isDirect ? Number(x.nearBranchTarget) : undefined,
    isConditional: x.flowControl === FlowControl.ConditionalBranch,
    ends: [
      FlowControl.UnconditionalBranch,
      FlowControl.IndirectBranch,
      FlowControl.Return,
      FlowControl.Interrupt,
      FlowControl.Exception,
    ].includes(x.flowControl),
    leaves: x.flowControl !== FlowControl.Next,
    reads,
    writes,
    replaces,
    flagsRead: x.rflagsRead,
    flagsWritten: x.rflagsWritten | x.rflagsCleared | x.rflagsSet,
    flagsReplaced: x.rflagsModified,
    readsMemory,
    writesMemory,
    displacement: rip || isNop ? undefined : fields.displacement,
    ripField: rip ? fields.displacement : undefined,
    immediate: isDirect ? undefined : fields.immediate,
    branchField: isDirect ? fields.immediate : undefined,
    isWidePair: isPair && RegisterExt.isGPR64(x.opRegister(0)) && RegisterExt.isGPR64(x.opRegister(1)),
    isSamePair: isPair && x.opRegister(0) === x.opRegister(1),
    text: formatter.format(x),
  };
}

/** Whether something of what piece `i` writes makes a difference; see above. */
export function survives(pieces: readonly Piece[], i: number): boolean {
  const { facts } = pieces[i]!;
  if (facts.isNop) return false;
  if (facts.writesMemory || facts.leaves) return true;
  // mov rcx, rcx and xchg rcx, rcx of 64 bits do nothing.
  if (facts.isSamePair && facts.isWidePair && [Mnemonic.Mov, Mnemonic.Xchg].includes(facts.mnemonic)) return false;
  const registers = new Set(facts.writes);
  let flags = facts.flagsWritten;
  for (let j = i + 1; j < pieces.length; j++) {
    const next = pieces[j]!.facts;
    if (next.leaves) break;
    const isUsed = [...registers].some((r) => next.reads.has(r)) || (flags & next.flagsRead) !== 0;
    if (isUsed && survives(pieces, j)) return true;
    for (const register of next.replaces) registers.delete(register);
    flags &= ~next.flagsReplaced;
  }
  return registers.size > 0 || flags !== 0;
}

/** Operations that change their result again where they are done twice, from nearly every state. */
export function isRepeatable({ facts }: Piece): boolean {
  const { mnemonic, isSamePair, reads, writes } = facts;
  const accumulates = [
    Mnemonic.Inc,
    Mnemonic.Dec,
    Mnemonic.Neg,
    Mnemonic.Not,
    Mnemonic.Add,
    Mnemonic.Sub,
    Mnemonic.Xor,
    Mnemonic.Shl,
    Mnemonic.Shr,
    Mnemonic.Imul,
    Mnemonic.Addsd,
    Mnemonic.Mulsd,
  ];
  if (!accumulates.includes(mnemonic) || isSamePair) return false;
  // imul of three operands gives the same again.
  return facts.writesMemory ? facts.readsMemory : [...writes].some((r) => reads.has(r));
}

/** Operations whose low immediate bit always counts. */
const takesImmediate = [
  Mnemonic.Mov,
  Mnemonic.Add,
  Mnemonic.Sub,
  Mnemonic.And,
  Mnemonic.Or,
  Mnemonic.Xor,
  Mnemonic.Cmp,
  Mnemonic.Test,
  Mnemonic.Imul,
  Mnemonic.Shl,
  Mnemonic.Shr,
  Mnemonic.Sar,
];
export const immediateCounts = ({ facts }: Piece): boolean =>
  facts.immediate !== undefined && takesImmediate.includes(facts.mnemonic);

/** Whether a displacement leads to a value: not that of a nop or of a prefetch. */
export const addressCounts = ({ facts }: Piece): boolean =>
  !facts.isNop && (facts.readsMemory || facts.writesMemory || facts.mnemonic === Mnemonic.Lea);

/** Instructions of which two make another result in the other order: one needs what the other makes. */
export function orderCounts(pieces: readonly Piece[], i: number): boolean {
  const [a, b] = [pieces[i]!, pieces[i + 1]!];
  if (a.facts.leaves || b.facts.leaves || a.facts.isNop || b.facts.isNop) return false;
  // b works on what a makes, and its own result survives and is no constant.
  const needs = [...a.facts.writes].some((r) => b.facts.reads.has(r)) && !(b.facts.isSamePair && isZeroing(b));
  return needs && survives(pieces, i + 1) && survives(pieces, i) && !isIdentity(a) && !isIdentity(b);
}

const isZeroing = ({ facts }: Piece): boolean => [Mnemonic.Xor, Mnemonic.Sub].includes(facts.mnemonic);
const isIdentity = ({ facts }: Piece): boolean =>
  facts.isSamePair && [Mnemonic.Mov, Mnemonic.Xchg].includes(facts.mnemonic);

/** 64-bit operations on two registers that give something else on their lower halves. */
export const sizeCounts = ({ facts }: Piece): boolean =>
  facts.isWidePair &&
  !facts.isSamePair &&
  [Mnemonic.Mov, Mnemonic.Add, Mnemonic.Sub, Mnemonic.Cmp, Mnemonic.Xor, Mnemonic.Or].includes(facts.mnemonic);

/** How many instructions are looked at to see whether two ways meet again. */
const MEETS_WITHIN = 12;

/**
 * Whether execution from `wrong` on does something else than from `right` on. Nops and direct jumps are passed. Where one way
 * comes to the other, what it runs before must make a difference that is not overwritten; bytes that are no instruction, or
 * int3, are a fault.
 */
export function entersElsewhere(read: (address: number) => Piece | undefined, right: number, wrong: number): boolean {
  const [a, b] = [wayFrom(read, right), wayFrom(read, wrong)];
  if (a.length === 0 || a[0]!.facts.isInt3) return false;
  if (b.length === 0 || b[0]!.facts.isInt3) return true;
  const meet = (way: readonly Piece[], other: readonly Piece[]): boolean | undefined => {
    const at = way.findIndex((piece) => piece.address === other[0]!.address);
    return at < 0 ? undefined : way.slice(0, at).some((_, i) => survives(way, i));
  };
  return meet(a, b) ?? meet(b, a) ?? !mayBeSame(a[0]!, b[0]!);
}

/** What runs from an address on, without nops and jumps, up to the first branch that is not certain. */
function wayFrom(read: (address: number) => Piece | undefined, start: number): Piece[] {
  const way: Piece[] = [];
  let at = start;
  for (let i = 0; i < 64 && way.length < MEETS_WITHIN; i++) {
    const piece = read(at);
    if (piece === undefined) break;
    at += piece.bytes.length;
    if (piece.facts.isNop) continue;
    if (piece.facts.target !== undefined && piece.facts.ends) {
      at = piece.facts.target;
      continue;
    }
    way.push(piece);
    if (piece.facts.leaves) break;
  }
  return way;
}

/** Whether an instruction and one that begins in its middle may do the same: without a prefix some do. */
function mayBeSame(a: Piece, b: Piece): boolean {
  if (a.facts.text === b.facts.text) return true;
  if (a.facts.mnemonic !== b.facts.mnemonic || a.address + a.bytes.length !== b.address + b.bytes.length) return false;
  const prefix = a.bytes[0]!;
  // Of REX the bits below W name other registers.
  if ((prefix & 0xf0) === 0x40 && (prefix & 7) !== 0) return false;
  return !(prefix === 0x48 && (sizeCounts(a) || a.facts.mnemonic === Mnemonic.Lea));
}
