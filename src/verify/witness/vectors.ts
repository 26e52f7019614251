/**
 * Which instructions make other numbers of those in vector registers: they add, change bits, or put parts together.
 */
import { type Instruction, iced, mnemonicsLike } from "./decode.js";

const { OpKind } = iced;

const SUMS = mnemonicsLike(
  /^V?(P(add|sub|or|xor|and|andn|shuf|insr[bwd]|blend|mul|s[lr]l|sra)|(and|andn|or|xor|shuf|blend)ps|(and|andn|or|xor)pd|insertps|K(add|andn?|or|xn?or|not|shift[lr]|unpck))/i,
);

/** A register with itself is how it is cleared. */
export function addsInVectors(i: Instruction): boolean {
  if (!SUMS.has(i.mnemonic)) return false;
  for (let n = 1; n < i.opCount; n++)
    if (i.opKind(n) !== OpKind.Register || i.opRegister(n) !== i.opRegister(0)) return true;
  return false;
}
