/**
 * The address spaces of this project, as types, so that they cannot be mixed up:
 *
 * - `Vaddr`: a link-time address, what p_vaddr, sh_addr, st_value and note locations hold;
 * - `FileOffset`: bytes from the start of the file, what p_offset and sh_offset hold;
 * - `RuntimeAddress`: link-time address + load bias, what registers and pointers of a running program hold. A rewriter
 *   has none; the emulator has.
 *
 * All are plain JavaScript numbers underneath: a double is exact up to 2^53, and files with larger values are refused
 * when they are read.
 */

declare const space: unique symbol;

/** A link-time address, in bytes. */
export type Vaddr = number & { readonly [space]: "vaddr" };

/** An offset from the start of the file, in bytes. */
export type FileOffset = number & { readonly [space]: "offset" };

/** An address in an address space that is running, in bytes: below 2^47. */
export type RuntimeAddress = number & { readonly [space]: "runtime" };

/** Takes a number for a link-time address. */
export const vaddr = (value: number): Vaddr => value as Vaddr;

/** Takes a number for a file offset. */
export const fileOffset = (value: number): FileOffset => value as FileOffset;

/** Takes a number for a runtime address. */
export const runtimeAddress = (value: number): RuntimeAddress => value as RuntimeAddress;

/**
 * Bytes of one address space, from `start` on and up to `end`, which is no part of it. Of plain numbers: of a buffer.
 */
export interface Interval<A extends number = number> {
  readonly start: A;
  readonly end: A;
}

/** The interval of `size` bytes that begins at `start`. */
export const interval = <A extends number>(start: A, size: number): Interval<A> => ({
  start,
  end: (start + size) as A,
});

/** A link-time address as people and the JSON documents write it: `0x1290`. */
export const hex = (value: number): string => (value < 0 ? `-0x${(-value).toString(16)}` : `0x${value.toString(16)}`);

/** `value` rounded up to a multiple of `alignment`, which must be a power of two (0 and 1 mean none). */
export const alignUp = (value: number, alignment: number): number =>
  alignment > 1 ? Math.ceil(value / alignment) * alignment : value;

/** The page size of x86-64: what the kernel maps in, and what a nop5 must not straddle. */
export const PAGE_SIZE = 4096;

/** Where the page that holds an address begins, in the same address space. */
export const pageStart = <T extends number>(address: T): T => (address - (address % PAGE_SIZE)) as T;
