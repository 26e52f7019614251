/**
 * What a register or a stack slot may hold: a set of possibilities, each of which says where the 64 bits come from.
 *
 *     number   this one; `isAddress` where it moves with the file (in fixed programs every number may be an address)
 *     given    handed over as it is: by the caller, a callee, memory; `table` where it was loaded from known addresses
 *     word     loaded from 1, 2 or 4 bytes and extended, times `scale`; `table` as above
 *     sum      a base and an entry of a table whose entries are known (or one of too many numbers): may be jumped to
 *     data     an address of data with an index added, to load from; `flag`: with a word of memory, which may lead to code
 *     off      an address of code with anything else added: what may be near it is given up
 *     return   the function's own return address; `returned` is that with something added
 *     stack    the stack pointer that the function got, or one that was rounded at `base`, and an offset; NaN: any
 *     scrap    what a call left in a register that it neither preserves nor returns anything in; also with anything added
 *     assumed  rsp where nothing is known of how one comes there
 *     rebased  two of eight bytes that were handed over, added: as a loader adds its base to what a symbol says
 *     rotated  a given pointer, half way through glibc's unmangling
 *     taint    anything else
 */
export type Kind =
  | "number"
  | "given"
  | "word"
  | "sum"
  | "data"
  | "off"
  | "return"
  | "returned"
  | "stack"
  | "scrap"
  | "assumed"
  | "rebased"
  | "rotated"
  | "taint";

export interface Table {
  /** The address of the first entry that the load may read, and from one to the next. */
  readonly first: number;
  readonly stride: number;
  /** Bytes of an entry. */
  readonly width: number;
  readonly signed: boolean;
}

export class Atom {
  constructor(
    readonly kind: Kind,
    /** The number; of a sum or an address of data the base; of a word its width; of a stack address the offset. */
    readonly n = 0,
    /** An address; a signed word; a sum with a table that leads nowhere is not `flag`. */
    readonly flag = false,
    /** The scale of a word; where a stack address was rounded. */
    readonly extra = 0,
    readonly table: Table | undefined = undefined,
  ) {}
}

export type Value = readonly Atom[];

export const GIVEN: Value = [new Atom("given")];
export const TAINT: Value = [new Atom("taint")];
export const OFF: Value = [new Atom("off")];
export const RETURN: Value = [new Atom("return")];
const RETURNED: Value = [new Atom("returned")];
export const SCRAP: Value = [new Atom("scrap")];
export const ASSUMED: Value = [new Atom("assumed")];
const REBASED: Value = [new Atom("rebased")];
export const ROTATED: Value = [new Atom("rotated")];
export const ZERO: Value = [new Atom("number", 0, false)];
/** Of what was loaded from an address of data that is known but for an index. */
export const SOME_TABLE: Table = { first: -1, stride: 0, width: 0, signed: false };
export const SOMEWHERE = new Atom("stack", Number.NaN, false, 0);

export const number = (n: number, isAddress: boolean): Atom => new Atom("number", n, isAddress);
export const stack = (base: number, offset: number): Atom => new Atom("stack", offset, false, base);

/** More of a kind than these are told apart no longer. */
const MOST = 8;

export function isSame(a: Atom, b: Atom): boolean {
  return (
    a === b ||
    (a.kind === b.kind &&
      Object.is(a.n, b.n) &&
      a.flag === b.flag &&
      a.extra === b.extra &&
      (a.table === b.table || isSameTable(a.table, b.table)))
  );
}

const isSameTable = (a: Table | undefined, b: Table | undefined): boolean =>
  a?.first === b?.first && a?.stride === b?.stride && a?.width === b?.width;

/** Whether an atom is the other, or stands for it: so that sets that were bounded do not begin to grow anew. */
function covers(other: Atom, atom: Atom): boolean {
  if (isSame(other, atom)) return true;
  if (atom.kind === "number") return atom.flag ? other.kind === "sum" && other.n === atom.n : other.kind === "taint";
  if (atom.kind === "stack" && other === SOMEWHERE) return true;
  return (
    atom.table !== undefined &&
    other.table === undefined &&
    other.kind === atom.kind &&
    Object.is(other.n, atom.n) &&
    other.flag === atom.flag &&
    other.extra === atom.extra
  );
}

