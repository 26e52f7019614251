/**
 * What number a register holds right before an instruction, where the code itself says so: `mov $0xca, %edi` and
 * nothing in between that writes it, on every way that leads there.
 *
 * The search goes backwards from the instruction. Where something enters (facts/entries.ts: everything that may), it
 * goes on at each branch that does; an entry that is no known branch of the same function ends it: then the number is
 * not known. So does a call, which leaves no register that numbers of system calls are passed in, and the start of the
 * function.
 */
import { vaddr } from "../address.js";
import { addressOf, type DecodedCode, Flow, indexOf, lengthOf } from "../x86/decode.js";
import { type Effects, effectsOf, Kind, Trait } from "../x86/effects.js";
import { iced } from "../x86/iced.js";
import { decodeOne } from "../x86/relocate.js";
import type { ProgramFacts } from "./program.js";

const { Register, OpKind, Mnemonic } = iced;

/** More ways than this are not followed. */
const MOST_STEPS = 5000;
/** More numbers than this at one place are not kept. */
const MOST_VALUES = 16;

/** A register that is written byte by byte is followed through so many of these writes. */
const MOST_PARTS = 4;

/** Numbers of the registers that calls leave as they were: rbx, rsp, rbp, r12 to r15. */
const PRESERVED = (1 << 3) | (1 << 4) | (1 << 5) | (0xf << 12);

/** rax, rcx and r11. */
const KERNEL_WRITES = 1 | (1 << 1) | (1 << 11);

const isSystemCall = (code: DecodedCode, i: number): boolean =>
  lengthOf(code, i) === 2 && code.bytes[code.offsets[i]!] === 0x0f && code.bytes[code.offsets[i]! + 1] === 0x05;

type Made =
  | { readonly kind: "number"; readonly value: number }
  /** The low byte is this number, the others are what they were: `xor %eax, %eax; mov $60, %al`. */
  | { readonly kind: "low byte"; readonly value: number }
  | { readonly kind: "register"; readonly register: number };

/** Answers about one program. What instructions do is read once for each function that is asked about. */
export class RegisterConstants {
  readonly #effects = new Map<DecodedCode, Effects>();

  /** @param facts gathered around all instructions that will be asked about */
  constructor(private readonly facts: ProgramFacts) {}

  /**
   * The low 32 bits that a register may have right before instruction `index`, or undefined where they are not known.
   * @param register its number, as instructions encode it
   * @param code a clean range
   */
  valuesBefore(code: DecodedCode, index: number, register: number, depth = MOST_PARTS): readonly number[] | undefined {
    const values = new Set<number>();
    const seen = new Set<number>();
    const work: { index: number; register: number }[] = [{ index, register }];
    for (let next = work.pop(); next !== undefined; next = work.pop()) {
      const key = next.index * 16 + next.register;
      if (seen.has(key)) continue;
      seen.add(key);
      if (seen.size > MOST_STEPS || values.size > MOST_VALUES) return undefined;
      const ways = this.#waysTo(code, next.index);
      if (ways === undefined) return undefined;
      for (const from of ways) {
        const made = this.#poppedBy(code, from, next.register) ?? this.#madeBy(code, from, next.register);
        if (made === undefined) return undefined;
        if (made.kind === "register") work.push({ index: from, register: made.register });
        else {
          const numbers = this.#numbersOf(made, code, from, next.register, depth);
          if (numbers === undefined) return undefined;
          for (const value of numbers) values.add(value);
        }
      }
    }
    return [...values];
  }

