/**
 * Padding in the reach of a short jump: room for a jump that the place itself has no room for.
 *
 *     7f           jne .          3 bytes of room at the probe: a short jump
 *     ...
 *     c3           ret
 *     0f 1f 00     padding        2 bytes are enough for another short jump
 *     ...
 *     e9 ......    jmp X
 *     66 2e 0f ..  padding        5 bytes hold the near jump
 *
 * Where there is none, other code may make room.
 *
 * Padding stands after an instruction that never goes on, and nothing enters it. It is looked for in the probe's own
 * part of the function, where jump tables have been searched for, and between functions, where no jump table leads. And
 * stacks must be found from there as from where the jump comes from; see ../unwind/relays.ts.
 */
import { type Interval, type Vaddr, vaddr } from "../../address.js";
import { JUMP_SIZE, SHORT_JUMP_HIGH, SHORT_JUMP_LOW, SHORT_JUMP_SIZE } from "../../x86/bytes.js";
import { addressOf, type DecodedCode, Flow } from "../../x86/decode.js";
import type { Proposal, SiteContext } from "../proposal.js";
import { Refusal } from "../refusal.js";
import { keepsFrame } from "../unwind/relays.js";
import { detour } from "./displace.js";
import { paddingRoom, windowObstacle } from "./safety.js";

/** Each short jump on the way costs the program a jump: more than two are not worth it. */
const MOST_SHORT_JUMPS = 2;

/** Which bytes are still to be had. */
export type IsFree = (start: Vaddr, end: Vaddr) => boolean;

const GOES_NOWHERE = Flow.Jump | Flow.IndirectJump | Flow.Return;

/**
 * The shortest way from a 2-byte branch to a near jump: stretches of padding, of which the last has room for a near
 * jump and those before it for short ones; or undefined.
 * @param branch the branch: its distance counts from its end
 */
export function wayThroughPadding(context: SiteContext, branch: Interval<Vaddr>, isFree: IsFree): Room | undefined {
  const through = throughPadding(context, branch, isFree);
  if (through !== undefined) return { through, helpers: [] };
  return context.evicts ? evictedRoom(context, branch, isFree) : undefined;
}

/** Stretches that jumps go through, and the detours that made room for them. */
interface Room {
  readonly through: readonly Interval<Vaddr>[];
  readonly helpers: readonly Proposal[];
}

function throughPadding(
  context: SiteContext,
  branch: Interval<Vaddr>,
  isFree: IsFree,
): readonly Interval<Vaddr>[] | undefined {
  const inReachOf = (way: readonly Interval<Vaddr>[], need: number): Interval<Vaddr>[] =>
    inReach(context, branch.start, endOf(way, branch.end), need, isFree);
  let ways: (readonly Interval<Vaddr>[])[] = [[]];
  for (let jumps = 1; jumps <= MOST_SHORT_JUMPS; jumps++) {
    for (const way of ways)
      for (const stretch of inReachOf(way, JUMP_SIZE))
        if (!way.some((s) => touch(s, stretch))) return [...way, stretch];
    ways = ways.flatMap((way) => inReachOf(way, SHORT_JUMP_SIZE).map((s) => [...way, s]));
  }
  return undefined;
}

/**
 * Room that other code makes: a detour without a probe moves instructions nearby, and of the bytes that its own jump
 * leaves, five hold the near jump.
 *
 *     before   48 63 d1             movsxd rdx, ecx
 *              48 8d 05 ......      lea rax, [rip+Y]
 *     after    e9 ......            jmp new
 *              e9 ......            jmp X               a short jump leads here
 */
function evictedRoom(context: SiteContext, branch: Interval<Vaddr>, isFree: IsFree): Room | undefined {
  const { facts, site } = context;
  const { functions } = facts;
  const [low, high] = [branch.end + SHORT_JUMP_LOW - JUMP_SIZE, branch.end + SHORT_JUMP_HIGH - JUMP_SIZE];
  for (let i = Math.max(0, functions.lastAtOrBelow(low)); i < functions.count; i++) {
    const { start } = functions.range(i);
    if (start > high) return undefined;
    const around = facts.siteCode(start);
    if (typeof around === "string") continue;
    const { code } = around;
    for (let index = 0; index < code.count && addressOf(code, index) <= high; index++) {
      if (addressOf(code, index) < low) continue;
      const helper = detour({ ...context, ...around, site: addressOf(code, index), index }, index, index, "evict", {
        size: 2 * JUMP_SIZE,
      });
      if (helper instanceof Refusal || helper.change.kind !== "detour") continue;
      const { window, change } = helper;
      if (change.body.some((f) => f.kind === "probe") || !isFree(window.start, window.end)) continue;
      const border = vaddr(window.start + JUMP_SIZE);
      if (!keepsFrame(context.tables.frames, branch.start, border, window.end)) continue;
      return {
        through: [{ start: border, end: window.end }],
        helpers: [{ ...helper, site, window: { start: window.start, end: border } }],
      };
    }
  }
  return undefined;
}

