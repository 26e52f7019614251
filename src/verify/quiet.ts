/**
 * The way of each side up to the next thing that counts: nops and direct jumps are passed in silence, and the rewritten
 * side may take as many of them as it likes, other ones than the original.
 *
 * Where the rewritten side comes back into code that the original has, it must be at an address that the original is at
 * or passed in the same silence: to run the same instructions elsewhere is not how it is done.
 */
import { hex, type Vaddr } from "../address.js";
import { nopFill } from "../x86/bytes.js";
import { Flow } from "../x86/decode.js";
import type { Instruction } from "./code-reader.js";
import { sameBytes } from "./same-instruction.js";
import { FRAME, RAISE_FRAME, type Selection, selectionAt } from "./selection.js";
import type { Subject } from "./subject.js";

/** The original is at `o`, the rewritten side at `r`, in the same state but for rsp. */
export interface Pair {
  readonly o: Vaddr;
  readonly r: Vaddr;
  /** By how much rsp is lower on the rewritten side. */
  readonly shift: number;
  /** The return address that the rewritten side has pushed already. */
  readonly pending: Vaddr | undefined;
  /** The rewritten side came here by a jump out of new code. */
  readonly jumped: boolean;
  /** Both are at a probe that they have passed: what is left is the instruction there. */
  readonly past: boolean;
  /** The status flags that are others on the rewritten side. */
  readonly lost: number;
  /** The way that a universal probe's question took, until the probe is passed: the selector is 0 there, or another. */
  readonly arm: "zero" | "one" | undefined;
  /** The probe that both have passed last, where nothing has run since: what its own code still does belongs to it. */
  readonly probe: Vaddr | undefined;
  /** The conditional branch or call of the original by which both came here. */
  readonly branch: Vaddr | undefined;
  readonly from: Pair | undefined;
}

/** What was passed in silence, and where it ended. */
export interface Quiet {
  readonly at: Vaddr;
  readonly nops: readonly Instruction[];
  readonly jumps: readonly Instruction[];
  readonly passed: ReadonlySet<Vaddr>;
  /** It goes round and round, and does nothing ever. */
  readonly loops: boolean;
}

export type Stop =
  | { readonly kind: "event"; readonly notes: readonly number[] }
  | { readonly kind: "instruction"; readonly instruction: Instruction }
  /** A guard's half. */
  | { readonly kind: "lower"; readonly instruction: Instruction }
  | { readonly kind: "raise"; readonly instruction: Instruction; readonly by: number }
  /** A universal probe's question. */
  | { readonly kind: "select"; readonly selection: Selection }
  /** A call of new code. */
  | { readonly kind: "call through"; readonly instruction: Instruction }
  /** Back where the original is, in code that did not change. */
  | { readonly kind: "back" }
  /** Out of new code, with a return address pushed. */
  | { readonly kind: "callee" }
  | { readonly kind: "wrong"; readonly reason: string };

/** lea -0x80(%rsp),%rsp and lea 0x80(%rsp),%rsp */
const LOWER = Uint8Array.of(0x48, 0x8d, 0x64, 0x24, 0x80);
const RAISE = Uint8Array.of(0x48, 0x8d, 0xa4, 0x24, 0x80, 0x00, 0x00, 0x00);
export const GUARD = 128;

export const RETURN_ADDRESS = 8;

/** The notes whose probe is at an address, unless the pair has passed it already. */
const notesAt = (notes: ReadonlyMap<Vaddr, readonly number[]>, address: Vaddr, isPast: boolean) =>
  isPast ? undefined : notes.get(address);

/** The notes whose probe the original passes at an address. */
export const originalNotes = ({ original }: Subject, address: Vaddr, pair: Pair): readonly number[] | undefined =>
  notesAt(original.notesAt, address, pair.past && address === pair.o);

/** By how much a probe's own code has lowered rsp. */
const lowered = ({ shift, pending }: Pair): number => shift - (pending === undefined ? 0 : RETURN_ADDRESS);

/** How the two halves end. */
const raises = [
  { bytes: RAISE, by: GUARD },
  { bytes: RAISE_FRAME, by: FRAME },
];

const isDirectJump = ({ flow, target }: Instruction): boolean => (flow & Flow.Jump) !== 0 && !Number.isNaN(target);

