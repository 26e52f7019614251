/**
 * The proof that the changed code does what the original does: both sides are walked together, from each arrival in a
 * window on, along all ways, until they are back in code that did not change, at the same address.
 *
 * A pair (o, r) says: whenever the original is at o, the rewritten program is at r, in the same state. The pairs are a
 * bisimulation: from each of them the next instruction of both is the same operation on the same operands, and what
 * comes after it are pairs again. What is proved so holds for all states, whatever the instructions are, and
 * however often the ways are taken.
 *
 * The states differ in places, and a pair says how:
 *
 *     a guard's two halves    between them rsp is 128 lower on the rewritten side, and nothing but the probe runs
 *     call-through            the call has been made already: rsp is 8 lower, the return address is pushed; what runs before
 *                             the jump that stands for the call must not use rsp
 *
 * Passing a probe is an event: where the original passes the place that a note names, the rewritten side must pass the
 * place that the same note names there, and nowhere else.
 */

import { hex, type Interval, interval, PAGE_SIZE, type Vaddr, vaddr } from "../address.js";
import { formAt, LONGEST_FORM, type ProbeForm } from "../usdt/forms.js";
import { LONGEST_INSTRUCTION } from "../x86/bytes.js";
import { Flow } from "../x86/decode.js";
import { flagEffects } from "../x86/flags.js";
import { isFiveByteNop } from "../x86/nops.js";
import { traitsOf } from "../x86/relocate.js";
import type { Instruction } from "./code-reader.js";
import {
  GUARD,
  nopProblem,
  originalNotes,
  type Pair,
  passOriginal,
  passRewritten,
  type Quiet,
  RETURN_ADDRESS,
  type Stop,
} from "./quiet.js";
import { isSameInstruction, sameBytes } from "./same-instruction.js";
import type { Selection } from "./selection.js";
import type { Subject } from "./subject.js";
import type { Arrival } from "./window.js";

/**
 * In so many places of the rewritten side, or by so many ways of counting the stack, an instruction of the original may
 * be met. A sound file needs a few; a broken one must not make pairs of everything with everything. How long a function
 * is does not matter.
 */
const MOST_MEETINGS = 64;

/** The steps of a way that are shown and asked for a probe, the last ones. */
const LONGEST_WAY = 400;

/** Both sides pass the probe of the same notes. */
export interface Passing {
  /** Indices of the notes. */
  readonly notes: readonly number[];
  readonly original: Vaddr;
  readonly rewritten: Vaddr;
  /** By how much rsp is lower on the rewritten side. */
  readonly stackShift: number;
  /** It is the second place of a universal probe. */
  readonly isTwin: boolean;
  /** Undefined where the probe stands as it stood. */
  readonly form: ProbeForm | undefined;
}

export interface Mismatch {
  readonly reason: string;
  readonly verdict: "different" | "unproved";
  readonly arrival: Arrival;
  readonly original: Vaddr;
  readonly rewritten: Vaddr;
  /** The notes whose probes one side passes here and the other does not. */
  readonly notes: readonly number[];
  /** The way from the arrival to here: addresses of instructions. */
  readonly originalWay: readonly Vaddr[];
  readonly rewrittenWay: readonly Vaddr[];
}

export interface Proof {
  /** All ways were followed. */
  readonly isWhole: boolean;
  /** Somewhere the flags are others on the rewritten side, where nobody needs them. */
  readonly losesFlags: boolean;
  readonly passings: readonly Passing[];
  readonly mismatches: readonly Mismatch[];
  /**
   * Original instructions that run elsewhere, or as other bytes, on the rewritten side, and what runs there in their
   * stead.
   */
  readonly replaced: readonly Interval<Vaddr>[];
  /** Calls among them that lead by new code, but return to where they did. */
  readonly keptCalls: ReadonlySet<number>;
  /** New code that was walked. */
  readonly walkedNew: readonly Interval<Vaddr>[];
  /** Addresses of the original at which the rewritten side runs something. */
  readonly ranInPlace: readonly Interval<Vaddr>[];
  /** For each instruction of new code that was walked, and each jump on the way there, where the original is then. */
  readonly frames: readonly FrameOrigin[];
  /** Where both sides were followed from the same address on, in the same state: who arrives there is answered for. */
  readonly together: ReadonlySet<Vaddr>;
}

