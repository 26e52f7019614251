/**
 * What a register or a stack slot may hold, as far as it matters for where code can go: a union of a few kinds.
 *
 *     image     one of some link-time addresses (code or data); in programs with fixed addresses they are plain numbers
 *     plain     one of some numbers
 *     Small     a number in [low, high]
 *     Given     64 bits that were handed over as they are: an argument, a word of memory, a callee's result
 *     Word      32 bits from memory, zero- or sign-extended
 *     Sum       an address plus a word of a table that is known (sums.ts)
 *     Off       an address of code plus something that is not known: its function counts as unknown
 *     Ret       the return address; OffRet: something made of it
 *     Stack     rsp at the entry, or where it was aligned, plus a distance that may be unknown
 *     Moved     the sum of two words that were handed over: how loaders make addresses, of a load bias and a value
 *     Taint     anything else
 *
 * A jump may lead to what was handed over as it is: who made the address is seen where it was made.
 */

/** Bits of `kinds`. */
export const Is = {
  Given: 1,
  Word: 2,
  SignedWord: 4,
  Small: 8,
  Sum: 16,
  Off: 32,
  Taint: 64,
  Ret: 128,
  OffRet: 256,
  Stack: 512,
  Moved: 1024,
} as const;

/**
 * Where an indexed load took a word from: the link-time address for index 0, and how many bytes the next one is away.
 */
export interface Source {
  readonly at: number;
  readonly step: number;
}

export interface Value {
  /** Bits of Is; plain and image numbers have none. */
  readonly kinds: number;
  /** Link-time addresses, ascending. */
  readonly image: readonly number[];
  /** Numbers, signed, ascending. */
  readonly plain: readonly number[];
  /** Of Given and words: where they come from; undefined where that is not known. */
  readonly sources: readonly Source[] | undefined;
  /** Of Sum and Off: the addresses in them. */
  readonly bases: readonly number[];
  /** Of Small. */
  readonly low: number;
  readonly high: number;
  /** Of Stack: 0, or the address of the instruction that aligned rsp; -1 where it is not known. */
  readonly frame: number;
  /** Of Stack: bytes from there; NaN where it is not known. */
  readonly offset: number;
}

/** More numbers than this are not kept apart. */
const MOST_NUMBERS = 24;
const MOST_SOURCES = 8;

const NO_NUMBERS: readonly number[] = [];
const NO_SOURCES: readonly Source[] = [];

/** All values have the same shape, and are made in one place: millions of them are. */
function make(
  kinds: number,
  image: readonly number[],
  plain: readonly number[],
  sources: readonly Source[] | undefined,
  bases: readonly number[],
  low: number,
  high: number,
  frame: number,
  offset: number,
): Value {
  return { kinds, image, plain, sources, bases, low, high, frame, offset };
}

const ofKind = (kinds: number, sources: readonly Source[] | undefined = NO_SOURCES): Value =>
  make(kinds, NO_NUMBERS, NO_NUMBERS, sources, NO_NUMBERS, 0, 0, 0, 0);
const none = ofKind(0);

export const GIVEN: Value = ofKind(Is.Given, undefined);
export const TAINT: Value = ofKind(Is.Taint);
export const RET: Value = ofKind(Is.Ret);
export const MOVED: Value = ofKind(Is.Moved);
export const OFF_RET: Value = ofKind(Is.OffRet);

export const given = (sources: readonly Source[] | undefined): Value =>
  sources === undefined ? GIVEN : ofKind(Is.Given, sources);
export const word = (signed: boolean, sources: readonly Source[] | undefined): Value =>
  ofKind(signed ? Is.SignedWord : Is.Word, sources);
export const small = (low: number, high: number): Value =>
  make(Is.Small, NO_NUMBERS, NO_NUMBERS, NO_SOURCES, NO_NUMBERS, low, high, 0, 0);
export const image = (...numbers: readonly number[]): Value =>
  make(0, numbers, NO_NUMBERS, NO_SOURCES, NO_NUMBERS, 0, 0, 0, 0);
export const stack = (frame: number, offset: number): Value =>
  make(Is.Stack, NO_NUMBERS, NO_NUMBERS, NO_SOURCES, NO_NUMBERS, 0, 0, frame, offset);
export const sum = (bases: readonly number[]): Value =>
  make(Is.Sum, NO_NUMBERS, NO_NUMBERS, NO_SOURCES, bases, 0, 0, 0, 0);
export const off = (bases: readonly number[]): Value =>
  make(Is.Off, NO_NUMBERS, NO_NUMBERS, NO_SOURCES, bases, 0, 0, 0, 0);

/** A number, or Taint where it is too large to be exact. */
export const plain = (n: number): Value =>
  Number.isSafeInteger(n) ? make(0, NO_NUMBERS, [n], NO_SOURCES, NO_NUMBERS, 0, 0, 0, 0) : TAINT;

