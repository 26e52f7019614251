/**
 * A small assembler, for the code that this project writes itself: instructions by name, encoded by iced-x86, as a unit
 * for the linker (link.ts).
 *
 *     const code = new Assembler();
 *     code.label("again").op("dec", "rcx").jumpIf("ne", "again").op("mov", "eax", 60).op("syscall");
 *     linkOne(code, 0x400000).bytes;
 *
 * It knows the few operand forms that this code needs, and says so of others. What leads somewhere says itself whether
 * its distance has 8 bits or 32.
 */

import { near, short } from "./distance.js";
import { iced } from "./iced.js";
import { type Target, Code as Unit } from "./link.js";

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
/** An immediate of 8 bits, where one of 32 is the rule. */
export interface Byte {
  readonly byte: number;
}
export type Operand = AnyRegister | number | At | Byte;

/** The immediate in its short form. */
export const byte = (value: number): Byte => ({ byte: value });

/** Conditions of jumps, with the second byte of the long form. */
const conditions = { b: 0x82, ae: 0x83, e: 0x84, ne: 0x85, be: 0x86, a: 0x87, s: 0x88, ns: 0x89, l: 0x8c, g: 0x8f };
export type Condition = keyof typeof conditions;

export class Assembler<Mark = never> extends Unit<Mark> {
  /** One instruction. @throws RangeError for an operand form that is not known here */
  op(mnemonic: string, ...operands: readonly Operand[]): this {
    return this.raw(encode(mnemonic, operands));
  }

  jumpIf(condition: Condition, target: Target): this {
    return this.leads([near([0x0f, conditions[condition]])], target);
  }

  /** The same over 8 bits. */
  jumpIfShort(condition: Condition, target: Target): this {
    return this.leads([short([conditions[condition] - 0x10])], target);
  }

  jumpIfRcxIsZero(target: Target): this {
    return this.leads([short([0xe3])], target);
  }

  /** `lea register, [rip + ...]`: the address of the target. */
  address(register: RegisterName, target: Target): this {
    const number = registerNumber(register);
    return this.leads([near([0x48 | (number >> 3 ? 0x04 : 0), 0x8d, 0x05 | ((number & 7) << 3)])], target);
  }

  /** A jump to the address that the word at the target holds. */
  jumpThrough(target: Target): this {
    return this.leads([near([0xff, 0x25])], target);
  }

  callThrough(target: Target): this {
    return this.leads([near([0xff, 0x15])], target);
  }

  /** What unwinders have to know of is said along with these: rsp becomes lower, and higher again. */
  push(register: AnyRegister): this {
    return this.op("push", register).stack(8);
  }

  pop(register: AnyRegister): this {
    return this.op("pop", register).stack(-8);
  }

  lower(by: number | Byte): this {
    return this.op("sub", "rsp", by).stack(typeof by === "number" ? by : by.byte);
  }

  raise(by: number | Byte): this {
    return this.op("add", "rsp", by).stack(typeof by === "number" ? -by : -by.byte);
  }

  /** A system call; arguments go to rdi, rsi, rdx, r10, r8, r9 in their order, undefined ones stay as they are. */
  system(number: number, ...args: readonly (Operand | undefined)[]): this {
    const registers: readonly RegisterName[] = ["rdi", "rsi", "rdx", "r10", "r8", "r9"];
    args.forEach((value, i) => {
      if (value !== undefined && value !== registers[i]) this.op("mov", registers[i]!, value);
    });
    return this.op("mov", "eax", number).op("syscall");
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

/** None of these instructions depends on where it stands. */
function encode(mnemonic: string, operands: readonly Operand[]): Uint8Array {
  const instruction = make(mnemonic, operands);
  const encoder = new iced.Encoder(64);
  try {
    encoder.encode(instruction, 0n);
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
  if (typeof a === "string" && typeof b === "object" && "byte" in b)
    return Instruction.createRegI32(codeNamed(mnemonic, `rm${widthOf(a)}`, "imm8"), registerOf(a), b.byte);
  if (typeof a === "string" && typeof b === "object" && "base" in b) {
    const source = MEMORY_ONLY.has(mnemonic) ? "m" : mnemonic === "movzx" ? "rm8" : `rm${widthOf(a)}`;
    return Instruction.createRegMem(codeNamed(mnemonic, `r${widthOf(a)}`, source), registerOf(a), memory(b));
  }
  if (typeof a === "object" && "base" in a && typeof b === "string") {
    const width = widthOf(b);
    return Instruction.createMemReg(codeNamed(mnemonic, `rm${width}`, `r${width}`), memory(a), registerOf(b));
  }
  if (typeof a === "object" && "base" in a && typeof b === "number")
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