/** An instruction that is new, and where the original is when it runs: its frame is the one of that place. */
export interface FrameOrigin {
  readonly rewritten: Vaddr;
  /** One of these: the original passes nops and jumps in between. */
  readonly originals: readonly Vaddr[];
  /** By how much rsp is lower on the rewritten side. */
  readonly shift: number;
  /** Bytes of a call that both make: it is asked about by its last byte; else 1. */
  readonly lengths: { readonly original: number; readonly rewritten: number };
}

/** Why a pair cannot be. */
interface Problem {
  readonly reason: string;
  readonly verdict: Mismatch["verdict"];
  readonly notes: readonly number[];
}

const different = (reason: string, notes: readonly number[] = []): Problem => ({ reason, verdict: "different", notes });
const unproved = (at: Vaddr): Problem => ({
  reason: `there is no instruction at ${hex(at)}`,
  verdict: "unproved",
  notes: [],
});

/** One step of both: what each passed in silence, and the pair where that ended. */
interface Step {
  readonly here: Pair;
  readonly original: Quiet;
  readonly rewritten: Quiet;
  /** Something that is rewritten takes part in it. */
  readonly touched: boolean;
}

/** Walks one window. */
export class Walk {
  readonly passings: Passing[] = [];
  readonly mismatches: Mismatch[] = [];
  private readonly replaced: Interval<Vaddr>[] = [];
  private readonly keptCalls = new Set<number>();
  private readonly walkedNew: Interval<Vaddr>[] = [];
  private readonly ranInPlace: Interval<Vaddr>[] = [];
  private readonly frames: FrameOrigin[] = [];
  private readonly together = new Set<Vaddr>();
  /** By the original's address: the pairs that were met there. */
  private readonly seen = new Map<Vaddr, Set<string>>();
  private isWhole = true;
  /** The notes of all passings. */
  readonly passed = new Set<number>();
  private losesFlags = false;
  /** What is wrong with a step that goes on. */
  private aside: Problem | undefined;
  private readonly pairs: Pair[] = [];

  constructor(private readonly subject: Subject) {}

  /** Follows all ways from an arrival on. */
  follow(arrival: Arrival): void {
    const { address } = arrival;
    this.pairs.push({
      o: address,
      r: address,
      shift: 0,
      pending: undefined,
      jumped: false,
      past: false,
      lost: 0,
      arm: undefined,
      probe: undefined,
      branch: undefined,
      from: undefined,
    });
    for (let pair = this.pairs.pop(); pair !== undefined; pair = this.pairs.pop()) {
      const key = `${pair.r},${pair.shift},${pair.pending},${pair.past},${pair.jumped},${pair.lost},${pair.arm}`;
      const here = this.seen.get(pair.o) ?? new Set();
      this.seen.set(pair.o, here);
      if (here.has(key)) continue;
      if (here.size < MOST_MEETINGS) {
        here.add(key);
        this.step(arrival, pair);
        continue;
      }
      if (this.isWhole) {
        const reason = `the original's code at ${hex(pair.o)} runs in more than ${MOST_MEETINGS} ways`;
        this.report(arrival, pair, pair, { reason, verdict: "unproved", notes: [] });
      }
      this.isWhole = false;
    }
  }

  proof(): Proof {
    const { passings, mismatches, replaced, keptCalls, walkedNew, ranInPlace, frames, together } = this;
    const { isWhole, losesFlags } = this;
    return { isWhole, losesFlags, passings, mismatches, replaced, keptCalls, walkedNew, ranInPlace, frames, together };
  }

  private step(arrival: Arrival, pair: Pair): void {
    const { subject } = this;
    const isTogether = isSamePlace(pair);
    if (isTogether && !pair.past && !subject.inWindow(pair.o)) {
      const problem = this.flagsProblem(pair.o, pair.lost);
      if (problem !== undefined) this.report(arrival, pair, pair, problem);
      return;
    }
    if (isTogether && !pair.past && !pair.jumped && pair.lost === 0) this.together.add(pair.o);
    const original = passOriginal(subject, pair);
    const { quiet: rewritten, stop } = passRewritten(subject, pair, original);
    const touched = !isTogether || [...rewritten.passed].some((at) => subject.isNew(at));
    const past = pair.past && original.at === pair.o;
    const here: Pair = { ...pair, o: original.at, r: rewritten.at, past, jumped: false, branch: undefined, from: pair };
    const problem = this.meet(stop, { here, original, rewritten, touched });
    for (const found of [problem, this.aside]) if (found !== undefined) this.report(arrival, pair, here, found);
    this.aside = undefined;
  }

