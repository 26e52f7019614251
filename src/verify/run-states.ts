/**
 * Which states a window is run from: some of a fixed stream, and then, for each way of a conditional branch that none
 * of them took, states that are made for it.
 *
 * What a branch depends on mostly comes from a register or from memory that the window reads. So the states that came
 * to the branch are tried again with other values there: 0, 1, -1, the borders of signs, and numbers that the window's
 * own instructions compare with.
 */
import type { Vaddr } from "../address.js";
import { BOUNDARIES, type MachineState, stateOf } from "../emulate/machine-states.js";
import type { StackAddress } from "../facts/stack.js";
import { RSP } from "../x86/effects.js";
import { constantsOf } from "../x86/relocate.js";
import type { CodeReader } from "./code-reader.js";
import { type BothRun, runBoth, type Start } from "./run-both.js";
import type { BranchRun, Run, SideRunner } from "./run-side.js";

/** How many states of the stream each arrival is run from. */
const STATES = 12;
/** Where the proof found something, more of them. */
export const MANY_STATES = 160;
/** How many states are tried for a way of a branch that was not taken. */
const MOST_TRIES = 160;

export interface Sides {
  readonly original: SideRunner;
  readonly rewritten: SideRunner;
  readonly code: CodeReader;
  /** The flags are others on the rewritten side, where nobody needs them: they are not compared. */
  readonly losesFlags: boolean;
}

export interface StateRun {
  readonly state: MachineState;
  readonly both: BothRun;
}

export interface WindowRuns {
  readonly runs: readonly StateRun[];
  /** Ways of branches that no state took. */
  readonly untaken: readonly BranchRun[];
}

/** Runs both sides from an arrival on; stops at the first difference. */
export function runStates(sides: Sides, from: Start, addresses: readonly StackAddress[], states = STATES): WindowRuns {
  const start = from.original;
  const runs: StateRun[] = [];
  const coverage = new Coverage();
  const run = (state: MachineState): boolean => {
    const both = runBoth(sides.original, sides.rewritten, state, from, sides.losesFlags);
    runs.push({ state, both });
    coverage.add(state, both.original);
    return both.difference !== undefined && !both.onlyTraced;
  };
  for (let i = 0; i < states; i++) if (run(stateOf(start * 31 + i, addresses))) return { runs, untaken: [] };
  const givenUp: BranchRun[] = [];
  for (let open = coverage.open(givenUp); open !== undefined; open = coverage.open(givenUp)) {
    const { at, taken } = open;
    const found = findState(sides, start, addresses, open);
    if (found === undefined) givenUp.push({ at, taken });
    else if (run(found)) break;
  }
  return { runs, untaken: givenUp };
}

interface Open extends BranchRun {
  /** States that came to the branch and went the other way. */
  readonly states: readonly MachineState[];
}

/** Which ways of the window's branches were taken, and by which states. */
class Coverage {
  private readonly ways = new Map<Vaddr, { readonly taken: MachineState[]; readonly untaken: MachineState[] }>();

  add(state: MachineState, { branches }: Run): void {
    for (const { at, taken } of branches) {
      let way = this.ways.get(at);
      if (way === undefined) {
        way = { taken: [], untaken: [] };
        this.ways.set(at, way);
      }
      const list = taken ? way.taken : way.untaken;
      if (list.length < 3) list.push(state);
    }
  }

  /** A way that was not taken yet and not given up. */
  open(givenUp: readonly BranchRun[]): Open | undefined {
    for (const [at, { taken, untaken }] of this.ways) {
      const missing = taken.length === 0 ? true : untaken.length === 0 ? false : undefined;
      if (missing === undefined || givenUp.some((g) => g.at === at && g.taken === missing)) continue;
      return { at, taken: missing, states: missing ? untaken : taken };
    }
    return undefined;
  }
}

/** A state that takes a branch the other way, found by trying values. */
function findState(
  sides: Sides,
  start: Vaddr,
  addresses: readonly StackAddress[],
  { at, taken, states }: Open,
): MachineState | undefined {
  const pinned = new Set([RSP, ...addresses.map((a) => a.register)]);
  let tries = 0;
  for (const state of states) {
    const run = sides.original.run(state, start, { withOperands: true });
    const values = valuesFor(sides.code, run);
    for (const candidate of variations(state, run, values, pinned)) {
      if (tries++ >= MOST_TRIES) return undefined;
      const { branches } = sides.original.run(candidate, start);
      if (branches.some((b) => b.at === at && b.taken === taken)) return candidate;
    }
  }
  return undefined;
}

/** Numbers that decide: those that the window names, one more and one less, and the usual borders. */
function valuesFor(code: CodeReader, { inside }: Run): readonly (readonly [number, number])[] {
  const values: (readonly [number, number])[] = [BOUNDARIES[0]!, BOUNDARIES[1]!, BOUNDARIES[2]!];
  for (const at of new Set(inside)) {
    const instruction = code.at(at);
    if (instruction === null) continue;
    const last = (instruction.bytes.at(-1)! << 24) >> 24;
    for (const value of [...constantsOf(instruction.bytes, instruction.start).map((c) => c.value | 0), last])
      for (const near of [value, value + 1, value - 1]) values.push([near, near < 0 ? -1 : 0]);
  }
  return values.slice(0, 24);
}

/**
 * The state with one register, or one place in memory that the window reads, changed. Memory first: it decides most.
 */
function* variations(
  state: MachineState,
  { operands }: Run,
  values: readonly (readonly [number, number])[],
  pinned: ReadonlySet<number>,
): Generator<MachineState> {
  const places = [...new Set(operands)].slice(0, 6);
  for (const [lo, hi] of values) {
    for (const address of places)
      yield { ...state, patches: [...state.patches.filter((p) => p.address !== address), { address, lo, hi }] };
    for (let register = 0; register < 16; register++) {
      if (pinned.has(register)) continue;
      const words = state.words.slice();
      words[2 * register] = lo;
      words[2 * register + 1] = hi;
      yield { ...state, words };
    }
  }
}
