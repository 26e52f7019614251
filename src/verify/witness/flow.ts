/**
 * A group's instructions, followed from all its entries until nothing new is found: which values its transfers go by,
 * which addresses of code it makes, what it adds to them, and where rsp is.
 *
 * Each address that a branch leads to keeps the join of the states that come there. Where an indirect jump may lead
 * inside the group it brings the join of the states at the group's indirect jumps. What nothing is seen to reach is
 * followed from a state in which nothing is known.
 */
import { Callees, CHANGED_BY_CALLS } from "./callees.js";
import { Decoder, type Instruction, iced, ripAddress } from "./decode.js";
import { type Findings, type Formation, Watch } from "./findings.js";
import type { Group } from "./groups.js";
import type { Parts } from "./parts.js";
import type { Landing, Program } from "./program.js";
import { Queue } from "./queue.js";
import { RSP, State } from "./state.js";
import { Stepper } from "./step.js";
import type { Thunks } from "./thunks.js";
import { ASSUMED, type Atom, GIVEN, join, number, RETURN, stack, type Value } from "./values.js";

/** Inside addresses that are named, and by whom. */
export interface Inside {
  readonly address: number;
  /** By code of another group. */
  readonly foreign: boolean;
}

const { FlowControl, Mnemonic } = iced;

export class Follower {
  readonly decoder: Decoder;
  private readonly stepper: Stepper;
  private readonly watcher: Watch;
  private readonly callees: Callees;

  constructor(
    program: Program,
    private readonly parts: Parts,
    /** By the start of what they cover. */
    private readonly landings: readonly Landing[],
    private readonly watched: ReadonlySet<number>,
    /** Addresses whose instruction changed. */
    private readonly changed: ReadonlyMap<number, unknown>,
    private readonly thunks: Thunks,
  ) {
    this.decoder = new Decoder(program.sources);
    this.watcher = new Watch(program, parts);
    this.stepper = new Stepper(program, this.watcher);
    this.callees = new Callees(program, parts);
  }

  /** @param isEntered whether a head of a part is entered from anywhere but by jumps of its own group */
  follow(group: Group, insides: readonly Inside[], isEntered: (head: number) => boolean): Findings {
    const { parts, landings, watched, changed, decoder, stepper, watcher, callees, thunks } = this;
    let starts: readonly number[] = [];
    for (;;) {
      const findings = watcher.begin(starts);
      stepper.begin();
      const run = new Run(
        parts,
        landings,
        watched,
        changed,
        decoder,
        stepper,
        watcher,
        callees,
        thunks,
        group,
        findings,
      );
      run.all(insides, isEntered);
      const inner = startsInside(findings.formations);
      if (starts.length > 0 || inner.length === 0) return findings;
      starts = inner;
    }
  }

  free(): void {
    this.decoder.free();
    this.stepper.free();
    this.callees.free();
  }
}

/**
 * Where tables begin in the middle of others, ascending: code computes the address, of the global offset table for
 * example, and what went on after the end of a table was no way.
 */
function startsInside(formations: ReadonlyMap<string, Formation>): readonly number[] {
  const all = [...formations.values()];
  const isInside = (first: number): boolean =>
    all.some(({ table, places, sure }) => sure > 0 && first > table.first && first < places[sure - 1]! + table.width);
  return [...new Set(all.map(({ table }) => table.first).filter(isInside))].sort((a, b) => a - b);
}

class Run {
  private readonly states = new Map<number, State>();
  private readonly waiting = new Queue();
  private readonly visited = new Set<number>();
  /** What indirect jumps bring, by the base of the table that they go by; NaN: by pointers. */
  private readonly hubs = new Map<number, { readonly state: State; targets: number }>();
  private insides: readonly number[] = [];
  /**
   * After calls: states that wait until all else is known, and addresses that calls return to. Many calls never return;
   * what is after those is reached by other ways, from other depths of the stack, and no compiler lets two depths meet.
   */
  private readonly pending = new Map<number, State>();
  private readonly returns = new Set<number>();

  constructor(
    private readonly parts: Parts,
    private readonly landings: readonly Landing[],
    private readonly watched: ReadonlySet<number>,
    private readonly changed: ReadonlyMap<number, unknown>,
    private readonly decoder: Decoder,
    private readonly stepper: Stepper,
    private readonly watch: Watch,
    private readonly callees: Callees,
    private readonly thunks: Thunks,
    private readonly group: Group,
    private readonly findings: Findings,
  ) {}

  all(insides: readonly Inside[], isEntered: (head: number) => boolean): void {
    this.insides = insides.filter(({ foreign }) => !foreign).map(({ address }) => address);
    const { parts } = this.group;
    for (const part of parts)
      for (const head of part.heads) if (parts.length === 1 || isEntered(head)) this.arrive(head, entryState());
    for (const { address, foreign } of insides) if (foreign) this.arrive(address, unknownState());
    this.drain();
    this.takeMade();
    for (const address of this.insides) if (!this.visited.has(address)) this.arrive(address, unknownState());
    this.drain();
    for (const part of this.group.parts) {
      if (part.unknown !== undefined) continue;
      for (let at = part.start; at < part.end; at++) {
        if (this.visited.has(at) || !this.parts.isStart(at)) continue;
        // What fills gaps is nobody's, but a short nop that changed may be a probe.
        if (this.isIdle(at) && !(this.changed.has(at) && this.decoder.at(at)?.length === 1)) continue;
        this.arrive(at, unknownState());
        this.drain();
      }
    }
  }

