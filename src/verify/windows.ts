/**
 * Windows: the parts of the original's code around changed bytes, and where execution arrives in each.
 *
 * Outside of windows both sides have the same bytes, so from one state there both sides come to the same next state.
 * What has to be proved begins where execution comes from there into a window:
 *
 *     at the first instruction      from the one in front of it, unless that one never goes on
 *     wherever the facts say        a branch, a pointer, a jump table, a landing pad leads to it
 *     where a function begins
 *
 * A branch that lies in a window itself does not count: where it leads is followed when its window is.
 *
 * A jump whose distance is the bytes after it as they were (a pun) changes one byte, the nop's: it is a window of its
 * own. Who enters after it finds what was there, so nothing has to be known of that; it is passed from its start alone.
 *
 * Changed bytes close to each other make one window: among the bytes of a jump, or of a block that moved, some are what
 * they were by chance.
 */

import { hex, type Interval, interval, type Vaddr, vaddr } from "../address.js";
import { describeEntry } from "../facts/entries.js";
import type { ProgramFacts } from "../facts/program.js";
import { touches } from "../intervals.js";
import { countWhile } from "../sorted.js";
import { addressOf, type DecodedCode, Flow, indexAt, lengthOf } from "../x86/decode.js";
import { nopLength } from "../x86/nops.js";
import type { CodeReader } from "./code-reader.js";
import { type Pun, punWindow } from "./puns.js";
import type { Arrival, Window } from "./window.js";
import type { Arrival as Told } from "./witness/testimony.js";

/** As long as the longest block that moves: within it bytes may be equal by chance. */
const CLOSE = 64;

/** The instructions of the original, padding included, as far as they are known. */
export class OriginalLayout {
  constructor(
    private readonly facts: ProgramFacts,
    private readonly code: CodeReader,
  ) {}

  /** The function part that contains an address, decoded; undefined in gaps. */
  part(address: Vaddr): DecodedCode | undefined {
    const range = this.facts.functions.containing(address);
    return range && this.facts.functions.code(range);
  }

  /** Why nothing can be said of the code at an address, or undefined. */
  unknown(address: Vaddr): string | undefined {
    const { functions } = this.facts;
    if (functions.containing(address) !== undefined) {
      const known = this.facts.siteCode(address);
      return typeof known === "string" ? known : undefined;
    }
    if (functions.gapAt(address) === undefined) return "no section of code is here";
    const { start, end } = this.instruction(address);
    return functions.paddingAt(start, end) === end - start
      ? undefined
      : "no function is known here (.eh_frame and symbols do not say)";
  }

  /** The instruction, or the piece of padding, that covers an address. */
  instruction(address: Vaddr): Interval<Vaddr> {
    const part = this.part(address);
    if (part !== undefined && address < part.start + part.offsets[part.count]!) {
      const i = indexAt(part, address);
      return interval(addressOf(part, i), lengthOf(part, i));
    }
    const gap = part === undefined ? this.facts.functions.gapAt(address) : undefined;
    let piece = interval(gap?.start ?? address, 0);
    do piece = interval(piece.end, this.lengthInGap(piece.end));
    while (piece.end <= address);
    return piece;
  }

  private lengthInGap(at: Vaddr): number {
    const bytes = this.code.bytes(at, 16);
    if (bytes[0] === 0 || bytes[0] === 0xcc) return 1;
    return nopLength(bytes, 0) || (this.code.at(at)?.length ?? 1);
  }

  /** The same up to borders of instructions on both sides. */
  widened({ start, end }: Interval<Vaddr>): Interval<Vaddr> {
    return { start: this.instruction(start).start, end: this.instruction(vaddr(end - 1)).end };
  }
}

/**
 * @param changed what differs, ascending and disjoint
 * @param puns those of them that are the first byte of a jump over bytes that did not change
 * @param told who else may arrive in changed code, as the witness says, ascending
 */
export function windowsOf(
  facts: ProgramFacts,
  layout: OriginalLayout,
  changed: readonly Interval<Vaddr>[],
  puns: ReadonlyMap<Interval<Vaddr>, Pun>,
  told: readonly Told[],
): readonly Window[] {
  const around: { start: Vaddr; end: Vaddr; pun?: Pun | undefined }[] = [];
  for (const run of changed) {
    const pun = puns.get(run);
    const { start, end } = layout.widened(run);
    const last = around.at(-1);
    const isMore = pun === undefined && last !== undefined && last.pun === undefined && belongsTo(layout, last, start);
    if (isMore) last.end = vaddr(Math.max(last.end, end));
    else around.push({ start, end, pun });
  }
  return around.map(({ start, end, pun }) =>
    pun === undefined
      ? {
          start,
          end,
          arrivals: arrivalsIn({ facts, layout, changed, told }, start, end, (branch) =>
            touches(around, branch, branch + 1),
          ),
          returns: returnsIn(layout, start, end),
          frozen: frozenIn(facts, changed, start, end),
          unknown: layout.unknown(start) ?? layout.unknown(vaddr(end - 1)),
        }
      : punWindow(facts, { start, end }, pun),
  );
}

