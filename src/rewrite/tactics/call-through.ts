/**
 * call-through: the call after the probe takes the probe along on its way.
 *
 *     before   90              nop                <- probe
 *              48 89 df        mov rdi, rbx
 *              e8 ......       call F
 *     after    0f 1f 40 00     nop
 *              e8 ......       call new
 *     new      0f 1f 44 00 00  nop5               <- probe
 *              48 89 df        mov rdi, rbx
 *              e9 ......       jmp F
 *
 * The call stays where it is, so the return address is the one that unwinders, exception tables and shadow stacks know.
 * Nothing may enter after the probe up to the call itself. At the probe rsp is 8 lower than it was: the instructions
 * that move must not use it; arguments of the probe that go by rsp say 8 more. No guard is needed: the call itself
 * writes below rsp, so the program needs nothing there.
 */
import { hex, type Vaddr, vaddr } from "../../address.js";
import { knows } from "../../facts/knowledge.js";
import { CALL_SIZE } from "../../x86/bytes.js";
import { addressOf, Flow, instructionBytes, lengthOf } from "../../x86/decode.js";
import type { Fragment, Proposal, SiteContext } from "../proposal.js";
import { Refusal, refuse } from "../refusal.js";
import { movedCode } from "./displace.js";
import { windowObstacle } from "./safety.js";

const CALL_REL32 = 0xe8;
const MOST_BETWEEN = 4;

export function callThrough(context: SiteContext): Proposal | Refusal {
  const { code, index, site } = context;
  let call = index + 1;
  while (call < code.count && call <= index + MOST_BETWEEN && (code.flow[call]! & Flow.Call) === 0) call++;
  const at = addressOf(code, call);
  if (call >= code.count || lengthOf(code, call) !== CALL_SIZE || instructionBytes(code, call)[0] !== CALL_REL32)
    return refuse("no-call", "no direct call follows", site);
  const probe = context.probe(site)!;
  if (probe.readsBelowStack)
    return refuse("red-zone", "an argument lies below rsp, where the call writes before the probe runs", site);
  if (probe.stackPinned !== undefined) return probe.stackPinned;
  const moved = movedCode(context, index, (next) => next < call);
  if (moved instanceof Refusal) return moved;
  if (moved.next !== call) return refuse("no-call", "the block ends before a call", site);
  for (let i = index + 1; i < call; i++) {
    const traits = context.tables.traits(code, i);
    // What lies below rsp is needed until the call, and the call is made before.
    if (knows("reads below rsp") && probe.usesRedZone && traits.mayTrap)
      return refuse(
        "red-zone",
        `${traits.text} at ${hex(addressOf(code, i))} may read below rsp, where the call writes before it runs`,
        addressOf(code, i),
      );
    if (traits.usesStackPointer)
      return refuse(
        "changes-frame",
        `${traits.text} at ${hex(addressOf(code, i))} uses rsp, which differs after the call`,
        addressOf(code, i),
      );
  }
  const window = { start: site, end: vaddr(at + CALL_SIZE) };
  const obstacle = windowObstacle(context, window.start, window.end);
  if (obstacle !== undefined) return obstacle;
  return {
    tactic: "call-through",
    site,
    window,
    change: {
      kind: "detour",
      via: "call",
      body: moved.fragments.map(withoutGuard(context)),
      resume: code.targets[call]! as Vaddr,
      retargets: [],
    },
    displaced: moved.texts,
    helpers: [],
  };
}

const withoutGuard =
  ({ probe }: SiteContext) =>
  (fragment: Fragment): Fragment =>
    fragment.kind === "probe" ? { ...fragment, form: probe(fragment.site)!.unguarded } : fragment;
