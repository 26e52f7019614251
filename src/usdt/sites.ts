/**
 * What stands at a probe's location.
 *
 * A plain probe is one byte, `nop`. Newer headers, and this tool, put a longer nop there that a kernel can turn into
 * a call, alone or after a one-byte nop: nop5 and nop,nop10 and the others of forms.ts, and nop10.
 *
 * Other nops of these lengths exist, and compilers use them as padding. After a one-byte nop only these count, since
 * libbpf compares the bytes. Alone, where a note names it, any five-byte nop is a nop5: Linux 6.18 optimizes nearly all
 * of them.
 */
import type { Vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, isCode, segmentAt } from "../elf/image.js";
import type { ProbeInstruction } from "../kernel/kernels.js";
import { NOP5, NOP10 } from "../x86/bytes.js";
import { isFiveByteNop } from "../x86/nops.js";
import { formAt, startsWith } from "./forms.js";

const NOP = 0x90;

/** The probe instruction that the bytes from a location on begin with, or null where they begin with anything else. */
export function probeInstruction(code: Uint8Array): ProbeInstruction | null {
  if (isFiveByteNop(code)) return "nop5";
  if (startsWith(code, NOP10)) return "nop10";
  return formAt(code)?.layout ?? (code[0] === NOP ? "nop" : null);
}

/** Whether a nop5 has other bytes than those that everybody writes. */
export const isUnusualNop5 = (code: Uint8Array): boolean => isFiveByteNop(code) && !startsWith(code, NOP5);

/**
 * Why a location is in no code, in parentheses, as `list` has it for the instruction; null where it is in some. Linkers
 * leave such notes of functions that they removed, most often with the location 0: that may be the ELF header, which
 * some of them put into the executable segment.
 */
export function notInCode(image: ElfImage, location: Vaddr): string | null {
  if (codeFrom(image, location) === null) return "(in no executable segment)";
  const isThere = image.sections.some(
    (section) => isCode(section) && location >= section.sh_addr && location < section.sh_addr + section.sh_size,
  );
  return isThere ? null : "(in no section of code)";
}

/** Whether what `list` has as the instruction says that there is none. */
export const saysNoCode = (instruction: string): boolean => instruction.startsWith("(");

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
