/**
 * How a branch that leads into a window comes to lead to new code.
 *
 * One with a 32-bit distance gets another one. A short one has a reach of 128 bytes, and new code is further away:
 *
 *     widened    eb 82                jmp short X           padding after it gives the room
 *                66 2e 0f 1f ..       padding
 *         after  e9 ......            jmp new X
 *
 *     relay      74 a3                je short X
 *         after  74 xx                je short padding
 *                e9 ......            jmp new X             in padding nearby, see padding.ts
 *
 *     moves      74 a3                je short X            with what stands around it, by a detour of its own
 *                eb a0                jmp short Y
 *         after  e9 ......            jmp new
 *         new    0f 84 ......         je new X
 *                e9 ......            jmp Y
 *
 * loop and jrcxz have no near form, so they do not move.
 */
import { type Interval, type Vaddr, vaddr } from "../../address.js";
import { type Branch, describeEntry, type Entry } from "../../facts/entries.js";
import { JUMP_SIZE, SHORT_JUMP_SIZE } from "../../x86/bytes.js";
import { indexOf, instructionBytes } from "../../x86/decode.js";
import { isPlainBranch } from "../../x86/relocate.js";
import type { Fragment, Proposal, Retarget, RetargetWay, SiteContext } from "../proposal.js";
import { Refusal, refuse } from "../refusal.js";
import { detour, type Led, starts } from "./displace.js";
import { type IsFree, wayThroughPadding } from "./padding.js";
import { frozenObstacle, paddingRoom, windowObstacle } from "./safety.js";

const SHORT_JMP = 0xeb;

/** Which branches may be led elsewhere: those with a 32-bit distance, or any. */
export type Entering = "near branches" | "any branch";

/** Leads the branches into a window elsewhere, if they are all that enters it and there is a way for each. */
export function leadBranches(
  context: SiteContext,
  entering: Entering,
  window: Interval<Vaddr>,
  fragments: readonly Fragment[],
): Led | Refusal {
  const retargets: Retarget[] = [];
  const helpers: Proposal[] = [];
  const taken: Interval<Vaddr>[] = [window];
  const isFree = (start: Vaddr, end: Vaddr): boolean =>
    context.isFree(start, end) && !taken.some((t) => t.start < end && start < t.end);
  const entries = context.facts.entries.within(window.start + 1, window.end);
  const all = entries.flatMap((entry) => entry.branches ?? []);
  for (const entry of entries) {
    const inside = fragments.some((f) => (f.kind === "probe" ? f.site : f.at) === entry.address);
    if (!inside || entry.branches === undefined) return entryObstacle(entry);
    for (const branch of entry.branches) {
      const bytes = branchBytes(context, branch);
      if (bytes === undefined && !branch.wide) return entryObstacle(entry);
      const known = { branch, target: entry.address, bytes: bytes ?? new Uint8Array(0) };
      if (movesAlong(context, branch, bytes, fragments)) {
        retargets.push({ ...known, way: "moves" });
        continue;
      }
      const found = wayFor(context, branch, all, entering, helpers, isFree);
      if (found === undefined)
        return refuse("entered", `${entryObstacle(entry).text}, and ${wayObstacle(branch)}`, entry.address);
      const { way } = found;
      retargets.push({ ...known, way });
      taken.push(...stretchesOf(branch, way), ...found.helpers.map((h) => h.window));
      helpers.push(...found.helpers);
    }
  }
  return { retargets, helpers };
}

/** Whether the branch moves to new code itself: with this window, or with an earlier one. */
const movesAlong = (
  context: SiteContext,
  { at }: Branch,
  bytes: Uint8Array | undefined,
  fragments: readonly Fragment[],
): boolean =>
  bytes !== undefined &&
  isPlainBranch(bytes) &&
  (context.isMoved(at) || fragments.some((f) => f.kind === "instruction" && f.at === at));

/** The bytes that change so that a branch leads elsewhere. */
export function stretchesOf({ at, end }: Branch, way: Retarget["way"]): readonly Interval<Vaddr>[] {
  if (way === "moves") return [];
  const own = { start: at, end };
  if (way === "near") return [own];
  return way.kind === "widened" ? [way.over] : [own, ...way.through];
}

const entryObstacle = (entry: Entry): Refusal =>
  refuse(
    "entered",
    `${describeEntry({ ...entry, reason: entry.besides ?? entry.reason })}, inside the bytes that are needed`,
    entry.address,
  );

