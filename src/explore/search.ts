/**
 * Exhaustive search, breadth first, so that the first violation met has a schedule that no other is shorter than.
 *
 * Partial-order reduction. A private step (system.ts) commutes with every step of every other actor: taken before or
 * after, both orders exist and lead to the same state. So a run in which it comes late is the same run, up to steps
 * whose order nobody can tell, as one in which it comes at once; and it is enough to look at states in which no private
 * step is left ("settled" states): from every state the settled one is reached by private steps alone, whatever their
 * order is. What is lost is nothing:
 *
 * - A violation of a private step depends on its actor alone: if any run meets it, so does the run that takes it at once.
 * - A violation of another step: take the private steps of that run early; it is still there.
 * - "From every state an end can be reached": an unsettled state reaches its settled one, and that one's answer is the
 *   same, since the steps that were left out only postpone what commutes. Single steps as reduced sets are what keeps
 *   branching properties as well (Gerth, Kuiper, Peled, Penczek 1995).
 * - The cycle proviso, that nobody is ignored for ever: the reduction runs private steps to their end before it stores a
 *   state, so that no cycle of stored states consists of private steps. An actor whose private steps never end keeps
 *   nobody from acting, but it never ends itself: that is reported as a livelock where it is met.
 *
 * Every run ends: from each reachable state an end must be reachable. States without any step that are no ends are
 * deadlocks; the others are found by going backwards from the ends over all transitions once they are all known.
 */
import { Column, States } from "./states.js";
import { DEADLOCK, type Found, LIVELOCK, type Step, type System, type Taken, type Violation } from "./system.js";

/** Private steps in a row after which an actor is said to run for ever. */
const MOST_PRIVATE_STEPS = 100_000;

interface SearchOptions {
  /** Take private steps at once; default true. */
  readonly reduce?: boolean;
  /** Stop, unfinished, beyond so many states; default 50 million. */
  readonly mostStates?: number;
  /** Called now and then. */
  readonly progress?: (states: number, depth: number) => void;
}

interface SearchReport<S extends Step = Step> {
  readonly states: number;
  readonly transitions: number;
  /** Steps on the longest of the shortest paths to a state. */
  readonly depth: number;
  /** Everything was searched, or a violation was found on the way. */
  readonly complete: boolean;
  readonly found: Found<S> | null;
  readonly seconds: number;
  /** Bytes of the stored graph. */
  readonly bytes: number;
}

/** Searches all states of a system. */
export function search<S extends Step>(system: System<S>, options: SearchOptions = {}): SearchReport<S> {
  return new Search(system, options).run();
}

class Search<S extends Step> {
  private readonly states: States;
  private readonly parents = new Column();
  /** By which of its parent's steps a state was reached: actor and position among its steps. */
  private readonly via = new Column();
  /** Transitions: the targets of state i are from edgeStart[i] to edgeStart[i + 1]. */
  private readonly targets = new Column();
  private readonly edgeStart = new Column();
  private readonly ends = new Column();
  private readonly reduce: boolean;
  private readonly started = performance.now();

  constructor(
    private readonly system: System<S>,
    private readonly options: SearchOptions,
  ) {
    this.states = new States(system.width);
    this.reduce = options.reduce ?? true;
  }

  run(): SearchReport<S> {
    const { system, states } = this;
    const current = new Int32Array(system.width);
    const next = new Int32Array(system.width);
    const most = this.options.mostStates ?? 50_000_000;
    next.set(system.initial());
    const wrong = this.settle(next);
    if (wrong !== null) return this.report(0, true, { violation: wrong, schedule: this.scheduleTo(-1, null) });
    states.add(next);
    this.parents.push(-1);
    this.via.push(0);
    let depth = 0;
    let levelEnd = 1;
    for (let index = 0; index < states.count; index++) {
      if (index === levelEnd) {
        depth++;
        levelEnd = states.count;
      }
      if ((index & 0xffff) === 0xffff) this.options.progress?.(states.count, depth);
      this.edgeStart.push(this.targets.length);
      states.read(index, current);
      const isEnd = system.isEnd(current);
      if (isEnd) this.ends.push(index);
      let possible = 0;
      for (let actor = 0; actor < system.actors; actor++) {
        const steps = system.steps(current, actor);
        possible += steps.length;
        for (const [choice, step] of steps.entries()) {
          let violation = step.violation;
          if (violation === null) {
            system.apply(current, actor, step, next);
            violation = this.settle(next);
          }
          if (violation !== null)
            return this.report(depth + 1, true, {
              violation,
              schedule: this.scheduleTo(index, { actor, choice }),
            });
          const before = states.count;
          const target = states.add(next);
          this.targets.push(target);
          if (states.count === before) continue;
          this.parents.push(index);
          this.via.push(actor * 0x10000 + choice);
        }
      }
      if (possible === 0 && !isEnd)
        return this.report(depth, true, {
          violation: { property: DEADLOCK, message: "Nobody can do anything any more." },
          schedule: this.scheduleTo(index, null),
        });
      if (states.count > most) return this.report(depth, false, null);
    }
    this.edgeStart.push(this.targets.length);
    return this.report(depth, true, this.findLivelock());
  }

