/**
 * What is known at an address: sixteen registers, what is in vectors, and the slots of the stack that this function has
 * written.
 *
 * A slot is known by where its address comes from (rsp at entry, or an instruction that rounded rsp) and its distance
 * from there. After a store at a place on the stack that is not known no slot is known; what it stored may be found at
 * such places only (`loose`). Stores through other pointers are assumed to leave the function's own slots alone.
 */
import { type Atom, GIVEN, join, OFF, SCRAP, TAINT, type Value } from "./values.js";

export const RSP = 4;
export const RBP = 5;
/** Stands for all vector registers: which addresses any of them may hold. */
export const VECTORS = 16;

/** rbx, rsp, rbp, r12 to r15: what a call gives back. */
export const isPreserved = (register: number): boolean =>
  register === 3 || register === RSP || register === RBP || register >= 12;

/** rdi, rsi, rdx, rcx, r8, r9. */
const ARGUMENTS = [7, 6, 2, 1, 8, 9];

interface Slot {
  readonly value: Value;
  readonly size: number;
  /** Something was stored over a part of it since. */
  readonly isPart?: boolean;
  /** Of a vector: an object, mostly, that a callee is given the address of and fills. */
  readonly isVector?: boolean;
}

/** Farther from its base nothing is told apart. */
const FARTHEST = 2 ** 15;
const key = ({ extra, n }: Atom): number => extra * 2 ** 16 + n + FARTHEST;
export const isPlaced = ({ n }: Atom): boolean => Math.abs(n) < FARTHEST;

export class State {
  constructor(
    readonly registers: Value[],
    /** Shared with copies until one of them changes it. */
    private slots: Map<number, Slot>,
    private loose: Value,
    private isShared = false,
  ) {}

  static of(rsp: Value): State {
    const registers: Value[] = new Array<Value>(VECTORS + 1).fill(GIVEN);
    registers[RSP] = rsp;
    return new State(registers, new Map(), GIVEN);
  }

  copy(): State {
    this.isShared = true;
    return new State(this.registers.slice(), this.slots, this.loose, true);
  }

  private own(): Map<number, Slot> {
    if (this.isShared) {
      this.slots = new Map(this.slots);
      this.isShared = false;
    }
    return this.slots;
  }

  /** Takes in another state; whether this one has become wider. */
  join(other: State): boolean {
    let wider = false;
    const { registers } = this;
    for (let i = 0; i <= VECTORS; i++) {
      const both = join(registers[i]!, other.registers[i]!);
      if (both !== registers[i]) wider = true;
      registers[i] = both;
    }
    const loose = join(this.loose, other.loose);
    if (loose !== this.loose) wider = true;
    this.loose = loose;
    if (this.slots === other.slots) return wider;
    for (const [at, slot] of this.slots) {
      const theirs = other.slots.get(at);
      if (theirs === slot) continue;
      const both = theirs === undefined ? joined(slot, NOTHING_PUT) : joined(slot, theirs);
      if (both === slot) continue;
      wider = true;
      this.own().set(at, both);
    }
    for (const [at, slot] of other.slots) {
      if (this.slots.has(at)) continue;
      const value = join(GIVEN, wholeOf(slot));
      if (value === GIVEN && !isPiece(slot)) continue;
      wider = true;
      this.own().set(at, slot.size < 8 ? slot : { ...slot, value });
    }
    return wider;
  }

  /** Whether the eight bytes at a place were stored over in part: then what they hold was put together. */
  isPart(place: Atom): boolean {
    return isPlaced(place) && this.slots.get(key(place))?.isPart === true;
  }

  /** Whether any slot holds something that was computed. */
  holdsComputed(): boolean {
    for (const { value } of this.slots.values()) if (isComputed(value)) return true;
    return false;
  }

  /** The eight bytes at a place on the stack. What this function did not put there was handed over. */
  load(place: Atom): Value {
    if (!isPlaced(place)) return join(GIVEN, this.loose);
    if (this.slots.size === 0) return GIVEN;
    const at = key(place);
    const slot = this.slots.get(at);
    if (slot !== undefined && slot.size === 8) return slot.value;
    // What holds a piece that this function wrote is something that it put together.
    const pieces = this.overlapping(at, 8).map((other) => this.slots.get(other)!);
    if (pieces.length === 0) return GIVEN;
    // Of an address that was taken to pieces it was said then what may be near it.
    return pieces.every(({ value }) => value === OFF) ? OFF : TAINT;
  }

  /** What slots hold of which a load of fewer than eight bytes takes a part. */
  pieces(place: Atom, size: number): readonly Value[] {
    if (!isPlaced(place)) return [this.loose];
    if (this.slots.size === 0) return [];
    const own = this.overlapping(key(place), size).map((at) => this.slots.get(at)!);
    return own.filter((slot) => slot.size === 8).map(({ value }) => value);
  }

