/**
 * What one instruction of a selector's code does, as far as a proof asks; or why it may not stand there. Only what is
 * listed here may: loads, arithmetic, branches, pushes and pops of whole registers, and one kind of store.
 */
import { hex, type Vaddr, vaddr } from "../../address.js";
import { iced } from "../../x86/iced.js";
import { decodeOne } from "../../x86/relocate.js";
import type { Instruction } from "../code-reader.js";

const { Mnemonic, OpAccess, OpKind, Register, RegisterExt } = iced;
type Decoded = InstanceType<typeof iced.Instruction>;

/** Registers by their number in encodings; `value` is a constant. */
export type Step =
  | { readonly kind: "push" | "pop"; readonly register: number }
  | { readonly kind: "constant"; readonly register: number; readonly value: number }
  /** One less: the zero flag says whether that is zero. */
  | { readonly kind: "count"; readonly register: number }
  | { readonly kind: "changes"; readonly registers: readonly number[] }
  /** It writes a 1 to the byte there. */
  | { readonly kind: "store"; readonly at: Vaddr }
  | { readonly kind: "jump"; readonly target: Vaddr }
  | { readonly kind: "branch"; readonly target: Vaddr; readonly on: "zero" | "not zero" | "other" }
  | { readonly kind: "return" };

const HARMLESS = new Set<number>([
  Mnemonic.Endbr64,
  Mnemonic.Nop,
  Mnemonic.Mov,
  Mnemonic.Movzx,
  Mnemonic.Lea,
  Mnemonic.Add,
  Mnemonic.Sub,
  Mnemonic.Inc,
  Mnemonic.Dec,
  Mnemonic.And,
  Mnemonic.Or,
  Mnemonic.Xor,
  Mnemonic.Shl,
  Mnemonic.Shr,
  Mnemonic.Sar,
  Mnemonic.Test,
  Mnemonic.Cmp,
]);

const infoFactory = new iced.InstructionInfoFactory();

/** What it does, or why it may not stand in a selector's code. */
export function stepOf({ bytes, start }: Instruction): Step | string {
  return decodeOne(bytes, start, (i) => {
    const step = i.segmentPrefix === Register.None ? read(i) : undefined;
    return step ?? `${hex(start)}: an instruction that has no business there`;
  });
}

function read(i: Decoded): Step | undefined {
  if (i.isJmpShortOrNear) return { kind: "jump", target: vaddr(Number(i.nearBranchTarget)) };
  if (i.isJccShortOrNear)
    return { kind: "branch", target: vaddr(Number(i.nearBranchTarget)), on: conditionOf(i.mnemonic) };
  if (i.mnemonic === Mnemonic.Ret && i.opCount === 0) return { kind: "return" };
  if (i.mnemonic === Mnemonic.Push || i.mnemonic === Mnemonic.Pop) return stackStep(i);
  return HARMLESS.has(i.mnemonic) ? plainStep(i) : undefined;
}

const conditionOf = (mnemonic: number): "zero" | "not zero" | "other" =>
  mnemonic === Mnemonic.Je ? "zero" : mnemonic === Mnemonic.Jne ? "not zero" : "other";

function stackStep(i: Decoded): Step | undefined {
  const register = i.op0Kind === OpKind.Register && RegisterExt.size(i.op0Register) === 8 ? i.op0Register : undefined;
  if (register === undefined || register === Register.RSP) return undefined;
  return { kind: i.mnemonic === Mnemonic.Push ? "push" : "pop", register: numberOf(register) };
}

function plainStep(i: Decoded): Step | undefined {
  const { registers, writesMemory } = effects(i);
  if (registers.includes(numberOf(Register.RSP))) return undefined;
  if (writesMemory) return storeStep(i);
  const [register] = registers;
  if (register === undefined || registers.length > 1) return { kind: "changes", registers };
  // Of a part of a register nothing is said of the rest.
  const isWhole = i.op0Kind === OpKind.Register && RegisterExt.size(i.op0Register) >= 4;
  if (isWhole && i.mnemonic === Mnemonic.Mov && isImmediate(i.op1Kind))
    return { kind: "constant", register, value: Number(BigInt.asUintN(64, i.immediate(1))) };
  const isOneLess =
    i.mnemonic === Mnemonic.Dec || (i.mnemonic === Mnemonic.Sub && isImmediate(i.op1Kind) && i.immediate(1) === 1n);
  return isWhole && isOneLess ? { kind: "count", register } : { kind: "changes", registers };
}

/** `movb $1, address(%rip)`. */
function storeStep(i: Decoded): Step | undefined {
  const isIt =
    i.mnemonic === Mnemonic.Mov && i.op1Kind === OpKind.Immediate8 && i.immediate8 === 1 && i.isIpRelMemoryOperand;
  return isIt ? { kind: "store", at: vaddr(Number(i.ipRelMemoryAddress)) } : undefined;
}

const isImmediate = (kind: number): boolean =>
  kind === OpKind.Immediate8 ||
  kind === OpKind.Immediate32 ||
  kind === OpKind.Immediate64 ||
  kind === OpKind.Immediate8to32 ||
  kind === OpKind.Immediate8to64 ||
  kind === OpKind.Immediate32to64;

/** The general registers that it writes, and whether it writes memory. */
function effects(i: Decoded): { readonly registers: readonly number[]; readonly writesMemory: boolean } {
  const info = infoFactory.info(i);
  const isWrite = (access: number): boolean =>
    access !== OpAccess.None &&
    access !== OpAccess.Read &&
    access !== OpAccess.CondRead &&
    access !== OpAccess.NoMemAccess;
  const registers = new Set<number>();
  let writesMemory = false;
  for (const used of info.usedRegisters()) {
    if (isWrite(used.access)) registers.add(numberOf(used.register));
    used.free();
  }
  for (const used of info.usedMemory()) {
    if (isWrite(used.access)) writesMemory = true;
    used.free();
  }
  info.free();
  return { registers: [...registers], writesMemory };
}

/** By its number in encodings; what is no general register has a number that none of them has. */
function numberOf(register: number): number {
  const full = RegisterExt.fullRegister(register);
  const number = full - Register.RAX;
  return number >= 0 && number < 16 ? number : 16 + full;
}
