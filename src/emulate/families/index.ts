/** All instructions that are implemented: the families, by mnemonic. */
import type { Compile, Family } from "../operands.js";
import { arithmetic } from "./arithmetic.js";
import { control } from "./control.js";
import { move } from "./move.js";
import { stack } from "./stack.js";

const families: readonly Family[] = [move, stack, arithmetic, control];

const compilers = new Map(families.flatMap((family) => [...family]));

/** Who compiles instructions of this mnemonic (iced's Mnemonic), or undefined. */
export const compilerOf = (mnemonic: number): Compile | undefined => compilers.get(mnemonic);

/** iced's Mnemonic of everything that is implemented, in some operand form at least. */
export const implementedMnemonics = (): readonly number[] => [...compilers.keys()];
