/**
 * Values at every instruction of a function: a forward analysis over all of its parts, to a fixed point.
 *
 * Ways that no direct branch shows: an indirect jump may lead to every place inside the function that a table of its
 * own, a pointer in the data or an address in the code names, and arrives there with what its registers hold then. A
 * landing pad is entered with what the call held. What nothing reaches, or what code of other functions names, may be
 * entered with anything.
 */
import { type Vaddr, vaddr } from "../../address.js";
import { addressOf, type DecodedCode, Flow, indexOf } from "../../x86/decode.js";
import type { CodeRange } from "../functions.js";
import { ALL_CLOBBERED } from "./clobbered.js";
import { isEnd } from "./endless.js";
import { anyState, entryState, joinStates, Machine, type State, sameState } from "./machine.js";
import { PendingSet } from "./pending-set.js";
import { type Step, stepsOf } from "./steps.js";
import type { Findings, Formation, Memory } from "./sums.js";
import { GIVEN, Is, image, isStack, plain, SOMEWHERE_ON_STACK, type Value } from "./value.js";

/** What the analysis has to know of the rest of the program. All addresses are link-time ones. */
export interface Surroundings {
  readonly memory: Memory;
  /** Addresses in (start, end) that relocations, words of data or symbols name. */
  namedByData(start: Vaddr, end: Vaddr): readonly number[];
  /** Where code makes addresses in [start, end), with lea or as constants. */
  namedByCode(start: Vaddr, end: Vaddr): readonly { readonly at: number; readonly target: number }[];
  /** Whether something calls the function that begins here, or makes its address. */
  isEntry(start: Vaddr): boolean;
  /** Where the words of a table lead, from its first one on. */
  targetsOf(formation: Formation, others: ReadonlySet<number>): readonly number[];
  /** Whether the call at an index comes back. */
  returns(code: DecodedCode, index: number): boolean;
  /** The registers that a direct call may change, a bit each. */
  clobbered(target: Vaddr): number;
  /** The registers in which a direct call may leave its return address, a bit each. */
  returnAddressIn(target: Vaddr): number;
  /** The register that holds where a thunk at an address leads, or -1. */
  thunkRegister(target: Vaddr): number;
  /** Whether an address is in a function and not its start. */
  isInside(address: number): boolean;
  /** Landing pads of calls, by the address of the call. */
  landingPads(range: CodeRange, call: Vaddr): readonly Vaddr[];
}

/** An indirect jump or call, or a return to what is no return address. */
export interface Transfer {
  readonly at: Vaddr;
  readonly kind: "jump" | "call" | "return";
  readonly target: Value;
}

export interface FlowResult {
  readonly transfers: readonly Transfer[];
  readonly formations: readonly (Formation & { readonly at: number })[];
  /** Addresses of code to which something unknown is added, and where. */
  readonly computed: ReadonlyMap<number, number>;
  /** Addresses of code that are computed of others and constants, and where. */
  readonly made: ReadonlyMap<number, number>;
  readonly around: readonly { readonly at: number; readonly low: number; readonly high: number }[];
  /** Addresses from which code reads, as far as they are known, and where it does. */
  readonly read: ReadonlyMap<number, number>;
  /** Where it reads its return address, other than to return, or undefined. */
  readonly looksAtReturn: number | undefined;
  /** What rsp holds at one-byte nops, which may be probes. */
  readonly rspAtNops: ReadonlyMap<number, Value>;
}

export interface Part {
  readonly range: CodeRange;
  readonly code: DecodedCode;
  readonly steps: readonly Step[];
  readonly leads: Uint8Array;
  readonly states: Map<number, State>;
  readonly visits: Map<number, number>;
}

/** After so many arrivals at one place what still grows is not followed any more. */
const PATIENCE = 6;

