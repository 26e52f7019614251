/**
 * hop: a short jump to padding nearby, which holds the jump to new code.
 *
 *     before   90              nop                <- probe
 *              eb d6           jmp short X
 *              48 8d 57 70     *lea rdx, [rdi+0x70]        something leads here
 *              ...
 *              66 2e 0f 1f ..  padding behind the function
 *     after    eb xx           jmp short padding
 *              cc              (never run)
 *              48 8d 57 70     *lea rdx, [rdi+0x70]
 *              ...
 *              e9 ......       jmp new            in the padding
 *     new      0f 1f 44 00 00  nop5               <- probe
 *              e9 ......       jmp X
 *
 * Two bytes are enough where five are not to be had. The padding must follow a block that never runs into it, and nothing
 * may enter it.
 */
import { type Vaddr, vaddr } from "../../address.js";
import { JUMP_SIZE, SHORT_JUMP_HIGH, SHORT_JUMP_LOW, SHORT_JUMP_SIZE } from "../../x86/bytes.js";
import { addressOf, Flow } from "../../x86/decode.js";
import type { Proposal, SiteContext, Stretch } from "../proposal.js";
import { detour, starts } from "./displace.js";
import { paddingRoom, windowObstacle } from "./safety.js";

export function hop(context: SiteContext): Proposal | string {
  let reason = "no padding with room for a jump is in the reach of a short one";
  for (const first of [context.index, ...starts(context)]) {
    const start = addressOf(context.code, first);
    for (const padding of paddingsInReach(context, start)) {
      const proposal = detour(context, first, context.index, "hop", { hop: padding });
      if (typeof proposal !== "string") {
        if (padding.start >= proposal.window.end || padding.end <= proposal.window.start) return proposal;
      } else if (first === context.index) reason = proposal;
    }
  }
  return reason;
}

/** Stretches of padding with room for a jump, behind blocks of the function that end, in the reach of a short jump. */
function* paddingsInReach(context: SiteContext, from: Vaddr): Generator<Stretch> {
  const { code, facts } = context;
  for (let i = 0; i < code.count; i++) {
    if ((code.flow[i]! & (Flow.Jump | Flow.IndirectJump | Flow.Return)) === 0) continue;
    const start = vaddr(code.start + code.offsets[i + 1]!);
    const distance = start - (from + SHORT_JUMP_SIZE);
    if (distance < SHORT_JUMP_LOW || distance > SHORT_JUMP_HIGH) continue;
    const room = paddingRoom(context, i + 1, JUMP_SIZE);
    if (room < JUMP_SIZE || facts.entries.has(start)) continue;
    const end = vaddr(start + room);
    if (windowObstacle(context, start, end) === undefined) yield { start, end };
  }
}