/** Whether changed bytes from `at` on make one window with those before them: in one function, and its padding. */
function belongsTo(layout: OriginalLayout, { start, end }: Interval<Vaddr>, at: Vaddr): boolean {
  if (at >= end + CLOSE) return false;
  // A change in code that cannot be told must not draw a probe in code that can into its uncertainty.
  if (layout.unknown(start) !== layout.unknown(at)) return false;
  const part = layout.part(at);
  return at <= end || part === undefined || part === layout.part(vaddr(end - 1));
}

interface Known {
  readonly facts: ProgramFacts;
  readonly layout: OriginalLayout;
  readonly changed: readonly Interval<Vaddr>[];
  /** Ascending. */
  readonly told: readonly Told[];
}

function arrivalsIn(
  { facts, layout, changed, told }: Known,
  start: Vaddr,
  end: Vaddr,
  isFollowed: (branch: Vaddr) => boolean,
): Arrival[] {
  const arrivals = new Map<Vaddr, Arrival>();
  const add = (arrival: Arrival): void => {
    const known = arrivals.get(arrival.address);
    if (known === undefined || (known.doubtful && !arrival.doubtful)) arrivals.set(arrival.address, arrival);
  };
  for (let at = start; at < end; ) {
    const part = layout.part(at);
    if (part !== undefined && part.start === at)
      add({ address: at, reason: "a function begins here", doubtful: false });
    at = layout.instruction(at).end;
  }
  if (isRunInto(facts, layout, start))
    add({ address: start, reason: "the instruction before it goes on here", doubtful: false });
  // What only looks like a pointer, and leads between two instructions or two functions, is other data: unless that
  // changed.
  const isOther = (address: Vaddr): boolean => {
    const { start: border, end: next } = layout.instruction(address);
    const isCode = border === address && layout.part(border) !== undefined;
    return !isCode && !touches(changed, border, next);
  };
  const isBetween = (address: Vaddr): boolean =>
    layout.part(address) !== undefined && layout.instruction(address).start !== address;
  for (const entry of facts.entries.within(start, end)) {
    if (entry.branches?.every((branch) => isFollowed(branch.at))) continue;
    // A pointer between two instructions may have something added before it is gone by.
    const doubtful = !entry.isCertain || (entry.branches === undefined && isBetween(entry.address));
    if (entry.isCertain || !isOther(entry.address))
      add({ address: entry.address, reason: describeEntry(entry), doubtful });
  }
  for (
    let i = countWhile(told.length, (n) => told[n]!.address < start);
    i < told.length && told[i]!.address < end;
    i++
  ) {
    const { why, certain, from } = told[i]!;
    const address = vaddr(told[i]!.address);
    if (from !== undefined && isFollowed(vaddr(from))) continue;
    if (certain || !isOther(address)) add({ address, reason: why, doubtful: !certain });
  }
  return [...arrivals.values()].sort((a, b) => a.address - b.address);
}

/** How far back it is looked for what leads to the code in front of a window. */
const MOST_BEFORE = 16;

/**
 * Whether the code in front of a window goes on into it; not if it is padding, or other code, that nothing leads to.
 */
function isRunInto(facts: ProgramFacts, layout: OriginalLayout, start: Vaddr): boolean {
  const part = layout.part(vaddr(start - 1));
  if (part === undefined || layout.part(start) !== part) return false;
  for (let at = start, count = 0; count < MOST_BEFORE; count++) {
    const index = indexAt(part, at - 1);
    if (!goesOn(part.flow[index]!)) return false;
    at = addressOf(part, index);
    if (at <= part.start || !facts.covers(at, start) || facts.entries.within(at, at + 1).length > 0) return true;
  }
  return true;
}

function returnsIn(layout: OriginalLayout, start: Vaddr, end: Vaddr): Vaddr[] {
  const found: Vaddr[] = [];
  for (let at = start; at < end; ) {
    const part = layout.part(at);
    const behind = vaddr(Math.max(at + 1, layout.instruction(at).end));
    const isCall = part !== undefined && (part.flow[indexAt(part, at)]! & Flow.Call) !== 0;
    if (isCall && behind < end && behind < part.end) found.push(behind);
    at = behind;
  }
  return found;
}

function frozenIn(
  facts: ProgramFacts,
  changed: readonly Interval<Vaddr>[],
  start: Vaddr,
  end: Vaddr,
): string | undefined {
  if (facts.entries.frozenWithin(start, end) === undefined) return undefined;
  for (const run of changed) {
    const frozen = run.start < end && run.end > start ? facts.entries.frozenWithin(run.start, run.end) : undefined;
    if (frozen !== undefined) return `the bytes at ${hex(frozen.start)} must not change: ${frozen.reason}`;
  }
  return undefined;
}

const goesOn = (flow: number): boolean => (flow & (Flow.Jump | Flow.IndirectJump | Flow.Return)) === 0;
