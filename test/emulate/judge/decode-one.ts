/**
 * Decoding of single instructions, with one instruction object for all of them: each is an allocation in WebAssembly
 * memory.
 */
import { type Instruction, iced } from "../../../src/x86/iced.js";

const decoded = new iced.Instruction();

/** The first instruction of `bytes`, as if at address 0; the next call changes it. */
export function decodeOne(bytes: Uint8Array): Instruction {
  const decoder = new iced.Decoder(64, bytes, iced.DecoderOptions.None);
  decoder.decodeOut(decoded);
  decoder.free();
  return decoded;
}

/** The Code of an instruction that is all of `bytes`, else INVALID. */
export function codeOfBytes(bytes: readonly number[]): number {
  const { length, code } = decodeOne(Uint8Array.from(bytes));
  return length === bytes.length ? code : iced.Code.INVALID;
}
