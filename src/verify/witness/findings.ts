/**
 * What following a group finds, taken down as the arithmetic tells of it; and where the entries of a table lead.
 */
import type { Parts } from "./parts.js";
import type { Loads } from "./place.js";
import type { Program } from "./program.js";
import { lowerBound } from "./spans.js";
import type { Atom, Table, Value, Watcher } from "./values.js";

export interface Formation {
  readonly base: number;
  readonly table: Table;
  readonly minus: boolean;
  readonly at: number;
  /** Where its entries lead. The table may end before: its end is not known. */
  readonly entries: readonly number[];
  /** Where their words are. */
  readonly places: readonly number[];
  /** So many of them come before another address of data that code makes. */
  readonly sure: number;
  /**
   * Where words in front of it lead, if that is in the function of the base: an index may count from below a table's
   * name.
   */
  readonly below: readonly number[];
}

/** What is found in a group. All addresses are link-time addresses. */
export interface Findings {
  /** What each indirect transfer, and each ret, goes by. */
  readonly transfers: Map<number, { readonly value: Value; readonly kind: "jmp" | "call" | "ret" }>;
  /** Addresses of code, and instructions that make them. */
  readonly made: Map<number, number>;
  readonly lost: Map<
    string,
    { readonly base: number; readonly reach: readonly [number, number] | undefined; readonly at: number }
  >;
  readonly formations: Map<string, Formation>;
  /** Addresses of data that a word of memory was added to of which more is not known. */
  readonly loose: Set<number>;
  /** Tables whose entries are added to what was handed over. */
  readonly handedSums: Map<string, { readonly table: Table; readonly minus: boolean; readonly at: number }>;
  /** Return addresses that callees leave in registers. */
  readonly told: Set<number>;
  /** Code that is read as data, and where. */
  readonly readAsData: Map<number, number>;
  /** Loads that find the return address, or may. */
  readonly returnReads: Map<number, "found" | "maybe">;
  /**
   * Bases of sums that go anywhere: to memory, into a call, out of the function, to a transfer. Others are only read
   * by.
   */
  readonly handedOn: Set<number>;
  /** Addresses that were asked for at which an instruction was followed. */
  readonly reached: Set<number>;
  /** rsp at addresses that were asked for. */
  readonly stackPointers: Map<number, Value>;
}

const MOST_ENTRIES = 1 << 16;
/** From one entry of a table to the next, in bytes, where nobody says how many. */
const LONGEST_STRIDE = 32;

interface Entry {
  readonly at: number;
  readonly target: number;
}
/** So many words in front of a table may be its own. */
const MOST_BELOW = 256;
/** More of them in one group are not looked for: all data would be gone through for each. */
const MOST_LOOSE = 16;

/** Where the entries of a table lead, as far as they lead to code; undefined where it may change at run time. */
function entriesOf(program: Program, base: number, table: Table, minus: boolean): readonly Entry[] | undefined {
  const { first, stride, width, signed } = table;
  if (!program.isConstant(first)) return undefined;
  const span = program.spanOf(first);
  const found: Entry[] = [];
  if (span === undefined) return found;
  // Where it is not known how far words are apart, any may be an entry, and there is one every so often.
  const step = stride === 0 || stride >= width ? Math.max(stride, width) : 1;
  const farthest = step === 1 ? LONGEST_STRIDE : 0;
  let last = first;
  for (let at = first; at + width <= span.end && found.length < MOST_ENTRIES; at += step) {
    if (program.isRelocated(at, width)) break;
    const word = wordAt(span.view, at - span.start, width, signed);
    const target = minus ? base - word : base + word;
    if (program.isCode(target)) {
      found.push({ at, target });
      last = at;
    } else if (at - last >= farthest) break;
    if (stride === 0) break;
  }
  return found;
}

/**
 * Where the words in front of a table lead, as far as they lead to code, if that is an instruction of the base's
 * function.
 */
function entriesBelow(program: Program, parts: Parts, base: number, table: Table, minus: boolean): readonly number[] {
  const { first, stride, width, signed } = table;
  const own = parts.owner(base)?.group;
  const span = program.spanOf(first);
  const found: number[] = [];
  if (own === undefined || span === undefined || stride < width) return found;
  for (let i = 1, at = first - stride; i < MOST_BELOW && at >= span.start; i++, at -= stride) {
    const word = wordAt(span.view, at - span.start, width, signed);
    const target = minus ? base - word : base + word;
    if (!program.isCode(target)) break;
    if (parts.owner(target)?.group === own && (parts.isStart(target) || !parts.isLinear(target))) found.push(target);
  }
  return found;
}

