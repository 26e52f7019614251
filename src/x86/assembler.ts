/**
 * A small assembler, for the programs that this project writes itself: instructions by name, encoded by iced-x86, and labels.
 *
 *     const code = new Assembler(0x400000);
 *     code.label("again").op("dec", "rcx").jumpIf("ne", "again").op("mov", "eax", 60).op("syscall");
 *     code.finish();                       // the bytes
 *
 * Branches to labels always take their long form, so that every size is known at once and one pass is enough; the
 * distances are filled in at the end. It knows the few operand forms that these programs need, and says so of others.
 */
import { alignUp } from "../address.js";
import { INT3 } from "./bytes.js";
import { iced } from "./iced.js";

const { Register, Code } = iced;

/** A memory operand: base register and displacement in bytes. */
export interface At {
  readonly base: RegisterName;
  readonly offset: number;
}

/** The memory at a register plus a displacement. */
export const at = (base: RegisterName, offset = 0): At => ({ base, offset });

const names = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"] as const;
type Low = (typeof names)[number];
type High = 8 | 9 | 10 | 11 | 12 | 13 | 14 | 15;
/** A 64-bit register. */
export type RegisterName = `r${Low | High}`;
/** Or its lower half: writing that clears the upper one. */
export type AnyRegister = RegisterName | `e${Low}` | `r${High}d`;
export type Operand = AnyRegister | number | At;

/** Conditions of jumps, with the second byte of the long form. */
const conditions = { b: 0x82, ae: 0x83, e: 0x84, ne: 0x85, be: 0x86, a: 0x87, s: 0x88, ns: 0x89, l: 0x8c, g: 0x8f };
export type Condition = keyof typeof conditions;

interface Fixup {
  /** Where the 32 bits of the distance stand, and from where it counts, in bytes from the start. */
  readonly place: number;
  readonly from: number;
  readonly label: string;
}

export class Assembler {
  readonly #bytes: number[] = [];
  readonly #labels = new Map<string, number>();
  readonly #fixups: Fixup[] = [];

  /** @param base the address of the first byte */
  constructor(readonly base: number) {}

  /** The address of what comes next. */
  get here(): number {
    return this.base + this.#bytes.length;
  }

