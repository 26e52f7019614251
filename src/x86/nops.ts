/**
 * Recognizing nops by their bytes, without a decoder: padding between functions has to be told from code at tens of
 * thousands of places.
 *
 * Two families exist: 0x90, and 0f 1f /0 with any memory operand. Both may carry operand-size and segment prefixes.
 * 0x90 after f3 is pause, and with a REX prefix it may be an xchg: neither is taken for a nop.
 */
import { LONGEST_INSTRUCTION } from "./bytes.js";

const isPrefix = (byte: number): boolean =>
  byte === 0x66 || byte === 0x2e || byte === 0x3e || byte === 0x26 || byte === 0x36 || byte === 0x64 || byte === 0x65;

/** How many bytes the nop that begins at index `at` has, or 0 where none does. */
export function nopLength(bytes: Uint8Array, at: number): number {
  let p = at;
  while (p < bytes.length && isPrefix(bytes[p]!)) p++;
  if (bytes[p] === 0x90) return bounded(p + 1 - at);
  if (bytes[p] === 0x48) p++;
  if (bytes[p] !== 0x0f || bytes[p + 1] !== 0x1f || p + 2 >= bytes.length) return 0;
  const modrm = bytes[p + 2]!;
  if ((modrm & 0x38) !== 0) return 0;
  const mod = modrm >> 6;
  const rm = modrm & 7;
  let end = p + 3;
  if (mod !== 3 && rm === 4) {
    const base = bytes[end]! & 7;
    end += 1 + (mod === 0 && base === 5 ? 4 : 0);
  } else if (mod === 0 && rm === 5) end += 4;
  if (mod === 1) end += 1;
  if (mod === 2) end += 4;
  return end <= bytes.length ? bounded(end - at) : 0;
}

/**
 * Whether a nop of five bytes begins there that Linux 6.18 turns into a call: 0x90 or 0f 1f /0, after prefixes. Tried
 * on 6.18.44: one with a segment prefix of 32-bit days (26, 2e, 36, 3e) it refuses; lea to itself and a jump to what
 * follows are no nops to it.
 */
export function isFiveByteNop(bytes: Uint8Array): boolean {
  if (bytes.length < 5) return false;
  let p = 0;
  while (p < 4 && (bytes[p] === 0x66 || bytes[p] === 0x64 || bytes[p] === 0x65)) p++;
  const isRexed = (bytes[p]! & 0xf0) === 0x40;
  if (isRexed && bytes[p + 1] === 0x90) return p === 3 && (bytes[p]! & 1) === 0;
  const opcode = isRexed ? p + 1 : p;
  if (bytes[opcode] === 0x90) return opcode === 4;
  return bytes[opcode] === 0x0f && opcode + nopLength(bytes.subarray(opcode, 15), 0) === 5;
}

const bounded = (length: number): number => (length <= LONGEST_INSTRUCTION ? length : 0);

/**
 * How many bytes from index `from` on, at most up to index `to`, are padding as it stands between functions: whole
 * nops, int3, and zeros, which some linkers fill with. Stops at the first border of an instruction at or after `need`
 * bytes.
 */
export function paddingLength(bytes: Uint8Array, from: number, to: number, need = Number.POSITIVE_INFINITY): number {
  let at = from;
  while (at < to && at - from < need) {
    const byte = bytes[at]!;
    const length = byte === 0xcc || byte === 0x00 ? 1 : nopLength(bytes, at);
    if (length === 0 || at + length > to) break;
    at += length;
  }
  return at - from;
}
