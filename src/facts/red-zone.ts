/**
 * Whether the bytes below rsp at a site may still be read by the program: forward from the site, along all ways, with a
 * mask of the bytes that hold what they held at the site. Writes, pushes and calls take bytes out of it; a read that
 * overlaps it is the answer.
 *
 * Accesses through an exact address are decided exactly. For the others (an index, a pointer that walks, an address
 * that was stored and loaded again) it matters whether the function may keep anything below rsp at all:
 *
 *   Compilers keep values below rsp only in functions that call nothing, since a call would overwrite them: GCC where
 *   crtl->is_leaf and the stack pointer does not change (ix86_compute_frame_layout in gcc/config/i386/i386.cc), LLVM where
 *   nothing adjusts the stack and no object has a variable size (X86FrameLowering::emitPrologue, has128ByteRedZone).
 *
 * So a function is `strict` if it makes no call, or if some instruction of it makes an address below rsp, call or not.
 * In a strict function an access that is not exact leaves the answer open; in others it concerns memory above rsp.
 */
import { hex, type Vaddr } from "../address.js";
import { addressOf, Flow } from "../x86/decode.js";
import { Access, type Effects, Kind, NONE, RSP, registerName, Trait, UNBOUNDED } from "../x86/effects.js";
import type { StackRead } from "../x86/stack-read.js";
import { type ByteMask, clear, fullMask, include, isEmpty, overlaps, RED_ZONE } from "./byte-mask.js";
import type { CodeRange } from "./functions.js";
import type { ProgramFacts } from "./program.js";
import { disagrees, type Part, StackFlow } from "./stack-flow.js";
import { anyTainted, baseOf, ENTRY, isTainted, offsetOf, type State } from "./stack-state.js";

export interface Verdict {
  readonly redZone: "unused" | "live" | "unknown";
  readonly because: string;
}

const live = (because: string): Verdict => ({ redZone: "live", because });
const unknown = (because: string): Verdict => ({ redZone: "unknown", because });

/** A leaf function's tail calls are followed so far: they may be its own cold parts. */
const DEEPEST_TAIL = 3;

/** Registers in which the kernel takes addresses: rax, rdx, rsi, rdi, r8 to r10. */
const SYSCALL_ARGUMENTS = 0b0000_0111_1100_0101;

/** Where an access goes: to an exact address, somewhere near the stack, or to other memory. */
export type Place =
  | { readonly kind: "exact"; readonly base: number; readonly offset: number }
  /** Of the address that an index is added to, where that much is known. */
  | { readonly kind: "vague"; readonly base: number; readonly offset: number }
  | { readonly kind: "elsewhere" };

/** A function as far as the red zone is concerned. */
export class FrameUse {
  readonly flow: StackFlow;
  /** The root makes no call. */
  readonly isLeaf: boolean;
  /** Where an address below rsp is made, in the root or another part. */
  readonly formsBelow: Vaddr | undefined;
  /** Where an address of the stack leaves the registers. */
  readonly escapes: Vaddr | undefined;
  readonly goesDownwards: boolean;

  constructor(facts: ProgramFacts, range: CodeRange) {
    this.flow = new StackFlow(facts, range);
    this.isLeaf = !this.flow.root.makesCalls;
    let formsBelow: Vaddr | undefined;
    let escapes: Vaddr | undefined;
    let goesDownwards = false;
    for (const part of this.flow.allParts) {
      let state: State | undefined;
      for (let i = 0; i < part.code.count; i++) {
        if (part.effects.traits[i]! & Trait.Downwards) goesDownwards = true;
        if (!part.visited[i]) {
          state = undefined;
          continue;
        }
        state = part.states[i]?.slice() ?? state ?? this.flow.stateAt(part, i);
        if (formsBelow === undefined && makesAddressBelow(part.effects, i, state)) formsBelow = addressOf(part.code, i);
        if (escapes === undefined && leaks(part.effects, i, state)) escapes = addressOf(part.code, i);
        this.flow.apply(state, part, i);
      }
    }
    this.formsBelow = formsBelow;
    this.escapes = escapes;
    this.goesDownwards = goesDownwards;
  }

  get isStrict(): boolean {
    return this.isLeaf || this.formsBelow !== undefined;
  }

