/**
 * Which layout `auto` means: the fastest one that neither slows nor endangers any kernel that the file will be traced
 * on.
 *
 * That is nop5 where all of them make a call of it, unless the process may fork in a way that no fork guard covers;
 * everything else gets nop,nop10, which no kernel treats worse than today's nop.
 */

import { type KernelFacts, kernelNamed, kernels, treatmentOf } from "../kernel/kernels.js";
import type { Kernel, Layout } from "../rewritten/contract.js";
import type { ProbeLayout } from "../usdt/forms.js";

/** The rows of the table that a file is written for. */
export const kernelsAsked = (kernel: Kernel): readonly KernelFacts[] =>
  kernel === "any" ? kernels : [kernelNamed(kernel)];

/** @param forksAreSafe whether the process never forks, or is guarded wherever it does */
export function chooseLayout(layout: Layout, kernel: Kernel, forksAreSafe: boolean): ProbeLayout {
  if (layout !== "auto") return layout;
  const isGood = (facts: KernelFacts): boolean =>
    treatmentOf(facts, "nop5").plain === "optimized" && (forksAreSafe || !facts.killsForkedChildren);
  return kernelsAsked(kernel).every(isGood) ? "nop5" : "nop,nop10";
}
