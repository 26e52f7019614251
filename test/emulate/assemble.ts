/** Small machine programs for tests, in Intel syntax, by Keystone: an assembler that is not ours. */
import { Const, Keystone, loadKeystone } from "keystone-wasm";

await loadKeystone();
const keystone = new Keystone(Const.KS_ARCH_X86, Const.KS_MODE_64);

/** The bytes of instructions that are to stand at `address`; separated by semicolons or line ends. */
export function assemble(text: string, address: number): Uint8Array {
  const lines = text.split("\n").map((line) => line.trim());
  return keystone.asm(lines.filter((line) => line !== "").join("\n"), { address });
}
