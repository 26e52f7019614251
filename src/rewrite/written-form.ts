/**
 * A form as the rewriter writes it: with the guard where bytes below rsp are needed. The guard keeps the 128 bytes
 * below rsp out of reach of the patched nop5, without touching the flags:
 *
 *     lea -0x80(%rsp),%rsp;  nop5;  lea 0x80(%rsp),%rsp
 *
 * At a guarded probe rsp is 128 lower. A nop10 takes none: the kernels that patch it have a `lea` of their own.
 *
 * A universal probe has both, and its code depends on where the selector is: universal-form.ts writes it.
 */
import type { Vaddr } from "../address.js";
import { writesRedZone } from "../kernel/kernels.js";
import { type FileLayout, forms, type ProbeForm, type ProbeLayout } from "../usdt/forms.js";

export interface SingleForm extends ProbeForm {
  readonly guard: boolean;
  /** All that is written, the guard included. */
  readonly bytes: Uint8Array;
  /** Where in `bytes` the note's location is. */
  readonly location: number;
  /** By how much rsp is lower at the probe than it was at the nop. */
  readonly stackShift: number;
}

export interface UniversalForm {
  readonly layout: "universal";
  /** The byte of memory that says which of both runs. */
  readonly selector: Vaddr;
  /** Bytes below rsp are needed: the nop5 stands between the two halves of a guard. */
  readonly guard: boolean;
  /** The flags are needed after the probe, or may be: the selector is asked without touching them. */
  readonly keepsFlags: boolean;
}

export type WrittenForm = SingleForm | UniversalForm;

export const isUniversal = (form: WrittenForm): form is UniversalForm => form.layout === "universal";

/** lea -0x80(%rsp),%rsp */
export const LOWER = [0x48, 0x8d, 0x64, 0x24, 0x80];
/** lea 0x80(%rsp),%rsp: a displacement of 128 does not fit into 8 signed bits. */
export const RAISE = [0x48, 0x8d, 0xa4, 0x24, 0x80, 0x00, 0x00, 0x00];
export const RED_ZONE_SIZE = 128;

const plain = (form: ProbeForm): SingleForm => ({ ...form, guard: false, location: 0, stackShift: 0 });

const guarded = (form: ProbeForm): SingleForm => ({
  ...form,
  guard: true,
  bytes: Uint8Array.from([...LOWER, ...form.bytes, ...RAISE]),
  location: LOWER.length,
  stackShift: RED_ZONE_SIZE,
});

/** The form of a layout. @param guard whether bytes below rsp are needed */
export function formOf(layout: ProbeLayout, guard: boolean): SingleForm {
  const form = forms[layout];
  return guard && writesRedZone(form.nop) ? guarded(form) : plain(form);
}

/** Whether some kernel patches a nop of a form, or of a layout, into a call that writes below rsp. */
export const makesNop5 = (layout: FileLayout): boolean => layout === "universal" || writesRedZone(forms[layout].nop);