  /** What the ends of both silences have to do with each other. */
  private meet(stop: Stop, step: Step): Problem | undefined {
    const { here, original, rewritten, touched } = step;
    if (stop.kind === "wrong") return this.isNoCode(here) ? unproved(here.o) : different(stop.reason);
    const nops = nopProblem(this.subject, original, rewritten);
    if (nops !== undefined) return different(nops);
    switch (stop.kind) {
      case "back":
        this.passedQuietly(step, touched);
        return this.flagsProblem(here.o, here.lost);
      case "lower":
        return this.guardBegins(stop.instruction, step);
      case "raise":
        return this.guardEnds(stop.instruction, stop.by, step);
      case "select":
        return this.select(stop.selection, step);
      case "call through":
        return this.callThrough(stop.instruction, step);
    }
    if (stop.kind === "event" || originalNotes(this.subject, here.o, here) !== undefined)
      return this.event(stop.kind === "event" ? stop.notes : undefined, step);
    return stop.kind === "callee" ? this.callee(step) : this.instruction(stop.instruction, step);
  }

  /** Whether neither side has an instruction here, in the same bytes. */
  private isNoCode({ o, r }: Pair): boolean {
    const { original, rewritten } = this.subject;
    return (
      original.code.at(o) === null &&
      sameBytes(original.code.bytes(o, LONGEST_INSTRUCTION), rewritten.code.bytes(r, LONGEST_INSTRUCTION))
    );
  }

  private event(found: readonly number[] | undefined, step: Step): Problem | undefined {
    const { here } = step;
    const { o, r } = here;
    const wanted = originalNotes(this.subject, o, here);
    if (wanted === undefined || found === undefined || wanted.join() !== found.join())
      return otherEvent(here, wanted, found);
    const before = this.subject.original.code;
    const after = this.subject.rewritten.code;
    const nop = before.at(o);
    const form = formAt(after.bytes(r, LONGEST_FORM));
    const isTwin = this.subject.twins.has(r);
    const arm = this.armProblem(here, isTwin);
    if (arm !== undefined) return different(arm, wanted);
    const passing = { notes: wanted, original: o, rewritten: r, stackShift: here.shift, isTwin };
    const isSame = o === r && nop !== null && sameBytes(nop.bytes, after.bytes(r, nop.length));
    if (isSame && form === formAt(before.bytes(o, LONGEST_FORM))) {
      this.pass({ ...passing, form: undefined });
      this.passedQuietly(step, false);
      this.pairs.push({ ...here, past: true });
      return undefined;
    }
    if (form === undefined) return different(`no probe that a kernel optimizes stands at ${hex(r)}`, wanted);
    // One that the kernel would patch as it stands may be replaced as well.
    const isReplaced = nop !== null && (nop.flow & Flow.Nop) !== 0 && (nop.length === 1 || isFiveByteNop(nop.bytes));
    if (!isReplaced) return different(`what the probe at ${hex(r)} replaces is no nop of one byte or five`, wanted);
    if (((r + form.patched.offset) % PAGE_SIZE) + form.patched.size > PAGE_SIZE)
      return different(`the probe at ${hex(r)} crosses a page boundary, where no kernel optimizes it`, wanted);
    this.pass({ ...passing, form });
    this.passedQuietly(step, true);
    this.replaced.push(interval(o, nop.length));
    this.ran(interval(r, form.bytes.length), true);
    this.frame(r, [o], here.shift);
    this.pairs.push({ ...here, o: nop.end, r: vaddr(r + form.bytes.length), past: false, arm: undefined, probe: o });
    return undefined;
  }

  /**
   * Each way of a universal probe passes its own place: nop5 where the selector is set, which is where kernels make a
   * call of it; what stands there is asked by `twins`.
   */
  private armProblem({ r, arm }: Pair, isTwin: boolean): string | undefined {
    const { twins, firsts } = this.subject;
    if (arm === undefined)
      return twins.has(r) || firsts.has(r)
        ? `the probe at ${hex(r)} is one place of two, and is passed whatever the selector says`
        : undefined;
    if (!twins.has(r) && !firsts.has(r)) return `the probe at ${hex(r)} has no second place, and a selector is asked`;
    return isTwin === (arm === "one") ? undefined : `the selector leads to the wrong place of two, ${hex(r)}`;
  }