  /** Names the address of what comes next. @throws RangeError where the name is taken */
  label(name: string): this {
    if (this.#labels.has(name)) throw new RangeError(`the label ${name} is there twice`);
    this.#labels.set(name, this.here);
    return this;
  }

  /** The address of a label that has been placed. @throws RangeError where it has not */
  addressOf(name: string): number {
    const address = this.#labels.get(name);
    if (address === undefined) throw new RangeError(`there is no label ${name}`);
    return address;
  }

  /** Bytes as they are. */
  raw(bytes: Iterable<number>): this {
    this.#bytes.push(...bytes);
    return this;
  }

  /** Fills up with int3 to a multiple of `alignment`: nothing may run into that. */
  align(alignment: number): this {
    return this.raw(new Array<number>(alignUp(this.here, alignment) - this.here).fill(INT3));
  }

  /** One instruction. @throws RangeError for an operand form that is not known here */
  op(mnemonic: string, ...operands: readonly Operand[]): this {
    return this.raw(encode(mnemonic, operands, this.here));
  }

  jump(label: string): this {
    return this.raw([0xe9]).#distance(label);
  }

  jumpIf(condition: Condition, label: string): this {
    return this.raw([0x0f, conditions[condition]]).#distance(label);
  }

  call(label: string): this {
    return this.raw([0xe8]).#distance(label);
  }

  /** `lea register, [rip + ...]`: the address of a label. */
  address(register: RegisterName, label: string): this {
    const number = registerNumber(register);
    return this.raw([0x48 | (number >> 3 ? 0x04 : 0), 0x8d, 0x05 | ((number & 7) << 3)]).#distance(label);
  }

  /** A system call; arguments go to rdi, rsi, rdx, r10, r8, r9 in their order, undefined ones stay as they are. */
  system(number: number, ...args: readonly (Operand | undefined)[]): this {
    const registers: readonly RegisterName[] = ["rdi", "rsi", "rdx", "r10", "r8", "r9"];
    args.forEach((value, i) => {
      if (value !== undefined && value !== registers[i]) this.op("mov", registers[i]!, value);
    });
    return this.op("mov", "eax", number).op("syscall");
  }

  /** The bytes. @throws RangeError where a label is missing */
  finish(): Uint8Array {
    const out = Uint8Array.from(this.#bytes);
    const view = new DataView(out.buffer);
    for (const { place, from, label } of this.#fixups)
      view.setInt32(place, this.addressOf(label) - this.base - from, true);
    return out;
  }

  #distance(label: string): this {
    const start = this.#bytes.length;
    this.#fixups.push({ place: start, from: start + 4, label });
    return this.raw([0, 0, 0, 0]);
  }
}

const registerNumber = (name: RegisterName): number => {
  const low = names.indexOf(name.slice(1) as Low);
  return low >= 0 ? low : Number(name.slice(1));
};

const registerOf = (name: AnyRegister): number => Register[name.toUpperCase() as keyof typeof Register];
const widthOf = (name: AnyRegister): 32 | 64 => (name.startsWith("e") || name.endsWith("d") ? 32 : 64);

/** iced's name of an instruction: "Mov_r64_rm64", "Syscall". */
function codeNamed(mnemonic: string, ...operands: readonly string[]): number {
  const name = [mnemonic[0]!.toUpperCase() + mnemonic.slice(1), ...operands].join("_");
  const code = Code[name as keyof typeof Code];
  if (code === undefined) throw new RangeError(`no instruction ${name}`);
  return code;
}

const memory = ({ base, offset }: At): InstanceType<typeof iced.MemoryOperand> =>
  new iced.MemoryOperand(
    registerOf(base),
    Register.None,
    1,
    BigInt(offset),
    offset === 0 ? 0 : 1,
    false,
    Register.None,
  );

const SHIFTS = new Set(["shl", "shr", "sar"]);
/** Instructions whose memory operand is no access: its encoding has a name of its own. */
const MEMORY_ONLY = new Set(["lea"]);

function encode(mnemonic: string, operands: readonly Operand[], here: number): Uint8Array {
  const instruction = make(mnemonic, operands);
  const encoder = new iced.Encoder(64);
  try {
    encoder.encode(instruction, BigInt(here));
    return encoder.takeBuffer();
  } finally {
    encoder.free();
    instruction.free();
  }
}

function make(mnemonic: string, [a, b]: readonly Operand[]): InstanceType<typeof iced.Instruction> {
  const { Instruction } = iced;
  if (a === undefined) return Instruction.create(codeNamed(mnemonic === "ret" ? "retnq" : mnemonic));
  if (b === undefined && typeof a === "string") {
    const form = mnemonic === "push" || mnemonic === "pop" ? "r" : "rm";
    return Instruction.createReg(codeNamed(mnemonic, `${form}${widthOf(a)}`), registerOf(a));
  }
  if (typeof a === "string" && typeof b === "string") {
    const width = widthOf(a);
    return Instruction.createRegReg(codeNamed(mnemonic, `rm${width}`, `r${width}`), registerOf(a), registerOf(b));
  }
  if (typeof a === "string" && typeof b === "number") return withImmediate(mnemonic, a, b);
  if (typeof a === "string" && typeof b === "object") {
    const source = MEMORY_ONLY.has(mnemonic) ? "m" : mnemonic === "movzx" ? "rm8" : `rm${widthOf(a)}`;
    return Instruction.createRegMem(codeNamed(mnemonic, `r${widthOf(a)}`, source), registerOf(a), memory(b));
  }
  if (typeof a === "object" && typeof b === "string") {
    const width = widthOf(b);
    return Instruction.createMemReg(codeNamed(mnemonic, `rm${width}`, `r${width}`), memory(a), registerOf(b));
  }
  if (typeof a === "object" && typeof b === "number")
    return Instruction.createMemI32(codeNamed(mnemonic, "rm64", "imm32"), memory(a), b);
  throw new RangeError(`${mnemonic} with operands of this kind is not known here`);
}

function withImmediate(mnemonic: string, register: AnyRegister, value: number): InstanceType<typeof iced.Instruction> {
  const { Instruction } = iced;
  const width = widthOf(register);
  const target = registerOf(register);
  if (SHIFTS.has(mnemonic)) return Instruction.createRegI32(codeNamed(mnemonic, `rm${width}`, "imm8"), target, value);
  if (value === (value | 0)) return Instruction.createRegI32(codeNamed(mnemonic, `rm${width}`, "imm32"), target, value);
  return Instruction.createRegI64(codeNamed(mnemonic, "r64", "imm64"), target, BigInt(value));
}
