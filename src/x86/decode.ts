/**
 * A range of code, decoded from its start to its end into flat arrays: an index an instruction, no object each.
 *
 * Linear decoding is right where the range holds nothing but code, which is what compilers write; it goes astray where
 * data stands between instructions. So a range says whether it is `clean`: every byte decodes, the last instruction
 * ends where the range ends, and every branch that stays in the range leads to the start of an instruction. What is not
 * clean proves nothing, and nobody may rely on where its instructions begin.
 */
import type { Vaddr } from "../address.js";
import { commonInstruction, NEAR } from "./common-instructions.js";
import { Flow } from "./flow.js";
import { iced } from "./iced.js";

export { Flow } from "./flow.js";

export interface DecodedCode {
  readonly start: Vaddr;
  readonly end: Vaddr;
  /** The bytes of the range. */
  readonly bytes: Uint8Array;
  readonly count: number;
  /** Where instruction i begins, relative to `start`; entry `count` is where the last one ends. */
  readonly offsets: Uint32Array;
  /** Bits of Flow. */
  readonly flow: Uint16Array;
  /** The link-time address that a direct branch or a Lea names, else NaN. */
  readonly targets: Float64Array;
  /** Undefined where the range is clean, else why it is not. */
  readonly unclean: string | undefined;
}

/** The index of the instruction that covers `address`, which must lie in the range. */
export function indexAt(code: DecodedCode, address: number): number {
  const offset = address - code.start;
  let low = 0;
  let high = code.count;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (code.offsets[middle]! <= offset) low = middle;
    else high = middle;
  }
  return low;
}

/** The index of the instruction that begins at `address`, or -1. */
export function indexOf(code: DecodedCode, address: number): number {
  if (address < code.start || address >= code.end) return -1;
  const index = indexAt(code, address);
  return code.offsets[index] === address - code.start ? index : -1;
}

/** Where instruction `index` begins. */
export const addressOf = (code: DecodedCode, index: number): Vaddr => (code.start + code.offsets[index]!) as Vaddr;

/** How many bytes instruction `index` has. */
export const lengthOf = (code: DecodedCode, index: number): number => code.offsets[index + 1]! - code.offsets[index]!;

/** A view of its bytes. */
export const instructionBytes = (code: DecodedCode, index: number): Uint8Array =>
  code.bytes.subarray(code.offsets[index]!, code.offsets[index + 1]!);

const { Code, Mnemonic, FlowControl } = iced;

/** One instruction object for all decoding: each is an allocation in WebAssembly memory. */
const scratch = new iced.Instruction();

// An instruction has a byte at least and five on average: decoding goes through arrays for the worst case, which are
// kept.
let scratchOffsets = new Uint32Array(0);
let scratchFlow = new Uint16Array(0);
let scratchTargets = new Float64Array(0);

function growScratch(size: number): void {
  const room = Math.max(1 << 16, size * 2);
  scratchOffsets = new Uint32Array(room);
  scratchFlow = new Uint16Array(room);
  scratchTargets = new Float64Array(room);
}

/**
 * Decodes `bytes`, which stand at link-time address `start`, up to their end or to the first thing that is no code.
 * @param fast false asks iced for the common instructions too: for the test that both say the same
 */
export function decode(bytes: Uint8Array, start: Vaddr, fast = true): DecodedCode {
  const end = (start + bytes.length) as Vaddr;
  if (scratchOffsets.length <= bytes.length) growScratch(bytes.length + 1);
  const offsets = scratchOffsets;
  const flow = scratchFlow;
  const targets = scratchTargets;
  let decoder: InstanceType<typeof iced.Decoder> | undefined;
  let count = 0;
  let at = 0;
  let unclean: string | undefined;
  while (at < bytes.length) {
    const common = fast ? commonInstruction(bytes, at) : 0;
    if (common !== 0) {
      const next = at + (common & 15);
      offsets[count] = at;
      flow[count] = (common >> 4) & ~NEAR;
      targets[count++] = (common >> 4) & NEAR ? nearTarget(bytes, start, at, next) : Number.NaN;
      at = next;
      continue;
    }
    decoder ??= new iced.Decoder(64, bytes, iced.DecoderOptions.None);
    decoder.position = at;
    decoder.ip = BigInt(start + at);
    decoder.decodeOut(scratch);
    if (scratch.code === Code.INVALID) {
      unclean = isApx(bytes, at)
        ? "an instruction of Intel APX, which is not known here"
        : "bytes that are no instruction";
      break;
    }
    offsets[count] = at;
    const kind = classify(scratch);
    flow[count] = kind;
    targets[count] = Number.NaN;
    if (kind & (Flow.Jump | Flow.Conditional | Flow.Call | Flow.Transaction)) {
      const direct = scratch.nearBranchTarget;
      if (direct !== 0n) targets[count] = Number(direct);
      // With an operand-size prefix the target depends on the maker of the processor (Intel SDM vol. 2, JMP; AMD APM
      // vol. 3).
      if (hasOperandSizePrefix(bytes, at) && kind & (Flow.Jump | Flow.Conditional | Flow.Transaction))
        unclean ??= "a branch with an operand-size prefix";
    } else if (kind & Flow.Lea) {
      targets[count] = Number(scratch.ipRelMemoryAddress);
    }
    at += scratch.length;
    count++;
  }
  decoder?.free();
  offsets[count] = at;
  const code = {
    start,
    end,
    bytes,
    count,
    offsets: offsets.slice(0, count + 1),
    flow: flow.slice(0, count),
    targets: targets.slice(0, count),
    unclean,
  };
  return unclean === undefined ? { ...code, unclean: inconsistency(code) } : code;
}

