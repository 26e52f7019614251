/**
 * Which layout `auto` means: the fastest one that neither slows nor endangers any kernel that the file will be traced on.
 *
 * For 6.18 to 7.2 that is nop5, unless the process may fork in a way that no fork guard covers; everything else gets
 * nop,nop10, which no kernel treats worse than today's nop.
 */

import type { Kernel, Layout } from "../rewritten/contract.js";
import type { ProbeLayout } from "../usdt/forms.js";

/** @param forksAreSafe whether the process never forks, or is guarded wherever it does */
export function chooseLayout(layout: Layout, kernel: Kernel, forksAreSafe: boolean): ProbeLayout {
  if (layout !== "auto") return layout;
  return kernel === "6.18" && forksAreSafe ? "nop5" : "nop,nop10";
}
