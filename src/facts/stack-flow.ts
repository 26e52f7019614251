/**
 * Where rsp, rbp and every other register point at each instruction of a function: a forward dataflow over the range
 * that holds a site and over the other parts of its function.
 *
 * Parts are found by following: a jump into the middle of another range, or one taken while rsp is not what it was at
 * the function's entry, leads to another part (cold or hot) of the same function. A jump to the start of a range with
 * rsp back at its entry value is a tail call, or leads to a cold part of a function without a frame; see red-zone.ts.
 *
 * Code that direct flow does not reach is entered through a jump table or by the unwinder. Its state is the one of the
 * part's indirect jumps, as far as rsp and rbp go, since a jump table leads nowhere else; where there is none, it is
 * what `.eh_frame` says. `.eh_frame` also says where rsp is when the instructions do not tell (a loop of stack probes),
 * and that a call does not return: where the row after it does not fit.
 */

import type { Vaddr } from "../address.js";
import { type CfaRows, DWARF_RBP, DWARF_RSP, rowAt } from "../elf/cfa-rows.js";
import { readCallSites } from "../elf/lsda.js";
import { addTo } from "../grouped.js";
import { addressOf, type DecodedCode, Flow, indexAt, indexOf } from "../x86/decode.js";
import { type Effects, effectsOf, Kind, RAX, RBP, RDX, REGISTER_COUNT, RSP, Trait } from "../x86/effects.js";
import type { CodeRange } from "./functions.js";
import type { ProgramFacts } from "./program.js";
import {
  Bases,
  baseOf,
  DERIVED,
  ENTRY,
  entryState,
  isTainted,
  merge,
  OTHER,
  offsetOf,
  type State,
  set,
  transfer,
  unknownState,
} from "./stack-state.js";

/** A function with more parts than this is not followed into all of them. */
const MOST_PARTS = 16;

/** How far a branch with a distance of 8 bits reaches, its own length included. */
const SHORT_REACH = 130;

/** The return address lies between rsp at the entry and the CFA. */
const RETURN_ADDRESS = 8;

/** One range of code and what is known at its instructions. */
export interface Part {
  readonly range: CodeRange;
  readonly code: DecodedCode;
  readonly effects: Effects;
  readonly rows: CfaRows | undefined;
  /** The state in which an instruction is reached, at those where ways may meet. */
  readonly states: (State | undefined)[];
  readonly joins: Uint8Array;
  readonly visited: Uint8Array;
  /** It makes calls after its prologue: a profiler's call in there (mcount, __fentry__) shows nothing. */
  readonly makesCalls: boolean;
  /** Landing pads by the index of the call whose exception leads there. */
  readonly pads: ReadonlyMap<number, readonly Vaddr[]>;
}

/** Where a direct branch leads. */
export type Destination =
  | { readonly kind: "inside"; readonly part: Part; readonly index: number }
  /** The start of another range, with rsp as at the entry. */
  | { readonly kind: "tail"; readonly range: CodeRange }
  /** The procedure linkage table, whose stubs jump to functions of other files. */
  | { readonly kind: "linkage" }
  /** Code of which nothing is known. */
  | { readonly kind: "unknown"; readonly address: number };

export class StackFlow {
  readonly bases = new Bases();
  readonly root: Part;
  /** Who jumps into the root could not be found out. */
  entriesUnknown = false;
  private readonly parts = new Map<number, Part>();
  private readonly work: { part: Part; index: number }[] = [];
  /**
   * Registers other than rsp and rbp that hold an address of the stack at some indirect jump, a bit each: any label may
   * be entered with them, even one that other ways lead to as well.
   */
  carriedByJumps = 0;
  /** What registers hold at the indirect jumps, together; undefined where there are none. */
  private atIndirectJumps: State | undefined;

  constructor(
    private readonly facts: ProgramFacts,
    range: CodeRange,
  ) {
    this.root = this.addPart(range)!;
    this.addSources();
    this.seedUnreached();
  }

  get allParts(): readonly Part[] {
    return [...this.parts.values()];
  }

