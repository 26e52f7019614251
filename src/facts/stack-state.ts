/**
 * What the registers hold of the stack at one place of a function, and how one instruction changes that.
 *
 * Each register is one of
 *   a base and an offset   the exact address base + offset; base ENTRY is rsp at the function's first instruction
 *   DERIVED                made of an address of the stack, nobody knows how far from it
 *   OTHER                  anything else: no address of this function's frame
 * A base is born where rsp gets a value that is not known exactly: `and $-32,%rsp`, `sub %rax,%rsp`, two ways that meet
 * with different heights. It stands for one unknown address, with bounds relative to ENTRY; offsets from it are exact.
 * The same instruction may run again in a loop, with another value: then what is left of the old one becomes DERIVED.
 *
 * A state is one array: 16 bases (or OTHER, DERIVED), then 16 offsets in bytes. A plain one: states are copied at every
 * block, and a typed array of this size would have its memory outside of the heap.
 */
import { type Effects, Kind, RBP, REGISTER_COUNT, RSP } from "../x86/effects.js";

export const ENTRY = 0;
export const OTHER = -1;
export const DERIVED = -2;

export type State = number[];

/** Beyond this an offset is not followed. */
const FARTHEST = 2 ** 30;

/** What a call leaves as it was: rbx, rsp, rbp, r12 to r15 (System V ABI, AMD64 supplement, section 3.2.1). */
const PRESERVED = (1 << 3) | (1 << RSP) | (1 << RBP) | (0xf << 12);

const filled = (base: number): State => {
  const state: State = [];
  for (let i = 0; i < 2 * REGISTER_COUNT; i++) state.push(i < REGISTER_COUNT ? base : 0);
  return state;
};

export function entryState(): State {
  const state = filled(OTHER);
  state[RSP] = ENTRY;
  return state;
}

/** Nothing is known but that every register may hold an address of the stack. */
export function unknownState(address: number, bases: Bases): State {
  const state = filled(DERIVED);
  set(state, RSP, bases.at(address * 2, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY), 0);
  return state;
}

/** All bases of one analysis, with bounds relative to ENTRY in bytes. */
export class Bases {
  private readonly lows: number[] = [0];
  private readonly highs: number[] = [0];
  private readonly ids = new Map<number, number>();

  /** The base that is born at a place, given by a number of its own; bounds that grow a second time become infinite. */
  at(place: number, low: number, high: number): number {
    const known = this.ids.get(place);
    if (known === undefined) {
      const id = this.lows.length;
      this.lows.push(low);
      this.highs.push(high);
      this.ids.set(place, id);
      return id;
    }
    if (low < this.lows[known]!) this.lows[known] = Number.NEGATIVE_INFINITY;
    if (high > this.highs[known]!) this.highs[known] = Number.POSITIVE_INFINITY;
    return known;
  }

  isBornAt(base: number, place: number): boolean {
    return this.ids.get(place) === base;
  }

  low(base: number): number {
    return this.lows[base]!;
  }

  high(base: number): number {
    return this.highs[base]!;
  }
}

export function set(state: State, register: number, base: number, offset: number): void {
  const exact = base >= 0 && Math.abs(offset) < FARTHEST;
  state[register] = exact ? base : base >= 0 ? DERIVED : base;
  state[register + REGISTER_COUNT] = exact ? offset : 0;
}

export const baseOf = (state: State, register: number): number => state[register]!;
export const offsetOf = (state: State, register: number): number => state[register + REGISTER_COUNT]!;
/** Whether a register holds an address of the stack, or something made of one. */
export const isTainted = (state: State, register: number): boolean => state[register] !== OTHER;

/** Whether any register of a set (a bit each) does. */
export function anyTainted(state: State, registers: number): boolean {
  for (let left = registers; left !== 0; left &= left - 1)
    if (state[31 - Math.clz32(left & -left)] !== OTHER) return true;
  return false;
}

/** Gives rsp a new base: its value is not known. Whatever holds the place's old base holds it no longer. */
function rebase(state: State, place: number, bases: Bases, low: number, high: number): void {
  const id = bases.at(place, low, high);
  forget(state, id);
  set(state, RSP, id, 0);
}

