/**
 * All ways through a selector's code, from its first instruction on, for any input: nothing is run here.
 *
 * What is known at an instruction is the same on all ways there: what stands on the stack since the code began, and of
 * each register whether it has the value that it came with, or is a counter. A register that was pushed as it came, and
 * is popped again, is as it came.
 *
 *     memory      nothing is written but by pushes, and the byte that every store names
 *     the end     by a jump, or a return, with nothing left on the stack
 *     loops       each way around counts down a register, from a constant, and leaves where it is zero
 */
import { hex, type Interval, type Vaddr, vaddr } from "../../address.js";
import { union } from "../../intervals.js";
import type { CodeReader, Instruction } from "../code-reader.js";
import { type Step, stepOf } from "./steps.js";

/** The register whose value it still is; a number from 1 to `most`, or from 0; or anything. */
type Value = number | { readonly most: number; readonly isZeroPossible: boolean } | undefined;

interface State {
  readonly registers: readonly Value[];
  readonly stack: readonly Value[];
}

/** What a selector's code does. */
export interface Walked {
  /** The byte that it sets. */
  readonly selector: Vaddr | undefined;
  /** Where it goes on; undefined: it returns. */
  readonly next: Vaddr | undefined;
  readonly code: readonly Interval<Vaddr>[];
  /** Registers, by their number in encodings, that have the value they came with at every end. */
  readonly kept: ReadonlySet<number>;
}

/** A counter from more than that is none. */
const MOST = 2 ** 24;
/** A selector's code is short: what is longer is none. */
const MOST_INSTRUCTIONS = 1000;
const REGISTERS = 16;

/**
 * Walks code from `start` on.
 * @param isNew whether a link-time address is new code
 * @returns what it does, or what it may not do, for people
 */
export function walkSelector(code: CodeReader, start: Vaddr, isNew: (address: Vaddr) => boolean): Walked | string {
  try {
    const walk = new Walk(code, isNew);
    walk.run(start);
    return walk.result();
  } catch (error) {
    if (error instanceof Unfit) return error.message;
    throw error;
  }
}

/** Whether code writes to a byte at an address of its own, on some way: code that does not sets no selector. */
export function storesByte(code: CodeReader, start: Vaddr, isNew: (address: Vaddr) => boolean): boolean {
  const seen = new Set<Vaddr>();
  const open = [start];
  for (let at = open.pop(); at !== undefined; at = open.pop()) {
    const instruction = isNew(at) && !seen.has(at) && seen.size < MOST_INSTRUCTIONS ? code.at(at) : null;
    if (instruction === null) continue;
    seen.add(at);
    const step = stepOf(instruction);
    if (typeof step === "object" && step.kind === "store") return true;
    if (typeof step === "object" && (step.kind === "jump" || step.kind === "branch")) open.push(step.target);
    if (typeof step === "string" || (step.kind !== "jump" && step.kind !== "return")) open.push(instruction.end);
  }
  return false;
}

/** What may not be: thrown from deep within a walk, and caught above. */
class Unfit extends Error {}

class Walk {
  private readonly states = new Map<Vaddr, State>();
  private readonly steps = new Map<Vaddr, { readonly instruction: Instruction; readonly step: Step }>();
  private readonly edges = new Map<Vaddr, readonly Vaddr[]>();
  private readonly ends: { readonly target: Vaddr | undefined; readonly at: Vaddr }[] = [];

  constructor(
    private readonly code: CodeReader,
    private readonly isNew: (address: Vaddr) => boolean,
  ) {}

  run(start: Vaddr): void {
    const first: State = { registers: Array.from({ length: REGISTERS }, (_, i) => i), stack: [] };
    const open = [start];
    this.states.set(start, first);
    for (let at = open.pop(); at !== undefined; at = open.pop()) {
      const after = this.after(at, this.states.get(at)!);
      this.edges.set(
        at,
        after.map(([to]) => to),
      );
      for (const [to, state] of after) if (this.arrive(to, state)) open.push(to);
    }
  }

  /** Takes down a state at an instruction; whether it says less than what was known there. */
  private arrive(at: Vaddr, state: State): boolean {
    const known = this.states.get(at);
    const joined = known === undefined ? state : join(known, state, at);
    if (known !== undefined && isSame(known, joined)) return false;
    this.states.set(at, joined);
    return true;
  }