  /** Where [base + index + displacement] is, `base` and `index` being registers or NONE, in a state. */
  place(state: State, base: number, index: number, displacement: number, isVague: boolean): Place {
    const from = base === NONE ? index : base;
    if (from === NONE) return { kind: "elsewhere" };
    const stack = baseOf(state, from);
    const exact = stack >= ENTRY;
    const offset = offsetOf(state, from) + displacement;
    const mayHold = (register: number): boolean =>
      register !== NONE && (isTainted(state, register) || (this.flow.carriedByJumps & (1 << register)) !== 0);
    if (exact && !isVague && base !== NONE && index === NONE && (this.flow.carriedByJumps & (1 << base)) === 0)
      return { kind: "exact", base: stack, offset };
    const tainted = mayHold(base) || mayHold(index);
    if (!tainted) return { kind: "elsewhere" };
    return { kind: "vague", base: exact && base !== NONE ? stack : -1, offset };
  }
}

const leaks = (effects: Effects, i: number, state: State): boolean =>
  (effects.traits[i]! & Trait.Leaks) !== 0 && anyTainted(state, effects.values[i]!);

/** Whether an instruction names an address within the 128 bytes below rsp, other than by a push. */
function makesAddressBelow(effects: Effects, i: number, state: State): boolean {
  const kind = effects.kind[i];
  if (kind === Kind.Push || kind === Kind.Call || kind === Kind.Enter) return false;
  const isBelow = (register: number, displacement: number): boolean => {
    if (register !== RSP && baseOf(state, register) !== baseOf(state, RSP)) return false;
    const distance = offsetOf(state, register) + displacement - offsetOf(state, RSP);
    return distance < 0 && distance >= -RED_ZONE;
  };
  if (kind === Kind.Add) {
    if (effects.target[i] === RSP) return false;
    if (isBelow(effects.source[i]!, effects.constant[i]!)) return true;
  }
  for (let a = effects.firstAccess[i]!; a < effects.firstAccess[i + 1]!; a++) {
    const base = effects.base[a]!;
    if (base !== NONE && isBelow(base, effects.displacement[a]!)) return true;
  }
  return false;
}

/** One way that is followed from the site on. */
interface Way {
  readonly part: Part;
  readonly index: number;
  readonly mask: ByteMask;
}

/** The search for a read, from one site on. */
class Search {
  private readonly seen = new Map<Part, Map<number, ByteMask>>();
  private readonly ways: Way[] = [];

  constructor(
    private readonly use: FrameUse,
    /** rsp at the site. */
    private readonly base: number,
    private readonly height: number,
    private readonly follow: (range: CodeRange, mask: ByteMask, height: number) => Verdict | undefined,
  ) {}

  run(part: Part, index: number, mask: ByteMask): Verdict | undefined {
    this.ways.push({ part, index, mask });
    let open: Verdict | undefined;
    for (let way = this.ways.pop(); way !== undefined; way = this.ways.pop()) {
      const found = this.goAlong(way);
      if (found?.redZone === "live") return found;
      open ??= found;
    }
    return open;
  }

  private goAlong({ part, index, mask }: Way): Verdict | undefined {
    const { flow } = this.use;
    const { code, effects } = part;
    let state = flow.stateAt(part, index);
    for (let i = index; ; i++) {
      if (i === code.count) return this.branch(part, code.end, state, mask);
      const joined = part.states[i];
      if (joined !== undefined) {
        if (!this.isNews(part, i, mask)) return undefined;
        state = joined.slice();
      }
      if (!part.visited[i]) return this.open(`nothing is known of the code at ${hex(addressOf(code, i))}`);
      if (disagrees(state, part, addressOf(code, i)))
        return unknown(`the unwind table and the instructions disagree at ${hex(addressOf(code, i))}`);
      const read = this.reads(effects, i, state, mask, addressOf(code, i));
      if (read !== undefined) return read;
      this.takeOutWrites(effects, i, state, mask);
      if (isEmpty(mask)) return undefined;
      const kernel = this.kernelReads(effects, i, state, addressOf(code, i));
      if (kernel !== undefined) return kernel;
      const traits = effects.traits[i]!;
      const flowBits = code.flow[i]!;
      flow.apply(state, part, i);
      if (flowBits & Flow.Return || traits & Trait.Ends) return undefined;
      if (flowBits & Flow.IndirectJump) return this.indirect(state, addressOf(code, i));
      if (flowBits & (Flow.Jump | Flow.Conditional | Flow.Transaction)) {
        const found = this.branch(part, code.targets[i]!, state, mask.slice());
        if (found !== undefined || flowBits & Flow.Jump) return found;
      }
      if (flowBits & Flow.Call && i + 1 === code.count) return undefined;
    }
  }

