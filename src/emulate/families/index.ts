/** All instructions that are implemented: the families, by mnemonic. */
import type { Compile, Family } from "../operands.js";
import { arithmetic } from "./arithmetic.js";
import { atomic } from "./atomic.js";
import { bits } from "./bits.js";
import { control } from "./control.js";
import { flags } from "./flags.js";
import { logic } from "./logic.js";
import { move } from "./move.js";
import { multiply } from "./multiply.js";
import { shifts } from "./shifts.js";
import { sse } from "./sse.js";
import { stack } from "./stack.js";
import { string } from "./string.js";
import { system } from "./system.js";

const families: readonly Family[] = [
  move,
  stack,
  arithmetic,
  logic,
  shifts,
  bits,
  multiply,
  control,
  string,
  atomic,
  flags,
  system,
  ...sse,
];

/** movsd and cmpsd are two instructions each, of strings and of doubles: whoever knows the operands takes it. */
const either =
  (first: Compile, second: Compile): Compile =>
  (instruction) =>
    first(instruction) ?? second(instruction);

const compilers = new Map<number, Compile>();
for (const [mnemonic, compile] of families.flatMap((family) => [...family])) {
  const known = compilers.get(mnemonic);
  compilers.set(mnemonic, known === undefined ? compile : either(known, compile));
}

/** Who compiles instructions of this mnemonic (iced's Mnemonic), or undefined. */
export const compilerOf = (mnemonic: number): Compile | undefined => compilers.get(mnemonic);

/** iced's Mnemonic of everything that is implemented, in some operand form at least. */
export const implementedMnemonics = (): readonly number[] => [...compilers.keys()];
