/**
 * The 128 bytes below a stack pointer, a bit each: byte 0 is the lowest, rsp - 128, byte 127 the one right below rsp.
 */

/** Bytes of the red zone (System V ABI, AMD64 supplement, section 3.2.2). */
export const RED_ZONE = 128;

/** Four words of 32 bytes each. */
export type ByteMask = Uint32Array;

export const fullMask = (): ByteMask => new Uint32Array(RED_ZONE / 32).fill(0xffffffff);

export const isEmpty = (mask: ByteMask): boolean => mask.every((word) => word === 0);

/** The bits of one word that lie in [from, to), which count bytes relative to rsp: -128 is byte 0. */
function wordOf(word: number, from: number, to: number): number {
  const low = Math.max(0, from + RED_ZONE - word * 32);
  const high = Math.min(32, to + RED_ZONE - word * 32);
  if (high <= low) return 0;
  const upTo = high === 32 ? 0xffffffff : (1 << high) - 1;
  return (upTo & ~((1 << low) - 1)) >>> 0;
}

/** Whether any byte of [from, to), relative to rsp, is in the mask. */
export function overlaps(mask: ByteMask, from: number, to: number): boolean {
  for (let w = 0; w < mask.length; w++) if ((mask[w]! & wordOf(w, from, to)) !== 0) return true;
  return false;
}

/** Takes the bytes of [from, to), relative to rsp, out of the mask. */
export function clear(mask: ByteMask, from: number, to: number): void {
  for (let w = 0; w < mask.length; w++) mask[w]! &= ~wordOf(w, from, to);
}

/** Adds the bytes of another mask. @returns whether there were new ones */
export function include(mask: ByteMask, other: ByteMask): boolean {
  let grew = false;
  for (let w = 0; w < mask.length; w++) {
    if ((other[w]! & ~mask[w]!) !== 0) grew = true;
    mask[w]! |= other[w]!;
  }
  return grew;
}
