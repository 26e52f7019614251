/**
 * The question that a universal probe begins with: which of its two places runs? A byte of memory says so, the selector;
 * whatever it holds, the program is to be the same, so both ways are followed.
 *
 *     cmpb $0, selector(%rip); jne one           the flags are others from here on
 *
 *     lea -0x88(%rsp),%rsp; mov %rcx,(%rsp)      rsp is 0x88 lower from here on, and nothing else is another:
 *     movzbl selector(%rip),%ecx; jrcxz zero     what is written lies more than 128 bytes below rsp
 *     mov (%rsp),%rcx                            on both ways
 *
 * Who may write the selector is not asked here (selector/), and neither is what it holds where.
 */
import { type Vaddr, vaddr } from "../address.js";
import { STATUS_FLAGS } from "../x86/flags.js";
import type { CodeReader, Instruction } from "./code-reader.js";
import { sameBytes } from "./same-instruction.js";

/** By so much rsp is lower at both places, where rcx is kept. */
export const FRAME = 0x88;

/** lea 0x88(%rsp),%rsp */
export const RAISE_FRAME = Uint8Array.of(0x48, 0x8d, 0xa4, 0x24, 0x88, 0x00, 0x00, 0x00);
const LOWER_FRAME = Uint8Array.of(0x48, 0x8d, 0xa4, 0x24, 0x78, 0xff, 0xff, 0xff);
const SAVE_RCX = Uint8Array.of(0x48, 0x89, 0x0c, 0x24);
const LOAD_RCX = Uint8Array.of(0x48, 0x8b, 0x0c, 0x24);

/** So many bytes after its beginning such a question keeps rcx. */
export const SAVE_AT = LOWER_FRAME.length;

/** An instruction of it, and by how much rsp is lower in front of it. */
interface Part {
  readonly instruction: Instruction;
  readonly lower: number;
}

export interface Selection {
  /** Link-time address of the byte. */
  readonly selector: Vaddr;
  readonly parts: readonly Part[];
  /** Where each way goes on: with the selector 0, and with any other value. */
  readonly zero: Vaddr;
  readonly one: Vaddr;
  /** By how much rsp is lower there. */
  readonly shift: number;
  /** The flags that are others from here on. */
  readonly lostFlags: number;
  /** The instruction that writes rcx below the red zone. */
  readonly save: Vaddr | undefined;
}

/** The question that code asks at an address, or undefined where it asks none. */
export function selectionAt(code: CodeReader, at: Vaddr): Selection | undefined {
  const first = code.at(at);
  if (first === null) return undefined;
  return sameBytes(first.bytes, LOWER_FRAME) ? keepingFlags(code, first) : losingFlags(code, first);
}

function losingFlags(code: CodeReader, compare: Instruction): Selection | undefined {
  const { bytes, end } = compare;
  if (bytes.length !== 7 || bytes[0] !== 0x80 || bytes[1] !== 0x3d || bytes[6] !== 0) return undefined;
  const branch = code.at(end);
  if (branch === null || branch.bytes[0] !== 0x75) return undefined;
  return {
    selector: operandOf(compare, 2),
    parts: [compare, branch].map((instruction) => ({ instruction, lower: 0 })),
    zero: branch.end,
    one: branch.target,
    shift: 0,
    lostFlags: STATUS_FLAGS,
    save: undefined,
  };
}

function keepingFlags(code: CodeReader, lower: Instruction): Selection | undefined {
  const save = code.at(lower.end);
  const load = save && code.at(save.end);
  const branch = load && code.at(load.end);
  if (!save || !load || !branch || !sameBytes(save.bytes, SAVE_RCX)) return undefined;
  const { bytes } = load;
  if (bytes.length !== 7 || bytes[0] !== 0x0f || bytes[1] !== 0xb6 || bytes[2] !== 0x0d) return undefined;
  if (branch.length !== 2 || branch.bytes[0] !== 0xe3) return undefined;
  const back = [branch.target, branch.end].map((at) => code.at(at));
  const [zero, one] = back;
  if (!zero || !one || !back.every((b) => b !== null && sameBytes(b.bytes, LOAD_RCX))) return undefined;
  return {
    selector: operandOf(load, 3),
    parts: [
      { instruction: lower, lower: 0 },
      ...[save, load, branch, zero, one].map((instruction) => ({ instruction, lower: FRAME })),
    ],
    zero: zero.end,
    one: one.end,
    shift: FRAME,
    lostFlags: 0,
    save: save.start,
  };
}

/** Where a %rip-relative operand is, whose distance stands at byte `field`. */
const operandOf = ({ bytes, end }: Instruction, field: number): Vaddr =>
  vaddr(end + new DataView(bytes.buffer, bytes.byteOffset).getInt32(field, true));
