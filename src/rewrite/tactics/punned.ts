/**
 * punned: the nop becomes the first byte of a jump, whose distance is the four bytes after it as they are.
 *
 *     before   90              nop                <- probe
 *              48 8b 05 02 ..  mov rax, [rip+...]
 *     after    e9              jmp far            its distance is 48 8b 05 02
 *              48 8b 05 02 ..  mov rax, [rip+...]
 *     far      e9 ......       jmp new            in a segment of its own, far after the file's others
 *     new      0f 1f 44 00 00  nop5               <- probe
 *              e9 ......       jmp back           to what follows the nop
 *
 * No byte but the nop's is another, so nothing needs to be known of who enters what is after it, nor of what stands
 * there: this is for functions of which not all is known. E9Patch calls it punning (its tactic B2), and found how far
 * it gets one. What has to be known all the same:
 *
 *     the nop is an instruction         its function decodes without a contradiction, and nobody reads it as data
 *     rsp is the stack's                the new code has a guard, and a traced nop5 writes below rsp
 *     nobody patches the bytes after   or the jump leads elsewhere: tables of patchers, relocations, other probes, and
 *                                       functions that begin there, at which tracers put breakpoints
 *
 * A short jump (`eb`) goes by one byte. Where that leads to padding nearby, which holds the near jump (padding.ts), it
 * costs nothing, and is tried first. The other is the last resort: it costs address space and pages (far-jumps.ts).
 * Both cost one jump more.
 */
import { hex, interval, vaddr } from "../../address.js";
import { stackPointerObstacle } from "../../facts/stack-pointer.js";
import { codeFrom } from "../../usdt/sites.js";
import { JUMP_SIZE, SHORT_JUMP_SIZE } from "../../x86/bytes.js";
import { farObstacle } from "../far-jumps.js";
import type { Detour, Proposal, SiteContext } from "../proposal.js";
import { type Refusal, refuse } from "../refusal.js";
import { paddingAt } from "./padding.js";
import { frozenObstacle, reachObstacle } from "./safety.js";

export function punned(context: SiteContext): Proposal | Refusal {
  const { site, facts } = context;
  const bytes = codeFrom(facts.image, site);
  if (bytes === null || bytes.length < JUMP_SIZE)
    return refuse("no-room", "after the nop there is no code to jump by", site);
  const data = facts.computed.readAsData(context.range);
  if (data !== undefined) return refuse("unknown-code", data);
  const stack = stackPointerObstacle(facts, context.range, site);
  if (stack !== undefined) return refuse("stack-pointer", stack, site);
  if (keptObstacle(context, SHORT_JUMP_SIZE) === undefined) {
    const padding = paddingAt(context, vaddr(site + SHORT_JUMP_SIZE + bytes.readInt8(1)));
    if (padding !== undefined) return proposal(context, { hop: [padding] }, SHORT_JUMP_SIZE);
  }
  const kept = keptObstacle(context, JUMP_SIZE);
  if (kept !== undefined) return kept;
  const far = vaddr(site + JUMP_SIZE + bytes.readInt32LE(1));
  const away = farObstacle(facts.image, far);
  if (away !== undefined) return refuse("far-target", `a jump by the bytes after the nop would lead ${away}`, far);
  return proposal(context, { far }, JUMP_SIZE);
}

/** Why the bytes of a jump of this size must not be part of one, or undefined: somebody else may write to them. */
function keptObstacle({ site, facts, isSite }: SiteContext, size: number): Refusal | undefined {
  for (let at = vaddr(site + 1); at < site + size; at++)
    if (isSite(at))
      return refuse("other-probe", `another probe at ${hex(at)} is among the bytes that a jump would go by`, at);
  const next = facts.functions.range(facts.functions.lastAtOrBelow(site + size - 1));
  if (next.start > site)
    return refuse(
      "next-function",
      `a function begins at ${hex(next.start)}, among the bytes that a jump would go by`,
      next.start,
    );
  const end = vaddr(site + size);
  return reachObstacle(facts, site, end) ?? frozenObstacle(facts, site, end);
}

function proposal({ site, probe }: SiteContext, via: Detour["via"], size: number): Proposal {
  const window = interval(site, 1);
  const { form } = probe(site)!;
  return {
    tactic: "punned",
    site,
    window,
    change: {
      kind: "detour",
      via,
      kept: { start: window.end, end: vaddr(site + size) },
      body: [{ kind: "probe", site, form }],
      resume: window.end,
      retargets: [],
    },
    displaced: [],
    helpers: [],
  };
}
