/**
 * displace: the probe's nop and what follows it become a jump to new code.
 *
 *     before   90              nop                <- probe
 *              48 89 df        mov rdi, rbx
 *              31 c0           xor eax, eax
 *     after    e9 ......       jmp new
 *              cc              (never run)
 *     new      0f 1f 44 00 00  nop5               <- probe
 *              48 89 df        mov rdi, rbx
 *              31 c0           xor eax, eax
 *              e9 ......       jmp back
 *
 * straddle: the same, with instructions before the nop taken along, where those behind it do not give the room. Then
 * nothing may enter at the nop itself.
 *
 * Another probe's nop in the window moves along and becomes a nop5 too: windows that meet become one.
 */
import { hex, type Vaddr, vaddr } from "../../address.js";
import { JUMP_SIZE } from "../../x86/bytes.js";
import { addressOf, Flow, lengthOf } from "../../x86/decode.js";
import type { Fragment, Proposal, SiteContext, TacticName } from "../proposal.js";
import { instructionBytes, movable, paddingRoom, windowObstacle } from "./safety.js";

/** How many instructions before the nop are tried. */
const MOST_BEFORE = 8;

export const displace = (context: SiteContext): Proposal | string =>
  detour(context, context.index, context.index, "displace");

export function straddle(context: SiteContext): Proposal | string {
  let reason = "there is no instruction before the probe";
  for (let first = context.index - 1; first >= 0 && first >= context.index - MOST_BEFORE; first--) {
    const proposal = detour(context, first, context.index, "straddle");
    if (typeof proposal !== "string") return proposal;
    reason = proposal;
  }
  return reason;
}

/**
 * A detour around a window from instruction `first` to at least instruction `last`, as short as a jump allows.
 * @returns the proposal, or why not
 */
export function detour(context: SiteContext, first: number, last: number, tactic: TacticName): Proposal | string {
  const { code } = context;
  const start = addressOf(code, first);
  const body: Fragment[] = [];
  const displaced: string[] = [];
  let end: number = start;
  let fallsThrough = true;
  for (let i = first; i <= last || end - start < JUMP_SIZE; i++) {
    if (!fallsThrough) {
      // The block is over; padding behind it may give the rest of the room.
      if (i <= last) return "the block before the probe ends";
      const need = JUMP_SIZE - (end - start);
      const room = paddingRoom(context, i, need);
      if (room < need) return `the block ends ${need} bytes too early for a jump`;
      end += room;
      break;
    }
    if (i >= code.count) return "the function ends before there is room for a jump";
    const at = addressOf(code, i);
    if (context.isProbe(at)) body.push({ kind: "probe", site: at });
    else if (context.isSite(at)) return `another probe at ${hex(at)} would have to move`;
    else {
      const traits = movable(context, i);
      if (typeof traits === "string") return traits;
      body.push({ kind: "instruction", at, bytes: instructionBytes(code, i) });
      displaced.push(traits.text);
    }
    end += lengthOf(code, i);
    fallsThrough = (code.flow[i]! & (Flow.Jump | Flow.IndirectJump | Flow.Return)) === 0;
  }
  const window = { start, end: vaddr(end) };
  const obstacle = windowObstacle(context, window.start, window.end);
  if (obstacle !== undefined) return obstacle;
  return {
    tactic,
    window,
    change: { kind: "detour", body, resume: fallsThrough ? (window.end as Vaddr) : undefined },
    displaced,
  };
}