/** The original's way, up to an instruction that does something or a note's location. */
export function passOriginal(subject: Subject, pair: Pair): Quiet {
  const nops: Instruction[] = [];
  const jumps: Instruction[] = [];
  const passed = new Set([pair.o]);
  let at = pair.o;
  for (;;) {
    const instruction = subject.original.code.at(at);
    if (instruction === null || originalNotes(subject, at, pair) !== undefined) break;
    if (instruction.flow & Flow.Nop) {
      nops.push(instruction);
      at = instruction.end;
    } else if (isDirectJump(instruction)) {
      jumps.push(instruction);
      at = instruction.target;
    } else break;
    if (passed.has(at)) return { at, nops, jumps, passed, loops: true };
    passed.add(at);
  }
  return { at, nops, jumps, passed, loops: false };
}

/** The rewritten side's way, and why it ended. */
export function passRewritten(subject: Subject, pair: Pair, original: Quiet): { quiet: Quiet; stop: Stop } {
  const nops: Instruction[] = [];
  const jumps: Instruction[] = [];
  const passed = new Set<Vaddr>();
  let at = pair.r;
  let { jumped } = pair;
  const answer = (stop: Stop): { quiet: Quiet; stop: Stop } => ({
    quiet: { at, nops, jumps, passed, loops: false },
    stop,
  });
  const wrong = (reason: string) => answer({ kind: "wrong", reason });
  for (;;) {
    if (passed.has(at)) return original.loops ? answer({ kind: "back" }) : wrong(`jumps at ${hex(at)} lead nowhere`);
    passed.add(at);
    const isPast = pair.past && at === pair.r;
    const isNew = subject.isNew(at);
    if (!isNew && pair.pending !== undefined) return answer({ kind: "callee" });
    if (!isNew && !isPast) {
      const isWhereOriginalIs = original.passed.has(at);
      const isInWindow = subject.inWindow(at);
      if (isWhereOriginalIs && !isInWindow && pair.shift === 0 && pair.arm === undefined)
        return answer({ kind: "back" });
      if (!isInWindow || (jumped && !isWhereOriginalIs))
        return wrong(`the rewritten code goes on at ${hex(at)}, the original at ${hex(original.at)}`);
    }
    const notes = notesAt(subject.rewritten.notesAt, at, isPast);
    if (notes !== undefined) return answer({ kind: "event", notes });
    const instruction = subject.rewritten.code.at(at);
    if (instruction === null) return wrong(`the rewritten code has no instruction at ${hex(at)}`);
    const { flow, target, end } = instruction;
    jumped = false;
    if (flow & Flow.Nop) {
      nops.push(instruction);
      at = end;
    } else if (isDirectJump(instruction)) {
      jumps.push(instruction);
      jumped = isNew;
      at = target;
    } else if (flow & Flow.Call && subject.isNew(target)) return answer({ kind: "call through", instruction });
    else return answer(stopAt(subject, pair, original, instruction));
  }
}

/** What kind of instruction the rewritten side has come to. */
function stopAt(subject: Subject, pair: Pair, original: Quiet, instruction: Instruction): Stop {
  const { bytes, start } = instruction;
  const raise = raises.find((r) => lowered(pair) === r.by && sameBytes(bytes, r.bytes));
  if (raise !== undefined) return { kind: "raise", instruction, by: raise.by };
  if (originalNotes(subject, original.at, pair) !== undefined) {
    if (sameBytes(bytes, LOWER)) return { kind: "lower", instruction };
    const selection = subject.isNew(start) ? selectionAt(subject.rewritten.code, start) : undefined;
    if (selection !== undefined) return { kind: "select", selection };
  }
  return { kind: "instruction", instruction };
}

/**
 * What is wrong with the nops that the rewritten side passed: they must be the original's or, where it has changed in
 * place, fillers. A probe that is passed a second time would be one nop too many.
 */
export function nopProblem(subject: Subject, original: Quiet, rewritten: Quiet): string | undefined {
  let next = 0;
  for (const nop of rewritten.nops) {
    const isNew = subject.isNew(nop.start);
    if (!isNew && (!subject.isChanged(nop) || sameBytes(nop.bytes, nopFill(nop.length)))) continue;
    while (next < original.nops.length && !sameBytes(original.nops[next]!.bytes, nop.bytes)) next++;
    if (next++ < original.nops.length) continue;
    return isNew
      ? `the rewritten code passes a nop at ${hex(nop.start)} that the original does not have`
      : `the nop at ${hex(nop.start)} is neither the original's nor a filler`;
  }
  return undefined;
}
