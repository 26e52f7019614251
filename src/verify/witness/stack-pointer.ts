/**
 * Whether rsp stays the stack's in a group of which it is not known who enters it where. Who enters has the stack in
 * rsp, or came there from inside; so rsp is the stack's everywhere if no instruction gives it anything else, and none
 * that it comes back from (rbp) is given anything else.
 */
import { type Decoder, type Instruction, iced } from "./decode.js";
import type { Group } from "./groups.js";
import { RBP, RSP } from "./state.js";
import { generals, type WritesTable } from "./writes.js";

const { Mnemonic, OpKind, Register } = iced;

const own = new Set([Mnemonic.Push, Mnemonic.Pushfq, Mnemonic.Popfq, Mnemonic.Call, Mnemonic.Ret]);

export function keepsStack({ parts }: Group, decoder: Decoder, writes: WritesTable): boolean {
  let isFramed = false;
  let breaksFrame = false;
  for (const { start, end } of parts)
    for (let at = start; at < end; ) {
      const i = decoder.at(at);
      if (i === undefined) return false;
      const { written } = writes.of(i);
      if (written.includes(RSP)) {
        if (!givesStack(i)) return false;
        isFramed ||= comesFrom(i, RBP);
      }
      if (written.includes(RBP))
        breaksFrame ||= i.mnemonic !== Mnemonic.Leave && i.mnemonic !== Mnemonic.Pop && !givesStack(i);
      at += i.length;
    }
  return !isFramed || !breaksFrame;
}

/** Whether what an instruction writes to rsp, or to rbp, is the stack's where rsp and rbp are. */
function givesStack(i: Instruction): boolean {
  const isWhole = i.opKind(0) === OpKind.Register && generals[i.opRegister(0)]?.size === 8;
  const { mnemonic } = i;
  if (own.has(mnemonic) || mnemonic === Mnemonic.Leave) return true;
  if (!isWhole) return false;
  const isConstant = i.opCount > 1 && i.opKind(1) >= OpKind.Immediate8 && i.opKind(1) <= OpKind.Immediate32to64;
  switch (mnemonic) {
    case Mnemonic.Pop:
      return i.opRegister(0) !== Register.RSP;
    case Mnemonic.Add:
    case Mnemonic.Sub:
    case Mnemonic.And:
      return isConstant;
    case Mnemonic.Mov:
      return comesFrom(i, RSP) || comesFrom(i, RBP);
    case Mnemonic.Lea:
      return i.memoryIndex === Register.None && (i.memoryBase === Register.RSP || i.memoryBase === Register.RBP);
    default:
      return false;
  }
}

/** Whether a register is what an instruction goes by: of a leave, a move or a lea. */
const comesFrom = (i: Instruction, register: number): boolean =>
  (i.mnemonic === Mnemonic.Leave && register === RBP) ||
  (i.mnemonic === Mnemonic.Mov && i.opKind(1) === OpKind.Register && generals[i.opRegister(1)]?.index === register) ||
  (i.mnemonic === Mnemonic.Lea && generals[i.memoryBase]?.index === register);