  /** Inside addresses that this code computes are where its jumps by pointers lead, too. */
  private takeMade(): void {
    for (;;) {
      const made = [...this.findings.made.keys()].filter(
        (address) =>
          this.isOwn(address) &&
          this.parts.isStart(address) &&
          !this.parts.at(address)!.heads.includes(address) &&
          !this.insides.includes(address),
      );
      if (made.length === 0) return;
      this.insides = [...this.insides, ...made];
      const hub = this.hubs.get(Number.NaN);
      if (hub === undefined) return;
      for (const address of made) this.flow(address, hub.state);
      this.drain();
    }
  }

  private isIdle(at: number): boolean {
    const i = this.decoder.at(at);
    return i?.mnemonic === Mnemonic.Nop || i?.mnemonic === Mnemonic.Int3;
  }

  private isOwn(address: number): boolean {
    return this.parts.at(address)?.group === this.group.index;
  }

  private arrive(address: number, state: State): void {
    const known = this.states.get(address);
    if (known === undefined) this.states.set(address, state.copy());
    else if (!known.join(state)) return;
    this.waiting.add(address);
  }

  private drain(): void {
    for (;;) {
      for (let at = this.waiting.next(); at !== undefined; at = this.waiting.next()) this.run(at);
      const [next] = this.pending.keys();
      if (next === undefined) return;
      const state = this.pending.get(next)!;
      this.pending.delete(next);
      if (!this.isElsewhere(next, state)) {
        this.returns.add(next);
        this.arrive(next, state);
      }
    }
  }

  /** Whether branches come to an address with rsp at another place of the frame than a state has it. */
  private isElsewhere(address: number, state: State): boolean {
    const known = this.states.get(address)?.registers[RSP];
    const [mine] = state.registers[RSP]!;
    return (
      known !== undefined &&
      mine!.kind === "stack" &&
      Number.isFinite(mine!.n) &&
      known.every(
        ({ kind, n, extra }) => kind === "stack" && extra === mine!.extra && n !== mine!.n && Number.isFinite(n),
      )
    );
  }

  private run(start: number): void {
    const { decoder, stepper, watch, visited } = this;
    const state = this.states.get(start)!.copy();
    for (let at = start; ; ) {
      if (at !== start && this.states.has(at)) {
        this.arrive(at, state);
        return;
      }
      const i = decoder.at(at);
      if (i === undefined) return;
      visited.add(at);
      watch.at = at;
      if (this.watched.has(at)) {
        this.findings.reached.add(at);
        this.noteStack(at, state);
      }
      const next = at + i.length;
      if (i.mnemonic === Mnemonic.Hlt) return;
      if (i.flowControl === FlowControl.Next) stepper.step(i, state, at);
      else if (!this.transfer(i, state, at, next)) return;
      at = next;
    }
  }

  /** A branch, call or trap; whether it goes on after it. */
  private transfer(i: Instruction, state: State, at: number, next: number): boolean {
    const { stepper, findings } = this;
    if (findings.formations.size > 0 && i.flowControl !== FlowControl.ConditionalBranch)
      for (const value of state.registers) this.watch.handOn(value);
    switch (i.flowControl) {
      case FlowControl.UnconditionalBranch:
        this.throughThunk(Number(i.nearBranchTarget), state, at);
        this.flow(Number(i.nearBranchTarget), state);
        return false;
      case FlowControl.ConditionalBranch:
        if (LOOPS.has(i.mnemonic)) stepper.step(i, state, at);
        this.throughThunk(Number(i.nearBranchTarget), state, at);
        this.flow(Number(i.nearBranchTarget), state);
        return true;
      case FlowControl.XbeginXabortXend:
        if (i.mnemonic === Mnemonic.Xbegin) this.flow(Number(i.nearBranchTarget), state);
        return true;
      case FlowControl.IndirectBranch:
        this.dispatch(this.record(at, "jmp", stepper.target(i, state)), state);
        return false;
      case FlowControl.Return: {
        const value = this.record(at, "ret", stepper.pop(state, true));
        if (value.some(({ kind }) => kind !== "return" && kind !== "given")) this.dispatch(value, state);
        return false;
      }
      case FlowControl.IndirectCall:
        this.record(at, "call", stepper.target(i, state));
        if (i.isIpRelMemoryOperand && this.callees.isEndlessSlot(ripAddress(i))) return this.land(state, at);
        return this.afterCall(state, at, next);
      case FlowControl.Call: {
        if (i.mnemonic !== Mnemonic.Call) {
          stepper.step(i, state, at);
          return true;
        }
        const target = Number(i.nearBranchTarget);
        this.throughThunk(target, state, at);
        if (this.isOwn(target) && !this.parts.at(target)!.heads.includes(target)) {
          const inner = state.copy();
          stepper.pushAddress(inner, next);
          this.watch.made(next);
          this.flow(target, inner);
          // To find out where it is: what follows has the return address on the stack.
          if (target === next) return false;
        } else if (this.callees.neverReturns(target)) return this.land(state, at);
        return this.afterCall(state, at, next, target);
      }
      case FlowControl.Interrupt:
        return i.mnemonic !== Mnemonic.Int3;
      default:
        return false;
    }
  }