  /** A question of a universal probe: both answers are followed. */
  private select(selection: Selection, step: Step): Problem | undefined {
    const { here } = step;
    const { parts, selector, zero, one, shift, lostFlags } = selection;
    const { start } = parts[0]!.instruction;
    if (here.arm !== undefined || here.shift >= GUARD) return different(`a selector is asked twice at ${hex(start)}`);
    if (selector !== this.subject.selector)
      return different(`what is asked at ${hex(start)} is ${hex(selector)}, which is no selector`);
    this.passedQuietly(step, true);
    for (const { instruction, lower } of parts) {
      this.ran(instruction, true);
      this.frame(instruction.start, [here.o, here.from!.o], here.shift + lower);
    }
    if (lostFlags !== 0) this.losesFlags = true;
    const next = { ...here, shift: here.shift + shift, lost: here.lost | lostFlags };
    this.pairs.push({ ...next, r: zero, arm: "zero" }, { ...next, r: one, arm: "one" });
    return undefined;
  }

  /** Whether flags that are others on the rewritten side are needed where both go on in the original's code. */
  private flagsProblem(at: Vaddr, lost: number): Problem | undefined {
    const reader = lost === 0 ? undefined : this.subject.flags.readerAfter(at, lost);
    if (reader === undefined) return undefined;
    const reason = `the flags, which the question for the selector has changed, may be needed at ${hex(at)}: ${reader}`;
    return { reason, verdict: "unproved", notes: [] };
  }

  private pass(passing: Passing): void {
    this.passings.push(passing);
    for (const note of passing.notes) this.passed.add(note);
  }

  /** A guard's first half: it stands in front of a probe, to which the original has come. */
  private guardBegins(instruction: Instruction, step: Step): Problem | undefined {
    const { start, end } = instruction;
    const { here } = step;
    if (here.shift >= GUARD) return different(`rsp is lowered a second time at ${hex(start)}`);
    this.guardHalf(instruction, step);
    this.pairs.push({ ...here, r: end, shift: here.shift + GUARD });
    return undefined;
  }

  /** Its second half, or the end of a universal probe's frame: nothing but the probe stands before it. */
  private guardEnds(instruction: Instruction, by: number, step: Step): Problem | undefined {
    const { here } = step;
    if (here.arm !== undefined) return different(`rsp is raised at ${hex(instruction.start)} before the probe`);
    this.guardHalf(instruction, step);
    // It stands after what the original has left.
    this.pairs.push({ ...here, o: here.from!.o, r: instruction.end, shift: here.shift - by });
    return undefined;
  }

  private guardHalf(instruction: Instruction, step: Step): void {
    const { here } = step;
    this.passedQuietly(step, true);
    this.ran(instruction, true);
    this.frame(instruction.start, [here.o, ...placesOf(here.from!)], here.shift);
  }

  /** The call is made before what stands in front of it in the original. */
  private callThrough(call: Instruction, step: Step): Problem | undefined {
    const { start, end, target } = call;
    const { here } = step;
    if (here.shift !== 0) return different(`the call at ${hex(start)} is made where rsp is lower`);
    this.passedQuietly(step, true);
    this.ran(call, true);
    this.pairs.push({ ...here, o: here.from!.o, r: target, shift: RETURN_ADDRESS, pending: end });
    return undefined;
  }

  /**
   * The rewritten side jumps to a function with the return address pushed: the original must call it, with the same
   * one.
   */
  private callee(step: Step): Problem | undefined {
    const { here } = step;
    const call = this.subject.original.code.at(here.o);
    if (call === null || (call.flow & Flow.Call) === 0 || call.target !== here.r)
      return different(`the rewritten code enters ${hex(here.r)} as if called, the original does not call it`);
    if (call.end !== here.pending || here.shift !== RETURN_ADDRESS)
      return different(
        `the return address of the call at ${hex(here.o)} is ${hex(here.pending!)} in the rewritten code`,
      );
    this.passedQuietly(step, true);
    this.aside = this.flagsProblem(call.start, here.lost);
    this.replaced.push(call);
    this.keptCalls.add(call.start);
    const after = this.subject.mayReturn(call) ? [here.r, call.end] : [here.r];
    for (const at of after) this.pairs.push({ ...here, o: at, r: at, shift: 0, pending: undefined, lost: 0 });
    return undefined;
  }