export class ValueFlow implements FlowResult, Findings {
  readonly transfers: Transfer[] = [];
  readonly formations: (Formation & { at: number })[] = [];
  readonly computed = new Map<number, number>();
  readonly made = new Map<number, number>();
  readonly around: { at: number; low: number; high: number }[] = [];
  readonly read = new Map<number, number>();
  looksAtReturn: number | undefined;
  readonly rspAtNops = new Map<number, Value>();
  private readonly known = new Set<string>();
  /** Return addresses that the function may find out. */
  private readonly told = new Set<number>();
  private readonly handedSums = new Map<string, { readonly at: number; readonly words: Omit<Formation, "base"> }>();
  private readonly parts: readonly Part[];
  private readonly machine: Machine;
  private readonly computesInVectors: boolean;
  /** Leaders to go on from, by number: parts in order, then their instructions. The first one comes first. */
  private readonly work = new PendingSet();
  private readonly firsts: number[] = [];
  /** What holds at jumps to anywhere that a pointer may lead to. */
  private atJumps: State | undefined;
  /** What holds at the jumps through the tables whose words are added to an address; 0 for tables of pointers. */
  private readonly atTables = new Map<number, State>();
  /** Addresses that the function makes or uses as tables: where one begins, another ends. */
  private readonly objects = new Set<number>();
  /** Addresses that its instructions name. */
  private readonly named = new Set<number>();
  private readonly inside = new Map<Part, Set<number>>();

  constructor(
    ranges: readonly { readonly range: CodeRange; readonly code: DecodedCode }[],
    private readonly surroundings: Surroundings,
    putsIntoVectors = false,
    starts: readonly number[] = [],
  ) {
    for (const start of starts) this.objects.add(start);
    this.parts = ranges.map(({ range, code }) => ({
      range,
      code,
      steps: stepsOf(code),
      leads: new Uint8Array(code.count + 1),
      states: new Map(),
      visits: new Map(),
    }));
    let first = 0;
    for (const { code } of this.parts) {
      this.firsts.push(first);
      first += code.count;
    }
    this.computesInVectors =
      putsIntoVectors ||
      this.parts.some(({ steps }) => steps.some(({ vectors }) => vectors === "computes" || vectors === "adds"));
    this.machine = new Machine(
      surroundings.memory,
      this,
      (at, address, size) => this.loads(at, address, size),
      this.computesInVectors,
    );
    for (const { steps } of this.parts)
      for (const { operands } of steps)
        for (const o of operands) {
          const { fixed } = surroundings.memory;
          if (o.kind === "number" && fixed) this.named.add(o.value);
          if (o.kind === "memory" && (o.isRipRelative || fixed)) this.named.add(o.displacement);
        }
    for (const address of this.named) this.objects.add(address);
    for (const part of this.parts) this.markLeaders(part);
    for (const part of this.parts) if (this.isEntered(part)) this.arrive(part, 0, entryState());
    this.follow();
    this.enterInside();
    this.enterUnreached();
    this.collect();
    this.addHandedSums();
  }

  /** Whether something that was computed went through vector registers, which had to be known from the start. */
  get isMisled(): boolean {
    return this.machine.putsIntoVectors && !this.computesInVectors;
  }

  /**
   * Where tables begin whose addresses are computed, if there are several: one ends where another begins, which had to
   * be known.
   */
  get computedStarts(): readonly number[] {
    const starts = new Set(
      this.formations.flatMap(({ base, sources }) => (base === 0 ? [] : sources.map(({ at }) => at))),
    );
    return starts.size < 2 ? [] : [...starts].filter((start) => !this.objects.has(start));
  }

  onFormation(at: number, formation: Formation): void {
    const { base, width, signed, minus, sources } = formation;
    const key = `${base} ${width} ${signed} ${minus} ${sources.map((s) => `${s.at}:${s.step}`).join()}`;
    if (this.known.has(key)) return;
    this.known.add(key);
    this.formations.push({ ...formation, at });
  }

  onHandedSum(at: number, words: Omit<Formation, "base">): void {
    this.handedSums.set(`${at} ${words.width} ${words.signed} ${words.minus}`, { at, words });
  }

  onMade(at: number, address: number): void {
    this.made.set(address, at);
  }

  onComputed(at: number, base: number): void {
    this.computed.set(base, at);
  }

  onAround(at: number, low: number, high: number): void {
    if (!this.around.some((a) => a.low <= low && a.high >= high)) this.around.push({ at, low, high });
  }

