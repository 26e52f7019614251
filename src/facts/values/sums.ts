/**
 * Arithmetic on values, and what it says about where code may go.
 *
 * A program that jumps to a computed place has to make the sum somewhere. So every sum is looked at where it is made,
 * whatever becomes of it then: kept in memory, handed to a caller, jumped to at once.
 *
 *     address + constant                      another address
 *     address + word of a table that nobody   resolved: the words of the table say all that it can be
 *     writes, whose place is known
 *     address of code + a small number        may be anything around that address
 *     address of code + anything else         may be anything in the function around that address
 *     address of data + anything else         an element of some object; must not be jumped to
 */
import {
  canonical,
  given,
  Is,
  image,
  isNumber,
  isStack,
  join,
  MOVED,
  OFF_RET,
  off,
  overflows,
  plain,
  type Source,
  small,
  stack,
  sum,
  TAINT,
  type Value,
  word,
} from "./value.js";

/** An address to which words of tables are added. */
export interface Formation {
  /** Below NO_ADDRESS: a number that is added to pointers. */
  readonly base: number;
  readonly width: 4 | 8;
  readonly signed: boolean;
  /** The word is subtracted. */
  readonly minus: boolean;
  readonly sources: readonly Source[];
}

/** Nothing is added to pointers of a table to come further than this, and no code lies below. */
export const NO_ADDRESS = 4096;

/** What arithmetic finds out, besides its result. `at` is the link-time address of the instruction. */
export interface Findings {
  onFormation(at: number, formation: Formation): void;
  /** A word of a table is added to what was handed over: that may be any address that went through memory. */
  onHandedSum(at: number, words: Omit<Formation, "base">): void;
  /** An address of code that is computed: another one and a constant. */
  onMade(at: number, address: number): void;
  /** Something unknown is added to an address of code. */
  onComputed(at: number, base: number): void;
  /** Code in [low, high] may be what a sum leads to. */
  onAround(at: number, low: number, high: number): void;
}

/** What has to be known of the file. Link-time addresses. */
export interface Memory {
  /** Numbers and addresses are the same: ET_EXEC. */
  readonly fixed: boolean;
  isCode(address: number): boolean;
  isImage(address: number): boolean;
  /** Whether the bytes at an address stay what the file has there, once the loader has done its work. */
  isReadOnly(address: number): boolean;
  /**
   * The pointer of this image that 8 such bytes hold, or the number; of others an address of code that they hold at
   * first, or anything; undefined where nothing is known of them.
   */
  pointerAt(address: number): Value | undefined;
}

const NARROW = Is.Small;
/** What does not matter beside Taint. */
const UNTOLD = Is.Given | Is.Word | Is.SignedWord | Is.Small;
/** More addresses of code than this are not told apart. */
const MOST_CODE = 16;
const FROM_MEMORY = Is.Given | Is.Word | Is.SignedWord;

export class Arithmetic {
  constructor(
    private readonly memory: Memory,
    private readonly findings: Findings,
  ) {}

  /** The addresses of code among the numbers of a value. */
  codeOf(v: Value): readonly number[] {
    if (v.image.length === 0 && v.plain.length === 0) return v.image;
    const numbers = this.memory.fixed ? v.plain : v.image;
    return numbers.filter((n) => this.memory.isCode(n));
  }

  /** The result where an operation on a value leads to something that is not known. */
  spoiled(at: number, ...values: readonly Value[]): Value {
    const bases: number[] = [];
    let kinds = 0;
    for (const v of values) {
      kinds |= v.kinds;
      for (const base of this.codeOf(v)) bases.push(base);
      for (const base of v.bases) if (this.memory.isCode(base)) bases.push(base);
    }
    for (const base of bases) this.findings.onComputed(at, base);
    if (bases.length > 0) return off([...new Set(bases)].sort((a, b) => a - b));
    return kinds & (Is.Ret | Is.OffRet) ? OFF_RET : TAINT;
  }

