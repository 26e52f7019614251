/**
 * Which registers a function of the file may change. By the ABI a call may change nine of them, but compilers know
 * their own functions better (gcc -fipa-ra) and keep values, addresses of tables among them, in registers that the
 * callee leaves alone.
 */
import { type Vaddr, vaddr } from "../../address.js";
import { Flow, indexOf } from "../../x86/decode.js";
import type { FunctionIndex } from "../functions.js";
import { type Step, stepAt } from "./steps.js";

/** rax, rcx, rdx, rsi, rdi, r8 to r11. */
export const ALL_CLOBBERED = 0b1111_1100_0111;

const MOST_INSTRUCTIONS = 400;
const DEEPEST = 4;

export class Clobbered {
  private readonly known = new Map<number, number>();

  constructor(private readonly functions: FunctionIndex) {}

  /**
   * The registers, a bit each, that a direct call of this link-time address may change, of those that the ABI lets it.
   */
  by(target: Vaddr, depth = DEEPEST): number {
    const known = this.known.get(target);
    if (known !== undefined) return known;
    if (depth === 0) return ALL_CLOBBERED;
    this.known.set(target, ALL_CLOBBERED);
    const answer = this.explore(target, depth);
    this.known.set(target, answer);
    return answer;
  }

  private explore(target: Vaddr, depth: number): number {
    let written = 0;
    const seen = new Set<number>();
    const work: number[] = [target];
    let left = MOST_INSTRUCTIONS;
    for (let at = work.pop(); at !== undefined; at = work.pop()) {
      const range = this.functions.containing(at);
      const code = range && this.functions.code(range);
      if (code === undefined || code.unclean !== undefined) return ALL_CLOBBERED;
      const first = indexOf(code, at);
      if (first < 0) return ALL_CLOBBERED;
      for (let i = first; i < code.count; i++) {
        const here = code.start + code.offsets[i]!;
        if (seen.has(here)) break;
        seen.add(here);
        if (left-- === 0) return ALL_CLOBBERED;
        const flow = code.flow[i]!;
        if (flow & (Flow.IndirectJump | Flow.Transaction)) return ALL_CLOBBERED;
        if (flow & Flow.Return) break;
        const to = code.targets[i]!;
        if (flow & (Flow.Jump | Flow.Conditional)) work.push(to);
        if (flow & Flow.Jump) break;
        if (flow & Flow.Call) written |= Number.isNaN(to) ? ALL_CLOBBERED : this.by(vaddr(to), depth - 1);
        else if (flow & Flow.Trap) written |= 0b1000_0000_0011;
        else if ((flow & (Flow.Conditional | Flow.Nop)) === 0) written |= writesOf(stepAt(code, i));
        if ((written & ALL_CLOBBERED) === ALL_CLOBBERED) return ALL_CLOBBERED;
      }
    }
    return written & ALL_CLOBBERED;
  }
}

/** The registers that a step writes, a bit each. */
function writesOf({ operation, operands, writes }: Step): number {
  if (operation === "other") return writes;
  if (operation === "compare" || operation === "push") return 0;
  if (operation === "sign extend eax") return 1;
  let mask = 0;
  for (const [k, o] of operands.entries())
    if (o.kind === "register" && (k === 0 || operation === "exchange")) mask |= 1 << o.register;
  return mask;
}
