/**
 * What can be explored: some actors, a global state, and the steps that each actor can take in it. The explorer knows
 * no more than this file says.
 *
 * A global state is a few 32-bit integers. Most systems number the states of their parts as they meet them
 * (numbering.ts) and put these numbers there: the parts repeat far more often than their combinations do ("collapse
 * compression", Holzmann 1997).
 */

/** One thing that an actor can do. Several steps of one actor in one state are a choice. */
export interface Step {
  /** For people. */
  readonly label: string;
  /**
   * It reads and writes nothing but its actor's own part of the state, and it is the only step of its actor in this
   * state; no step of any other actor enables it, disables it or changes what it does. search.ts says what follows.
   */
  readonly isPrivate: boolean;
  /** What is wrong if this step is taken, or null. The run ends there. */
  readonly violation: Violation | null;
}

export interface Violation {
  /** Name of the property that does not hold. */
  readonly property: string;
  /** One sentence. */
  readonly message: string;
}

export interface System<S extends Step = Step> {
  /** Integers in a state. */
  readonly width: number;
  readonly actors: number;
  initial(): Int32Array;
  /** The steps of an actor; none where it has to wait, or is done. The same list each time it is asked. */
  steps(state: Int32Array, actor: number): readonly S[];
  /** Writes the state after a step without a violation. `into` is not `state`. */
  apply(state: Int32Array, actor: number, step: S, into: Int32Array): void;
  /** A run may end here. Steps may still be possible. */
  isEnd(state: Int32Array): boolean;
}

/** A step that was taken, as an error message shows it. */
export interface Taken<S extends Step = Step> {
  readonly actor: number;
  readonly step: S;
  /** The state before it. */
  readonly before: Int32Array;
}

export interface Found<S extends Step = Step> {
  readonly violation: Violation;
  /** From the initial state to what is wrong. */
  readonly schedule: readonly Taken<S>[];
}

export const DEADLOCK = "deadlock";
export const LIVELOCK = "livelock";