const wayObstacle = ({ wide }: Branch): string =>
  wide
    ? "its bytes are needed for something else, or cannot change"
    : "it is too short to lead elsewhere, with no room for a longer one";

interface Way {
  readonly way: RetargetWay;
  readonly helpers: readonly Proposal[];
}

/** The bytes of a branch, or undefined where it is in no known function. */
function branchBytes({ facts: { functions } }: SiteContext, { at }: Branch): Uint8Array | undefined {
  const range = functions.containing(at);
  const code = range && functions.code(range);
  const index = code?.unclean === undefined && code !== undefined ? indexOf(code, at) : -1;
  return index < 0 || code === undefined ? undefined : instructionBytes(code, index);
}

/**
 * The cheapest way for a branch that stays where it is, or that a detour of its own moves.
 * @param all the branches that lead into the window
 * @param entering which of them may be led elsewhere
 * @param helpers detours for the same window's sake, made already
 * @param isFree which bytes are still to be had
 */
function wayFor(
  context: SiteContext,
  branch: Branch,
  all: readonly Branch[],
  entering: Entering,
  helpers: readonly Proposal[],
  isFree: IsFree,
): Way | undefined {
  if (helpers.some((h) => movesInstruction(h, branch.at))) return { way: "moves", helpers: [] };
  if (!isFree(branch.at, branch.end) || frozenObstacle(context.facts, branch.at, branch.end)) return undefined;
  if (branch.wide) return { way: "near", helpers: [] };
  const bytes = branchBytes(context, branch);
  if (entering !== "any branch" || bytes === undefined) return undefined;
  const over = bytes[0] === SHORT_JMP ? roomToWiden(context, branch, isFree) : undefined;
  if (over !== undefined) return { way: { kind: "widened", over }, helpers: [] };
  const room = wayThroughPadding(context, { start: branch.at, end: branch.end }, isFree);
  const isCheap = room?.through.length === 1 && room.helpers.length === 0;
  const helper = isCheap || !isPlainBranch(bytes) ? undefined : helperFor(context, branch, all, isFree);
  if (helper !== undefined) return { way: "moves", helpers: [helper] };
  return room && { way: { kind: "relay", through: room.through }, helpers: room.helpers };
}

/** Whether a proposal moves the instruction at an address to new code. */
export function movesInstruction({ change }: Proposal, at: Vaddr): boolean {
  return change.kind === "detour" && change.body.some((f) => f.kind === "instruction" && f.at === at);
}

/** The bytes of a near jmp in the place of a short one with padding after it. */
function roomToWiden(context: SiteContext, { at, end }: Branch, isFree: IsFree): Interval<Vaddr> | undefined {
  const around = contextAt(context, at);
  if (around === undefined) return undefined;
  const need = JUMP_SIZE - SHORT_JUMP_SIZE;
  const room = paddingRoom(around, around.index + 1, need);
  const over = { start: at, end: vaddr(end + room) };
  if (room < need || !isFree(over.start, over.end) || context.facts.entries.has(end)) return undefined;
  return windowObstacle(around, over.start, over.end) === undefined ? over : undefined;
}

/** How long windows around branches are tried: others that need a way as well may stand close by. */
const HELPER_SIZES = Array.from({ length: 12 }, (_, more) => JUMP_SIZE + more);

/** A detour without a probe around a branch, and around as many of the others as possible. */
function helperFor(
  context: SiteContext,
  branch: Branch,
  others: readonly Branch[],
  isFree: IsFree,
): Proposal | undefined {
  const around = contextAt(context, branch.at);
  if (around === undefined) return undefined;
  let best: { helper: Proposal; count: number } | undefined;
  for (const first of [around.index, ...starts(around)])
    for (const size of HELPER_SIZES) {
      const helper = detour(around, first, around.index, "displace", { size });
      if (helper instanceof Refusal || helper.change.kind !== "detour") continue;
      const { start, end } = helper.window;
      if (helper.change.body.some((f) => f.kind === "probe") || !isFree(start, end)) continue;
      const count = others.filter((o) => movesInstruction(helper, o.at)).length;
      if (best === undefined || count > best.count) best = { helper: { ...helper, site: context.site }, count };
    }
  return best?.helper;
}

/** The context of a branch in the same part of the function: elsewhere jump tables have not been looked for. */
function contextAt(context: SiteContext, at: Vaddr): SiteContext | undefined {
  const index = indexOf(context.code, at);
  return index < 0 ? undefined : { ...context, site: at, index };
}