  private loads(at: number, address: Value, size: number): void {
    const { frame, offset } = address;
    if (address.kinds & Is.Stack && frame === 0 && (Number.isNaN(offset) || (offset < 8 && offset + size > 0)))
      this.looksAtReturn ??= at;
    const numbers = this.surroundings.memory.fixed ? address.plain : address.image;
    for (const n of numbers) this.read.set(n, at);
  }

  private isEntered(part: Part): boolean {
    const jumped = this.parts.some((p) => p !== part && this.jumpsTo(p, part.range.start));
    return !jumped || this.surroundings.isEntry(part.range.start);
  }

  private jumpsTo({ code }: Part, target: number): boolean {
    for (let i = 0; i < code.count; i++)
      if (code.targets[i] === target && code.flow[i]! & (Flow.Jump | Flow.Conditional)) return true;
    return false;
  }

  private place(address: number): { part: Part; index: number } | undefined {
    for (const part of this.parts) {
      if (address < part.code.start || address >= part.code.end) continue;
      const index = indexOf(part.code, address);
      return index < 0 ? undefined : { part, index };
    }
    return undefined;
  }

  private markLeaders(part: Part): void {
    const { code, leads, range } = part;
    leads[0] = 1;
    for (const p of this.parts) {
      for (let i = 0; i < p.code.count; i++) {
        const target = p.code.targets[i]!;
        if (target >= code.start && target < code.end) {
          const index = indexOf(code, target);
          if (index >= 0) leads[index] = 1;
        }
      }
    }
    // What the data and the code name inside may be entered by jumps.
    const named = new Set<number>(this.surroundings.namedByData(range.start, range.end));
    for (const { target } of this.surroundings.namedByCode(vaddr(range.start + 1), range.end)) named.add(target);
    this.inside.set(part, new Set());
    for (const target of named) this.addInside(target);
    for (let i = 0; i < code.count; i++)
      if (code.flow[i]! & Flow.Call)
        for (const pad of this.surroundings.landingPads(range, addressOf(code, i))) {
          const found = this.place(pad);
          if (found !== undefined) found.part.leads[found.index] = 1;
        }
  }

  private addInside(target: number): void {
    const found = this.place(target);
    if (found === undefined || found.index === 0) return;
    found.part.leads[found.index] = 1;
    let set = this.inside.get(found.part);
    if (set === undefined) {
      set = new Set();
      this.inside.set(found.part, set);
    }
    set.add(found.index);
  }

  private arrive(part: Part, index: number, state: State): void {
    if (index >= part.code.count) return;
    part.leads[index] = 1;
    const known = part.states.get(index);
    if (known === undefined) {
      // The machine's own registers go on changing.
      part.states.set(index, { registers: [...state.registers], slots: state.slots });
      this.wait(part, index);
      return;
    }
    const visits = (part.visits.get(index) ?? 0) + 1;
    const at = addressOf(part.code, index);
    const { arithmetic } = this.machine;
    const widened = (v: Value, before: Value): Value => {
      const isGrowing = grows(v, before) || (v.image.length > before.image.length && arithmetic.codeOf(v).length === 0);
      return visits > PATIENCE && isGrowing ? arithmetic.widened(at, v, before) : arithmetic.bounded(at, v);
    };
    const joined = joinStates(known, state, widened);
    if (joined === known) return;
    part.visits.set(index, visits);
    part.states.set(index, joined);
    this.wait(part, index);
  }

  private follow(): void {
    for (let next = this.work.take(); next !== undefined; next = this.work.take()) {
      let p = this.parts.length - 1;
      while (this.firsts[p]! > next) p--;
      this.runFrom(this.parts[p]!, next - this.firsts[p]!);
    }
  }

  private wait(part: Part, index: number): void {
    this.work.add(this.firsts[this.parts.indexOf(part)]! + index);
  }