/** A base and a table, whose entries are as many as lead to code; undefined where they may change at run time. */
export function formationOf(
  program: Program,
  parts: Parts,
  base: number,
  table: Table,
  minus: boolean,
  at: number,
  starts: readonly number[] = [],
): Formation | undefined {
  const words = entriesOf(program, base, table, minus);
  if (words === undefined) return undefined;
  const { first } = table;
  const next = Math.min(parts.nextMade(first), starts.find((start) => start > first) ?? Number.POSITIVE_INFINITY);
  const entries = words.map(({ target }) => target);
  const places = words.map((word) => word.at);
  const sure = lowerBound(places, next);
  const below = base === 0 || entries.length === 0 ? [] : entriesBelow(program, parts, base, table, minus);
  return { base, table, minus, at, entries, places, sure, below };
}

export function wordAt(view: DataView, at: number, width: number, signed: boolean): number {
  if (width === 8) return Number(view.getBigInt64(at, true));
  if (width === 4) return signed ? view.getInt32(at, true) : view.getUint32(at, true);
  if (width === 2) return signed ? view.getInt16(at, true) : view.getUint16(at, true);
  return signed ? view.getInt8(at) : view.getUint8(at);
}

/** Takes down what the arithmetic tells. */
export class Watch implements Watcher, Loads {
  readonly isFixed: boolean;
  at = 0;
  private findings!: Findings;
  private starts: readonly number[] = [];

  constructor(
    private readonly program: Program,
    private readonly parts: Parts,
  ) {
    this.isFixed = program.isFixed;
  }

  /** @param starts where tables are known to begin, ascending: another ends there */
  begin(starts: readonly number[]): Findings {
    this.starts = starts;
    this.findings = {
      transfers: new Map(),
      made: new Map(),
      lost: new Map(),
      formations: new Map(),
      loose: new Set(),
      handedSums: new Map(),
      told: new Set(),
      readAsData: new Map(),
      returnReads: new Map(),
      handedOn: new Set(),
      reached: new Set(),
      stackPointers: new Map(),
    };
    return this.findings;
  }

  isCode(address: number): boolean {
    return this.program.isCode(address);
  }

  /** In fixed programs every number is marked. */
  isData(address: number): boolean {
    return !this.program.isCode(address) && (!this.isFixed || this.program.isImage(address));
  }

  made(address: number): void {
    this.findings.made.set(address, this.at);
  }

  lost(base: number, reach: readonly [number, number] | undefined): void {
    this.findings.lost.set(`${base},${reach}`, { base, reach, at: this.at });
  }

  loose(base: number): boolean {
    this.findings.loose.add(base);
    return this.findings.loose.size <= MOST_LOOSE;
  }

  handedSum(table: Table, minus: boolean): void {
    this.findings.handedSums.set(`${table.first},${table.stride},${table.width},${minus}`, {
      table,
      minus,
      at: this.at,
    });
  }

  formed(base: number, table: Table, minus: boolean): "unknown" | "nowhere" | "code" {
    const { first, stride, width, signed } = table;
    const key = `${base},${first},${stride},${width},${signed},${minus}`;
    if (this.findings.formations.has(key)) return "code";
    const formation = formationOf(this.program, this.parts, base, table, minus, this.at, this.starts);
    if (formation === undefined || (formation.entries.length === 0 && this.isCode(base))) return "unknown";
    if (formation.entries.length === 0) return "nowhere";
    this.findings.formations.set(key, formation);
    return "code";
  }

  handOn(value: Value): void {
    for (const { kind, n } of value) if (kind === "sum") this.findings.handedOn.add(n);
  }

  readCode(address: number): void {
    this.findings.readAsData.set(address, this.at);
  }

  readStack({ n, extra }: Atom): void {
    if (extra !== 0 || n <= -8 || n >= 8) return;
    this.findings.returnReads.set(this.at, Number.isNaN(n) ? "maybe" : "found");
  }
}
