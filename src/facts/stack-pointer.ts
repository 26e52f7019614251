/**
 * Whether rsp is the stack's at a site: a probe that is traced writes below it, and a guard moves it.
 *
 * Where what enters a function is known its values were followed, and say so. Where it is not, somebody may come from
 * anywhere with any state of the function, so all of its instructions count: none gives rsp anything but what push,
 * pop, call and sums with rsp give it, or a frame pointer that was made of rsp. Who enters from outside has the stack
 * in rsp (the ABI).
 */
import { hex, type Vaddr } from "../address.js";
import { addressOf } from "../x86/decode.js";
import { type Effects, effectsOf, Kind, RBP, RSP } from "../x86/effects.js";
import type { CodeRange } from "./functions.js";
import { knows } from "./knowledge.js";
import type { ProgramFacts } from "./program.js";
import { isStack } from "./values/value.js";

/** Whether rsp is the stack's where a site is; said of sites only whose code is known. */
export function hasStackPointer(facts: ProgramFacts, site: Vaddr): boolean {
  const around = facts.siteCode(site);
  if (typeof around === "string") return true;
  const rsp = facts.computed.groupOf(around.range).flow?.rspAtNops.get(site);
  return rsp === undefined || isStack(rsp) || !knows("stack pointer");
}

/** Why rsp may be something else at a site, in a range that decodes, or undefined. */
export function stackPointerObstacle(facts: ProgramFacts, range: CodeRange, site: Vaddr): string | undefined {
  if (!knows("stack pointer")) return undefined;
  const { flow, parts } = facts.computed.groupOf(range);
  const value = flow?.rspAtNops.get(site);
  if (value !== undefined && !isStack(value)) return "rsp may be no stack pointer here";
  if (facts.computed.unknown(range) === undefined) return undefined;
  const effects = parts.map((part) => effectsOf(facts.functions.code(part)));
  const byFrame = effects.some(restores);
  for (const own of effects)
    for (let i = 0; i < own.code.count; i++)
      if (breaks(own, i, RSP) || (byFrame && breaks(own, i, RBP)))
        return `rsp may be no stack pointer here: what happens at ${hex(addressOf(own.code, i))} is not understood`;
  return undefined;
}

/** Whether rsp comes back from rbp. */
const restores = ({ kind, target, source, code }: Effects): boolean => {
  for (let i = 0; i < code.count; i++)
    if (kind[i] === Kind.Leave || (kind[i] === Kind.Add && target[i] === RSP && source[i] === RBP)) return true;
  return false;
};

/** Whether an instruction gives rsp, or rbp, what is not the stack's. */
function breaks({ kind, target, source, writes }: Effects, i: number, register: number): boolean {
  switch (kind[i]) {
    case Kind.Add:
      return target[i] === register && source[i] !== RSP && source[i] !== RBP;
    case Kind.Pop:
      // A frame pointer comes back from where it was saved.
      return register === RSP && (writes[i]! & (1 << RSP)) !== 0;
    case Kind.Generic:
      return (writes[i]! & (1 << register)) !== 0;
    default:
      return false;
  }
}