  private step(part: Part, i: number): void {
    const { code } = part;
    const target = code.targets[i]!;
    if (code.flow[i]! & Flow.Call && !Number.isNaN(target)) {
      this.machine.at = addressOf(code, i);
      // What calls its own inside may do so for any reason.
      const isOwn = target >= code.start && target < code.end;
      this.machine.call(isOwn ? ALL_CLOBBERED : this.surroundings.clobbered(vaddr(target)));
      const told = isOwn ? 0 : this.surroundings.returnAddressIn(vaddr(target));
      if (told !== 0) {
        this.machine.tell(told, code.start + code.offsets[i + 1]!);
        this.told.add(code.start + code.offsets[i + 1]!);
      }
    } else this.machine.run(part.steps[i]!, addressOf(code, i));
  }

  /** Runs from a leader to the next one, or to where nothing follows. */
  private runFrom(part: Part, first: number): void {
    const { code, steps, leads } = part;
    const { machine } = this;
    machine.enter(part.states.get(first)!);
    for (let i = first; i < code.count; i++) {
      if (i > first && leads[i]) {
        this.arrive(part, i, machine);
        return;
      }
      const flow = code.flow[i]!;
      const at = addressOf(code, i);
      machine.at = at;
      if (flow & (Flow.Jump | Flow.Conditional | Flow.Transaction)) this.jumpTo(code.targets[i]!);
      const thunk = this.thunkAt(part, i);
      if (thunk !== undefined) this.jumpsBy(at, thunk);
      if (flow & Flow.Jump) return;
      if (flow & (Flow.IndirectJump | Flow.Return)) {
        const target = machine.target(steps[i]!);
        if (flow & Flow.Return) machine.dropReturnAddress();
        if (flow & Flow.IndirectJump || target.kinds !== Is.Ret) this.jumpsBy(at, target);
        return;
      }
      if (flow & Flow.Call) {
        this.call(part, i);
        // To find out where it is: what follows has the return address on the stack.
        if (code.targets[i] === code.start + code.offsets[i + 1]!) return;
        if (!this.surroundings.returns(code, i)) return;
      } else if (isEnd(code, i)) return;
      else this.step(part, i);
    }
  }

  /** What the register holds that a direct jump or call of a thunk goes by, or undefined. */
  private thunkAt({ code }: Part, i: number): Value | undefined {
    const target = code.targets[i]!;
    if ((code.flow[i]! & (Flow.Jump | Flow.Conditional | Flow.Call)) === 0 || Number.isNaN(target)) return undefined;
    if (target > code.start && target < code.end) return undefined;
    const register = this.surroundings.thunkRegister(vaddr(target));
    return register < 0 ? undefined : this.machine.registers[register];
  }

  private jumpTo(target: number): void {
    const found = this.place(target);
    if (found !== undefined) this.arrive(found.part, found.index, this.machine);
  }

  private call(part: Part, i: number): void {
    const { code } = part;
    const target = code.targets[i]!;
    const next = code.start + code.offsets[i + 1]!;
    const own = this.place(target);
    if (own !== undefined && own.index > 0) {
      this.told.add(next);
      // A call of the own inside: for the return address, or instead of a jump.
      const before = this.machine.state;
      this.machine.push(this.surroundings.memory.fixed ? plain(next) : image(next));
      this.arrive(own.part, own.index, this.machine.state);
      this.machine.enter(before);
    } else if (part.steps[i]!.operands[0]?.kind !== "other") {
      // A call to a computed place inside: it goes on there with its return address pushed.
      const to = this.machine.target(part.steps[i]!);
      if (to.kinds & (Is.Sum | Is.Off)) {
        const before = this.machine.state;
        this.machine.push(this.surroundings.memory.fixed ? plain(next) : image(next));
        this.jumpsBy(this.machine.at, to);
        this.machine.enter(before);
      }
    }
    this.step(part, i);
    for (const pad of this.surroundings.landingPads(part.range, addressOf(code, i))) {
      const found = this.place(pad);
      if (found !== undefined) this.arrive(found.part, found.index, this.machine.state);
    }
  }