  /**
   * Keeps a value small enough to be followed. Beside something unknown it does not matter what else that is no address
   * a value may be: a sum with it is unknown as well; of several numbers only how far they are apart.
   */
  bounded(at: number, v: Value): Value {
    if (overflows(v)) return this.codeOf(v).length > MOST_CODE ? this.spoiled(at, v) : this.collapsed(v);
    if (v.kinds & Is.Taint && (v.kinds & UNTOLD || v.plain.length + v.image.length > 0)) {
      if ((v.kinds & UNTOLD) === 0 && this.codeOf(v).length === v.plain.length + v.image.length) return v;
      return this.collapsed(v);
    }
    if (v.plain.length < 4 || (this.memory.fixed && v.plain.some((n) => this.memory.isImage(n)))) return v;
    const range = bounded(Math.min(v.plain[0]!, v.low), Math.max(v.plain.at(-1)!, v.high));
    return this.bounded(at, join({ ...v, plain: [] }, range));
  }

  /**
   * A value whose numbers are not told apart any more, but for its addresses of code: nothing is computed with these.
   */
  private collapsed(v: Value): Value {
    const code = this.codeOf(v);
    const [numbers, addresses] = this.memory.fixed ? [code, []] : [[], code];
    return canonical({ ...v, kinds: (v.kinds & ~UNTOLD) | Is.Taint, plain: numbers, image: addresses });
  }

  /**
   * What a value is said to be that grows with every arrival at a place.
   * @param before what it was at the last one: addresses of code that are new since then are computed
   */
  widened(at: number, v: Value, before: Value): Value {
    return this.codeOf(v).length > this.codeOf(before).length ? this.spoiled(at, v) : this.collapsed(v);
  }

  /** a + b, or a - b. */
  add(at: number, a: Value, b: Value, minus: boolean): Value {
    if (isNumber(b) && b.plain[0] === 0) return a;
    if (!minus && isNumber(a) && a.plain[0] === 0) return b;
    if (isStack(a) && b.kinds === 0 && b.image.length === 0)
      return b.plain.length === 1
        ? stack(a.frame, a.offset + (minus ? -b.plain[0]! : b.plain[0]!))
        : stack(a.frame, Number.NaN);
    if (!minus && isStack(b) && isNumber(a)) return stack(b.frame, b.offset + a.plain[0]!);
    if (isStack(a)) return stack(a.frame, Number.NaN);
    if (!minus && isStack(b)) return stack(b.frame, Number.NaN);
    this.withPointers(at, a, b, minus);
    this.withHandedOver(at, a, b, minus);
    if (!minus) {
      this.withPointers(at, b, a, false);
      this.withHandedOver(at, b, a, false);
    }
    if (isUntold(a) && (isUntold(b) || this.isOrdinaryNumber(b)) && (minus || (a.kinds & b.kinds & Is.Given) === 0))
      return TAINT;
    const { findings } = this;
    let result: Value | undefined;
    const out = (v: Value): void => {
      result = result === undefined ? v : join(result, v);
    };
    const sign = minus ? -1 : 1;
    for (const x of a.plain) for (const y of b.plain) out(plain(x + sign * y));
    for (const x of a.image) for (const y of b.plain) out(image(x + sign * y));
    if (minus) for (const x of a.image) for (const y of b.image) out(plain(x - y));
    else for (const x of a.plain) for (const y of b.image) out(image(x + y));
    if (!minus && a.image.length > 0 && b.image.length > 0) out(this.spoiled(at, a, b));
    if (minus && b.image.length > 0 && a.plain.length > 0) out(TAINT);
    if (result !== undefined) for (const address of this.codeOf(result)) findings.onMade(at, address);
    this.withAddresses(at, a, b, minus, out);
    // What is subtracted is no address that the result could be based on.
    if (!minus) this.withAddresses(at, b, a, false, out);
    else if (b.image.length > 0 && a.kinds !== 0) out(a.kinds & (Is.Ret | Is.OffRet) ? OFF_RET : TAINT);
    const [x, y] = [this.withoutAddresses(a), this.withoutAddresses(b)];
    if (x.kinds !== 0 && (y.kinds !== 0 || y.plain.length > 0)) out(this.unbased(at, x, y, minus));
    // Nothing is added: a null pointer, a load bias of 0.
    if (y.kinds !== 0 && x.plain.includes(0) && !minus) out({ ...y, plain: [] });
    if (y.kinds !== 0 && x.plain.some((n) => n !== 0)) out(this.unbased(at, y, x, minus));
    return this.bounded(at, result ?? TAINT);
  }

