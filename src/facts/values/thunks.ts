/**
 * Thunks that jump to what a register holds when they are called: retpolines and their like. A call of one, or a jump
 * to one, is a jump through that register.
 */
import { type Vaddr, vaddr } from "../../address.js";
import { addressOf, type DecodedCode, Flow, indexOf } from "../../x86/decode.js";
import { thunkEnds } from "../byte-hints.js";
import type { FunctionIndex } from "../functions.js";
import { stepAt } from "./steps.js";

/** Thunks are short. */
const MOST_INSTRUCTIONS = 16;
const MOST_BYTES = 64;
const RSP = 4;

export class Thunks {
  private readonly known = new Map<number, number>();
  /** By code section: blocks of MOST_BYTES in which something seems to end like a thunk. Made when first asked for. */
  private ends: readonly { readonly start: number; readonly end: number; readonly blocks: Uint8Array }[] | undefined;

  constructor(private readonly functions: FunctionIndex) {}

  /** The register by which a function that begins at a link-time address leaves for good, or -1. */
  registerOf(target: Vaddr): number {
    // Every branch is asked about: most lead to where nothing ends like this.
    if (!this.mayBe(target)) return -1;
    let register = this.known.get(target);
    if (register === undefined) {
      register = this.find(target);
      this.known.set(target, register);
    }
    return register;
  }

  private mayBe(target: number): boolean {
    this.ends ??= this.functions.codeSections.map((section) => {
      const blocks = new Uint8Array(section.sh_size / MOST_BYTES + 2);
      for (const at of thunkEnds(this.functions.sectionBytes(section))) blocks[Math.floor(at / MOST_BYTES)] = 1;
      return { start: section.sh_addr, end: section.sh_addr + section.sh_size, blocks };
    });
    for (const { start, end, blocks } of this.ends) {
      if (target < start || target >= end) continue;
      const block = Math.floor((target - start) / MOST_BYTES);
      return blocks[block] === 1 || blocks[block + 1] === 1;
    }
    return false;
  }

  private find(target: Vaddr): number {
    const range = this.functions.containing(target);
    if (range !== undefined) {
      const from = target - range.start;
      const ends = thunkEnds(this.functions.bytes(range).subarray(from, from + MOST_BYTES));
      if (ends.next().done === true) return -1;
    }
    const code = range === undefined ? this.functions.gapCode(target) : this.functions.code(range);
    const first = code === undefined ? -1 : indexOf(code, target);
    return code === undefined || first < 0 ? -1 : follow(code, first);
  }
}

/** Follows a thunk to its end: a call of its own inside leaves a return address that a store replaces. */
function follow(code: DecodedCode, first: number): number {
  const end = addressOf(code, first) + MOST_BYTES;
  let stored = -1;
  let popped = 0;
  for (let i = first, left = MOST_INSTRUCTIONS; i < code.count && left > 0; left--) {
    const flow = code.flow[i]!;
    const target = code.targets[i]!;
    if (flow & (Flow.Call | Flow.Jump)) {
      const next = Number.isNaN(target) ? -1 : indexOf(code, vaddr(target));
      if (next < 0 || target >= end) return -1;
      i = next;
      continue;
    }
    if (flow & Flow.Return) return stored;
    const { operation, operands } = stepAt(code, i);
    const [a, b] = operands;
    // To what it popped it returns.
    if (flow & Flow.IndirectJump) return a?.kind === "register" && !(popped & (1 << a.register)) ? a.register : -1;
    if (flow & (Flow.Conditional | Flow.Trap)) return -1;
    if (operation === "move" && a?.kind === "memory" && a.base === RSP && b?.kind === "register") stored = b.register;
    else if (operation === "push" && a?.kind === "register") stored = a.register;
    else if (operation === "pop" && a?.kind === "register") popped |= 1 << a.register;
    else if (operation !== "compare" && operation !== "other") {
      // lea 8(%rsp), add $8, %rsp: what the first call left is thrown away.
      if (a?.kind !== "register" || a.register !== RSP) return -1;
    }
    i++;
  }
  return -1;
}