  /** The state right before an instruction that has been visited. */
  stateAt(part: Part, index: number): State {
    let first = index;
    while (part.states[first] === undefined) first--;
    const state = part.states[first]!.slice();
    for (let i = first; i < index; i++) this.apply(state, part, i);
    return state;
  }

  /** Goes over one instruction: the state after it. */
  apply(state: State, part: Part, index: number): void {
    transfer(state, part.effects, index, addressOf(part.code, index), this.bases);
    if (state[RSP] !== ENTRY) trustRow(state, part, part.code.start + part.code.offsets[index + 1]!);
  }

  /** Makes sure that an instruction is visited, even one that nothing seems to lead to. */
  ensureVisited(part: Part, index: number): void {
    if (part.visited[index]) return;
    this.seed(part, index);
    this.run();
  }

  /** Where a direct branch from `part` leads in a state. */
  destination(part: Part, target: number, state: State): Destination {
    const { start, end } = part.code;
    if (target >= start && target < end) {
      const index = indexOf(part.code, target);
      return index < 0 ? { kind: "unknown", address: target } : { kind: "inside", part, index };
    }
    if (this.facts.functions.sectionAt(target)?.name.startsWith(".plt")) return { kind: "linkage" };
    const range = this.facts.functions.containing(target);
    if (range === undefined) return { kind: "unknown", address: target };
    const atEntryHeight = baseOf(state, RSP) === ENTRY && offsetOf(state, RSP) === 0;
    const known = this.parts.get(range.index);
    if (range.start === target && atEntryHeight && (known === undefined || known !== this.root))
      return { kind: "tail", range };
    const other = known ?? this.addPart(range);
    const index = other === undefined ? -1 : indexOf(other.code, target);
    return index < 0 ? { kind: "unknown", address: target } : { kind: "inside", part: other!, index };
  }

  private addPart(range: CodeRange): Part | undefined {
    const code = this.facts.functions.code(range);
    if (this.parts.size > 0 && (code.unclean !== undefined || this.parts.size >= MOST_PARTS)) return undefined;
    const rows = this.facts.functions.cfaRows(range);
    const effects = effectsOf(code);
    const part: Part = {
      range,
      code,
      effects,
      rows,
      states: new Array<State | undefined>(code.count),
      joins: joinsOf(code),
      visited: new Uint8Array(code.count),
      makesCalls: makesCalls(code, effects),
      pads: this.padsOf(range, code),
    };
    this.parts.set(range.index, part);
    if (looksLikeEntry(part) && code.count > 0) this.propagate(part, 0, entryState());
    return part;
  }

  private padsOf(range: CodeRange, code: DecodedCode): ReadonlyMap<number, readonly Vaddr[]> {
    const pads = new Map<number, Vaddr[]>();
    const fde = this.facts.functions.fde(range);
    if (fde?.lsda === undefined) return pads;
    for (const { start, end, landingPad } of readCallSites(this.facts.image, fde)) {
      if (landingPad === undefined || start < code.start || end > code.end || start >= end) continue;
      for (let i = indexAt(code, start); i < code.count && addressOf(code, i) < end; i++) {
        if ((code.flow[i]! & Flow.Call) === 0) continue;
        addTo(pads, i, landingPad);
      }
    }
    return pads;
  }

  /** The ranges that jump into the root: parts of the same function, unless it is a plain tail call of the root. */
  private addSources(): void {
    const { root, facts } = this;
    for (const { from, to } of facts.links(root.range)) {
      const range = facts.functions.containing(from);
      const code = range && facts.functions.code(range);
      if (range === undefined || code === undefined || code.unclean !== undefined) {
        // Bytes that look like a jump and need not be one: what they would lead to decides.
        if (to !== root.range.start) this.entriesUnknown ||= indexOf(root.code, to) >= 0;
      } else this.addSource(range, code, indexAt(code, from));
    }
    // Links are jumps with distances of 32 bits; short ones come from the neighbours.
    for (const index of [root.range.index - 1, root.range.index + 1]) {
      if (root.makesCalls || index < 0 || index >= facts.functions.count) continue;
      const range = facts.functions.range(index);
      if (range.end < root.range.start - SHORT_REACH || range.start > root.range.end + SHORT_REACH) continue;
      const code = facts.functions.code(range);
      for (let i = 0; i < code.count; i++) this.addSource(range, code, i);
    }
    this.run();
  }

