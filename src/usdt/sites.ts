/**
 * What stands at a probe's location.
 *
 * A plain probe is one byte, `nop`. Newer headers, and this tool, put a longer nop there that the kernel can turn into
 * a call, alone or behind a one-byte nop:
 *
 *     90                               nop
 *     0f 1f 44 00 00                   nop5          optimized by Linux 6.18 to 7.2
 *     66 2e 0f 1f 84 00 00 00 00 00    nop10         optimized from 7.3 on
 *     90 0f 1f 44 00 00                nop,nop5      the location is the first byte; libbpf moves on by one where it helps
 *     90 66 2e 0f 1f 84 ...            nop,nop10
 *
 * Other nops of these lengths exist, and compilers use them as padding. Behind a one-byte nop only these count, since libbpf
 * compares the bytes. Alone, where a note names it, any five-byte nop is a nop5: Linux 6.18 optimizes nearly all of them.
 */
import type { Vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, segmentAt } from "../elf/image.js";
import type { ProbeInstruction } from "../kernel/kernels.js";
import { NOP5, NOP10 } from "../x86/bytes.js";
import { isFiveByteNop } from "../x86/nops.js";

const NOP = 0x90;

/** The probe instruction that the bytes from a location on begin with, or null where they begin with anything else. */
export function probeInstruction(code: Uint8Array): ProbeInstruction | null {
  if (isFiveByteNop(code)) return "nop5";
  if (startsWith(code, NOP10)) return "nop10";
  if (code[0] !== NOP) return null;
  const behind = code.subarray(1);
  if (startsWith(behind, NOP5)) return "nop,nop5";
  if (startsWith(behind, NOP10)) return "nop,nop10";
  return "nop";
}

/** Whether a nop5 has other bytes than those that everybody writes. */
export const isUnusualNop5 = (code: Uint8Array): boolean => isFiveByteNop(code) && !startsWith(code, NOP5);

/**
 * The file's bytes from a link-time address to the end of its segment: a view, not a copy. Null where the address lies
 * in no executable segment, or in a part of it that the file does not hold.
 */
export function codeFrom(image: ElfImage, location: Vaddr): Buffer | null {
  const segment = segmentAt(image, location);
  if (segment === undefined || (segment.p_flags & elf.PF_X) === 0) return null;
  if (location >= segment.p_vaddr + segment.p_filesz) return null;
  const start = location - segment.p_vaddr + segment.p_offset;
  return image.bytes.subarray(start, segment.p_offset + segment.p_filesz);
}

const startsWith = (code: Uint8Array, prefix: Uint8Array): boolean =>
  code.length >= prefix.length && prefix.every((byte, i) => code[i] === byte);
