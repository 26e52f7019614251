/** The few instructions whose bytes are a matter of their own: nops, and how long jumps are. */

/** The canonical five-byte nop, `nopl 0x0(%rax,%rax,1)`: what Linux 6.18 optimizes and what libbpf compares with. */
export const NOP5: Uint8Array = Uint8Array.of(0x0f, 0x1f, 0x44, 0x00, 0x00);

/** The ten-byte nop, `cs nopw 0x0(%rax,%rax,1)`: what Linux 7.2 and later optimize and what libbpf compares with. */
export const NOP10: Uint8Array = Uint8Array.of(0x66, 0x2e, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00);

/** `jmp rel32`: 5 bytes. */
export const JUMP_SIZE = 5;

/** `call rel32`: 5 bytes. */
export const CALL_SIZE = 5;

/** `jmp rel8`: 2 bytes; its distance counts from after it. */
export const SHORT_JUMP_SIZE = 2;
export const SHORT_JUMP_LOW = -128;
export const SHORT_JUMP_HIGH = 127;

/** No instruction has more bytes (Intel SDM vol. 2A, 2.3.11). */
export const LONGEST_INSTRUCTION = 15;

/** What fills bytes that nothing may run any more: int3, so that a mistake is loud. */
export const INT3 = 0xcc;

/** The multi-byte nops that the Intel SDM recommends (vol. 2B, NOP), by length. */
const nops: readonly (readonly number[])[] = [
  [],
  [0x90],
  [0x66, 0x90],
  [0x0f, 0x1f, 0x00],
  [0x0f, 0x1f, 0x40, 0x00],
  [0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
  [0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
  [0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
  [0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/** `length` bytes of nops, in as few instructions as the recommended encodings allow. */
export function nopFill(length: number): Uint8Array {
  const out = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const n = Math.min(9, length - at);
    out.set(nops[n]!, at);
    at += n;
  }
  return out;
}
