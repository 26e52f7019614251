/**
 * Where a case's code and data stand, and the record that its state is kept in. The native program and the emulator use
 * the same addresses, so whatever an instruction computes from an address is the same in both.
 *
 * Every case has the same scratch memory, filled anew for each:
 *
 *     scratch          page 0, readable and writable
 *                      area: 512 bytes across the boundary of pages 0 and 1
 *     scratch + 4 K    page 1, readable and writable
 *                      edge: the last 64 bytes of page 1
 *     scratch + 8 K    not mapped: operands that lead out of the edge fault here
 *     readOnly         one page, readable, with a fixed content
 *
 * and a slot of code: somewhere to arrive at in front of it, the instruction, and somewhere to arrive at behind.
 *
 *     +0      landing: mov dword [landed], <address of this landing>; jmp exit
 *     +48     the instruction, and behind it the landing of whoever goes on with the next instruction
 *     +120    landing
 *
 * There are two such layouts. In one all addresses are small, and every way of addressing reaches the scratch memory.
 * In the other the middle of the area is at 2^32, so that every carry into the upper half of an address matters.
 */

export interface Layout {
  /** Runtime address of the first slot. */
  readonly code: number;
  readonly scratch: number;
  readonly area: number;
  readonly edge: number;
  readonly readOnly: number;
  /** A canonical address where nothing is, near the others. */
  readonly unmapped: number;
}

export const SCRATCH_SIZE = 0x2000;
export const AREA_SIZE = 512;
export const EDGE_SIZE = 64;
export const READ_ONLY_SIZE = 4096;

const layout = (code: number, scratch: number, readOnly: number): Layout => ({
  code,
  scratch,
  area: scratch + 4096 - AREA_SIZE / 2,
  edge: scratch + SCRATCH_SIZE - EDGE_SIZE,
  readOnly,
  unmapped: scratch - 0x8000,
});

export const LOW = layout(0x400000, 0x10000000, 0x11000000);
export const HIGH = layout(0xe0000000, 0xfffff000, 0xf8000000);

/** Not a power of two, so that instructions cross pages and cache lines. */
export const SLOT_SIZE = 137;
export const INSTRUCTION_IN_SLOT = 48;
export const LANDING_BEFORE = 0;
export const LANDING_BEHIND = 120;
export const LANDING_SIZE = 15;

/** Bases of the segments fs and gs. */
export const FS_BASE = 0x1_8765_4320;
export const GS_BASE = 0x00800010;

/**
 * A record: the state of a case, before or after. Offsets in bytes. The part from FX on is the FXSAVE image (Intel SDM
 * vol. 1, 10.5.1).
 */
export const Record = {
  AREA: 0,
  EDGE: AREA_SIZE,
  /** rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15. */
  GPR: AREA_SIZE + EDGE_SIZE,
  FLAGS: AREA_SIZE + EDGE_SIZE + 128,
  /**
   * Before: where the instruction stands. After: where execution went on; behind a fault, the instruction that faulted.
   */
  IP: AREA_SIZE + EDGE_SIZE + 136,
  /** Before: 0. After: 0, or FAULTED and the number of the exception. */
  TRAP: AREA_SIZE + EDGE_SIZE + 144,
  /** After a page fault: the address that was accessed. */
  ADDRESS: AREA_SIZE + EDGE_SIZE + 152,
  FX: AREA_SIZE + EDGE_SIZE + 192,
  FX_MXCSR: AREA_SIZE + EDGE_SIZE + 192 + 24,
  FX_ST: AREA_SIZE + EDGE_SIZE + 192 + 32,
  XMM: AREA_SIZE + EDGE_SIZE + 192 + 160,
} as const;

export const RECORD_SIZE = AREA_SIZE + EDGE_SIZE + 192 + 512;

/** In Record.TRAP, beside the number of the exception. */
export const FAULTED = 0x100;

/** Numbers of exceptions (Intel SDM vol. 3, table 6-1). */
export const Exception = { DIVIDE: 0, BREAKPOINT: 3, UNDEFINED: 6, STACK: 12, PROTECTION: 13, PAGE: 14 } as const;

/** What a readable page that nobody may write to holds. */
export function readOnlyContent(): Uint8Array {
  return Uint8Array.from({ length: READ_ONLY_SIZE }, (_, i) => (i * 167 + (i >> 8) * 13) & 0xff);
}

/** Where the instruction of a slot stands. */
export const instructionAt = (layout: Layout, slot: number): number =>
  layout.code + slot * SLOT_SIZE + INSTRUCTION_IN_SLOT;
