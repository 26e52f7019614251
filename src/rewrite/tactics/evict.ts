/**
 * evict: like hop and retarget, where there is no padding in the reach of a short jump: instructions nearby that have
 * nothing to do with the probe move to new code, so that their bytes can hold the near jump. See padding.ts.
 *
 * The last resort: code that never comes by the probe pays for it with a jump there and back.
 */
import type { Proposal, SiteContext } from "../proposal.js";
import { Refusal } from "../refusal.js";
import { hop, hopRetarget } from "./hop.js";
import { retargetShort } from "./retarget.js";

export function evict(context: SiteContext): Proposal | Refusal {
  let reason: Refusal | undefined;
  for (const tactic of [hop, retargetShort, hopRetarget]) {
    const proposal = tactic({ ...context, evicts: true });
    if (!(proposal instanceof Refusal)) return { ...proposal, tactic: "evict" };
    reason ??= proposal;
  }
  return reason!;
}
