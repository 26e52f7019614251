/**
 * String instructions, and stores under a mask: they go by rsi and rdi, which no operand tells of.
 */
import { type Instruction, iced } from "./decode.js";
import { type Place, placesOf } from "./place.js";
import { isComputed, isPlaced, type State } from "./state.js";
import { Atom, GIVEN, TAINT, type Value } from "./values.js";

const { MemorySizeExt, Mnemonic, OpKind } = iced;

const [RAX, RCX, RSI, RDI] = [0, 1, 6, 7];
/** What is moved at once, with a count that is not known, is taken to be no longer than this. */
const MOST_BYTES = 512;

const SOURCES: ReadonlySet<number> = new Set([OpKind.MemorySegRSI, OpKind.MemorySegESI]);
const TARGETS: ReadonlySet<number> = new Set([
  OpKind.MemoryESRDI,
  OpKind.MemoryESEDI,
  OpKind.MemorySegRDI,
  OpKind.MemorySegEDI,
]);
/** They only look at what rdi points to. */
const COMPARES: ReadonlySet<number> = new Set([
  Mnemonic.Cmpsb,
  Mnemonic.Cmpsw,
  Mnemonic.Cmpsd,
  Mnemonic.Cmpsq,
  Mnemonic.Scasb,
  Mnemonic.Scasw,
  Mnemonic.Scasd,
  Mnemonic.Scasq,
]);

/** What an instruction takes and puts that way. */
interface StringMove {
  readonly from: Place | undefined;
  readonly to: Place | undefined;
  /** The most bytes; and whether it may be fewer. */
  readonly bytes: number;
  readonly mayBeFewer: boolean;
  readonly size: number;
  /** What is stored, of so many bytes each time; of what comes from memory it is not known yet. */
  readonly value: Value | undefined;
}

/** Undefined for any other instruction. */
export function stringMove(i: Instruction, { registers }: State): StringMove | undefined {
  let [hasSource, hasTarget] = [false, false];
  for (let n = 0; n < i.opCount; n++) {
    hasSource ||= SOURCES.has(i.opKind(n));
    hasTarget ||= TARGETS.has(i.opKind(n));
  }
  if (!hasSource && !hasTarget) return undefined;
  const size = MemorySizeExt.size(i.memorySize) || 64;
  const isRepeated = i.hasRepPrefix || i.hasRepnePrefix;
  const [count] = registers[RCX]!;
  const isCounted = isRepeated && registers[RCX]!.length === 1 && count!.kind === "number";
  const bytes = !isRepeated ? size : Math.min(isCounted ? Math.max(0, count!.n) * size : MOST_BYTES, MOST_BYTES);
  const stores = hasTarget && !COMPARES.has(i.mnemonic);
  const isPlain = (size === 8 || isRepeated) && !isComputed(registers[RAX]!);
  return {
    from: hasSource ? placesOf(registers[RSI]!, 0) : undefined,
    to: stores ? placesOf(registers[RDI]!, 0) : undefined,
    bytes,
    mayBeFewer: isRepeated && !isCounted,
    size,
    value: hasSource ? undefined : !isPlain ? TAINT : size === 8 ? registers[RAX]! : GIVEN,
  };
}

/** The slots that a move takes bytes of: computed things are not known any more where they go. */
export const takesComputed = (place: Place, bytes: number, state: State): boolean =>
  place.stack.some((at) => state.pieces(at, bytes).some(isComputed));

/** Puts a value where a move leads to. */
export function putString({ to, bytes, mayBeFewer, size }: StringMove, value: Value, state: State): void {
  if (to === undefined) return;
  const isOne = !mayBeFewer && to.stack.length === 1 && to.exact.length === 0 && !to.inData && !to.other;
  for (const place of to.stack) {
    if (!isPlaced(place) || bytes < 8) state.store(place, Math.min(size, bytes), value, isOne && isPlaced(place));
    else
      for (let at = 0; at + 8 <= bytes; at += 8)
        state.store(new Atom("stack", place.n + at, false, place.extra), 8, value, isOne);
  }
}

/** What a copy leaves there: a piece, put to others, makes something that is not known. */
export const copied = (isComputedThere: boolean, { bytes }: StringMove): Value =>
  isComputedThere || bytes < 8 ? TAINT : GIVEN;
