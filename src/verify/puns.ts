/**
 * Puns: jumps of which one byte is new. Where a nop was there is the first byte of a jump, and the bytes after it, four
 * or one, which are what they were, are its distance.
 *
 * Who enters these bytes runs what he ran. What a pun needs all the same: that its nop was an instruction, and rsp the
 * stack's, since a traced probe writes below it; and that nobody writes to the bytes after it.
 */

import { hex, type Interval, type Vaddr, vaddr } from "../address.js";
import type { ProgramFacts } from "../facts/program.js";
import { stackPointerObstacle } from "../facts/stack-pointer.js";
import { touches } from "../intervals.js";
import { Flow, indexOf } from "../x86/decode.js";
import type { ChangedCode } from "./changed-code.js";
import type { CodeReader } from "./code-reader.js";
import type { Window } from "./window.js";

const NOP = 0x90;

export interface Pun {
  /** After the jump. */
  readonly end: Vaddr;
  /** A probe of the rewritten file among its bytes: once it is traced the jump leads elsewhere. */
  readonly probe: Vaddr | undefined;
}

/** The changed runs that are puns. */
export function punsIn(
  { changed, added }: ChangedCode,
  before: CodeReader,
  after: { readonly code: CodeReader; readonly notesAt: ReadonlyMap<number, unknown> },
): ReadonlyMap<Interval<Vaddr>, Pun> {
  const puns = new Map<Interval<Vaddr>, Pun>();
  for (const run of changed) {
    const { start, end } = run;
    const jump = after.code.at(start);
    const isJump = jump !== null && (jump.flow & Flow.Jump) !== 0 && jump.length > 1;
    if (end !== start + 1 || !isJump || before.bytes(start, 1)[0] !== NOP) continue;
    const last = vaddr(start + jump.length);
    // The instructions whose bytes are its distance are still there, whole: else it is a jump whose distance is their
    // bytes by chance.
    let behind = end;
    while (behind < last) behind = vaddr(behind + (before.at(behind)?.length ?? 1));
    if (touches(changed, end, behind)) continue;
    // To new code, or to padding that leads there.
    if (![added, changed].some((stretches) => touches(stretches, jump.target, jump.target + 1))) continue;
    let probe: Vaddr | undefined;
    for (let at = end; at < last; at++) if (after.notesAt.has(at)) probe = vaddr(at);
    puns.set(run, { end: last, probe });
  }
  return puns;
}

/** The window of one, which has no other bytes than the nop's. */
export function punWindow(facts: ProgramFacts, { start, end }: Interval<Vaddr>, { end: last, probe }: Pun): Window {
  const patched = facts.entries.frozenWithin(start, last);
  const frozen = patched && `the bytes at ${hex(patched.start)} must not be part of a jump: ${patched.reason}`;
  const traced = probe && `a probe at ${hex(probe)}, once it is traced, leads the jump at ${hex(start)} elsewhere`;
  return {
    start,
    end,
    arrivals: [{ address: start, reason: "its nop was here", doubtful: false }],
    returns: [],
    frozen: frozen ?? traced,
    unknown: unknownNop(facts, start),
    isPun: true,
  };
}

/** Why it is not known that a nop is an instruction with the stack's rsp, or undefined. */
function unknownNop(facts: ProgramFacts, at: Vaddr): string | undefined {
  const { functions, computed } = facts;
  const range = functions.containing(at);
  if (range === undefined) return "no function is known here (.eh_frame and symbols do not say)";
  const code = functions.code(range);
  if (code.unclean !== undefined) return `its function at ${hex(range.start)} cannot be decoded: ${code.unclean}`;
  if (indexOf(code, at) < 0) return "no instruction of its function begins here";
  return computed.readAsData(range) ?? stackPointerObstacle(facts, range, at);
}
