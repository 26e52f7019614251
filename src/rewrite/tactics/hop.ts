/**
 * hop: a short jump to padding nearby, which holds the jump to new code.
 *
 *     before   90              nop                <- probe
 *              eb d6           jmp short X
 *              48 8d 57 70     *lea rdx, [rdi+0x70]        something leads here
 *              ...
 *              66 2e 0f 1f ..  padding after the function
 *     after    eb xx           jmp short padding
 *              cc              (never run)
 *              48 8d 57 70     *lea rdx, [rdi+0x70]
 *              ...
 *              e9 ......       jmp new            in the padding
 *     new      0f 1f 44 00 00  nop5               <- probe
 *              e9 ......       jmp X
 *
 * Two bytes are enough where five are not to be had. The padding must follow a block that never runs into it, and
 * nothing may enter it. Where it is out of reach, a second short jump in smaller padding on the way leads there; see
 * padding.ts.
 *
 * hop-retarget: the same where branches lead into the bytes of the short jump; see ways.ts.
 */
import { interval, type Vaddr } from "../../address.js";
import { SHORT_JUMP_SIZE } from "../../x86/bytes.js";
import type { Proposal, SiteContext, Tactic } from "../proposal.js";
import { Refusal, refuse } from "../refusal.js";
import { detour, starts } from "./displace.js";
import { wayThroughPadding } from "./padding.js";
import { type Entering, leadBranches, stretchesOf } from "./ways.js";

const NO_PADDING = "no padding with room for a jump is in the reach of a short one";

const hopping =
  (tactic: "hop" | "hop-retarget", entering: Entering | undefined): Tactic =>
  (context: SiteContext): Proposal | Refusal => {
    const lead = entering && leadBranches.bind(undefined, context, entering);
    let reason: Refusal | undefined;
    for (const first of [context.index, ...starts(context)]) {
      const proposal = withPadding(context, detour(context, first, context.index, tactic, { via: { hop: [] }, lead }));
      if (!(proposal instanceof Refusal)) return proposal;
      reason ??= proposal;
    }
    return reason!;
  };

export const hop = hopping("hop", undefined);
export const hopRetarget = hopping("hop-retarget", "any branch");

/** The padding that the short jump at a proposal's start goes through: none that it changes already. */
function withPadding(context: SiteContext, proposal: Proposal | Refusal): Proposal | Refusal {
  if (proposal instanceof Refusal || proposal.change.kind !== "detour") return proposal;
  if (proposal.change.via === "branches") return proposal;
  const { window, change, helpers } = proposal;
  const own = [
    window,
    ...change.retargets.flatMap(({ branch, way }) => stretchesOf(branch, way)),
    ...helpers.map((h) => h.window),
  ];
  const isFree = (start: Vaddr, end: Vaddr): boolean =>
    context.isFree(start, end) && !own.some((o) => o.start < end && start < o.end);
  const short = interval(window.start, SHORT_JUMP_SIZE);
  const room = wayThroughPadding(context, short, isFree);
  if (room === undefined) return refuse("no-padding", NO_PADDING);
  return {
    ...proposal,
    change: { ...change, via: { hop: room.through } },
    displaced: [...proposal.displaced, ...room.helpers.flatMap((h) => h.displaced)],
    helpers: [...helpers, ...room.helpers],
  };
}
