/**
 * A universal probe: both forms, of which a pass runs exactly one. A byte of memory, the selector, says which; it is
 * read once a pass.
 *
 *     cmpb $0, selector(%rip)                    where the flags are dead
 *     jne five
 *     nop; nop10                                 <- the first note: every kernel but those that patch nop5
 *     jmp join
 *     five: [lea] nop5 [lea]                     <- the second note
 *     join:
 *
 *     lea -0x88(%rsp),%rsp; mov %rcx,(%rsp)      where they are needed, or may be: no flag changes, and nothing within
 *     movzbl selector(%rip),%ecx                 128 bytes below rsp
 *     jrcxz zero
 *     mov (%rsp),%rcx; nop5                      <- the second note
 *     jmp raise
 *     zero: mov (%rsp),%rcx; nop; nop10          <- the first note
 *     raise: lea 0x88(%rsp),%rsp
 *
 * Both ways meet again, so that displaced code stands there once. pushf would do as well, and takes 3 ns more.
 */
import type { Vaddr } from "../address.js";
import { forms } from "../usdt/forms.js";
import { COMPARE_BYTE_WITH_0, near, short } from "../x86/distance.js";
import type { Code } from "../x86/link.js";
import { LOWER, RAISE, RED_ZONE_SIZE, type UniversalForm } from "./written-form.js";

/** Where the two places of a universal probe are, by label, and by how much rsp is lower there. */
export interface UniversalPlaces {
  readonly first: { readonly label: string; readonly stackShift: number };
  readonly twin: { readonly label: string; readonly stackShift: number };
}

/** The red zone, and a word for rcx below it. */
const FRAME = RED_ZONE_SIZE + 8;
/** lea -0x88(%rsp),%rsp and lea 0x88(%rsp),%rsp */
const LOWER_FRAME = [0x48, 0x8d, 0xa4, 0x24, 0x78, 0xff, 0xff, 0xff];
const RAISE_FRAME = [0x48, 0x8d, 0xa4, 0x24, 0x88, 0x00, 0x00, 0x00];
const SAVE_RCX = [0x48, 0x89, 0x0c, 0x24];
const LOAD_RCX = [0x48, 0x8b, 0x0c, 0x24];
const [JNE, MOVZBL_ECX, JRCXZ] = [short([0x75]), near([0x0f, 0xb6, 0x0d]), short([0xe3])];

/**
 * Appends the probe's code.
 * @param site whose labels they are
 * @param lower says from where on rsp is lower, and by how much
 */
export function writeUniversal<Mark>(
  code: Code<Mark>,
  { selector, guard, keepsFlags }: UniversalForm,
  site: Vaddr,
  lower: (by: number) => void,
): UniversalPlaces {
  const [first, twin] = [`the probe of ${site}`, `the twin of ${site}`];
  const [zero, five, join] = [`zero of ${site}`, `five of ${site}`, `join of ${site}`];
  const nopNop10 = (): void => {
    code.label(first).raw(forms["nop,nop10"].bytes.subarray(0, 1));
    code.unsplit(forms["nop,nop10"].bytes.subarray(1), "the probe");
  };
  const nop5 = (): void => void code.label(twin).unsplit(forms.nop5.bytes, "the probe");
  if (keepsFlags) {
    code.raw(LOWER_FRAME);
    lower(FRAME);
    code.raw(SAVE_RCX).leads([MOVZBL_ECX], selector).leads([JRCXZ], zero);
    code.raw(LOAD_RCX);
    nop5();
    code.jumpShort(join).label(zero).raw(LOAD_RCX);
    nopNop10();
    code.label(join).raw(RAISE_FRAME);
    return { first: { label: first, stackShift: FRAME }, twin: { label: twin, stackShift: FRAME } };
  }
  code.leads([COMPARE_BYTE_WITH_0], selector).leads([JNE], five);
  nopNop10();
  code.jumpShort(join).label(five);
  if (guard) {
    code.raw(LOWER);
    lower(RED_ZONE_SIZE);
  }
  nop5();
  if (guard) code.raw(RAISE);
  lower(0);
  code.label(join);
  const stackShift = guard ? RED_ZONE_SIZE : 0;
  return { first: { label: first, stackShift: 0 }, twin: { label: twin, stackShift } };
}

export const universalForm = (selector: Vaddr, guard: boolean, keepsFlags: boolean): UniversalForm => ({
  layout: "universal",
  selector,
  guard,
  keepsFlags,
});