const touch = (a: Interval<Vaddr>, b: Interval<Vaddr>): boolean => a.start < b.end && b.start < a.end;

/** Where the distance of the next branch counts from. */
const endOf = (way: readonly Interval<Vaddr>[], from: Vaddr): Vaddr => {
  const last = way.at(-1);
  return last === undefined ? from : vaddr(last.start + SHORT_JUMP_SIZE);
};

/**
 * @param origin the place that comes by: its frame has to be found in the padding, too
 * @param from where the distance of the jump counts from
 */
const inReach = (context: SiteContext, origin: Vaddr, from: Vaddr, need: number, isFree: IsFree): Interval<Vaddr>[] =>
  between(context, origin, vaddr(from + SHORT_JUMP_LOW), vaddr(from + SHORT_JUMP_HIGH), need, isFree);

/** Padding that begins at an address and has room for a near jump, which the site leads to. */
export const paddingAt = (context: SiteContext, at: Vaddr): Interval<Vaddr> | undefined =>
  between(context, context.site, at, at, JUMP_SIZE, (start, end) => context.isFree(start, end))[0];

function between(
  context: SiteContext,
  origin: Vaddr,
  low: Vaddr,
  high: Vaddr,
  need: number,
  isFree: IsFree,
): Interval<Vaddr>[] {
  const found: Interval<Vaddr>[] = [];
  for (const { start, room } of paddings(context, low, high, need)) {
    const end = vaddr(start + room);
    if (room < need || !isFree(start, end) || windowObstacle(context, start, end) !== undefined) continue;
    if (keepsFrame(context.tables.frames, origin, start, vaddr(start + need))) found.push({ start, end });
  }
  return found;
}

/**
 * Where padding begins with low <= address <= high, at the borders of its instructions, and how much follows, up to
 * `need`.
 */
function* paddings(
  context: SiteContext,
  low: Vaddr,
  high: Vaddr,
  need: number,
): Generator<{ start: Vaddr; room: number }> {
  const { facts, range } = context;
  const { functions } = facts;
  for (let i = Math.max(0, functions.lastAtOrBelow(low)); i < functions.count; i++) {
    const part = functions.range(i);
    if (part.start > high) return;
    const code = functions.code(part);
    if (code.unclean !== undefined) continue;
    if (part.index === range.index) yield* insidePaddings(context, low, high, need);
    if (code.count === 0 || (code.flow[code.count - 1]! & GOES_NOWHERE) === 0) continue;
    for (let at = code.end, first = 1; at <= high && first > 0 && !isEntered(context, at); at = vaddr(at + first)) {
      if (at >= low) yield { start: at, room: facts.paddingBehind(at, need) };
      first = facts.paddingBehind(at, 1);
    }
  }
}

/** The same inside of the probe's own part of the function. */
function* insidePaddings(
  context: SiteContext,
  low: Vaddr,
  high: Vaddr,
  need: number,
): Generator<{ start: Vaddr; room: number }> {
  const { code } = context;
  for (let i = 0; i + 1 < code.count; i++) {
    if ((code.flow[i]! & GOES_NOWHERE) === 0) continue;
    for (let next = i + 1; next < code.count && isNop(code, next); next++) {
      const start = addressOf(code, next);
      if (start > high || isEntered(context, start)) break;
      if (start >= low) yield { start, room: paddingRoom(context, next, need) };
    }
  }
}

/** What is entered runs, and so does all that follows. */
const isEntered = (context: SiteContext, at: Vaddr): boolean => context.isSite(at) || context.facts.entries.has(at);

const isNop = (code: DecodedCode, index: number): boolean =>
  (code.flow[index]! & Flow.Nop) !== 0 || code.bytes[code.offsets[index]!] === 0xcc;