  /** Both run an instruction: it must be the same one. */
  private instruction(b: Instruction, step: Step): Problem | undefined {
    const { subject } = this;
    const { here } = step;
    const a = subject.original.code.at(here.o);
    if (a === null)
      return { reason: `the original's bytes at ${hex(here.o)} are no instruction`, verdict: "unproved", notes: [] };
    if (here.shift >= GUARD)
      return different(`the instruction at ${hex(b.start)} runs between a red-zone guard's halves`);
    if (!isSameInstruction(a, b)) {
      const [before, after] = [subject.original.code.text(a.start), subject.rewritten.code.text(b.start)];
      return different(`the original runs ${before}, the rewritten code ${after}`);
    }
    const { flow } = a;
    if (here.pending !== undefined && (flow & LEAVES || traitsOf(b.bytes, b.start).usesStackPointer))
      return different(`the instruction at ${hex(b.start)} depends on rsp, which is lower there`);
    if (flow & PINNED && a.start !== b.start)
      return different(`the instruction at ${hex(a.start)} must not run at another address, ${hex(b.start)}`);
    const call = flow & Flow.Call && a.start !== b.start ? this.movedCall(a, b) : undefined;
    if (call !== undefined) return different(call);
    if (here.arm !== undefined)
      return different(`the instruction at ${hex(b.start)} runs between a selector's question and the probe`);
    const lost = this.flagsAfter(a, here.lost);
    if (typeof lost === "object") return lost;
    const touched = step.touched || a.start !== b.start || subject.leadsToNew(b);
    this.passedQuietly(step, touched);
    if (touched && subject.isChanged(a)) this.replaced.push(a);
    this.ran(b, touched);
    if (flow & Flow.Call) this.frame(b.start, [a.start], here.shift, { original: a.length, rewritten: b.length });
    else this.frame(b.start, [a.start], here.shift);
    if (flow & BRANCHES && !Number.isNaN(a.target))
      this.pairs.push({
        ...here,
        o: a.target,
        r: b.target,
        lost,
        probe: undefined,
        past: false,
        jumped: subject.isNew(b.start),
        branch: a.start,
      });
    const ends = (flow & (Flow.Return | Flow.IndirectJump)) !== 0 || endsHere(a);
    if (!ends && ((flow & Flow.Call) === 0 || subject.mayReturn(a)))
      this.pairs.push({ ...here, o: a.end, r: b.end, lost, probe: undefined, past: false });
    return undefined;
  }

  /** The flags that are still others after an instruction that both run; or that it, or who it leads to, needs them. */
  private flagsAfter(a: Instruction, lost: number): number | Problem {
    if (lost === 0) return 0;
    const { reads, writes } = flagEffects(a.bytes, a.start);
    if (reads & lost)
      return different(`the instruction at ${hex(a.start)} reads flags that the question for the selector has changed`);
    if (a.flow & LEAVES) {
      // What comes after it is followed all the same.
      this.aside = this.flagsProblem(a.start, lost);
      return 0;
    }
    return lost & ~writes;
  }

  /**
   * What is wrong with a call that is made elsewhere. The same function is called with the same arguments, and returns
   * to where the rewritten side goes on; it sees another return address. Whoever unwinds by it has frames in new code
   * (rest/new-frames.ts); code of the same function, and what does not return to it, may do anything else with it.
   */
  private movedCall(a: Instruction, b: Instruction): string | undefined {
    const { subject } = this;
    if (!subject.isNew(b.start)) return `the call at ${hex(a.start)} must not run at another address, ${hex(b.start)}`;
    if (subject.isInner(a, a.target))
      return `the call at ${hex(a.start)} is made at ${hex(b.start)}, and what it calls may be after its return address`;
    const behind = subject.original.code.at(a.end);
    if (behind !== null && (behind.flow & Flow.Return) !== 0)
      return `the call at ${hex(a.start)} is made at ${hex(b.start)}, and may not return to the ret after it`;
    return undefined;
  }