  /** Adds a range as a part if its instruction `source` jumps into the root, other than by a tail call. */
  private addSource(range: CodeRange, code: DecodedCode, source: number): void {
    const { root } = this;
    if ((code.flow[source]! & (Flow.Jump | Flow.Conditional)) === 0) return;
    const to = code.targets[source]!;
    if (!(to >= root.code.start && to < root.code.end) || this.parts.has(range.index)) return;
    // What makes calls keeps nothing below rsp; from there it is a tail call.
    if (to === root.code.start && looksLikeEntry(root) && (root.makesCalls || callsFrom(code, 0))) return;
    if (this.addPart(range) === undefined) this.entriesUnknown = true;
  }

  private seedUnreached(): void {
    for (const part of this.parts.values()) {
      for (let i = 0; i < part.code.count; i++) {
        if (part.visited[i] || isFiller(part.code, i)) continue;
        this.seed(part, i);
        this.run();
      }
    }
  }

  private seed(part: Part, index: number): void {
    const address = addressOf(part.code, index);
    const pool = this.atIndirectJumps;
    const state = pool === undefined ? unknownState(address, this.bases) : pool.slice();
    if (pool === undefined) {
      trustRow(state, part, address);
      const row = part.rows === undefined ? -1 : rowAt(part.rows, address);
      if (row >= 0 && part.rows!.registers[row] === DWARF_RBP)
        set(state, RBP, ENTRY, RETURN_ADDRESS - part.rows!.offsets[row]!);
    }
    part.joins[index] = 1;
    this.propagate(part, index, state);
  }

  private run(): void {
    for (let next = this.work.pop(); next !== undefined; next = this.work.pop()) this.follow(next.part, next.index);
  }

  private propagate(part: Part, index: number, from: State): void {
    const address = addressOf(part.code, index);
    const known = part.states[index];
    if (known === undefined) {
      const state = from.slice();
      if (state[RSP] !== ENTRY) trustRow(state, part, address);
      part.states[index] = state;
      if (!part.joins[index]) {
        // Flow that went through here without stopping has to stop from now on.
        part.joins[index] = 1;
        if (part.visited[index]) this.work.push({ part, index: lastState(part, index - 1) });
      }
    } else {
      if (!merge(known, from, address, this.bases)) return;
      if (known[RSP] !== ENTRY) trustRow(known, part, address);
    }
    this.work.push({ part, index });
  }

  /** Straight on from an instruction to the end of its block. */
  private follow(part: Part, first: number): void {
    const { code, effects } = part;
    const state = part.states[first]!.slice();
    for (let i = first; i < code.count; i++) {
      if (i > first && part.joins[i]) {
        this.propagate(part, i, state);
        return;
      }
      part.visited[i] = 1;
      const flow = code.flow[i]!;
      this.apply(state, part, i);
      if (flow & (Flow.Jump | Flow.Conditional | Flow.Transaction)) this.branch(part, code.targets[i]!, state);
      if (flow & Flow.IndirectJump) this.joinIndirectJumps(state, addressOf(code, i));
      if (flow & (Flow.Jump | Flow.IndirectJump | Flow.Return) || effects.traits[i]! & Trait.Ends) return;
      if (flow & Flow.Call) {
        for (const pad of part.pads.get(i) ?? []) this.land(part, pad, state);
        // A call that does not return may stand before code with another frame, or at the end of everything.
        if (i + 1 === code.count || disagrees(state, part, addressOf(code, i + 1))) return;
      }
    }
    this.branch(part, code.end, state);
  }

