/**
 * Jumps in padding on the way to new code, and the frame in which they run: that of the place that jumps there. A
 * signal, a single step or a cancellation may stop a thread there, and its stack is walked from there like from
 * anywhere else.
 *
 *     between functions    no FDE covers padding: the jump gets one of its own (new-frames.ts), with the one row of its origin
 *     inside of one        the function's own FDE covers it, and cannot say two things: its row must be the origin's already
 *
 * A row after `ret` is often that of the return, where nothing is left on the stack, and not that of the block that
 * jumps.
 */
import { type Vaddr, vaddr } from "../../address.js";
import type { EhFrame } from "../../elf/eh-frame.js";
import { readExceptionTable } from "../../elf/exception-table.js";
import { stateAt, stateKey } from "../../elf/frame-states.js";
import { InputError } from "../../errors.js";
import type { OriginFrames } from "./origin-frames.js";
import type { OriginStretch } from "./origins.js";

/**
 * Whether a jump at [start, end) that is jumped to from `origin` can be unwound as what it is there: by an FDE of its
 * own, by the one that covers it, or, where the origin has none, as little as before: a neighbour's rules would lead
 * through a stack that is not theirs.
 */
export function keepsFrame(frames: OriginFrames, origin: Vaddr, start: Vaddr, end: Vaddr): boolean {
  const { records } = frames;
  const from = records.indexAt(origin);
  if (!isCovered(records, start, end)) return true;
  if (from < 0) return false;
  const at = records.indexAt(start);
  if (at < 0 || records.indexAt(end - 1) !== at) return false;
  try {
    const state = (index: number, address: Vaddr): string => stateKey(stateAt(frames.table(index), address));
    return state(at, start) === state(from, origin) && isSameKind(frames, [from, origin], [at, start]);
  } catch (error) {
    if (error instanceof InputError) return false;
    throw error;
  }
}

/** The jumps that no FDE covers: each gets one. */
export const uncoveredRelays = (frames: EhFrame, relays: readonly OriginStretch[]): readonly OriginStretch[] =>
  relays.filter(({ start, end }) => !isCovered(frames, start, end));

function isCovered(frames: EhFrame, start: Vaddr, end: Vaddr): boolean {
  for (let at: number = start; at < end; at++) if (frames.indexAt(vaddr(at)) >= 0) return true;
  return false;
}

type Place = readonly [index: number, address: Vaddr];

/** Whether two places have the same kind of frame, and the same handlers for what is thrown there. */
function isSameKind(frames: OriginFrames, a: Place, b: Place): boolean {
  const { records } = frames;
  if (a[0] === b[0] && records.fde(a[0]).lsda === undefined) return true;
  const [one, other] = [records.record(a[0]).cie, records.record(b[0]).cie];
  if (one.returnColumn !== other.returnColumn || one.augmentation.includes("S") !== other.augmentation.includes("S"))
    return false;
  if (records.fde(a[0]).lsda === undefined && records.fde(b[0]).lsda === undefined) return true;
  return a[0] === b[0] && handlers(frames, a) === handlers(frames, b);
}

function handlers({ image, records }: OriginFrames, [index, address]: Place): string {
  const { start, lsda } = records.fde(index);
  const record = readExceptionTable(image, start, lsda!).callSites.find((s) => address >= s.start && address < s.end);
  return record === undefined ? "none" : `${record.landingPad} ${record.filters?.join()}`;
}
