import type { Vaddr } from "../address.js";
import { Flow } from "../x86/decode.js";
import { flagEffects } from "../x86/flags.js";
import type { CodeReader } from "./code-reader.js";

/** Stub: along one way only. */
export function flagsDeadAt(code: CodeReader, address: Vaddr, flags: number): boolean {
  let left = flags;
  for (let at = address, i = 0; i < 64; i++) {
    const instruction = code.at(at);
    if (instruction === null) return false;
    const { reads, writes } = flagEffects(instruction.bytes, at);
    if (reads & left) return false;
    left &= ~writes;
    if (left === 0) return true;
    if (instruction.flow & ~Flow.Nop) return false;
    at = instruction.end;
  }
  return false;
}
