/**
 * Functions that hand their return address to who called them, to find out where that is: `mov (%rsp), %rcx; ret`, or a
 * pop, a push and a return. What they leave in registers is an address of code that the caller may compute with.
 *
 * They are short and have it before they branch, as far as this goes (docs/assumptions.md): another that looks at its
 * return address keeps it for itself.
 */
import { type Vaddr, vaddr } from "../../address.js";
import { type DecodedCode, Flow } from "../../x86/decode.js";
import type { CodeRange, FunctionIndex } from "../functions.js";
import { ALL_CLOBBERED } from "./clobbered.js";
import { stepAt } from "./steps.js";

/** So many instructions are looked at. */
const MOST_INSTRUCTIONS = 24;
/** So many bytes has one at most. */
const MOST_BYTES = 96;
const RSP = 4;
const WORD = 8;

export class ReturnReaders {
  private readonly known = new Map<number, number>();

  constructor(private readonly functions: FunctionIndex) {}

  /** The registers, a bit each, in which a function that begins at a link-time address may leave its return address. */
  by(target: Vaddr): number {
    let mask = this.known.get(target);
    if (mask === undefined) {
      const range = this.functions.containing(target);
      const isStart = range !== undefined && range.start === target;
      mask = isStart && mayBeOne(range, this.functions.bytes(range)) ? registersOf(this.functions.code(range)) : 0;
      this.known.set(target, mask);
    }
    return mask;
  }

  /** Ranges that may be one, of all. */
  *all(): Iterable<CodeRange> {
    for (let i = 0; i < this.functions.count; i++) {
      const range = this.functions.range(i);
      if (range.end - range.start <= MOST_BYTES && this.by(vaddr(range.start)) !== 0) yield range;
    }
  }
}

/** Whether bytes begin with a pop, or have a load from rsp without or with a short distance: 8b, a SIB byte of rsp. */
function mayBeOne({ start, end }: CodeRange, bytes: Uint8Array): boolean {
  if (end - start > MOST_BYTES) return false;
  for (let p = 0; p + 2 < bytes.length; p++) {
    if ((bytes[p]! & 0xf8) === 0x58) return true;
    // mov, xchg and lea; push r/m.
    if ((bytes[p] === 0x8b || bytes[p] === 0x87 || bytes[p] === 0x8d || bytes[p] === 0xff) && bytes[p + 2] === 0x24)
      return true;
  }
  return false;
}

/**
 * The registers that are written in a function that reads its return address, in front of its first branch; else none.
 */
function registersOf(code: DecodedCode): number {
  if (code.unclean !== undefined) return 0;
  let depth = 0;
  let written = 0;
  let reads = false;
  for (let i = 0; i < code.count && i < MOST_INSTRUCTIONS; i++) {
    const flow = code.flow[i]!;
    if (flow & (Flow.Return | Flow.Jump | Flow.Conditional | Flow.Call | Flow.IndirectJump)) break;
    if (flow & Flow.Nop) continue;
    const { operation, operands, writes } = stepAt(code, i);
    const [first, second] = operands;
    for (const o of operands) {
      if (o.kind !== "memory" || o.base !== RSP || o.hasSegment) continue;
      const isStored = o === first && operation === "move";
      if (!isStored && o.displacement < depth + WORD && o.displacement + WORD > depth) reads = true;
    }
    const number = second?.kind === "number" ? second.value : 0;
    const isTop = first?.kind === "register" && first.register === RSP;
    if (operation === "push") depth += WORD;
    else if (operation === "pop") {
      if (depth === 0) reads = true;
      depth -= WORD;
    } else if (operation === "subtract" && isTop) depth += number;
    else if (operation === "add" && isTop) depth -= number;
    if (operation === "other") written |= writes;
    else if (operation !== "compare" && operation !== "push")
      for (const o of operands) if (o.kind === "register") written |= 1 << o.register;
  }
  return reads ? written & ALL_CLOBBERED : 0;
}