/**
 * Whether bytes look like an instruction of APX: after legacy prefixes REX2 (d5), or EVEX with opcode map 4. In 64-bit
 * mode neither is anything else (Intel APX architecture specification, 3.1.2).
 */
function isApx(bytes: Uint8Array, start: number): boolean {
  let at = start;
  while (LEGACY_PREFIXES.has(bytes[at] ?? 0)) at++;
  return bytes[at] === 0xd5 || (bytes[at] === 0x62 && at + 1 < bytes.length && (bytes[at + 1]! & 7) === 4);
}

const LEGACY_PREFIXES = new Set([0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65]);

/**
 * Where the instruction from index `at` to `end` leads, whose last byte or bytes are the distance; NaN for address 0.
 */
function nearTarget(bytes: Uint8Array, start: Vaddr, at: number, end: number): number {
  const last = bytes[end - 1]!;
  const distance =
    end - at === 2
      ? (last << 24) >> 24
      : bytes[end - 4]! | (bytes[end - 3]! << 8) | (bytes[end - 2]! << 16) | (last << 24);
  const target = start + end + distance;
  if (target === 0) return Number.NaN;
  return target < 0 ? target + 2 ** 64 : target;
}

function classify(instruction: typeof scratch): number {
  switch (instruction.flowControl) {
    case FlowControl.Next: {
      const mnemonic = instruction.mnemonic;
      if (mnemonic === Mnemonic.Nop) return Flow.Nop;
      if (mnemonic === Mnemonic.Lea) return instruction.isIpRelMemoryOperand ? Flow.Lea : Flow.Next;
      if (mnemonic === Mnemonic.Endbr64) return Flow.Landing;
      // A fault in user mode: it stands where nothing goes on, after a system call that does not come back.
      if (mnemonic === Mnemonic.Hlt) return Flow.Trap;
      return Flow.Next;
    }
    case FlowControl.UnconditionalBranch:
      return Flow.Jump;
    case FlowControl.IndirectBranch:
      return Flow.IndirectJump;
    case FlowControl.ConditionalBranch:
      return Flow.Conditional;
    case FlowControl.Return:
      return Flow.Return;
    case FlowControl.Call:
      return instruction.mnemonic === Mnemonic.Call ? Flow.Call : Flow.Trap; // syscall and vmcall count as calls in iced
    case FlowControl.IndirectCall:
      return Flow.Call;
    case FlowControl.XbeginXabortXend:
      return instruction.mnemonic === Mnemonic.Xbegin ? Flow.Transaction : Flow.Next;
    default:
      return Flow.Trap;
  }
}

/** Whether an operand-size prefix is among the first prefixes of the instruction at an index of `bytes`. */
export function hasOperandSizePrefix(bytes: Uint8Array, at: number): boolean {
  for (let i = at; ; i++) {
    const byte = bytes[i];
    if (byte === 0x66) return true;
    if (byte !== 0xf2 && byte !== 0xf3 && byte !== 0x2e && byte !== 0x3e) return false;
  }
}

/**
 * Whether a branch, or the address in a lea, leads between two instructions of the range: then decoding went astray.
 */
function inconsistency(code: DecodedCode): string | undefined {
  for (let i = 0; i < code.count; i++) {
    const target = code.targets[i]!;
    if (target > code.start && target < code.end && indexOf(code, target) < 0)
      return "a branch into the middle of an instruction, or data between instructions";
  }
  return undefined;
}
