/**
 * The slots of the stack whose distance from the stack pointer is known. Lists of them ascend by frame and offset and
 * do not overlap.
 *
 * What is stored over a part of a slot leaves the rest of it: a *part*, which holds what the slot did, and is no value
 * any more. Who loads bytes of several slots, or of a part, loads something that was put together of them.
 */
import { Is, join, type Value } from "./value.js";

export interface Slot {
  readonly frame: number;
  readonly offset: number;
  readonly size: number;
  readonly value: Value;
  readonly isPart: boolean;
}

/** A stretch of the stack. */
export interface Place {
  readonly frame: number;
  readonly offset: number;
  readonly size: number;
}

/** The indices of the slots that overlap a place: [first, last). */
export function overlapping(slots: readonly Slot[], { frame, offset, size }: Place): readonly [number, number] {
  let first = 0;
  while (
    first < slots.length &&
    (slots[first]!.frame < frame ||
      (slots[first]!.frame === frame && slots[first]!.offset + slots[first]!.size <= offset))
  )
    first++;
  let last = first;
  while (last < slots.length && slots[last]!.frame === frame && slots[last]!.offset < offset + size) last++;
  return [first, last];
}

/** What is left of slots that something is stored over in part. */
export function remnants(
  slots: readonly Slot[],
  { offset, size }: Place,
  matters: (value: Value) => boolean,
): { readonly before: readonly Slot[]; readonly behind: readonly Slot[] } {
  const before: Slot[] = [];
  const behind: Slot[] = [];
  const end = offset + size;
  for (const slot of slots) {
    const slotEnd = slot.offset + slot.size;
    if ((slot.offset >= offset && slotEnd <= end) || !matters(slot.value)) continue;
    if (slot.offset < offset) before.push({ ...slot, size: offset - slot.offset, isPart: true });
    if (slotEnd > end) behind.push({ ...slot, offset: end, size: slotEnd - end, isPart: true });
  }
  return { before, behind };
}

export const sameSlots = (a: readonly Slot[], b: readonly Slot[], same: (a: Value, b: Value) => boolean): boolean =>
  a === b ||
  (a.length === b.length &&
    a.every((s, i) => {
      const o = b[i]!;
      return s === o || (isSamePlace(s, o) && s.isPart === o.isPart && same(s.value, o.value));
    }));

const isSamePlace = (a: Place, b: Place): boolean => a.frame === b.frame && a.offset === b.offset && a.size === b.size;

/**
 * The slots that both of two ways leave: where only one of them has put something, the other has what was handed over,
 * and nothing is kept. But what one of them has stored over in part stays a part, with what the other has there.
 * @returns `a` itself where nothing is new
 */
export function joinSlots(
  a: readonly Slot[],
  b: readonly Slot[],
  widened: (joined: Value, before: Value) => Value,
  same: (a: Value, b: Value) => boolean,
): readonly Slot[] {
  if (a === b) return a;
  const hasParts = a.some((s) => s.isPart) || b.some((s) => s.isPart);
  let isSame = true;
  const slots: Slot[] = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    const [slot, other] = [a[i], b[j]];
    if (slot !== undefined && other !== undefined && isSamePlace(slot, other)) {
      i++;
      j++;
      if (slot === other) {
        slots.push(slot);
        continue;
      }
      const joined = join(slot.value, other.value);
      const value = joined === slot.value ? joined : widened(joined, slot.value);
      const isPart = slot.isPart || other.isPart;
      const isKnown = same(value, slot.value) && isPart === slot.isPart;
      if (!isKnown) isSame = false;
      slots.push(isKnown ? slot : { ...slot, value, isPart });
      continue;
    }
    if (!hasParts) {
      // One of two that do not match goes, and what it overlaps at its turn.
      if (slot === undefined || (other !== undefined && isBefore(other, slot))) j++;
      else {
        i++;
        isSame = false;
      }
      continue;
    }
    // What overlaps what comes first, on both sides.
    const own: Slot[] = [];
    const theirs: Slot[] = [];
    const start = other === undefined || (slot !== undefined && isBefore(slot, other)) ? slot! : other;
    let end = start.offset;
    const take = (from: readonly Slot[], at: number, into: Slot[]): boolean => {
      const next = from[at];
      if (next === undefined || next.frame !== start.frame || (next !== start && next.offset >= end)) return false;
      end = Math.max(end, next.offset + next.size);
      into.push(next);
      return true;
    };
    for (let more = true; more; ) {
      more = false;
      for (; take(a, i, own); i++) more = true;
      for (; take(b, j, theirs); j++) more = true;
    }
    const all = [...own, ...theirs];
    if (!all.some((s) => s.isPart)) {
      if (own.length > 0) isSame = false;
      continue;
    }
    const [first] = own;
    const before = first?.value ?? all[0]!.value;
    const joined = all.reduce((value, s) => join(value, s.value), before);
    const value = joined === before ? joined : widened(joined, before);
    const part: Slot = { ...start, size: end - start.offset, value, isPart: true };
    const isKnown = own.length === 1 && first!.isPart && isSamePlace(first!, part) && same(value, first!.value);
    if (!isKnown) isSame = false;
    slots.push(isKnown ? first! : part);
  }
  return isSame && slots.length === a.length ? a : slots;
}

const isBefore = (a: Slot, b: Slot): boolean => a.frame < b.frame || (a.frame === b.frame && a.offset < b.offset);

/** What was computed, or is not known: what must not be lost where a slot is told of in pieces. */
export const COMPUTED = Is.Sum | Is.Off | Is.OffRet | Is.Taint | Is.Moved;