  /** Takes private steps until none is left; what is wrong with one of them, or null. */
  private settle(state: Int32Array, taken?: Taken<S>[]): Violation | null {
    if (!this.reduce) return null;
    const { system } = this;
    const spare = new Int32Array(system.width);
    for (let actor = 0; actor < system.actors; actor++) {
      for (let run = 0; ; run++) {
        const steps = system.steps(state, actor);
        const step = steps[0];
        if (step === undefined || !step.isPrivate) break;
        taken?.push({ actor, step, before: state.slice() });
        if (step.violation !== null) return step.violation;
        if (run === MOST_PRIVATE_STEPS) return { property: LIVELOCK, message: "One actor runs by itself for ever." };
        system.apply(state, actor, step, spare);
        state.set(spare);
      }
    }
    return null;
  }

  /** The first state from which no end can be reached. */
  private findLivelock(): Found<S> | null {
    const count = this.states.count;
    // Sources of the transitions into each state, in one array.
    const starts = new Int32Array(count + 1);
    for (let i = 0; i < this.targets.length; i++) starts[this.targets.at(i) + 1]!++;
    for (let i = 0; i < count; i++) starts[i + 1]! += starts[i]!;
    const fill = starts.slice();
    const sources = new Int32Array(this.targets.length);
    for (let source = 0; source < count; source++)
      for (let i = this.edgeStart.at(source); i < this.edgeStart.at(source + 1); i++)
        sources[fill[this.targets.at(i)]!++] = source;
    const good = new Uint8Array(count);
    const queue = new Int32Array(count);
    let length = 0;
    for (let i = 0; i < this.ends.length; i++) {
      good[this.ends.at(i)] = 1;
      queue[length++] = this.ends.at(i);
    }
    for (let head = 0; head < length; head++) {
      const target = queue[head]!;
      for (let i = starts[target]!; i < starts[target + 1]!; i++) {
        const source = sources[i]!;
        if (good[source] === 1) continue;
        good[source] = 1;
        queue[length++] = source;
      }
    }
    const stuck = good.indexOf(0);
    if (stuck < 0) return null;
    return {
      violation: { property: LIVELOCK, message: "From here on no order of steps leads to an end." },
      schedule: this.scheduleTo(stuck, null),
    };
  }

  /** All steps, private ones too, from the initial state to a stored one, and one more. */
  private scheduleTo(index: number, last: { actor: number; choice: number } | null): Taken<S>[] {
    const { system } = this;
    const choices: { actor: number; choice: number }[] = last === null ? [] : [last];
    for (let i = index; i > 0; i = this.parents.at(i)) {
      const via = this.via.at(i);
      choices.push({ actor: Math.floor(via / 0x10000), choice: via % 0x10000 });
    }
    const taken: Taken<S>[] = [];
    const state = new Int32Array(system.width);
    const next = new Int32Array(system.width);
    state.set(system.initial());
    if (this.settle(state, taken) !== null) return taken;
    for (const { actor, choice } of choices.reverse()) {
      const step = system.steps(state, actor)[choice]!;
      taken.push({ actor, step, before: state.slice() });
      if (step.violation !== null) break;
      system.apply(state, actor, step, next);
      state.set(next);
      if (this.settle(state, taken) !== null) break;
    }
    return taken;
  }

  private report(depth: number, complete: boolean, found: Found<S> | null): SearchReport<S> {
    const columns = [this.parents, this.via, this.targets, this.edgeStart, this.ends];
    return {
      states: this.states.count,
      transitions: this.targets.length,
      depth,
      complete,
      found,
      seconds: (performance.now() - this.started) / 1000,
      bytes: this.states.bytes + columns.reduce((sum, c) => sum + c.bytes, 0),
    };
  }
}
