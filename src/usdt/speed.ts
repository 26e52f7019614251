/**
 * Whether a probe is fast: on one of some kernels a hit of it is a call, and on none of them it costs more than that of the
 * plain nop, which is a trap, or is refused.
 *
 * Of a universal probe that place counts that a pass runs on a kernel. Tools attach where the note says, or one byte on if
 * they know the kernel: what either gets has to be no worse.
 */
import { attachedTo, type KernelFacts, type Treatment } from "../kernel/kernels.js";
import { treatmentAt } from "../kernel/treatment.js";
import type { Probe, ProbePlace } from "./probes.js";
import { probeInstruction } from "./sites.js";

/** Why a probe is not fast on these kernels, for a person to read; null where it is. */
export function slownessOf(probe: Probe, kernels: readonly KernelFacts[]): string | null {
  let isCall = false;
  for (const kernel of kernels) {
    const treated = treatmentsOf(probe.twin !== null && kernel.optimizes === "nop5" ? probe.twin : probe, kernel);
    if (treated === null) return "what stands there is no nop";
    if (treated.includes("refused")) return `Linux ${kernel.range} refuses it`;
    if (treated.includes("stepped")) return `a trap and a single step on Linux ${kernel.range}`;
    if (treated.includes("optimized")) isCall = true;
  }
  return isCall ? null : `a trap on Linux ${kernels.map(({ range }) => range).join(", ")}`;
}

/** What tools get from a place: one that goes by the note, and one that knows the kernel. Null where it is no nop. */
function treatmentsOf({ location, code }: ProbePlace, kernel: KernelFacts): readonly Treatment[] | null {
  const instruction = code === null ? null : probeInstruction(code);
  if (code === null || instruction === null) return null;
  const offsets = new Set([0, attachedTo(kernel, instruction).offset]);
  const treated = [...offsets].map((at) => treatmentAt(kernel, code.subarray(at), location + at));
  return treated.every((one) => one !== null) ? treated : null;
}
