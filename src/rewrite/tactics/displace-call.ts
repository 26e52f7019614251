/**
 * displace-call: like displace, straddle and retarget, and the calls among the instructions move too.
 *
 *     before   e8 ......       call F
 *              90              nop                <- probe
 *              eb c0           jmp short X
 *     after    e9 ......       jmp new
 *              cc              (never run)
 *              eb c0           jmp short X
 *     new      e8 ......       call F
 *              0f 1f 44 00 00  nop5               <- probe
 *              e9 ......       jmp back
 *
 * The call itself moves, so the shadow stack has the same return address as the stack. It is another one than before:
 * only where unwinders find the caller from new code, and only calls whose callee does not look at it; see safety.ts.
 */
import type { Proposal, SiteContext } from "../proposal.js";
import { Refusal } from "../refusal.js";
import { detour, starts } from "./displace.js";
import { type Entering, leadBranches } from "./ways.js";

const enterings: readonly (Entering | undefined)[] = [undefined, "near branches", "any branch"];

export function displaceCall(context: SiteContext): Proposal | Refusal {
  let reason: Refusal | undefined;
  for (const entering of enterings) {
    const lead = entering && leadBranches.bind(undefined, context, entering);
    for (const first of [context.index, ...starts(context)]) {
      const proposal = detour(context, first, context.index, "displace-call", { lead, calls: true });
      if (!(proposal instanceof Refusal)) return proposal;
      reason ??= proposal;
    }
  }
  return reason!;
}