  /** What registers hold at an indirect jump they may hold at every place that it can lead to. */
  private jumpsBy(at: number, { kinds, sources, bases, image: addresses, plain: numbers }: Value): void {
    for (const target of this.surroundings.memory.fixed ? numbers : addresses) this.jumpTo(target);
    for (const base of bases) this.keepForTable(base);
    // Through a table of pointers, whose words are where it leads.
    const isTable = (kinds & (Is.Given | Is.Word)) !== 0 && sources !== undefined && sources.length > 0;
    if (isTable) {
      this.onFormation(at, { base: 0, width: kinds & Is.Given ? 8 : 4, signed: false, minus: false, sources });
      this.keepForTable(0);
    }
    if ((kinds & ~(Is.Sum | Is.Ret)) !== 0 && !isTable) this.jumpsAnywhere();
  }

  private keepForTable(base: number): void {
    const known = this.atTables.get(base);
    const { state } = this.machine;
    this.atTables.set(base, known === undefined ? state : joinStates(known, state, this.atJump));
  }

  private readonly atJump = (v: Value, before: Value): Value => {
    const { arithmetic, at } = this.machine;
    return grows(v, before) && v.kinds & Is.Small ? arithmetic.widened(at, v, before) : arithmetic.bounded(at, v);
  };

  private jumpsAnywhere(): void {
    const { state } = this.machine;
    this.atJumps = this.atJumps === undefined ? state : joinStates(this.atJumps, state, this.atJump);
  }

  /** Enters what indirect jumps may lead to, until nothing new is found. */
  private enterInside(): void {
    for (;;) {
      const before = [this.atJumps, ...this.atTables.values()];
      const entries: { readonly part: Part; readonly index: number; readonly state: State }[] = [];
      for (const formation of this.formations) {
        const state = this.atTables.get(formation.base);
        if (state === undefined) continue;
        for (const target of this.surroundings.targetsOf(formation, this.objects)) {
          const found = this.place(target);
          if (found !== undefined) entries.push({ ...found, state });
        }
      }
      for (const [part, indices] of this.inside)
        for (const index of indices) {
          const isStrange = this.isNamedElsewhere(part, index);
          if (this.atJumps === undefined && !isStrange) continue;
          entries.push({ part, index, state: isStrange ? strange(this.anyJump) : this.atJumps! });
        }
      // Who runs on to them goes on there, too.
      for (const { part, index } of entries) this.revisitBefore(part, index);
      this.follow();
      for (const { part, index, state } of entries) this.arrive(part, index, state);
      this.follow();
      const after = [this.atJumps, ...this.atTables.values()];
      const isSame = (s: State | undefined, i: number): boolean =>
        s === before[i] || (s !== undefined && before[i] !== undefined && sameState(s, before[i]));
      if (after.length === before.length && after.every(isSame)) return;
    }
  }

  private get anyJump(): State | undefined {
    return this.atJumps ?? this.atTables.values().next().value;
  }

  /** A place that becomes a leader only now gets the state of the way that runs into it. */
  private revisitBefore(part: Part, index: number): void {
    if (part.leads[index]) return;
    part.leads[index] = 1;
    let first = index - 1;
    while (first >= 0 && !part.states.has(first)) first--;
    if (first >= 0) this.wait(part, first);
  }

  private isNamedElsewhere(part: Part, index: number): boolean {
    const at = addressOf(part.code, index);
    return this.surroundings
      .namedByCode(at, vaddr(at + 1))
      .some((n) => !this.parts.some((p) => n.at >= p.code.start && n.at < p.code.end));
  }

  private enterUnreached(): void {
    for (const part of this.parts) {
      const { code } = part;
      const reached = new Uint8Array(code.count);
      const mark = (): void => {
        for (const first of part.states.keys())
          for (let i = first; i < code.count && !reached[i]; i++) {
            if (i > first && part.states.has(i)) break;
            reached[i] = 1;
            if (code.flow[i]! & (Flow.Jump | Flow.IndirectJump | Flow.Return) || isEnd(code, i)) break;
            if (code.flow[i]! & Flow.Call && !this.surroundings.returns(code, i)) break;
          }
      };
      mark();
      for (let i = 0; i < code.count; i++) {
        if (reached[i] || code.flow[i]! & (Flow.Nop | Flow.Landing)) continue;
        this.arrive(part, i, strange(this.anyJump));
        this.follow();
        mark();
      }
    }
  }