  /** Pointers of a table that the loader fills, to each of which a number is added: where that leads. */
  private withPointers(at: number, a: Value, b: Value, minus: boolean): void {
    const { sources } = a;
    if (a.kinds !== Is.Given || sources === undefined || sources.length === 0 || !this.isOrdinaryNumber(b)) return;
    if (!sources.every((s) => this.memory.isReadOnly(s.at))) return;
    const base = minus ? -b.plain[0]! : b.plain[0]!;
    if (Math.abs(base) < NO_ADDRESS)
      this.findings.onFormation(at, { base, width: 8, signed: false, minus: false, sources });
  }

  /** Words of tables that nobody writes, one of which is added to something from memory, or from a callee. */
  private withHandedOver(at: number, a: Value, b: Value, minus: boolean): void {
    const { sources } = b;
    if ((a.kinds & Is.Given) === 0 || sources === undefined || sources.length === 0) return;
    if (!sources.every((s) => this.memory.isReadOnly(s.at))) return;
    for (const kind of [Is.Given, Is.Word, Is.SignedWord])
      if (b.kinds & kind)
        this.findings.onHandedSum(at, { width: kind === Is.Given ? 8 : 4, signed: kind !== Is.Word, minus, sources });
  }

  /** One number that is no address. */
  private isOrdinaryNumber(v: Value): boolean {
    return isNumber(v) && !(this.memory.fixed && this.memory.isImage(v.plain[0]!));
  }

  /** Whether it is one of some numbers, none of which is an address. */
  isSmall(v: Value): boolean {
    return (
      (v.kinds & ~NARROW) === 0 &&
      v.image.length === 0 &&
      (v.kinds !== 0 || v.plain.length > 0) &&
      !(this.memory.fixed && v.plain.some((n) => this.memory.isImage(n)))
    );
  }

  /** The addresses among the numbers of `a`, with what `b` may be besides numbers. */
  private withAddresses(at: number, a: Value, b: Value, minus: boolean, out: (v: Value) => void): void {
    if (b.kinds === 0) return;
    const { memory, findings } = this;
    const bases = memory.fixed ? a.plain.filter((n) => memory.isImage(n)) : a.image;
    for (const base of bases) {
      const isCode = memory.isCode(base);
      let rest = b.kinds;
      const { sources } = b;
      if (rest & FROM_MEMORY && sources !== undefined && sources.length > 0) {
        const isKnown = sources.every((s) => memory.isReadOnly(s.at));
        if (isKnown && sources.length > 0) {
          for (const kind of [Is.Given, Is.Word, Is.SignedWord])
            if (rest & kind)
              findings.onFormation(at, {
                base,
                width: kind === Is.Given ? 8 : 4,
                signed: kind !== Is.Word,
                minus,
                sources,
              });
          rest &= ~FROM_MEMORY;
          out(sum([base]));
        }
      }
      if (rest & NARROW && isCode) {
        findings.onAround(at, base + (minus ? -b.high : b.low), base + (minus ? -b.low : b.high));
        rest &= ~NARROW;
        out(off([base]));
      }
      if (rest === 0) continue;
      if (isCode) {
        findings.onComputed(at, base);
        out(off([base]));
      } else out(rest & (Is.Ret | Is.OffRet) ? OFF_RET : TAINT);
    }
  }