// Written as loops: most of the time that a large function takes is spent here.
function has(value: Value, atom: Atom): boolean {
  for (let i = 0; i < value.length; i++) if (covers(value[i]!, atom)) return true;
  return false;
}

/** Both sets together: the same object as `a` where that has everything. */
export function join(a: Value, b: Value): Value {
  if (a === b) return a;
  let more: Atom[] | undefined;
  for (let i = 0; i < b.length; i++) {
    const atom = b[i]!;
    if (atom === a[i] || has(a, atom)) continue;
    more ??= a.slice();
    more.push(atom);
  }
  return more === undefined ? a : bounded(more);
}

export function unite(atoms: readonly Atom[]): Value {
  let value: Atom[] = [];
  for (const atom of atoms) if (!has(value, atom)) value.push(atom);
  value = bounded(value) as Atom[];
  return value;
}

/**
 * Too many: addresses are kept as they are, but nothing may be added to them; tables and places are told apart no
 * longer.
 */
function bounded(atoms: Atom[]): Value {
  if (atoms.length <= MOST) return atoms;
  const count = (test: (atom: Atom) => boolean): boolean => atoms.filter(test).length > MOST;
  const numbers = count(({ kind }) => kind === "number");
  const stacks = count(({ kind }) => kind === "stack");
  const tables = count(({ table }) => table !== undefined);
  const result: Atom[] = [];
  for (const atom of atoms) {
    let next = atom;
    if (numbers && atom.kind === "number") next = atom.flag ? new Atom("sum", atom.n, true) : TAINT[0]!;
    if (stacks && atom.kind === "stack") next = SOMEWHERE;
    if (tables && atom.table !== undefined) next = new Atom(atom.kind, atom.n, atom.flag, atom.extra);
    if (!has(result, next)) result.push(next);
  }
  return result;
}

/** What happens to addresses of code on the way. */
export interface Watcher {
  readonly isFixed: boolean;
  isCode(address: number): boolean;
  /** Whether a number that is marked as an address may be one of data. */
  isData(address: number): boolean;
  /** An address of code was made. */
  made(address: number): void;
  /** A word of memory was added to an address of data, or one relative to itself was. Whether it is kept in mind. */
  loose(base: number): boolean;
  /**
   * Something unknown was added to an address; `reach` is how far that leads at most: undefined where it is not known.
   */
  lost(base: number, reach: readonly [number, number] | undefined): void;
  /** A table's entry was added to what was handed over, or subtracted from it. */
  handedSum(table: Table, minus: boolean): void;
  /**
   * A base and a table's entry, added or subtracted. Whether all entries are known; and whether any is an address of
   * code.
   */
  formed(base: number, table: Table, minus: boolean): "unknown" | "nowhere" | "code";
}

/** What arithmetic makes of values. */
export class Arithmetic {
  constructor(private readonly watcher: Watcher) {}

  add(a: Value, b: Value): Value {
    return this.each(a, b, (x, y) => this.sum(x, y, false));
  }

  subtract(a: Value, b: Value): Value {
    return this.each(a, b, (x, y) => {
      if (y.kind === "number" && (!y.flag || this.watcher.isFixed)) return this.sum(x, number(-y.n, false), false);
      if (x.kind === "number" && y.kind === "number" && x.flag) return [number(x.n - y.n, false)];
      if (x.kind === "stack" && y.kind === "stack" && x.extra === y.extra && Number.isFinite(x.n - y.n))
        return [number(x.n - y.n, false)];
      // A distance, which leads nowhere: what is added to an address later is taint.
      const isAway = x.kind === "return" || (x.kind === "given" && !this.watcher.isFixed);
      if (isAway && y.kind === "number" && y.flag) return TAINT;
      return this.sum(x, y, true);
    });
  }