  /** `isOne`: the store goes there and nowhere else. */
  store(place: Atom, size: number, value: Value, isOne: boolean): void {
    if (!isPlaced(place)) {
      this.slots = new Map();
      this.isShared = false;
      const strange = value.filter(({ kind }) => kind !== "given" && kind !== "number" && kind !== "stack");
      if (strange.length > 0) this.loose = join(this.loose, strange);
      return;
    }
    const at = key(place);
    if (!isOne) {
      const before = this.load(place);
      // A pointer that walks over an array of the frame ends before the return address.
      if (before.some(({ kind }) => kind === "return")) return;
      if (size === 8) this.own().set(at, { value: join(before, value), size });
      return;
    }
    if (this.slots.size > 0)
      for (const other of this.overlapping(at, size)) {
        const slot = this.slots.get(other)!;
        const isWhole = other >= at && other + slot.size <= at + size;
        if (isWhole) this.own().delete(other);
        else if (slot.size < 8) continue;
        else this.own().set(other, { ...slot, isPart: true });
      }
    // A vector: its words.
    if (size > 8 && value !== GIVEN)
      for (let word = 0; word < size; word += 8) this.own().set(at + word, { value, size: 8, isVector: true });
    if (size === 8) this.own().set(at, { value, size });
    if (size < 8) this.putPiece(at, size, value === OFF ? OFF : TAINT);
  }

  /** Fewer than eight bytes: a part of the slot that begins there, or all that is known of it. */
  private putPiece(at: number, size: number, value: Value): void {
    if (at < 2 ** 16 && at >= FARTHEST + 8) {
      // Of an argument on the stack, which is handed over in whole words.
      const first = at - ((at - FARTHEST) % 8);
      for (let word = first; word < at + size; word += 8)
        this.own().set(word, joined(this.slots.get(word) ?? NOTHING_PUT, { value, size }));
      return;
    }
    const slot = this.slots.get(at);
    if (slot?.size === 8)
      this.own().set(at, { ...slot, value: value === OFF ? join(slot.value, OFF) : slot.value, isPart: true });
    else this.own().set(at, { value, size: Math.max(size, slot?.size ?? 0) });
  }

  /**
   * What a call leaves: registers that it does not change (a bit each for those that it may), and slots at rsp or
   * above.
   */
  call(changed: number): void {
    const { registers, slots } = this;
    const before = registers.slice();
    registers[VECTORS] = GIVEN;
    for (let register = 0; register < 12; register++)
      if (changed & (1 << register)) registers[register] = register === 0 || register === 2 ? GIVEN : SCRAP;
    const rsp = registers[RSP]!;
    const [only] = rsp;
    // An object whose address is handed over the callee may fill.
    const isPassed = ARGUMENTS.some((register) => before[register]!.some(({ kind }) => kind === "stack"));
    for (const [at, { size, isVector, isPart, value }] of slots) {
      const isBelow =
        rsp.length === 1 && only!.kind === "stack" && isPlaced(only!) && isInFrame(at, only!) && at < key(only!);
      const isFilled = isPart === true && isPassed && !isComputed(value);
      if (size < 8 || isBelow || isVector === true || isFilled) this.own().delete(at);
    }
  }

  private overlapping(at: number, size: number): number[] {
    const found: number[] = [];
    for (let other = at - 7; other < at + size; other++) {
      const slot = this.slots.get(other);
      if (slot !== undefined && other + slot.size > at) found.push(other);
    }
    return found;
  }
}

const isPiece = ({ size, isPart }: Slot): boolean => size < 8 || isPart === true;
const NOTHING_PUT: Slot = { value: GIVEN, size: 8 };

/**
 * Where only one side put eight bytes, the other has what was handed over; a piece makes a part of it. `a` where
 * nothing is new.
 */
function joined(a: Slot, b: Slot): Slot {
  if (a.size < 8 && (b.size < 8 || b === NOTHING_PUT)) {
    const size = b === NOTHING_PUT ? a.size : Math.max(a.size, b.size);
    const value = b.value === OFF ? OFF : a.value;
    return size === a.size && value === a.value ? a : { value, size };
  }
  const value = join(wholeOf(a), wholeOf(b));
  const isPart = isPiece(a) || isPiece(b);
  if (a.size === 8 && value === a.value && isPart === (a.isPart === true)) return a;
  return { value, size: 8, isPart, isVector: a.isVector === true };
}
/** What eight bytes hold of which a slot is all or a piece. */
const wholeOf = ({ size, value }: Slot): Value => (size === 8 || value === OFF ? value : GIVEN);

const COMPUTED: ReadonlySet<string> = new Set(["sum", "data", "off", "taint", "rebased", "returned"]);

/** Whether a value may be more than what was handed over, or an address. */
export const isComputed = (value: Value): boolean => value.some(({ kind }) => COMPUTED.has(kind));

const isInFrame = (at: number, { extra }: Atom): boolean => Math.floor(at / 2 ** 16) === extra;