  /** Whether a mask has bytes with which this instruction was not reached before. */
  private isNews(part: Part, index: number, mask: ByteMask): boolean {
    let ofPart = this.seen.get(part);
    if (ofPart === undefined) {
      ofPart = new Map();
      this.seen.set(part, ofPart);
    }
    const known = ofPart.get(index);
    if (known !== undefined) return include(known, mask);
    ofPart.set(index, mask.slice());
    return true;
  }

  /** What counts in strict functions only: it may concern what is made below rsp, or nothing is known. */
  private open(because: string): Verdict | undefined {
    const { isStrict, formsBelow } = this.use;
    if (!isStrict) return undefined;
    return formsBelow === undefined
      ? unknown(because)
      : live(`${because}, and the one at ${hex(formsBelow)} makes an address below the stack pointer`);
  }

  private reads(effects: Effects, i: number, state: State, mask: ByteMask, address: Vaddr): Verdict | undefined {
    for (let a = effects.firstAccess[i]!; a < effects.firstAccess[i + 1]!; a++) {
      if ((effects.mode[a]! & Access.Read) === 0) continue;
      const isVague =
        (effects.mode[a]! & Access.Vague) !== 0 || (effects.size[a] === UNBOUNDED && this.use.goesDownwards);
      const place = this.use.place(state, effects.base[a]!, effects.index[a]!, effects.displacement[a]!, isVague);
      const found = this.touches(place, effects.size[a]!, mask, `the instruction at ${hex(address)}`);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** Whether a read of `size` bytes at a place needs bytes of the mask. */
  touches(place: Place, size: number, mask: ByteMask, who: string): Verdict | undefined {
    if (place.kind === "elsewhere")
      return this.use.escapes === undefined
        ? undefined
        : this.open(`${who} may read through an address of the stack that was stored at ${hex(this.use.escapes)}`);
    const distance = place.offset - this.height;
    if (place.kind === "exact" && place.base === this.base) {
      if (!overlaps(mask, distance, distance + size)) return undefined;
      return live(`${who} reads ${distance < 0 ? `from ${hex(distance)}` : "below"} of the stack pointer at the probe`);
    }
    const { bases } = this.use.flow;
    if (place.kind === "exact" && bases.low(place.base) + place.offset >= bases.high(this.base) + this.height)
      return undefined;
    if (this.use.isStrict && place.base === this.base && distance < 0)
      return live(`${who} reads at an index from ${hex(distance)} of the stack pointer at the probe on`);
    return this.open(`${who} may read anywhere on the stack`);
  }

  private takeOutWrites(effects: Effects, i: number, state: State, mask: ByteMask): void {
    for (let a = effects.firstAccess[i]!; a < effects.firstAccess[i + 1]!; a++) {
      if ((effects.mode[a]! & Access.Write) === 0) continue;
      const isVague = (effects.mode[a]! & Access.Vague) !== 0;
      const place = this.use.place(state, effects.base[a]!, effects.index[a]!, effects.displacement[a]!, isVague);
      if (place.kind !== "exact" || place.base !== this.base || effects.size[a] === UNBOUNDED) continue;
      const from = place.offset - this.height;
      clear(mask, from, from + effects.size[a]!);
    }
    // A called function may use everything below its frame.
    if (effects.kind[i] === Kind.Call && baseOf(state, RSP) === this.base)
      clear(mask, Number.NEGATIVE_INFINITY, offsetOf(state, RSP) - this.height);
  }

  private kernelReads(effects: Effects, i: number, state: State, address: Vaddr): Verdict | undefined {
    if ((effects.traits[i]! & Trait.Kernel) === 0) return undefined;
    if (!anyTainted(state, SYSCALL_ARGUMENTS) && this.use.escapes === undefined) return undefined;
    return this.open(`the kernel may read from the stack at ${hex(address)}`);
  }

  /** A jump table's targets, or a function: nothing is known but what the whole function does. */
  private indirect(state: State, address: Vaddr): Verdict | undefined {
    if (!this.use.isStrict) return undefined;
    if (this.use.formsBelow !== undefined)
      return live(
        `a jump at ${hex(address)} may lead to the use below the stack pointer at ${hex(this.use.formsBelow)}`,
      );
    return this.addressesLeave(state)
      ? this.open(`a jump at ${hex(address)} may lead to a read through an address of the stack`)
      : undefined;
  }

  private addressesLeave(state: State): boolean {
    return this.use.escapes !== undefined || anyTainted(state, 0xffff & ~(1 << RSP));
  }

  private branch(part: Part, target: number, state: State, mask: ByteMask): Verdict | undefined {
    const { flow } = this.use;
    const destination = flow.destination(part, target, state);
    switch (destination.kind) {
      case "inside":
        this.ways.push({ part: destination.part, index: destination.index, mask });
        return undefined;
      case "tail":
        if (!this.use.isStrict) return undefined;
        if (this.base !== ENTRY) return unknown(`the jump to ${hex(target)} may lead to a part of the function`);
        if (this.addressesLeave(state)) return unknown(`the code at ${hex(target)} is given an address of the stack`);
        return this.follow(destination.range, mask, this.height);
      case "linkage":
        return undefined;
      case "unknown": {
        const atEntryHeight = baseOf(state, RSP) === ENTRY && offsetOf(state, RSP) === 0;
        if (atEntryHeight && !this.use.isStrict) return undefined;
        return unknown(`the jump to ${hex(target)} leads to code of which nothing is known`);
      }
    }
  }
}

/** Analyses of functions, each made once. */
type UseOf = (range: CodeRange) => FrameUse | undefined;

/** The answer for one site. */
export function redZoneAt(use: FrameUse, index: number, reads: readonly StackRead[], useOf: UseOf): Verdict {
  const { flow } = use;
  const part = flow.root;
  flow.ensureVisited(part, index);
  const state = flow.stateAt(part, index);
  const site = addressOf(part.code, index);
  if (disagrees(state, part, site))
    return unknown("the unwind table and the instructions disagree on the stack pointer");
  if (use.isStrict && flow.entriesUnknown) return unknown("what may be other parts of its function cannot be decoded");
  const height = offsetOf(state, RSP);
  const followTail =
    (depth: number) =>
    (range: CodeRange, mask: ByteMask, from: number): Verdict | undefined => {
      const other = useOf(range);
      if (other === undefined || depth >= DEEPEST_TAIL)
        return unknown(`the code at ${hex(range.start)} may be a part of its function`);
      if (!other.isStrict) return undefined;
      return new Search(other, ENTRY, from, followTail(depth + 1)).run(other.flow.root, 0, mask);
    };
  const search = new Search(use, baseOf(state, RSP), height, followTail(0));
  const traced = tracerNeeds(use, search, state, reads);
  if (traced?.redZone === "live") return traced;
  const found = search.run(part, index, fullMask());
  if (found?.redZone === "live") return found;
  const open = traced ?? found;
  if (open !== undefined) return open;
  return { redZone: "unused", because: unusedBecause(use) };
}

function unusedBecause(use: FrameUse): string {
  if (!use.isStrict)
    return "the function makes calls, and no instruction of it names an address below the stack pointer";
  if (use.formsBelow === undefined) return "no instruction of the function reads below the stack pointer";
  return "what the function keeps below the stack pointer is not read any more after the probe";
}

/** What the notes' arguments need. */
function tracerNeeds(use: FrameUse, search: Search, state: State, reads: readonly StackRead[]): Verdict | undefined {
  const mask = fullMask();
  let open: Verdict | undefined;
  for (const read of reads) {
    let found: Verdict | undefined;
    if (read.kind === "unknown") found = unknown("an argument of the probe is not understood");
    else if (read.kind === "memory") {
      const place = use.place(state, read.base, read.index, read.displacement, false);
      found = search.touches(place, read.size, mask, "an argument of the probe");
      // The value may be an address itself.
      if (found === undefined && read.size === 8) found = pointerNeeds(use, place.kind !== "elsewhere");
    } else if (isTainted(state, read.register)) {
      const place = use.place(state, read.register, NONE, 0, false);
      const distance = place.kind === "exact" ? place.offset - offsetOf(state, RSP) : 0;
      const who = `the argument %${registerName(read.register)} of the probe`;
      if (place.kind === "exact" && place.base === baseOf(state, RSP) && distance < 0 && distance >= -RED_ZONE)
        found = live(`${who} points below the stack pointer`);
      else if (use.isStrict) found = search.touches(place, UNBOUNDED, mask, who);
    } else found = pointerNeeds(use, true);
    if (found?.redZone === "live") return found;
    open ??= found;
  }
  return open;
}

/** A value from memory, or from a register that came from memory, may be an address of the stack that was stored. */
const pointerNeeds = (use: FrameUse, mayBeStored: boolean): Verdict | undefined =>
  use.isStrict && mayBeStored && use.escapes !== undefined
    ? unknown(`an argument of the probe may be the address of the stack that was stored at ${hex(use.escapes)}`)
    : undefined;