  /** In programs with fixed addresses a number may be an address, which has been looked at then. */
  private withoutAddresses(v: Value): Value {
    if (!this.memory.fixed || v.plain.length === 0) return v;
    const rest = v.plain.filter((n) => !this.memory.isImage(n));
    return rest.length === v.plain.length ? v : { ...v, plain: rest };
  }

  /** What `a` may be besides numbers, and anything of `b` but addresses. */
  private unbased(at: number, a: Value, b: Value, minus: boolean): Value {
    const known = a.kinds | b.kinds;
    if ((a.kinds & ~NARROW) === 0 && (b.kinds & ~NARROW) === 0 && a.image.length === 0 && b.image.length === 0) {
      const low = (v: Value): number => Math.min(...(v.kinds & NARROW ? [v.low] : []), ...v.plain);
      const high = (v: Value): number => Math.max(...(v.kinds & NARROW ? [v.high] : []), ...v.plain);
      const from = minus ? -high(b) : low(b);
      const to = minus ? -low(b) : high(b);
      return bounded(low(a) + from, high(a) + to);
    }
    const isHandedOver = (v: Value): boolean =>
      v.kinds === Is.Given && v.plain.every((n) => n === 0) && v.image.length === 0;
    if (!minus && isHandedOver(a) && isHandedOver(b)) return MOVED;
    if (known & (Is.Sum | Is.Off)) return this.spoiled(at, { ...TAINT, kinds: known, bases: [...a.bases, ...b.bases] });
    return known & (Is.Ret | Is.OffRet) ? OFF_RET : TAINT;
  }

  /** a & b, a | b, a ^ b. */
  bits(at: number, a: Value, b: Value, operation: "and" | "or" | "xor"): Value {
    if (isNumber(b) && isNumber(a)) {
      const result = numbers(a.plain[0]!, b.plain[0]!, operation);
      for (const address of this.codeOf(result)) this.findings.onMade(at, address);
      return result;
    }
    if (isNumber(b)) {
      const mask = b.plain[0]!;
      if (operation === "and" && isStack(a)) return mask < 0 ? stack(at, 0) : bounded(0, mask);
      const codes = this.codeOf(a);
      if (operation === "and" && codes.length === 0 && mask >= 0) return bounded(0, mask);
      if (a.kinds === 0 && mask >= -4096 && mask < 4096) {
        let result: Value | undefined;
        for (const n of a.image) result = joined(result, image(apply(n, mask, operation)));
        for (const n of a.plain) result = joined(result, numbers(n, mask, operation));
        if (result !== undefined) {
          for (const address of this.codeOf(result)) this.findings.onMade(at, address);
          return result;
        }
      }
    }
    if (operation === "and" && isNumber(a)) return this.bits(at, b, a, operation);
    if (this.isSmall(a) && this.isSmall(b) && operation !== "and" && lowOf(a) >= 0 && lowOf(b) >= 0)
      return bounded(0, 2 ** Math.ceil(Math.log2(Math.max(highOf(a), highOf(b), 1) + 1)) - 1);
    return this.spoiled(at, a, b);
  }

  /** A value shifted to the right. */
  shiftedRight(at: number, a: Value): Value {
    return this.isSmall(a) && lowOf(a) >= 0 ? bounded(0, highOf(a)) : this.spoiled(at, a);
  }

  /** a * factor. */
  times(at: number, a: Value, factor: number): Value {
    if (factor === 1) return a;
    if (a.kinds === 0 && a.image.length === 0 && a.plain.length > 0 && this.codeOf(a).length === 0) {
      let result: Value | undefined;
      for (const n of a.plain) result = joined(result, plain(n * factor));
      return result!;
    }
    if (this.isSmall(a)) return bounded(...ordered(lowOf(a) * factor, highOf(a) * factor));
    return this.spoiled(at, a);
  }

