/**
 * One side's code, an instruction at a time, wherever execution goes. What was decoded is kept: many ways cross the
 * same instructions.
 */
import { type Interval, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, ProgramHeader } from "../elf/image.js";
import { decode, Flow } from "../x86/decode.js";
import { disassemble } from "../x86/relocate.js";

/** Bytes that are decoded at once: room for the longest instruction, and for a dozen common ones. */
const AT_ONCE = 64;

export interface Instruction extends Interval<Vaddr> {
  readonly length: number;
  readonly bytes: Uint8Array;
  /** Bits of Flow. */
  readonly flow: number;
  /** The link-time address that a direct branch or a %rip-relative lea names, else NaN. */
  readonly target: Vaddr;
}

export class CodeReader {
  private readonly known = new Map<Vaddr, Instruction | null>();
  private readonly segments: readonly ProgramHeader[];

  constructor(private readonly image: ElfImage) {
    this.segments = image.programHeaders.filter((p) => p.p_type === elf.PT_LOAD && (p.p_flags & elf.PF_X) !== 0);
  }

  /** The file's bytes from an executable address on, `length` or as many as there are. */
  bytes(address: Vaddr, length: number): Uint8Array {
    for (const { p_vaddr, p_filesz, p_offset } of this.segments) {
      if (address < p_vaddr || address >= p_vaddr + p_filesz) continue;
      const from = address - p_vaddr + p_offset;
      return this.image.bytes.subarray(from, Math.min(from + length, p_offset + p_filesz));
    }
    return new Uint8Array(0);
  }

  /** The instruction at an address, or null where none can be decoded. */
  at(address: Vaddr): Instruction | null {
    let found = this.known.get(address);
    if (found === undefined) {
      found = this.decode(address);
      this.known.set(address, found);
    }
    return found;
  }

  /** Disassembly after its address, for people; `(bad)` where there is no instruction. */
  text(address: Vaddr): string {
    const found = this.at(address);
    const where = `0x${address.toString(16)}`;
    return found === null ? `${where}: (bad)` : `${where}: ${disassemble(found.bytes, found.start)}`;
  }

  /** Decodes from an address on, a few instructions at once: those after it are mostly asked for next. */
  private decode(address: Vaddr): Instruction | null {
    const bytes = this.bytes(address, AT_ONCE);
    if (bytes.length === 0) return null;
    const { count, offsets, flow, targets } = decode(bytes, address);
    for (let i = count - 1; i >= 0; i--) {
      const at = vaddr(address + offsets[i]!);
      if (i > 0 && this.known.has(at)) continue;
      const found: Instruction = {
        start: at,
        length: offsets[i + 1]! - offsets[i]!,
        end: vaddr(address + offsets[i + 1]!),
        bytes: bytes.subarray(offsets[i]!, offsets[i + 1]!),
        flow: flow[i]!,
        target: vaddr(targets[i]!),
      };
      if (i === 0) return found;
      this.known.set(at, found);
    }
    return null;
  }
}

/** Whether execution goes on after an instruction of this kind of flow. */
export const fallsThrough = (flow: number): boolean => (flow & (Flow.Jump | Flow.IndirectJump | Flow.Return)) === 0;
