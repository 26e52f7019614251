/**
 * Thunks that jump to what a register holds when they are called: retpolines and their like. A call of one, or a jump
 * to one, is a jump through that register.
 */
import { type Vaddr, vaddr } from "../../address.js";
import { addressOf, type DecodedCode, Flow, indexOf } from "../../x86/decode.js";
import { mayEndThunk } from "../byte-hints.js";
import type { FunctionIndex } from "../functions.js";
import { stepAt } from "./steps.js";

/** Thunks are short. */
const MOST_INSTRUCTIONS = 16;
const MOST_BYTES = 64;
const RSP = 4;

export class Thunks {
  private readonly known = new Map<number, number>();

  constructor(private readonly functions: FunctionIndex) {}

  /** The register by which a function that begins at a link-time address leaves for good, or -1. */
  registerOf(target: Vaddr): number {
    let register = this.known.get(target);
    if (register === undefined) {
      register = this.find(target);
      this.known.set(target, register);
    }
    return register;
  }

  private find(target: Vaddr): number {
    const range = this.functions.containing(target);
    if (range !== undefined) {
      // Every callee is asked about: most are seen not to be one before they are decoded.
      const from = target - range.start;
      if (!mayEndThunk(this.functions.bytes(range).subarray(from, from + MOST_BYTES))) return -1;
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
