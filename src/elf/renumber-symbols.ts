/** Symbol tables of a file whose sections get other numbers. */
import * as elf from "./constants.js";

/** Gives every symbol in `bytes`, a symbol table, the new number of its section. */
export function renumberSymbols(bytes: Uint8Array, numbers: Uint16Array): void {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 6; at + 2 <= bytes.length; at += elf.SYM_SIZE) {
    const shndx = view.getUint16(at, true);
    if (shndx !== elf.SHN_UNDEF && shndx < numbers.length) view.setUint16(at, numbers[shndx]!, true);
  }
}
