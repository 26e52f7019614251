/**
 * Jumps in padding on the way to new code, and the frame in which they run: that of the place that jumps there. A signal, a
 * single step or a cancellation may stop a thread there, and its stack is walked from there like from anywhere else.
 *
 *     between functions    no FDE covers padding: the jump gets one of its own (new-frames.ts), with the one row of its origin
 *     inside of one        the function's own FDE covers it, and cannot say two things: its row must be the origin's already
 *
 * A row behind `ret` is often that of the return, where nothing is left on the stack, and not that of the block that jumps.
 */
import { type Vaddr, vaddr } from "../../address.js";
import type { EhFrame } from "../../elf/eh-frame.js";
import { readExceptionTable } from "../../elf/exception-table.js";
import { type FrameTable, readFrameTable, stateAt, stateKey } from "../../elf/frame-states.js";
import type { ElfImage } from "../../elf/image.js";
import { InputError } from "../../errors.js";
import type { OriginStretch } from "./origins.js";

/**
 * Whether a jump at [start, end) that is jumped to from `origin` can be unwound as what it is there: by an FDE of its own, by
 * the one that covers it, or, where the origin has none, as little as before: a neighbour's rules would lead through a stack
 * that is not theirs.
 */
export function keepsFrame(image: ElfImage, frames: EhFrame, origin: Vaddr, start: Vaddr, end: Vaddr): boolean {
  const from = frames.indexAt(origin);
  if (!isCovered(frames, start, end)) return true;
  if (from < 0) return false;
  const at = frames.indexAt(start);
  if (at < 0 || frames.indexAt(end - 1) !== at) return false;
  try {
    const state = (index: number, address: Vaddr): string => stateKey(stateAt(tableOf(frames, index), address));
    return state(at, start) === state(from, origin) && isSameKind(image, frames, [from, origin], [at, start]);
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
function isSameKind(image: ElfImage, frames: EhFrame, a: Place, b: Place): boolean {
  if (a[0] === b[0] && frames.fde(a[0]).lsda === undefined) return true;
  const [one, other] = [frames.record(a[0]).cie, frames.record(b[0]).cie];
  if (one.returnColumn !== other.returnColumn || one.augmentation.includes("S") !== other.augmentation.includes("S"))
    return false;
  if (frames.fde(a[0]).lsda === undefined && frames.fde(b[0]).lsda === undefined) return true;
  return a[0] === b[0] && handlers(image, frames, a) === handlers(image, frames, b);
}

function handlers(image: ElfImage, frames: EhFrame, [index, address]: Place): string {
  const { start, lsda } = frames.fde(index);
  const record = readExceptionTable(image, start, lsda!).callSites.find((s) => address >= s.start && address < s.end);
  return record === undefined ? "none" : `${record.landingPad} ${record.filters?.join()}`;
}

const tables = new WeakMap<EhFrame, Map<number, FrameTable>>();

function tableOf(frames: EhFrame, index: number): FrameTable {
  const known = tables.get(frames) ?? new Map<number, FrameTable>();
  tables.set(frames, known);
  const table = known.get(index) ?? readFrameTable(frames.program(index));
  known.set(index, table);
  return table;
}