  /** Who branches to a thunk jumps, or calls, through its register. */
  private throughThunk(target: number, state: State, at: number): void {
    const register = this.isOwn(target) ? -1 : this.thunks.registerOf(target);
    if (register >= 0) this.dispatch(this.record(at, "jmp", state.registers[register]!), state);
  }

  /** Exceptions out of a call. */
  private land(state: State, at: number, changed = CHANGED_BY_CALLS): false {
    for (const { start, end, pad } of landingsOver(this.landings, at)) {
      if (at < start || at >= end) continue;
      const thrown = state.copy();
      thrown.call(CHANGED_BY_CALLS);
      this.flow(pad, thrown);
    }
    state.call(changed);
    return false;
  }

  private afterCall(state: State, at: number, next: number, target?: number): boolean {
    // Most registers hold nothing by then that matters: who asks what a function writes has to read it.
    const isNeeded = target !== undefined && KEPT.some((register) => state.registers[register]!.some(isBase));
    this.land(state, at, isNeeded ? this.callees.changedBy(target) : CHANGED_BY_CALLS);
    const told = target === undefined ? 0 : this.callees.yields(target);
    if (told !== 0) this.findings.told.add(next);
    for (let register = 0; told >> register !== 0; register++)
      if (told & (1 << register)) state.registers[register] = join(GIVEN, [number(next, true)]);
    const part = this.parts.at(at);
    if (part === undefined || next >= part.end) return false;
    // Where nothing else leads after a call it returns, or nothing comes of it.
    if (this.returns.has(next) || !(this.parts.isTarget(next) || this.isIdle(next))) return true;
    const known = this.pending.get(next);
    if (known === undefined) this.pending.set(next, state.copy());
    else known.join(state);
    return false;
  }

  private flow(target: number, state: State): void {
    if (this.isOwn(target)) this.arrive(target, state);
  }

  /**
   * An indirect jump leads to the entries of the tables that it goes by, or to inside addresses that somebody names.
   */
  private dispatch(value: Value, state: State): void {
    for (const { kind, n } of value) {
      if (kind === "number") this.flow(n, state);
      else if (kind === "sum") this.bring(n, state, this.entries(n));
      else this.bring(Number.NaN, state, this.insides);
    }
  }

  private bring(base: number, state: State, targets: readonly number[]): void {
    const known = this.hubs.get(base);
    if (known !== undefined && !known.state.join(state) && known.targets === targets.length) return;
    if (known === undefined) this.hubs.set(base, { state: state.copy(), targets: targets.length });
    else known.targets = targets.length;
    for (const target of targets) this.flow(target, known?.state ?? state);
  }

  private entries(base: number): readonly number[] {
    const found: number[] = [];
    for (const formation of this.findings.formations.values())
      if (formation.base === base)
        found.push(
          ...formation.entries.slice(0, formation.sure).filter((e) => this.parts.isStart(e) || !this.parts.isLinear(e)),
        );
    return found;
  }

  private record(at: number, kind: "jmp" | "call" | "ret", value: Value): Value {
    // The words of a table may be addresses as they are.
    for (const { table } of value)
      if (table !== undefined && this.watch.formed(0, table, false) === "code") this.findings.handedOn.add(0);
    const known = this.findings.transfers.get(at);
    const both = known === undefined ? value : join(known.value, value);
    this.findings.transfers.set(at, { kind, value: both });
    return both;
  }

  private noteStack(at: number, state: State): void {
    const known = this.findings.stackPointers.get(at);
    const rsp = state.registers[4]!;
    this.findings.stackPointers.set(at, known === undefined ? rsp : join(known, rsp));
  }
}

function entryState(): State {
  const state = State.of([stack(0, 0)]);
  state.store(stack(0, 0), 8, RETURN, true);
  return state;
}

const unknownState = (): State => State.of(ASSUMED);

const KEPT = [0, 1, 2, 6, 7, 8, 9, 10, 11];
const isBase = ({ kind, flag, table }: Atom): boolean =>
  (kind === "number" && flag) || kind === "sum" || kind === "off" || table !== undefined;

const LOOPS = new Set([Mnemonic.Loop, Mnemonic.Loope, Mnemonic.Loopne]);

/** Records that may cover an address: they ascend by start, and do not overlap in one function. */
function landingsOver(landings: readonly Landing[], at: number): readonly Landing[] {
  let low = 0;
  let high = landings.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (landings[middle]!.start <= at) low = middle + 1;
    else high = middle;
  }
  return landings.slice(Math.max(0, low - 1), low);
}
