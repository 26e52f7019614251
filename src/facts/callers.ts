/**
 * Who calls a function directly, or jumps into it from another one: found at every byte position of the code, so that
 * none escapes, and settled by decoding the function around it. Who calls through a pointer is not here.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import { addressOf, Flow, indexAt, lengthOf } from "../x86/decode.js";
import { distantEnd } from "./byte-hints.js";
import type { CodeRange, FunctionIndex } from "./functions.js";

/** A direct call, jmp or jcc that leads into a range from outside, or a call from inside; or what runs on into it. */
export interface Caller {
  readonly at: Vaddr;
  readonly end: Vaddr;
  readonly isCall: boolean;
  /** The range that it stands in, or undefined in a gap. */
  readonly range: CodeRange | undefined;
}

/** The length of a jump with a distance of 8 bits, and how far one reaches. */
const SHORT_JUMP = 2;
const SHORT_REACH = SHORT_JUMP + 128;

/** How many bytes in front of its distance a branch with one of 32 bits has: two in jcc. */
const MOST_OPCODE = 2;

export class Callers {
  /** By a range's index: 1 + the number in `places` of the last place that leads into it; 0 where there is none. */
  private heads: Int32Array | undefined;
  private readonly next: number[] = [];
  private readonly places: number[] = [];
  private readonly known = new Map<number, readonly Caller[] | string>();

  constructor(private readonly functions: FunctionIndex) {}

  /** All that lead into a range, or why they are not known. */
  of(range: CodeRange): readonly Caller[] | string {
    let found = this.known.get(range.index);
    if (found === undefined) {
      found = this.find(range);
      this.known.set(range.index, found);
    }
    return found;
  }

  private find(range: CodeRange): readonly Caller[] | string {
    const heads = this.heads ?? this.index();
    const callers = new Map<Vaddr, Caller>();
    const take = (at: number): string | undefined => {
      const caller = this.settle(at, range);
      if (typeof caller === "string") return caller;
      if (caller !== undefined) callers.set(caller.at, caller);
      return undefined;
    };
    for (let n = heads[range.index]!; n > 0; n = this.next[n - 1]!) {
      const problem = take(this.places[n - 1]!);
      if (problem !== undefined) return problem;
    }
    for (const at of this.shortOnes(range)) {
      const problem = take(at);
      if (problem !== undefined) return problem;
    }
    const above = this.runsIntoFrom(range);
    if (above !== undefined) callers.set(above.at, above);
    return [...callers.values()];
  }

  /**
   * The instruction in front of a range that runs on into it, over padding or not. A call there is one that never
   * returns.
   */
  private runsIntoFrom({ start }: CodeRange): Caller | undefined {
    const { functions } = this;
    const gap = functions.gapAt(start - 1);
    const padding = gap !== undefined && functions.isPadding(gap) ? gap : undefined;
    const last = (padding?.start ?? start) - 1;
    const range = functions.containing(last);
    const code = range === undefined ? functions.gapCode(last) : functions.code(range);
    if (code === undefined || code.count === 0 || (padding !== undefined && isTrap(functions, padding.start)))
      return undefined;
    const index = indexAt(code, last);
    const at = addressOf(code, index);
    const flow = code.flow[index]!;
    const end = vaddr(at + lengthOf(code, index));
    const ends = flow & (Flow.Jump | Flow.IndirectJump | Flow.Return | Flow.Call | Flow.Trap | Flow.Nop);
    return ends === 0 && end === last + 1 ? { at, end, isCall: false, range } : undefined;
  }

  /** What the bytes of all code say, in one pass. */
  private index(): Int32Array {
    const { functions, places, next } = this;
    const heads = new Int32Array(functions.count);
    for (const section of functions.codeSections) {
      const bytes = functions.sectionBytes(section);
      const start = section.sh_addr;
      const low = functions.count === 0 ? 0 : functions.range(0).start;
      const high = functions.count === 0 ? 0 : functions.range(functions.count - 1).end;
      for (let p = 0; p + 5 <= bytes.length; p++) {
        const opcode = bytes[p]!;
        const isJcc = (opcode & 0xf0) === 0x80 && p > 0 && bytes[p - 1] === 0x0f;
        if (opcode !== 0xe8 && opcode !== 0xe9 && !isJcc) continue;
        const target = start + distantEnd(bytes, p);
        if (target < low || target >= high) continue;
        const index = functions.lastAtOrBelow(target);
        const { start: from, end } = functions.range(index);
        const at = start + p;
        if (target >= end || (opcode !== 0xe8 && at >= from && at < end)) continue;
        places.push(at);
        next.push(heads[index]!);
        heads[index] = places.length;
      }
    }
    this.heads = heads;
    return heads;
  }

  /** Where bytes around a range look like short branches into it. */
  private shortOnes({ start, end }: CodeRange): readonly number[] {
    const section = this.functions.sectionAt(start);
    if (section === undefined) return [];
    const bytes = this.functions.sectionBytes(section);
    const { sh_addr } = section;
    const found: number[] = [];
    const look = (low: number, high: number): void => {
      for (let p = Math.max(0, low - sh_addr); p + SHORT_JUMP <= Math.min(bytes.length, high - sh_addr); p++) {
        const opcode = bytes[p]!;
        if (opcode !== 0xeb && (opcode & 0xf0) !== 0x70 && (opcode & 0xfc) !== 0xe0) continue;
        const to = sh_addr + p + SHORT_JUMP + ((bytes[p + 1]! << 24) >> 24);
        if (to >= start && to < end) found.push(sh_addr + p);
      }
    };
    look(start - SHORT_REACH, start);
    look(end, end + SHORT_REACH);
    return found;
  }

  /** What the instruction around an opcode is: nothing, where it only looked like a branch into the range. */
  private settle(at: number, { start, end }: CodeRange): Caller | string | undefined {
    const range = this.functions.containing(at);
    if (range === undefined) {
      const gap = this.functions.gapAt(at);
      if (gap !== undefined && this.functions.isPadding(gap)) return undefined;
    }
    const code = range === undefined ? this.functions.gapCode(at) : this.functions.code(range);
    if (code === undefined || code.unclean !== undefined)
      return `what may be a branch at ${hex(at)}, in code that cannot be decoded, leads into it`;
    const index = indexAt(code, at);
    const from = addressOf(code, index);
    const target = code.targets[index]!;
    const isBranch = code.flow[index]! & (Flow.Call | Flow.Jump | Flow.Conditional | Flow.Transaction);
    if (!isBranch || !(target >= start && target < end) || at - from > MOST_OPCODE) return undefined;
    const isCall = (code.flow[index]! & Flow.Call) !== 0;
    return { at: from, end: vaddr(from + lengthOf(code, index)), isCall, range };
  }
}

/** Whether padding begins with int3. */
function isTrap(functions: FunctionIndex, address: number): boolean {
  const section = functions.sectionAt(address);
  return section !== undefined && functions.sectionBytes(section)[address - section.sh_addr] === 0xcc;
}
