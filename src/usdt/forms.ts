/**
 * The forms of a fast probe: which bytes take the place of the one-byte nop, and which of them a kernel may patch. What
 * a kernel patches, and what libbpf compares, is the same whoever wrote it: so rewriter and verifier read this one
 * table.
 *
 *     nop5          0f 1f 44 00 00
 *     nop,nop5      90  0f 1f 44 00 00                             the note names the nop; a libbpf that knows the kernel
 *     nop,nop10     90  66 2e 0f 1f 84 00 00 00 00 00              moves on to the longer one where that becomes a call
 *
 * libbpf compares the bytes, so they are the canonical ones.
 */
import { type KernelFacts, type LongNop, type ProbeInstruction, treatmentOf } from "../kernel/kernels.js";
import { NOP5, NOP10 } from "../x86/bytes.js";

export type ProbeLayout = Exclude<ProbeInstruction, "nop" | "nop10">;

/**
 * How a file's probes are written: one form each, or "universal": nop,nop10 and nop5 both, with a note each, of which a
 * pass runs the one that is fast on the kernel it runs on.
 */
export type FileLayout = ProbeLayout | "universal";

/** What a tracer gets from probes of a layout: of a universal one from the place that runs on that kernel. */
export const treatmentIn = (kernel: KernelFacts, layout: FileLayout): ReturnType<typeof treatmentOf> =>
  treatmentOf(kernel, layout !== "universal" ? layout : kernel.optimizes === "nop5" ? "nop5" : "nop,nop10");

export interface ProbeForm {
  readonly layout: ProbeLayout;
  /** The nop in it that a kernel may turn into a call. */
  readonly nop: LongNop;
  readonly bytes: Uint8Array;
  /** The bytes, counted from the location, that a kernel may patch: they must not lie in two pages. */
  readonly patched: { readonly offset: number; readonly size: number };
}

const NOP = 0x90;

const alone = (nop: LongNop & ProbeLayout, bytes: Uint8Array): ProbeForm => ({
  layout: nop,
  nop,
  bytes,
  patched: { offset: 0, size: bytes.length },
});

const behindNop = (nop: LongNop, bytes: Uint8Array): ProbeForm => ({
  layout: `nop,${nop}`,
  nop,
  bytes: Uint8Array.of(NOP, ...bytes),
  patched: { offset: 1, size: bytes.length },
});

export const forms: Readonly<Record<ProbeLayout, ProbeForm>> = {
  nop5: alone("nop5", NOP5),
  "nop,nop5": behindNop("nop5", NOP5),
  "nop,nop10": behindNop("nop10", NOP10),
};

const all = Object.values(forms);

/** Bytes of the longest of them. */
export const LONGEST_FORM = Math.max(...all.map(({ bytes }) => bytes.length));

/** The form that the bytes begin with. */
export const formAt = (code: Uint8Array): ProbeForm | undefined => all.find(({ bytes }) => startsWith(code, bytes));

/** Whether code begins with these bytes. */
export const startsWith = (code: Uint8Array, prefix: Uint8Array): boolean =>
  code.length >= prefix.length && prefix.every((byte, i) => code[i] === byte);