  /** Takes down what both sides passed in silence. */
  private passedQuietly({ here, original, rewritten }: Step, touched: boolean): void {
    if (touched)
      for (const passed of [...original.nops, ...original.jumps])
        if (this.subject.isChanged(passed)) this.replaced.push(passed);
    for (const passed of [...rewritten.nops, ...rewritten.jumps]) {
      this.ran(passed, touched);
      this.frame(passed.start, [...placesOf(here.from!), ...original.passed], here.shift);
    }
    // On the way to new code there may be jumps where the original has none: it is where both came from still, or there
    // already.
    const { o, branch } = here.from!;
    const originals = [o, ...original.passed, ...(branch === undefined ? [] : [branch])];
    for (const jump of rewritten.jumps)
      if (this.subject.isChanged(jump) && !this.subject.isNew(jump.start))
        this.frames.push({
          rewritten: jump.start,
          originals,
          shift: here.shift,
          lengths: { original: 1, rewritten: 1 },
        });
  }

  private frame(
    rewritten: Vaddr,
    originals: readonly Vaddr[],
    shift: number,
    lengths: FrameOrigin["lengths"] = { original: 1, rewritten: 1 },
  ): void {
    if (this.subject.isNew(rewritten)) this.frames.push({ rewritten, originals, shift, lengths });
  }

  private ran(run: Interval<Vaddr>, touched: boolean): void {
    if (this.subject.isNew(run.start)) {
      this.walkedNew.push(run);
      return;
    }
    this.ranInPlace.push(run);
    if (touched && this.subject.isChanged(run)) this.replaced.push(run);
  }

  private report(arrival: Arrival, pair: Pair, here: Pick<Pair, "o" | "r">, { reason, verdict, notes }: Problem): void {
    const pairs: Pair[] = [];
    for (let p: Pair | undefined = pair; p !== undefined && pairs.length < LONGEST_WAY; p = p.from) pairs.push(p);
    pairs.reverse();
    const way = (last: Vaddr, of: (p: Pair) => Vaddr): Vaddr[] =>
      [...pairs.map(of), last].filter((at, i, all) => i === 0 || all[i - 1] !== at);
    this.mismatches.push({
      reason,
      verdict: arrival.doubtful ? "unproved" : verdict,
      arrival,
      original: here.o,
      rewritten: here.r,
      notes,
      originalWay: way(here.o, (p) => p.o),
      rewrittenWay: way(here.r, (p) => p.r),
    });
  }
}

/** Where the original is, and the probe that it has just passed. */
const placesOf = ({ o, probe }: Pair): Vaddr[] => (probe === undefined ? [o] : [o, probe]);

/** Both are in one place, in one state but for flags that are lost. */
const isSamePlace = ({ o, r, shift, pending, arm }: Pair): boolean =>
  o === r && shift === 0 && pending === undefined && arm === undefined;

/** What goes where rsp says, or lets others see it. */
const LEAVES = Flow.Return | Flow.IndirectJump | Flow.Call | Flow.Trap | Flow.Transaction;

/** What somebody else sees the address of: the kernel, the processor's own checks. */
const PINNED = Flow.Trap | Flow.Transaction | Flow.Landing;

const BRANCHES = Flow.Conditional | Flow.Call | Flow.Transaction;

function otherEvent(
  { o, r }: Pair,
  wanted: readonly number[] | undefined,
  found: readonly number[] | undefined,
): Problem {
  const notes = [...new Set([...(wanted ?? []), ...(found ?? [])])];
  if (found === undefined)
    return different(`the original passes its probe at ${hex(o)}, the rewritten code at ${hex(r)} does not`, notes);
  if (wanted === undefined)
    return different(`the rewritten code passes its probe at ${hex(r)}, the original at ${hex(o)} does not`, notes);
  return different(`the probes at ${hex(o)} and, in the rewritten code, at ${hex(r)} are not the same`, notes);
}

/** ud2, ud1, ud0 and hlt: nothing comes after them. */
const endsHere = ({ flow, bytes }: Instruction): boolean =>
  (flow & Flow.Trap) !== 0 &&
  (bytes[0] === 0xf4 || (bytes[0] === 0x0f && (bytes[1] === 0x0b || bytes[1] === 0xb9 || bytes[1] === 0xff)));
