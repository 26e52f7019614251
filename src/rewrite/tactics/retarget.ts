/**
 * retarget: like displace and straddle, but direct branches with a 32-bit distance lead into the window. They are led
 * to the new code instead, where the instruction that they lead to is now.
 *
 *     before   90              nop                <- probe
 *              48 8b 45 c8     *mov rax, [rbp-0x38]         a branch leads here
 *     after    e9 ......       jmp new
 *     new      0f 1f 44 00 00  nop5               <- probe
 *              48 8b 45 c8     *mov rax, [rbp-0x38]         the branch leads here now
 *              e9 ......       jmp back
 *
 * Only where these branches are all that enters the window: what could not be ruled out cannot be led elsewhere.
 *
 * retarget-short: the same where short branches are among them, see ways.ts.
 */
import type { Proposal, SiteContext, Tactic } from "../proposal.js";
import { Refusal } from "../refusal.js";
import { detour, starts } from "./displace.js";
import { type Entering, leadBranches } from "./ways.js";

const retargeting =
  (tactic: "retarget" | "retarget-short", entering: Entering): Tactic =>
  (context: SiteContext): Proposal | Refusal => {
    const lead = leadBranches.bind(undefined, context, entering);
    const behind = detour(context, context.index, context.index, tactic, { lead });
    if (!(behind instanceof Refusal)) return behind;
    for (const first of starts(context)) {
      const proposal = detour(context, first, context.index, tactic, { lead });
      if (!(proposal instanceof Refusal)) return proposal;
    }
    return behind;
  };

export const retarget = retargeting("retarget", "near branches");
export const retargetShort = retargeting("retarget-short", "any branch");