  private branch(part: Part, target: number, state: State): void {
    const destination = this.destination(part, target, state);
    if (destination.kind === "inside") this.propagate(destination.part, destination.index, state);
  }

  private land(part: Part, pad: Vaddr, state: State): void {
    const landed = state.slice();
    set(landed, RAX, OTHER, 0);
    set(landed, RDX, OTHER, 0);
    this.branch(part, pad, landed);
  }

  /** Registers other than rsp and rbp may differ from one target to the next: they are not kept exact. */
  private joinIndirectJumps(state: State, address: number): void {
    const kept = state.slice();
    for (let r = 0; r < REGISTER_COUNT; r++) {
      if (r === RSP || r === RBP || !isTainted(kept, r)) continue;
      set(kept, r, DERIVED, 0);
      this.carriedByJumps |= 1 << r;
    }
    if (this.atIndirectJumps === undefined) this.atIndirectJumps = kept;
    else merge(this.atIndirectJumps, kept, address, this.bases);
  }
}

function makesCalls(code: DecodedCode, effects: Effects): boolean {
  let body = 0;
  while (body < code.count && isPrologue(code, effects, body)) body++;
  return callsFrom(code, body);
}

/** Whether an instruction from index `first` on is a call of a function, not one into the range's own middle. */
function callsFrom(code: DecodedCode, first: number): boolean {
  for (let i = first; i < code.count; i++) {
    if ((code.flow[i]! & Flow.Call) === 0) continue;
    const target = code.targets[i]!;
    if (!(target > code.start && target < code.end)) return true;
  }
  return false;
}

function isPrologue(code: DecodedCode, effects: Effects, i: number): boolean {
  if (code.flow[i]! & (Flow.Nop | Flow.Landing | Flow.Call)) return true;
  const kind = effects.kind[i];
  if (kind === Kind.Push) return true;
  return kind === Kind.Add && (effects.target[i] === RSP || (effects.target[i] === RBP && effects.source[i] === RSP));
}

/**
 * Whether a function may be called at the start of a range: a cold part with a frame says otherwise in its first row.
 */
function looksLikeEntry({ rows }: Part): boolean {
  return rows === undefined || (rows.registers[0] === DWARF_RSP && rows.offsets[0] === RETURN_ADDRESS);
}

/** Targets of branches within the range: places where ways may meet. */
function joinsOf(code: DecodedCode): Uint8Array {
  const joins = new Uint8Array(code.count);
  for (let i = 0; i < code.count; i++) {
    if ((code.flow[i]! & (Flow.Jump | Flow.Conditional | Flow.Transaction)) === 0) continue;
    const index = indexOf(code, code.targets[i]!);
    if (index >= 0) joins[index] = 1;
  }
  return joins;
}

function lastState(part: Part, index: number): number {
  let i = index;
  while (part.states[i] === undefined) i--;
  return i;
}

const isFiller = (code: DecodedCode, i: number): boolean =>
  (code.flow[i]! & Flow.Nop) !== 0 || code.bytes[code.offsets[i]!] === 0xcc;

/** Where rsp is not known exactly, the unwind table may know it. */
function trustRow(state: State, part: Part, address: number): void {
  if (part.rows === undefined) return;
  const row = rowAt(part.rows, address);
  if (row >= 0 && part.rows.registers[row] === DWARF_RSP)
    set(state, RSP, ENTRY, RETURN_ADDRESS - part.rows.offsets[row]!);
}

/** Whether the unwind table contradicts a state. */
export function disagrees(state: State, part: Part, address: Vaddr): boolean {
  if (part.rows === undefined) return false;
  const row = rowAt(part.rows, address);
  if (row < 0) return false;
  const expected = RETURN_ADDRESS - part.rows.offsets[row]!;
  const register = part.rows.registers[row] === DWARF_RSP ? RSP : part.rows.registers[row] === DWARF_RBP ? RBP : -1;
  if (register < 0) return false;
  const base = baseOf(state, register);
  if (base === ENTRY) return offsetOf(state, register) !== expected;
  return base === OTHER || (base === DERIVED && register === RSP);
}
