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
 * straddle: the same, with instructions before the nop taken along, where those after it do not give the room. Then
 * nothing may enter at the nop itself.
 *
 * Another probe's nop in the window moves along and becomes a nop5 too: windows that meet become one.
 */
import { hex, type Interval, type Vaddr, vaddr } from "../../address.js";
import { JUMP_SIZE, SHORT_JUMP_SIZE } from "../../x86/bytes.js";
import { addressOf, Flow, instructionBytes, lengthOf } from "../../x86/decode.js";
import type { Detour, Fragment, Proposal, Retarget, SiteContext, TacticName } from "../proposal.js";
import { Refusal, refuse } from "../refusal.js";
import { askewObstacle, frozenObstacle, movable, paddingRoom, reachObstacle, windowObstacle } from "./safety.js";

/** How many instructions before the nop are tried. */
const MOST_BEFORE = 8;

export const displace = (context: SiteContext): Proposal | Refusal =>
  detour(context, context.index, context.index, "displace");

export function straddle(context: SiteContext): Proposal | Refusal {
  let reason = refuse("no-room", "there is no instruction before the probe");
  for (const first of starts(context)) {
    const proposal = detour(context, first, context.index, "straddle");
    if (!(proposal instanceof Refusal)) return proposal;
    reason = proposal;
  }
  return reason;
}

/** The instructions before the nop at which a window may begin, nearest first. */
export function* starts({ index }: SiteContext): Generator<number> {
  for (let first = index - 1; first >= 0 && first >= index - MOST_BEFORE; first--) yield first;
}

/** The branches that are led to new code, and the detours that some of them need for it. */
export interface Led {
  readonly retargets: readonly Retarget[];
  readonly helpers: readonly Proposal[];
}

interface DetourOptions {
  readonly via?: Detour["via"];
  /** Leads the branches into a window elsewhere, or says why not. Without it nothing may lead into the window. */
  readonly lead?: ((window: Interval<Vaddr>, fragments: readonly Fragment[]) => Led | Refusal) | undefined;
  /** Calls move, where the context allows it. */
  readonly calls?: boolean;
  /** How many bytes the window has at least: as many as the jump, where nothing else is said. */
  readonly size?: number;
}

/**
 * A detour around a window from instruction `first` to at least instruction `last`, as short as a jump allows.
 * @returns the proposal, or why not
 */
export function detour(
  context: SiteContext,
  first: number,
  last: number,
  tactic: TacticName,
  { via = "jump", lead, calls = false, size = via === "jump" ? JUMP_SIZE : SHORT_JUMP_SIZE }: DetourOptions = {},
): Proposal | Refusal {
  const { code } = context;
  const start = addressOf(code, first);
  const moved = movedCode(context, first, (next, end) => next <= last || end - start < size, calls);
  if (moved instanceof Refusal) return moved;
  let { end } = moved;
  if (end - start < size) {
    // The block is over; padding after it may give the rest of the room.
    const need = size - (end - start);
    const room = paddingRoom(context, moved.next, need);
    if (room < need) return refuse("no-room", `the block ends ${need} bytes too early for a jump`, end);
    end = vaddr(end + room);
  }
  const window = { start, end };
  const obstacle =
    lead === undefined
      ? windowObstacle(context, start, end)
      : (reachObstacle(context.facts, start, end) ??
        askewObstacle(context, start) ??
        frozenObstacle(context.facts, start, end));
  if (obstacle !== undefined) return obstacle;
  const led = lead === undefined ? { retargets: [], helpers: [] } : lead(window, moved.fragments);
  if (led instanceof Refusal) return led;
  // No probe is among what stands before it.
  const entered = led.retargets.length === 0 ? start : firstEntered(context, first, moved.fragments, led.retargets);
  return {
    tactic,
    site: context.site,
    window: { start: entered, end },
    change: {
      kind: "detour",
      via: entered === start ? via : "branches",
      body: moved.fragments.filter((f) => !isBefore(f, entered)),
      resume: moved.fallsThrough ? end : undefined,
      retargets: led.retargets,
    },
    displaced: [
      ...moved.texts.slice(moved.fragments.filter((f) => isBefore(f, entered)).length),
      ...led.helpers.flatMap((h) => h.displaced),
    ],
    helpers: led.helpers,
  };
}

/**
 * Where the code that moves is entered first: at its beginning, or, where nothing leads there, at the first branch that
 * leads in. What stands before that never runs: it stays, and a jump in its place would be one that nobody takes.
 *
 *     jmp other
 *     66 90       padding        never runs, but would give room for a jump
 *     90          *nop           <- probe; a branch leads here, and will lead to new code
 */
function firstEntered(
  { code, facts }: SiteContext,
  first: number,
  fragments: readonly Fragment[],
  retargets: readonly Retarget[],
): Vaddr {
  const start = addressOf(code, first);
  if (first === 0 || (code.flow[first - 1]! & GOES_NOWHERE) === 0 || facts.entries.has(start)) return start;
  const target = vaddr(Math.min(...retargets.map((r) => r.target)));
  // A probe that never runs has to be somewhere all the same.
  return fragments.some((f) => f.kind === "probe" && f.site < target) ? start : target;
}

const GOES_NOWHERE = Flow.Jump | Flow.IndirectJump | Flow.Return;

const isBefore = (f: Fragment, address: Vaddr): boolean => (f.kind === "probe" ? f.site : f.at) < address;

interface MovedCode {
  readonly fragments: readonly Fragment[];
  readonly texts: readonly string[];
  /** The index of the first instruction that does not move, and where it begins. */
  readonly next: number;
  readonly end: Vaddr;
  readonly fallsThrough: boolean;
}

/** Instructions from `first` on as new code, as long as `more` asks for the next one and the block goes on. */
export function movedCode(
  context: SiteContext,
  first: number,
  more: (next: number, end: Vaddr) => boolean,
  calls = false,
): MovedCode | Refusal {
  const { code } = context;
  const fragments: Fragment[] = [];
  const texts: string[] = [];
  let end = addressOf(code, first);
  let fallsThrough = true;
  let i = first;
  for (; fallsThrough && more(i, end); i++) {
    if (i >= code.count) return refuse("no-room", "the function ends before there is room for a jump");
    const at = addressOf(code, i);
    const probe = context.probe(at);
    if (probe !== undefined) fragments.push({ kind: "probe", site: at, form: probe.form });
    else if (context.isSite(at)) return refuse("other-probe", `another probe at ${hex(at)} would have to move`, at);
    else {
      const traits = movable(context, i, calls);
      if (traits instanceof Refusal) return traits;
      fragments.push({ kind: "instruction", at, bytes: instructionBytes(code, i) });
      texts.push(traits.text);
    }
    end = vaddr(end + lengthOf(code, i));
    fallsThrough = (code.flow[i]! & GOES_NOWHERE) === 0;
  }
  if (i <= context.index) return refuse("no-room", "the block before the probe ends");
  return { fragments, texts, next: i, end, fallsThrough };
}
