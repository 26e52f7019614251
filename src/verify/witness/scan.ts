/**
 * The brute parts: whatever looks like a branch or a word that leads to an address that is asked about, at any byte
 * position, wherever it is not known which bytes are instructions and which are something else.
 */
import type { Interval } from "../../address.js";
import { type Formation, wordAt } from "./findings.js";
import type { Parts } from "./parts.js";
import type { Program } from "./program.js";
import { type Span, spanAt } from "./spans.js";

/** Something at `place` leads to `address`. */
export type Hit = (address: number, place: number, why: string) => void;

/** A set of addresses that is asked for tens of millions of times. */
export class Asked {
  private readonly bits: Uint8Array;
  readonly lowest: number;
  readonly highest: number;

  constructor(readonly addresses: ReadonlySet<number>) {
    let lowest = Number.POSITIVE_INFINITY;
    let highest = 0;
    for (const address of addresses) {
      lowest = Math.min(lowest, address);
      highest = Math.max(highest, address);
    }
    this.lowest = lowest;
    this.highest = highest;
    this.bits = new Uint8Array(addresses.size === 0 ? 0 : highest - lowest + 1);
    for (const address of addresses) this.bits[address - lowest] = 1;
  }

  has(address: number): boolean {
    return this.bits[address - this.lowest] === 1;
  }
}

/** Branches in bytes that the linear decode cannot answer for. */
export function scanCode(program: Program, parts: Parts, asked: Asked, hit: Hit): void {
  for (const part of parts.list) {
    if (part.linear) continue;
    const { view, bytes, start } = program.code.find((s) => part.start >= s.start && part.start < s.end)!;
    for (let at = part.start - start; at < part.end - start; at++) {
      if (at + 4 <= bytes.length) {
        const target = start + at + 4 + view.getInt32(at, true);
        if (asked.has(target)) hit(target, start + at, "four bytes that may be a branch's");
        if (program.isFixed && asked.has(view.getUint32(at, true)))
          hit(view.getUint32(at, true), start + at, "a word among code");
      }
      const opcode = bytes[at - 1] ?? 0;
      if ((opcode & 0xf0) === 0x70 || opcode === 0xeb || (opcode >= 0xe0 && opcode <= 0xe3)) {
        const target = start + at + 1 + view.getInt8(at);
        if (asked.has(target)) hit(target, start + at, "a byte that may be a short branch's");
      }
    }
  }
}

/** [start, end) each, ascending and disjoint. */
export type Ranges = readonly Interval[];

/** Where tables are, as far as that is certain. */
export function rangesOf(formations: readonly Formation[]): Ranges {
  const all = formations.flatMap(({ table: { first, stride, width }, sure }) =>
    stride === width ? [{ start: first, end: first + sure * width }] : [],
  );
  const joined: { start: number; end: number }[] = [];
  for (const { start, end } of all.sort((a, b) => a.start - b.start)) {
    const last = joined.at(-1);
    if (last !== undefined && start <= last.end) last.end = Math.max(last.end, end);
    else joined.push({ start, end });
  }
  return joined;
}

/**
 * Whether four bytes of data may be something by themselves: no relocation fills them, and no table has them as its
 * entry.
 */
export const isFree = (program: Program, tables: Ranges, at: number): boolean =>
  !program.isRelocated(at, 4) && !((spanAt(tables, at)?.end ?? 0) >= at + 4);

/**
 * Words of data: relative to themselves, and in fixed programs alone. What is in a table that code reads is its
 * entries.
 */
export function scanData(program: Program, asked: Asked, tables: Ranges, hit: Hit): void {
  if (asked.addresses.size === 0) return;
  for (const { view, start, bytes } of program.data)
    for (let at = 0; at + 4 <= bytes.length; at++) {
      const word = view.getInt32(at, true);
      const target = start + at + word;
      if (asked.has(target) && isFree(program, tables, start + at))
        hit(target, start + at, "a word relative to itself");
      if (program.isFixed && asked.has(word >>> 0) && isFree(program, tables, start + at))
        hit(word >>> 0, start + at, "a word that is its address");
    }
}

/** Words of four bytes that lead there from an address of data, wherever they are. */
export function scanLoose(program: Program, base: number, asked: Asked, tables: Ranges, hit: Hit): void {
  for (const { view, start, bytes } of program.data)
    for (let at = 0; at + 4 <= bytes.length; at++) {
      const target = base + view.getInt32(at, true);
      if (asked.has(target) && isFree(program, tables, start + at)) hit(target, start + at, "a word");
    }
}

/** Words that lead there from a base: all of a table's width, wherever they are. */
export function scanTable(
  program: Program,
  parts: Parts,
  { base, table, minus }: Formation,
  asked: Asked,
  hit: Hit,
): void {
  const { width, signed } = table;
  const visit = (span: Span, from: number, to: number): void => {
    for (let at = from; at + width <= to; at++) {
      // Four bytes by themselves, the usual width: this runs for megabytes.
      const word = width === 4 && signed ? span.view.getInt32(at, true) : wordAt(span.view, at, width, signed);
      const target = minus ? base - word : base + word;
      if (asked.has(target) && !program.isRelocated(span.start + at, width))
        hit(target, span.start + at, "an entry of a table");
    }
  };
  for (const span of program.data) visit(span, 0, span.bytes.length);
  for (const part of parts.list) {
    if (part.linear && part.unknown === undefined) continue;
    const span = program.code.find((s) => part.start >= s.start && part.start < s.end)!;
    visit(span, part.start - span.start, part.end - span.start);
  }
}