  /** The low 32 bits, zero-extended: what an operation on a 32-bit register leaves. */
  low32(at: number, a: Value): Value {
    if (a.kinds === Is.Given && a.plain.length === 0 && a.image.length === 0) return TAINT;
    if (a.kinds & (Is.Stack | Is.Sum) && this.memory.fixed === false) return this.spoiled(at, a);
    if (a.image.length > 0) return this.spoiled(at, a);
    if ((a.kinds & ~(Is.Taint | Is.Off | Is.Word)) === 0 && a.plain.length === 0) return a;
    let kinds = a.kinds;
    if (kinds & Is.Small && a.low < 0) kinds = (kinds & ~Is.Small) | Is.Taint;
    if (kinds & Is.SignedWord) kinds = (kinds & ~Is.SignedWord) | Is.Word;
    if (kinds & (Is.Given | Is.Stack)) kinds = (kinds & ~(Is.Given | Is.Stack)) | Is.Taint;
    if (kinds & Is.Ret) kinds = (kinds & ~Is.Ret) | Is.OffRet;
    if (kinds & Is.Moved) kinds = (kinds & ~Is.Moved) | Is.Taint;
    if (kinds === a.kinds && a.plain.every((n) => n >= 0 && n < 2 ** 32)) return a;
    return canonical({
      ...a,
      kinds,
      plain: a.plain.map((n) => ((n % 2 ** 32) + 2 ** 32) % 2 ** 32).sort((x, y) => x - y),
    });
  }

  /** The low 32 bits, sign-extended. */
  signed32(at: number, a: Value): Value {
    const low = this.low32(at, a);
    const kinds = low.kinds & Is.Word ? (low.kinds & ~Is.Word) | Is.SignedWord : low.kinds;
    if (kinds === low.kinds && low.plain.every((n) => n === (n | 0))) return low;
    return canonical({ ...low, kinds, plain: low.plain.map((n) => n | 0).sort((x, y) => x - y) });
  }
}

/**
 * Something from memory or unknown, and no number or address besides: with another such it comes to something unknown.
 */
const isUntold = (v: Value): boolean =>
  v.kinds !== 0 && (v.kinds & ~(FROM_MEMORY | Is.Taint)) === 0 && v.plain.length === 0 && v.image.length === 0;

const joined = (a: Value | undefined, b: Value): Value => (a === undefined ? b : join(a, b));
const ordered = (a: number, b: number): [number, number] => (a < b ? [a, b] : [b, a]);
const lowOf = (v: Value): number => Math.min(...(v.kinds & NARROW ? [v.low] : []), ...v.plain);
const highOf = (v: Value): number => Math.max(...(v.kinds & NARROW ? [v.high] : []), ...v.plain);

/** Numbers further away than a byte, or two, times a scale may reach are like any other. */
const FARTHEST = 2 ** 24;
function bounded(low: number, high: number): Value {
  return low < -FARTHEST || high > FARTHEST ? TAINT : small(low, high);
}

function apply(n: number, mask: number, operation: "and" | "or" | "xor"): number {
  const [a, b] = [BigInt(n), BigInt(mask)];
  return Number(BigInt.asIntN(64, operation === "and" ? a & b : operation === "or" ? a | b : a ^ b));
}

const numbers = (n: number, mask: number, operation: "and" | "or" | "xor"): Value => plain(apply(n, mask, operation));

/** A 32-bit word, or what pointers are made of in memory. */
export const loaded = (width: number, signed: boolean, sources: readonly Source[] | undefined): Value => {
  if (width === 8) return given(sources);
  if (width === 4) return word(signed, sources);
  const range = 2 ** (8 * width);
  return signed ? small(-range / 2, range / 2 - 1) : small(0, range - 1);
};
