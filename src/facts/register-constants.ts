/**
 * What number a register holds right before an instruction, where the code itself says so: `mov $0xca, %edi` and nothing
 * in between that writes it, on every way that leads there.
 *
 * The search goes backwards from the instruction. Where something enters (facts/entries.ts: everything that may), it goes
 * on at each branch that does; an entry that is no known branch of the same function ends it: then the number is not known.
 * So does a call, which leaves no register that numbers of system calls are passed in, and the start of the function.
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

/** Numbers of the registers that calls leave as they were: rbx, rsp, rbp, r12 to r15. */
const PRESERVED = (1 << 3) | (1 << 4) | (1 << 5) | (0xf << 12);

/** rax, rcx and r11. */
const KERNEL_WRITES = 1 | (1 << 1) | (1 << 11);

const isSystemCall = (code: DecodedCode, i: number): boolean =>
  lengthOf(code, i) === 2 && code.bytes[code.offsets[i]!] === 0x0f && code.bytes[code.offsets[i]! + 1] === 0x05;

const effectsByCode = new WeakMap<DecodedCode, Effects>();

function effectsAt(code: DecodedCode): Effects {
  let effects = effectsByCode.get(code);
  if (effects === undefined) {
    effects = effectsOf(code);
    effectsByCode.set(code, effects);
  }
  return effects;
}

/**
 * The low 32 bits that a register may have right before instruction `index`, or undefined where they are not known.
 * @param register its number, as instructions encode it
 * @param code a clean range whose surroundings `facts` have been gathered for
 */
export function valuesBefore(
  facts: ProgramFacts,
  code: DecodedCode,
  index: number,
  register: number,
): readonly number[] | undefined {
  const values = new Set<number>();
  const seen = new Set<number>();
  const work: { index: number; register: number }[] = [{ index, register }];
  for (let next = work.pop(); next !== undefined; next = work.pop()) {
    const key = next.index * 16 + next.register;
    if (seen.has(key)) continue;
    seen.add(key);
    if (seen.size > MOST_STEPS || values.size > MOST_VALUES) return undefined;
    const ways = waysTo(facts, code, next.index);
    if (ways === undefined) return undefined;
    for (const from of ways) {
      const made = madeBy(code, from, next.register);
      if (made === undefined) return undefined;
      if (made.kind === "number") values.add(made.value);
      else work.push({ index: from, register: made.register });
    }
  }
  return [...values];
}

/** The instructions right behind which an instruction may run, or undefined where not all of them are known. */
function waysTo(facts: ProgramFacts, code: DecodedCode, index: number): number[] | undefined {
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
  if ((code.flow[index - 1]! & ends) === 0 && (effectsAt(code).traits[index - 1]! & Trait.Ends) === 0)
    ways.push(index - 1);
  return ways;
}

type Made =
  | { readonly kind: "number"; readonly value: number }
  | { readonly kind: "register"; readonly register: number };

/** What instruction `i` makes of a register: a number, or what was in a register before it. */
function madeBy(code: DecodedCode, i: number, register: number): Made | undefined {
  if (!mayWrite(code, i, register)) return { kind: "register", register };
  const offset = code.offsets[i]!;
  return decodeOne(code.bytes.subarray(offset, offset + lengthOf(code, i)), addressOf(code, i), (instruction) => {
    const isWhole = (r: number): boolean => r >= Register.EAX && r <= Register.R15;
    const full = (r: number): number => iced.RegisterExt.fullRegister(r) - Register.RAX;
    if (instruction.op0Kind !== OpKind.Register || !isWhole(instruction.op0Register)) return undefined;
    if (full(instruction.op0Register) !== register) return undefined;
    const { mnemonic } = instruction;
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

const isImmediate = (kind: number): boolean => kind >= OpKind.Immediate8 && kind <= OpKind.Immediate32to64;

function mayWrite(code: DecodedCode, i: number, register: number): boolean {
  const effects = effectsAt(code);
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