  /** and, or, xor: of a number with a number it is one, of an address with what concerns its lowest bits. */
  bits(a: Value, b: Value, how: "and" | "or" | "xor", address: number): Value {
    return this.each(a, b, (x, y) => {
      if (x.kind === "stack" && how === "and" && y.kind === "number") return [stack(address, 0)];
      if (x.kind !== "number" || y.kind !== "number") return this.mixed(x, y);
      const [base, mask] = y.flag && !x.flag ? [y, x] : [x, y];
      const isLow = mask.n >= 0 && mask.n < 4096;
      const isHigh = mask.n < 0 && mask.n >= -4096;
      if (base.flag && !this.watcher.isFixed && (mask.flag || !(how === "and" ? isLow || isHigh : isLow)))
        return this.mixed(x, y);
      const [m, n] = [BigInt(base.n), BigInt(mask.n)];
      const result = Number(BigInt.asIntN(64, how === "and" ? m & n : how === "or" ? m | n : m ^ n));
      if (!Number.isSafeInteger(result)) return this.mixed(x, y);
      return [this.made(number(result, base.flag && !(how === "and" && isLow && !this.watcher.isFixed)))];
    });
  }

  /** Times 1, 2, 4 or 8. */
  scaled(a: Value, scale: number): Value {
    if (scale === 1) return a;
    return this.each(a, ZERO, (x) => {
      if (x.kind === "number" && !x.flag) return [number(x.n * scale, false)];
      if (x.kind === "word" && x.n < 4 && x.extra * scale <= 64)
        return [new Atom("word", x.n, x.flag, x.extra * scale)];
      return this.mixed(x, x);
    });
  }

  /** The lowest `size` bytes, extended. */
  narrowed(a: Value, size: number, signed: boolean): Value {
    return this.each(a, ZERO, (x) => {
      switch (x.kind) {
        case "number": {
          if (x.flag && !(this.watcher.isFixed && size === 4)) return this.mixed(x, x);
          const bits = size * 8;
          const cut = signed ? BigInt.asIntN(bits, BigInt(x.n)) : BigInt.asUintN(bits, BigInt(x.n));
          return [number(Number(cut), x.flag)];
        }
        case "word":
          if (x.extra !== 1) return [new Atom("word", Math.min(size, x.n), signed, x.extra)];
          if (x.n < size) return [x];
          if (x.n === size)
            return x.flag === signed ? [x] : [new Atom("word", size, signed, 1, resigned(x.table, signed))];
          return [new Atom("word", size, signed, 1)];
        case "given":
        case "taint":
          return [x.kind === "taint" && size === 4 ? x : new Atom("word", size, signed, 1)];
        case "sum":
          return this.watcher.isFixed && size === 4 ? [x] : this.mixed(x, x);
        default:
          return this.mixed(x, x);
      }
    });
  }

  /** Any other arithmetic. */
  mix(a: Value, b: Value): Value {
    return this.each(a, b, (x, y) => this.mixed(x, y));
  }

  private each(a: Value, b: Value, make: (x: Atom, y: Atom) => readonly Atom[]): Value {
    if (a.length === 1 && b.length === 1) return make(a[0]!, b[0]!);
    const atoms: Atom[] = [];
    for (const x of a) for (const y of b) atoms.push(...make(x, y));
    return unite(atoms);
  }

  private made(atom: Atom): Atom {
    if (atom.flag && this.watcher.isCode(atom.n)) this.watcher.made(atom.n);
    return atom;
  }

  private sum(x: Atom, y: Atom, minus: boolean): readonly Atom[] {
    if (y.kind === "number" && y.n === 0) return [x];
    if (x.kind === "number" && x.n === 0 && !minus) return [y];
    if (x.kind === "number" && y.kind === "number" && !minus && (this.watcher.isFixed || !(x.flag && y.flag))) {
      const n = x.n + y.n;
      return Number.isSafeInteger(n) ? [this.made(number(n, x.flag || y.flag))] : this.mixed(x, y);
    }
    if (x.kind === "stack" && y.kind === "number" && !minus) return [stack(x.extra, x.n + y.n)];
    if (y.kind === "stack" && x.kind === "number" && !minus) return [stack(y.extra, x.n + y.n)];
    this.handed(x, y, minus);
    if (!minus) this.handed(y, x, false);
    if (x.kind === "number" && x.flag) return this.based(x, y, minus);
    if (y.kind === "number" && y.flag && !minus) return this.based(y, x, false);
    if (x.kind === "data") return this.inData(x, y, minus);
    if (y.kind === "data" && !minus) return this.inData(y, x, false);
    if (x.kind === "given" && y.kind === "given" && !minus && !x.table && !y.table) return REBASED;
    return this.mixed(x, y);
  }