/** Whether a value is one number and nothing else. */
export const isNumber = (v: Value): boolean => v.kinds === 0 && v.image.length === 0 && v.plain.length === 1;

/** Whether it is an address of the stack and nothing else, at a distance that may be unknown. */
export const isStack = (v: Value): boolean => v.kinds === Is.Stack && v.image.length === 0 && v.plain.length === 0;

/** An address of the stack of which no more is known. */
export const SOMEWHERE_ON_STACK: Value = stack(-1, Number.NaN);

function union(a: readonly number[], b: readonly number[]): readonly number[] {
  if (a === b || b.length === 0) return a;
  if (a.length === 0) return b;
  const all = [...a];
  for (const n of b) if (!all.includes(n)) all.push(n);
  return all.length === a.length ? a : all.sort((x, y) => x - y);
}

function unionSources(a: Value, b: Value): readonly Source[] | undefined {
  const hasSource = Is.Given | Is.Word | Is.SignedWord;
  if (((a.kinds | b.kinds) & hasSource) === 0) return none.sources;
  if ((a.kinds & hasSource) === 0) return b.sources;
  if ((b.kinds & hasSource) === 0 || a.sources === b.sources) return a.sources;
  if (a.sources === undefined || b.sources === undefined) return undefined;
  const all = [...a.sources];
  for (const s of b.sources) if (!all.some((o) => o.at === s.at && o.step === s.step)) all.push(s);
  if (all.length === a.sources.length) return a.sources;
  return all.length > MOST_SOURCES ? undefined : all;
}

/** More numbers than are kept. */
export const overflows = (v: Value): boolean => v.image.length > MOST_NUMBERS || v.plain.length > MOST_NUMBERS;

/** Whether a value says nothing that another does not: the cases that are quick to see. */
function isWithin(b: Value, a: Value): boolean {
  if ((b.kinds & ~a.kinds) !== 0 || b.kinds & (Is.Small | Is.Stack)) return false;
  if (b.image.length > 0 || b.plain.length > 0 || b.bases.length > 0) return false;
  return (b.kinds & (Is.Given | Is.Word | Is.SignedWord)) === 0 || a.sources === undefined;
}

/** Either of two values. The result may overflow. */
export function join(a: Value, b: Value): Value {
  if (a === b || isWithin(b, a)) return a;
  let { frame, offset } = a.kinds & Is.Stack ? a : b.kinds & Is.Stack ? b : none;
  if (a.kinds & b.kinds & Is.Stack && (a.frame !== b.frame || !Object.is(a.offset, b.offset))) {
    frame = a.frame === b.frame ? a.frame : -1;
    offset = Number.NaN;
  }
  let { low, high } = a.kinds & Is.Small ? a : b.kinds & Is.Small ? b : none;
  if (a.kinds & b.kinds & Is.Small) {
    low = Math.min(a.low, b.low);
    high = Math.max(a.high, b.high);
  }
  const made = make(
    a.kinds | b.kinds,
    union(a.image, b.image),
    union(a.plain, b.plain),
    unionSources(a, b),
    union(a.bases, b.bases),
    low,
    high,
    frame,
    offset,
  );
  return same(made, a) ? a : made;
}

/** A value without what belongs to kinds that it does not have. */
export const canonical = ({ kinds, image: i, plain: p, sources, bases, low, high, frame, offset }: Value): Value =>
  make(
    kinds,
    i,
    p,
    kinds & (Is.Given | Is.Word | Is.SignedWord) ? sources : NO_SOURCES,
    kinds & (Is.Sum | Is.Off) ? bases : NO_NUMBERS,
    kinds & Is.Small ? low : 0,
    kinds & Is.Small ? high : 0,
    kinds & Is.Stack ? frame : 0,
    kinds & Is.Stack ? offset : 0,
  );

const sameNumbers = (a: readonly number[], b: readonly number[]): boolean =>
  a === b || (a.length === b.length && a.every((n, i) => n === b[i]));

export function same(a: Value, b: Value): boolean {
  if (a === b) return true;
  return (
    a.kinds === b.kinds &&
    a.low === b.low &&
    a.high === b.high &&
    a.frame === b.frame &&
    Object.is(a.offset, b.offset) &&
    (a.sources === b.sources ||
      (a.sources !== undefined &&
        b.sources !== undefined &&
        a.sources.length === b.sources.length &&
        a.sources.every((s, i) => s.at === b.sources![i]!.at && s.step === b.sources![i]!.step))) &&
    sameNumbers(a.image, b.image) &&
    sameNumbers(a.plain, b.plain) &&
    sameNumbers(a.bases, b.bases)
  );
}