  private stepAt(at: Vaddr): { readonly instruction: Instruction; readonly step: Step } {
    const known = this.steps.get(at);
    if (known !== undefined) return known;
    const instruction = this.isNew(at) ? this.code.at(at) : null;
    if (instruction === null) throw new Unfit(`it goes on at ${hex(at)}, where no new code is`);
    if (this.steps.size === MOST_INSTRUCTIONS) throw new Unfit("it is too long");
    const step = stepOf(instruction);
    if (typeof step === "string") throw new Unfit(step);
    const found = { instruction, step };
    this.steps.set(at, found);
    return found;
  }

  /** Where execution goes from an instruction, and what is known there. */
  private after(at: Vaddr, state: State): readonly (readonly [Vaddr, State])[] {
    const { instruction, step } = this.stepAt(at);
    const on = instruction.end;
    switch (step.kind) {
      case "jump":
        if (state.stack.length > 0 || !this.isEnd(step.target)) return [[step.target, settled(state)]];
        this.ends.push({ target: step.target, at });
        return [];
      case "return":
        if (state.stack.length > 0) throw new Unfit(`it returns at ${hex(at)} with rsp moved`);
        this.ends.push({ target: undefined, at });
        return [];
      case "branch":
        return branched(state, step, on);
      case "store":
        return [[on, settled(state)]];
      case "push":
        return [[on, { ...settled(state), stack: [...state.stack, settled(state).registers[step.register]] }]];
      case "pop": {
        if (state.stack.length === 0) throw new Unfit(`it takes from its caller's stack at ${hex(at)}`);
        return [
          [on, { registers: withValue(state, step.register, state.stack.at(-1)), stack: state.stack.slice(0, -1) }],
        ];
      }
      default:
        return [[on, { ...state, registers: computed(state, step) }]];
    }
  }

  /** What was there before; or code that is called by its address, such as a fork guard's. */
  private isEnd(target: Vaddr): boolean {
    if (!this.isNew(target)) return true;
    const bytes = this.code.bytes(target, 4);
    return Buffer.compare(bytes, ENDBR64) === 0;
  }

  result(): Walked {
    this.boundLoops();
    const [end] = this.ends;
    if (end === undefined) throw new Unfit("it does not end");
    const other = this.ends.find(({ target }) => target !== end.target);
    if (other !== undefined) throw new Unfit(`it leaves at ${hex(end.at)} and ${hex(other.at)} for different places`);
    const stores = [...this.steps.values()].flatMap(({ step }) => (step.kind === "store" ? [step.at] : []));
    const second = stores.find((at) => at !== stores[0]);
    if (second !== undefined) throw new Unfit(`it writes to ${hex(second)} as well as to ${hex(stores[0]!)}`);
    return {
      selector: stores[0],
      next: end.target,
      code: union([...this.steps.values()].map(({ instruction }) => instruction)),
      kept: new Set(
        Array.from({ length: REGISTERS }, (_, i) => i).filter((register) =>
          this.ends.every(({ at }) => this.states.get(at)!.registers[register] === register),
        ),
      ),
    };
  }

  /** Each loop has a counter: a register that nothing in it changes but to count it down, and no way around that. */
  private boundLoops(): void {
    for (const loop of cycles([...this.steps.keys()], (at) => this.edges.get(at) ?? [])) {
      const isCounted = Array.from({ length: REGISTERS }, (_, i) => i).some((register) => this.counts(loop, register));
      if (!isCounted) throw new Unfit(`nothing bounds the loop at ${hex(Math.min(...loop))}`);
    }
  }

  private counts(loop: ReadonlySet<Vaddr>, register: number): boolean {
    const counters = new Set<Vaddr>();
    for (const at of loop) {
      const { step } = this.steps.get(at)!;
      if (!changes(step, register)) continue;
      const value = this.states.get(at)!.registers[register];
      if (step.kind !== "count" || typeof value !== "object" || value.isZeroPossible) return false;
      counters.add(at);
    }
    const others = [...loop].filter((at) => !counters.has(at));
    const within = (at: Vaddr): readonly Vaddr[] => (this.edges.get(at) ?? []).filter((to) => others.includes(to));
    return counters.size > 0 && cycles(others, within).length === 0;
  }
}