  /** What a register may hold that instruction `from` writes, as a whole or in its low byte. */
  #numbersOf(
    made: Exclude<Made, { kind: "register" }>,
    code: DecodedCode,
    from: number,
    register: number,
    depth: number,
  ): readonly number[] | undefined {
    if (made.kind === "number") return [made.value];
    const rest = depth > 0 ? this.valuesBefore(code, from, register, depth - 1) : undefined;
    return rest?.map((value) => ((value & ~0xff) | made.value) >>> 0);
  }

  /** The instructions right after which an instruction may run, or undefined where not all of them are known. */
  #waysTo(code: DecodedCode, index: number): number[] | undefined {
    const { facts } = this;
    const at = addressOf(code, index);
    if (index === 0 || !facts.covers(at, vaddr(at + lengthOf(code, index)))) return undefined;
    const ways: number[] = [];
    for (const entry of facts.entries.within(at, at + 1)) {
      if (entry.branches === undefined) return undefined;
      for (const branch of entry.branches) {
        const from = indexOf(code, branch.at);
        if (from < 0) return undefined;
        ways.push(from);
      }
    }
    const ends = Flow.Jump | Flow.IndirectJump | Flow.Return;
    if ((code.flow[index - 1]! & ends) === 0 && (this.#effectsOf(code).traits[index - 1]! & Trait.Ends) === 0)
      ways.push(index - 1);
    return ways;
  }

  /** The number that a pop takes from the push right before it: `push $60; pop %rax`. */
  #poppedBy(code: DecodedCode, i: number, register: number): Made | undefined {
    const isOnly = (of: number[] | undefined): boolean => of?.length === 1 && of[0] === i - 1;
    if (
      this.#effectsOf(code).kind[i] !== Kind.Pop ||
      !this.#mayWrite(code, i, register) ||
      !isOnly(this.#waysTo(code, i))
    )
      return undefined;
    const offset = code.offsets[i - 1]!;
    return decodeOne(code.bytes.subarray(offset, code.offsets[i]!), addressOf(code, i - 1), (instruction) => {
      const isPush = instruction.mnemonic === Mnemonic.Push && isImmediate(instruction.op0Kind);
      if (!isPush || instruction.stackPointerIncrement !== -8) return undefined;
      return { kind: "number", value: Number(BigInt.asUintN(32, instruction.immediate(0))) };
    });
  }

  /** What instruction `i` makes of a register: a number, or what was in a register before it. */
  #madeBy(code: DecodedCode, i: number, register: number): Made | undefined {
    if (!this.#mayWrite(code, i, register)) return { kind: "register", register };
    const offset = code.offsets[i]!;
    return decodeOne(code.bytes.subarray(offset, offset + lengthOf(code, i)), addressOf(code, i), (instruction) => {
      const isWhole = (r: number): boolean => r >= Register.EAX && r <= Register.R15;
      const full = (r: number): number => iced.RegisterExt.fullRegister(r) - Register.RAX;
      if (instruction.op0Kind !== OpKind.Register || full(instruction.op0Register) !== register) return undefined;
      const { mnemonic } = instruction;
      const isLowByte = iced.RegisterExt.size(instruction.op0Register) === 1 && !isHighByte(instruction.op0Register);
      if (mnemonic === Mnemonic.Mov && isLowByte && isImmediate(instruction.op1Kind))
        return { kind: "low byte", value: Number(instruction.immediate(1) & 0xffn) };
      if (!isWhole(instruction.op0Register)) return undefined;
      if (mnemonic === Mnemonic.Mov && instruction.op1Kind === OpKind.Register) {
        if (!isWhole(instruction.op1Register)) return undefined;
        return { kind: "register", register: full(instruction.op1Register) };
      }
      if (mnemonic === Mnemonic.Mov && isImmediate(instruction.op1Kind))
        return { kind: "number", value: Number(BigInt.asUintN(32, instruction.immediate(1))) };
      if (
        (mnemonic === Mnemonic.Xor || mnemonic === Mnemonic.Sub) &&
        instruction.op1Kind === OpKind.Register &&
        instruction.op1Register === instruction.op0Register
      )
        return { kind: "number", value: 0 };
      return undefined;
    });
  }

  #mayWrite(code: DecodedCode, i: number, register: number): boolean {
    const effects = this.#effectsOf(code);
    const bit = 1 << register;
    if (code.flow[i]! & Flow.Call) return (PRESERVED & bit) === 0;
    if (code.flow[i]! & Flow.Transaction) return true;
    if (code.flow[i]! & Flow.Trap) return !isSystemCall(code, i) || (KERNEL_WRITES & bit) !== 0;
    switch (effects.kind[i]) {
      case Kind.Generic:
      case Kind.Pop:
        return (effects.writes[i]! & bit) !== 0;
      case Kind.Add:
        return effects.target[i] === register;
      case Kind.Leave:
      case Kind.Enter:
        return register === 4 || register === 5;
      default:
        return register === 4;
    }
  }

  #effectsOf(code: DecodedCode): Effects {
    const effects = this.#effects.get(code) ?? effectsOf(code);
    this.#effects.set(code, effects);
    return effects;
  }
}

const isHighByte = (r: number): boolean => r >= Register.AH && r <= Register.BH;

const isImmediate = (kind: number): boolean => kind >= OpKind.Immediate8 && kind <= OpKind.Immediate32to64;
