/**
 * Two questions about an instruction alone: whether it goes on to the next one, and whether it may fault.
 */
import { type Instruction, iced } from "./decode.js";

const { FlowControl, Mnemonic, OpKind, Register } = iced;

export const goesOn = (flow: number): boolean =>
  flow !== FlowControl.UnconditionalBranch && flow !== FlowControl.IndirectBranch && flow !== FlowControl.Return;

/**
 * An instruction that a signal handler may be told of: it goes to memory other than by rsp or rip, or divides, or
 * traps.
 */
export function mayFault(i: Instruction): boolean {
  if (FAULTS.has(i.mnemonic)) return true;
  if (i.mnemonic === Mnemonic.Lea || i.mnemonic === Mnemonic.Nop || i.isIpRelMemoryOperand) return false;
  for (let n = 0; n < i.opCount; n++)
    if (i.opKind(n) !== OpKind.Register && i.memoryBase !== Register.RSP && isMemory(i.opKind(n))) return true;
  return false;
}

const isMemory = (kind: number): boolean =>
  kind === OpKind.Memory || (kind >= OpKind.MemorySegSI && kind <= OpKind.MemoryESRDI);
const FAULTS = new Set([Mnemonic.Div, Mnemonic.Idiv, Mnemonic.Int3, Mnemonic.Ud2, Mnemonic.Hlt, Mnemonic.Int]);