  /** What was handed over, and an entry of a table. */
  private handed(base: Atom, y: Atom, minus: boolean): void {
    const isWord = y.kind === "given" || (y.kind === "word" && y.n === 4 && y.extra === 1);
    if (base.kind === "given" && y.table !== undefined && isWord) this.watcher.handedSum(y.table, minus);
  }

  /** An address and something that is no number. */
  private based(base: Atom, y: Atom, minus: boolean): readonly Atom[] {
    const { watcher } = this;
    if (y.table !== undefined && (y.kind === "given" || (y.kind === "word" && y.n === 4 && y.extra === 1))) {
      const formed = watcher.formed(base.n, y.table, minus);
      if (formed !== "unknown") return [new Atom("sum", base.n, formed === "code")];
    }
    if (y.kind === "word" && y.n < 4) {
      const span = 2 ** (8 * y.n);
      const [low, high] = y.flag ? [-span / 2, span / 2 - 1] : [0, span - 1];
      const reach: [number, number] = minus ? [-high * y.extra, -low * y.extra] : [low * y.extra, high * y.extra];
      watcher.lost(base.n, reach);
      return watcher.isCode(base.n) ? OFF : TAINT;
    }
    return watcher.isData(base.n) ? this.inData(base, y, minus) : this.mixed(base, y);
  }

  /** An address of data, and something that is no address. */
  private inData(base: Atom, y: Atom, minus: boolean): readonly Atom[] {
    const isIndex = y.kind === "given" || y.kind === "word" || y.kind === "taint" || y.kind === "number";
    if (!isIndex || minus || (base.kind === "data" && base.flag)) return this.mixed(base, y);
    if (y.table === undefined) return y.flag && y.kind === "number" ? this.mixed(base, y) : [new Atom("data", base.n)];
    const isWord = y.kind === "given" || (y.kind === "word" && y.n === 4 && y.extra === 1);
    return isWord && this.watcher.loose(base.n) ? [new Atom("data", base.n, true)] : this.mixed(base, y);
  }

  private mixed(x: Atom, y: Atom): readonly Atom[] {
    let result: readonly Atom[] = TAINT;
    for (const atom of [x, y]) {
      const isBase = (atom.kind === "number" && atom.flag) || atom.kind === "sum";
      if (isBase && this.watcher.isCode(atom.n)) {
        this.watcher.lost(atom.n, undefined);
        result = OFF;
      } else if (atom.kind === "off") result = OFF;
    }
    if (result === OFF) return OFF;
    if (x.kind === "stack" || y.kind === "stack") return [SOMEWHERE];
    if (x.kind === "assumed" || y.kind === "assumed") return ASSUMED;
    if (x.kind === "scrap" || y.kind === "scrap") return SCRAP;
    const isReturn = ({ kind }: Atom): boolean => kind === "return" || kind === "returned";
    return isReturn(x) || isReturn(y) ? RETURNED : TAINT;
  }
}

const resigned = (table: Table | undefined, signed: boolean): Table | undefined => table && { ...table, signed };

/** Why a value must not be jumped to, or undefined where it leads where pointers lead. */
export function strangeness(value: Value, isFixed: boolean): Kind | "sum of no code" | undefined {
  let worst: Kind | "sum of no code" | undefined;
  for (const { kind, n, flag, extra } of value) {
    if (kind === "number" || kind === "given" || kind === "return" || kind === "scrap") continue;
    if (kind === "word" && isFixed && n === 4 && !flag && extra === 1) continue;
    if (kind === "sum" || (kind === "data" && flag)) {
      if (kind === "data" || !flag) worst ??= "sum of no code";
      continue;
    }
    if (kind === "data") return "taint";
    if (kind === "taint" || worst === undefined || (kind === "rebased" && worst !== "taint")) worst = kind;
  }
  return worst;
}