function forget(state: State, base: number): void {
  for (let r = 0; r < REGISTER_COUNT; r++) if (state[r] === base) set(state, r, DERIVED, 0);
}

const unbounded = (state: State, address: number, bases: Bases): void =>
  rebase(state, address * 2, bases, Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY);

/** Applies instruction `i`, which stands at link-time address `address`, to a state. */
export function transfer(state: State, effects: Effects, i: number, address: number, bases: Bases): void {
  const constant = effects.constant[i]!;
  const rsp = state[RSP]!;
  const height = state[RSP + REGISTER_COUNT]!;
  switch (effects.kind[i]) {
    case Kind.Add: {
      const source = effects.source[i]!;
      const target = effects.target[i]!;
      const base = state[source]!;
      if (target === RSP && base < 0) unbounded(state, address, bases);
      else set(state, target, base, state[source + REGISTER_COUNT]! + constant);
      return;
    }
    case Kind.Push:
      set(state, RSP, rsp, height - constant);
      return;
    case Kind.Pop:
      set(state, RSP, rsp, height + constant);
      break;
    case Kind.Align:
      rebase(state, address * 2, bases, bases.low(rsp) + height + constant + 1, bases.high(rsp) + height);
      return;
    case Kind.Allocate:
      rebase(state, address * 2, bases, Number.NEGATIVE_INFINITY, bases.high(rsp) + height);
      return;
    case Kind.Leave: {
      const base = state[RBP]!;
      if (base >= 0) set(state, RSP, base, state[RBP + REGISTER_COUNT]! + 8);
      else unbounded(state, address, bases);
      set(state, RBP, OTHER, 0);
      return;
    }
    case Kind.Enter:
      set(state, RBP, rsp, height - 8);
      set(state, RSP, rsp, height - 8 - constant);
      return;
    case Kind.Call:
      for (let r = 0; r < REGISTER_COUNT; r++) if ((PRESERVED & (1 << r)) === 0) set(state, r, OTHER, 0);
      return;
  }
  const writes = effects.writes[i]!;
  if (writes === 0) return;
  const tainted = anyTainted(state, effects.values[i]!);
  const keeps = effects.keeps[i]!;
  for (let left = writes; left !== 0; left &= left - 1) {
    const r = 31 - Math.clz32(left & -left);
    if (r === RSP) unbounded(state, address, bases);
    else set(state, r, tainted || (keeps & (1 << r) && isTainted(state, r)) ? DERIVED : OTHER, 0);
  }
}

/**
 * Merges the state of one more way that leads to `address` into the one that holds there.
 * @returns whether it changed
 */
export function merge(into: State, from: State, address: number, bases: Bases): boolean {
  let changed = false;
  for (let r = 0; r < REGISTER_COUNT; r++) {
    const base = into[r]!;
    const offset = into[r + REGISTER_COUNT]!;
    const other = from[r]!;
    const otherOffset = from[r + REGISTER_COUNT]!;
    if (base === other && offset === otherOffset) continue;
    if (r !== RSP) {
      if (base === DERIVED) continue;
      set(into, r, DERIVED, 0);
      changed = true;
      continue;
    }
    const low = Math.min(bases.low(base) + offset, bases.low(other) + otherOffset);
    const high = Math.max(bases.high(base) + offset, bases.high(other) + otherOffset);
    const met = bases.at(address * 2 + 1, low, high);
    if (base === met && offset === 0) continue;
    rebase(into, address * 2 + 1, bases, low, high);
    changed = true;
  }
  // The base that is born here has a new value each time that two ways meet.
  const met = into[RSP]!;
  if (met !== ENTRY && into[RSP + REGISTER_COUNT] === 0 && bases.isBornAt(met, address * 2 + 1)) {
    for (let r = 0; r < REGISTER_COUNT; r++)
      if (r !== RSP && into[r] === met) {
        set(into, r, DERIVED, 0);
        changed = true;
      }
  }
  return changed;
}