const ENDBR64 = Buffer.of(0xf3, 0x0f, 0x1e, 0xfa);

function changes(step: Step, register: number): boolean {
  switch (step.kind) {
    case "pop":
    case "constant":
    case "count":
      return step.register === register;
    case "changes":
      return step.registers.includes(register);
    default:
      return false;
  }
}

/** A counter that may be zero is one only for the branch that asks. */
const settledValue = (value: Value): Value => (typeof value === "object" && value.isZeroPossible ? undefined : value);
const settled = ({ registers, stack }: State): State => ({ registers: registers.map(settledValue), stack });

function withValue(state: State, register: number, value: Value): readonly Value[] {
  return settled(state).registers.map((old, i) => (i === register ? value : old));
}

function computed(state: State, step: Step): readonly Value[] {
  if (step.kind === "constant") {
    const isCounter = step.value > 0 && step.value <= MOST;
    return withValue(state, step.register, isCounter ? { most: step.value, isZeroPossible: false } : undefined);
  }
  if (step.kind === "count") {
    const value = settledValue(state.registers[step.register]);
    const next = typeof value === "object" ? { ...value, isZeroPossible: true } : undefined;
    return withValue(state, step.register, next);
  }
  return settled(state).registers.map((old, i) => (changes(step, i) ? undefined : old));
}

/** After a branch that asks whether the counter is zero it is not, on one of the two ways. */
function branched(
  state: State,
  { target, on }: Extract<Step, { kind: "branch" }>,
  next: Vaddr,
): readonly (readonly [Vaddr, State])[] {
  const positive: State = {
    ...state,
    registers: state.registers.map((v) => (typeof v === "object" ? { ...v, isZeroPossible: false } : v)),
  };
  const unknown = settled(state);
  return [
    [target, on === "not zero" ? positive : unknown],
    [next, on === "zero" ? positive : unknown],
  ];
}

function join(a: State, b: State, at: Vaddr): State {
  if (a.stack.length !== b.stack.length) throw new Unfit(`rsp is not the same on all ways to ${hex(at)}`);
  return {
    registers: a.registers.map((value, i) => joinValues(value, b.registers[i])),
    stack: a.stack.map((value, i) => joinValues(value, b.stack[i])),
  };
}

function joinValues(a: Value, b: Value): Value {
  if (typeof a !== "object" || typeof b !== "object") return a === b ? a : undefined;
  return { most: Math.max(a.most, b.most), isZeroPossible: a.isZeroPossible || b.isZeroPossible };
}

const isSameValue = (a: Value, b: Value): boolean =>
  typeof a === "object" && typeof b === "object" ? a.most === b.most && a.isZeroPossible === b.isZeroPossible : a === b;

const isSame = (a: State, b: State): boolean =>
  a.registers.every((value, i) => isSameValue(value, b.registers[i])) &&
  a.stack.every((value, i) => isSameValue(value, b.stack[i]));

/** The nodes of each cycle and what is entangled with it: strongly connected components (Tarjan) that have one. */
function cycles(nodes: readonly Vaddr[], edges: (at: Vaddr) => readonly Vaddr[]): ReadonlySet<Vaddr>[] {
  const order = new Map<Vaddr, number>();
  const low = new Map<Vaddr, number>();
  const stack: Vaddr[] = [];
  const on = new Set<Vaddr>();
  const found: Set<Vaddr>[] = [];
  const visit = (at: Vaddr): void => {
    order.set(at, order.size);
    low.set(at, order.get(at)!);
    stack.push(at);
    on.add(at);
    for (const to of edges(at)) {
      if (!order.has(to)) visit(to);
      if (on.has(to)) low.set(at, Math.min(low.get(at)!, low.get(to)!));
    }
    if (low.get(at) !== order.get(at)) return;
    const component = new Set<Vaddr>(stack.splice(stack.indexOf(at)));
    for (const node of component) on.delete(node);
    if (component.size > 1 || edges(at).includes(at)) found.push(component);
  };
  for (const node of nodes) if (!order.has(node)) visit(vaddr(node));
  return found;
}
