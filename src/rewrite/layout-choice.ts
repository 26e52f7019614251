/**
 * Which layout `auto` means: the fastest one that neither slows nor endangers any kernel that the file will be traced
 * on.
 *
 * That is universal where they make calls of different nops, and nop5 where all of them make a call of that, unless the
 * process may fork in a way that no fork guard covers; everything else gets nop,nop10, which no kernel treats worse
 * than today's nop.
 */

import { type KernelFacts, kernelNamed, kernels, treatmentOf } from "../kernel/kernels.js";
import type { Kernel, Layout } from "../rewritten/contract.js";
import type { FileLayout, ProbeLayout } from "../usdt/forms.js";

/** The rows of the table that a file is written for. */
export const kernelsAsked = (kernel: Kernel): readonly KernelFacts[] =>
  kernel === "any" ? kernels : [kernelNamed(kernel)];

/** The one form that a kernel is fastest with, whatever it does to children. */
export const fastestOn = (kernel: KernelFacts): ProbeLayout =>
  treatmentOf(kernel, "nop5").plain === "optimized" ? "nop5" : "nop,nop10";

/** @param forksAreSafe whether the process never forks, or is guarded wherever it does */
export function chooseLayout(layout: Layout, kernel: Kernel, forksAreSafe: boolean): FileLayout {
  if (layout !== "auto") return layout;
  const asked = kernelsAsked(kernel);
  const makesCall = (facts: KernelFacts): boolean => fastestOn(facts) === "nop5";
  const isSafe = (facts: KernelFacts): boolean => forksAreSafe || !facts.killsForkedChildren;
  if (!asked.some(makesCall) || !asked.every(isSafe)) return "nop,nop10";
  return asked.every(makesCall) ? "nop5" : "universal";
}
