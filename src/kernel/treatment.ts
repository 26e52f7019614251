/**
 * What a kernel does with a uprobe on the very nop that stands at an address: other encodings than those that everybody
 * writes, and nops that lie in two pages. Tried, on each range of the table.
 *
 *     6.18 to 7.1      any nop of five bytes becomes a call
 *     7.2 and later    66 2e 0f 1f 84 and any five bytes becomes a call; 66 66 0f 1f 84 ... is a long nop as any other
 *     all              a segment prefix of 32-bit days (26, 2e, 36, 3e) is refused. The nop10 above is the one exception, and
 *                      only where it becomes a call: in two pages it is refused
 */
import { PAGE_SIZE } from "../address.js";
import { isFiveByteNop, nopLength } from "../x86/nops.js";
import type { KernelFacts, LongNop, Treatment } from "./kernels.js";

const sizes: Readonly<Record<LongNop, number>> = { nop5: 5, nop10: 10 };
/** What a nop10 begins with; its last five bytes are an operand that nobody looks at. */
const NOP10_START = [0x66, 0x2e, 0x0f, 0x1f, 0x84];

const encodings: Readonly<Record<LongNop, (code: Uint8Array) => boolean>> = {
  nop5: isFiveByteNop,
  nop10: (code) => code.length >= sizes.nop10 && NOP10_START.every((byte, i) => code[i] === byte),
};

const REFUSED_PREFIXES = [0x26, 0x2e, 0x36, 0x3e];
const PREFIXES = [...REFUSED_PREFIXES, 0x64, 0x65, 0x66];

/** Whether code begins with a nop that the kernel turns into a call, wherever it stands. */
export const isOptimizable = ({ optimizes }: KernelFacts, code: Uint8Array): boolean =>
  optimizes !== null && encodings[optimizes](code);

/**
 * What becomes of a uprobe on the nop that code begins with; null where that is no nop.
 * @param address where it stands, in any address space in which pages are where they are in memory
 */
export function treatmentAt(kernel: KernelFacts, code: Uint8Array, address: number): Treatment | null {
  if (kernel.optimizes !== null && isOptimizable(kernel, code))
    return (address % PAGE_SIZE) + sizes[kernel.optimizes] > PAGE_SIZE ? kernel.acrossPages : "optimized";
  const length = nopLength(code, 0) || (isFiveByteNop(code) ? sizes.nop5 : 0);
  if (length === 0) return null;
  for (let i = 0; PREFIXES.includes(code[i]!); i++) if (REFUSED_PREFIXES.includes(code[i]!)) return "refused";
  return length === 1 ? kernel.treats.nop : kernel.longNops;
}
