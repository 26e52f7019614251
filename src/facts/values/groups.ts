/**
 * The parts of a function: ranges that jump into each other. Compilers split functions into hot and cold parts, each
 * with an FDE of its own. A jump into the middle of a range joins two ranges, and a conditional one to the start of a
 * range that nothing calls or names; any other jump to a start is a tail call, also to a stub of the linkage table.
 */

import type { Vaddr } from "../../address.js";
import { addTo } from "../../grouped.js";
import { Flow, indexOf } from "../../x86/decode.js";
import type { CodeRange, FunctionIndex } from "../functions.js";

/** A short jump and its distance. */
const SHORT_REACH = 130;

/** No function has more parts than this. */
const MOST_PARTS = 400;

/** A jump from one range into another. */
interface CrossJump {
  readonly from: Vaddr;
  readonly to: Vaddr;
}

export class GroupIndex {
  private readonly known = new Map<number, readonly CodeRange[] | string>();
  /** Jumps into a range from others, by the index of the range that they lead to. */
  private incoming: Map<number, CrossJump[]> | undefined;

  constructor(
    private readonly functions: FunctionIndex,
    /** Whether something calls the function that begins at an address, or names it. */
    private readonly isEntry: (start: Vaddr) => boolean,
  ) {}

  /** All parts of the function that a range belongs to, or why they are not known. */
  partsOf(range: CodeRange): readonly CodeRange[] | string {
    const known = this.known.get(range.index);
    if (known !== undefined) return known;
    const found = this.collect(range);
    if (typeof found === "string") this.known.set(range.index, found);
    else for (const part of found) this.known.set(part.index, found);
    return found;
  }

  private collect(range: CodeRange): readonly CodeRange[] | string {
    const { functions } = this;
    this.incoming ??= crossJumps(functions);
    if (this.isLinkage(range)) return [range];
    const found = new Map([[range.index, range]]);
    const work = [range];
    const add = (address: number): void => {
      const other = functions.containing(address);
      if (other === undefined || found.has(other.index) || this.isLinkage(other)) return;
      found.set(other.index, other);
      work.push(other);
    };
    for (let part = work.pop(); part !== undefined; part = work.pop()) {
      if (found.size > MOST_PARTS) return `its function has more than ${MOST_PARTS} parts`;
      const code = functions.code(part);
      if (code.unclean === undefined)
        for (let i = 0; i < code.count; i++) {
          const target = code.targets[i]!;
          if ((code.flow[i]! & (Flow.Jump | Flow.Conditional)) === 0 || (target >= code.start && target < code.end))
            continue;
          if (!this.isTailCall(target, (code.flow[i]! & Flow.Conditional) !== 0)) add(target);
        }
      for (const { from, to } of this.incoming.get(part.index) ?? []) {
        const other = functions.containing(from)!;
        const their = functions.code(other);
        const index = indexOf(their, from);
        if (their.unclean === undefined && (index < 0 || their.targets[index] !== to)) continue;
        if (this.isTailCall(to, true)) continue;
        add(from);
      }
    }
    return [...found.values()].sort((a, b) => a.start - b.start);
  }

  /** One FDE describes all stubs of the linkage table: a jump to one of them is a tail call, too. */
  private isLinkage({ start }: CodeRange): boolean {
    return this.functions.sectionAt(start)?.name.startsWith(".plt") ?? false;
  }

  private isTailCall(target: number, isConditional: boolean): boolean {
    const other = this.functions.containing(target);
    return other !== undefined && other.start === target && (!isConditional || this.isEntry(other.start));
  }
}

/** What looks, by its bytes, like a conditional jump into another range, or any jump into the middle of one. */
function crossJumps(functions: FunctionIndex): Map<number, CrossJump[]> {
  const incoming = new Map<number, CrossJump[]>();
  for (let r = 0; r < functions.count; r++) {
    const range = functions.range(r);
    const bytes = functions.bytes(range);
    const { start, end } = range;
    const { length } = bytes;
    const add = (at: number, to: number, isConditional: boolean): void => {
      const other = functions.containing(to);
      if (other === undefined || other.index === r || (!isConditional && to === other.start)) return;
      const jump = { from: (start + at) as Vaddr, to: to as Vaddr };
      addTo(incoming, other.index, jump);
    };
    // Only from close to an end does a short one lead out.
    for (let p = 0; p + 2 <= length; p++) {
      if (p === SHORT_REACH && length > 2 * SHORT_REACH) p = length - SHORT_REACH;
      const opcode = bytes[p]!;
      if (opcode !== 0xeb && (opcode & 0xf0) !== 0x70 && (opcode < 0xe0 || opcode > 0xe3)) continue;
      const to = start + p + 2 + ((bytes[p + 1]! << 24) >> 24);
      if (to < start || to >= end) add(p, to, opcode !== 0xeb);
    }
    for (let p = 0; p + 5 <= length; p++) {
      const opcode = bytes[p]!;
      let at = p;
      if (opcode === 0xe9) at = p + 1;
      else if (opcode === 0x0f && (bytes[p + 1]! & 0xf0) === 0x80 && p + 6 <= length) at = p + 2;
      else continue;
      const distance = bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24);
      const to = start + at + 4 + distance;
      if (to < start || to >= end) add(p, to, opcode !== 0xe9);
    }
  }
  return incoming;
}