  private collect(): void {
    this.transfers.length = 0;
    for (const part of this.parts) {
      const { code, steps, leads } = part;
      for (const [first, state] of part.states) {
        this.machine.enter(state);
        for (let i = first; i < code.count; i++) {
          if (i > first && leads[i]) break;
          const flow = code.flow[i]!;
          const at = addressOf(code, i);
          this.machine.at = at;
          if (flow & Flow.Nop && code.offsets[i + 1]! - code.offsets[i]! === 1)
            this.rspAtNops.set(at, this.machine.registers[4]!);
          const isIndirect = (flow & Flow.Call) !== 0 && steps[i]!.operands[0]?.kind !== "other";
          if (flow & (Flow.IndirectJump | Flow.Return) || isIndirect) {
            const kind = flow & Flow.IndirectJump ? "jump" : isIndirect ? "call" : "return";
            const target = this.machine.target(steps[i]!);
            this.transfers.push({ at, kind, target });
          }
          const thunk = this.thunkAt(part, i);
          if (thunk !== undefined) this.transfers.push({ at, kind: "jump", target: thunk });
          if (code.targets[i] === code.start + code.offsets[i + 1]! && flow & Flow.Call) break;
          if (flow & (Flow.Jump | Flow.IndirectJump | Flow.Return) || isEnd(code, i)) break;
          if (flow & Flow.Call && !this.surroundings.returns(code, i)) break;
          this.step(part, i);
        }
      }
    }
  }

  /**
   * A label that the function makes, its own or another's, keeps in memory and loads again is something handed over by
   * then: a word that is added to that may be added to each of these labels.
   */
  private addHandedSums(): void {
    if (this.handedSums.size === 0) return;
    const labels = new Set([...this.ownLabels(), ...this.othersLabels()]);
    for (const { at, words } of this.handedSums.values())
      for (const base of labels)
        if (labels.size > MOST_LABELS) this.onComputed(at, base);
        else this.onFormation(at, { ...words, base });
  }

  /** Addresses inside of other functions that its own code makes. */
  private othersLabels(): Iterable<number> {
    const { isInside, memory } = this.surroundings;
    return [...this.named].filter((at) => memory.isCode(at) && isInside(at) && this.place(at) === undefined);
  }

  /**
   * Addresses inside of it that its own code makes, and where it jumps by what was handed over those that data names as
   * well.
   */
  private ownLabels(): ReadonlySet<number> {
    const { parts, surroundings } = this;
    const isOwn = (address: number): boolean => this.place(address) !== undefined;
    const labels = new Set([...this.told, ...[...this.made.keys()].filter(isOwn)]);
    for (const { range } of parts)
      for (const { at, target } of surroundings.namedByCode(vaddr(range.start + 1), range.end))
        if (parts.some((p) => at >= p.range.start && at < p.range.end)) labels.add(target);
    if (this.atJumps !== undefined)
      for (const [{ code }, indices] of this.inside) for (const index of indices) labels.add(addressOf(code, index));
    return labels;
  }
}

/** To more labels words of tables are not added one by one. */
const MOST_LABELS = 64;

/** Whether a value has more numbers than before, or wider ones: it may go on like that. */
const grows = (v: Value, before: Value): boolean =>
  (v.plain.length > before.plain.length && before.plain.length > 0) ||
  ((v.kinds & before.kinds & Is.Small) !== 0 && (v.low < before.low || v.high > before.high));

/** Anything in the registers, with the stack as the function's own jumps have it. */
function strange(atJumps: State | undefined): State {
  const state = anyState();
  if (atJumps === undefined) return state;
  const registers = [...state.registers];
  registers[4] = isStack(atJumps.registers[4]!) ? atJumps.registers[4]! : SOMEWHERE_ON_STACK;
  registers[5] = isStack(atJumps.registers[5]!) ? atJumps.registers[5]! : GIVEN;
  return { registers, slots: [] };
}
