/**
 * The forms that a rewritten probe can have: which bytes take the place of the one-byte nop, which of them the kernel may
 * patch, and where in them the probe's location is.
 *
 *     nop5          0f 1f 44 00 00                                 Linux 6.18 to 7.2 optimizes it
 *     nop,nop5      90  0f 1f 44 00 00                             the note names the nop; libbpf 1.7 moves on to the nop5
 *     nop,nop10     90  66 2e 0f 1f 84 00 00 00 00 00              the same for 7.3
 *
 * A guard keeps the 128 bytes below rsp out of reach of the patched nop5, without touching the flags:
 *
 *     lea -0x80(%rsp),%rsp;  nop5;  lea 0x80(%rsp),%rsp
 *
 * At a guarded probe rsp is 128 lower. 7.3's own `lea` guards a nop10. libbpf compares the bytes, so they are the canonical
 * ones.
 */
import type { ProbeInstruction } from "../kernel/kernels.js";
import { NOP5, NOP10 } from "../x86/bytes.js";

export type ProbeLayout = Extract<ProbeInstruction, "nop5" | "nop,nop5" | "nop,nop10">;

export interface ProbeForm {
  readonly layout: ProbeLayout;
  readonly guard: boolean;
  readonly bytes: Uint8Array;
  /** Where in `bytes` the note's location is. */
  readonly location: number;
  /** The bytes, counted from the location, that the kernel may patch: they must not lie in two pages. */
  readonly patched: { readonly offset: number; readonly size: number };
  /** By how much rsp is lower at the probe than it was at the nop. */
  readonly stackShift: number;
}

/** lea -0x80(%rsp),%rsp */
const LOWER = [0x48, 0x8d, 0x64, 0x24, 0x80];
/** lea 0x80(%rsp),%rsp: a displacement of 128 does not fit into 8 signed bits. */
const RAISE = [0x48, 0x8d, 0xa4, 0x24, 0x80, 0x00, 0x00, 0x00];
const RED_ZONE_SIZE = 128;
const NOP = 0x90;

const plain = (layout: ProbeLayout, bytes: Uint8Array, offset: number): ProbeForm => ({
  layout,
  guard: false,
  bytes,
  location: 0,
  patched: { offset, size: bytes.length - offset },
  stackShift: 0,
});

const guarded = (form: ProbeForm): ProbeForm => ({
  ...form,
  guard: true,
  bytes: Uint8Array.from([...LOWER, ...form.bytes, ...RAISE]),
  location: LOWER.length,
  stackShift: RED_ZONE_SIZE,
});

const forms: Readonly<Record<ProbeLayout, ProbeForm>> = {
  nop5: plain("nop5", NOP5, 0),
  "nop,nop5": plain("nop,nop5", Uint8Array.from([NOP, ...NOP5]), 1),
  "nop,nop10": plain("nop,nop10", Uint8Array.from([NOP, ...NOP10]), 1),
};

/** The form of a layout. A nop10 takes no guard: the kernel that patches it has its own. */
export const formOf = (layout: ProbeLayout, guard: boolean): ProbeForm =>
  guard && layout !== "nop,nop10" ? guarded(forms[layout]) : forms[layout];
