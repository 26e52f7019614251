/**
 * Random runs from a seed, for systems too large to search: the next step is drawn among all that are possible. A run
 * that has reached an end may go on, or starts again; a violation ends the sampling and comes with the run that led to
 * it.
 */
import { DEADLOCK, type Found, type Step, type System, type Taken } from "./system.js";

interface SampleOptions {
  readonly seed: number;
  /** In all, over all runs. */
  readonly steps: number;
  /** A run that has reached an end starts again after that many steps; default 1000. */
  readonly restartAfter?: number;
  readonly progress?: (steps: number) => void;
}

interface SampleReport<S extends Step = Step> {
  readonly steps: number;
  /** Runs that were begun. */
  readonly runs: number;
  /** Runs that reached an end. */
  readonly ended: number;
  readonly found: Found<S> | null;
  readonly seconds: number;
}

/** A 32-bit generator (xorshift). Zero is no seed for it and becomes another. */
function randomNumbers(seed: number): () => number {
  let x = Math.imul(seed ^ 0x5bd1e995, 0x9e3779b1) | 0 || 1;
  return () => {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    return x >>> 0;
  };
}

export function sample<S extends Step>(system: System<S>, options: SampleOptions): SampleReport<S> {
  const started = performance.now();
  const random = randomNumbers(options.seed);
  const restartAfter = options.restartAfter ?? 1000;
  const state = new Int32Array(system.width);
  const next = new Int32Array(system.width);
  // What was drawn in this run: actor and choice, so that it can be replayed.
  let drawn: number[] = [];
  let runs = 0;
  let ended = 0;
  let hasEnded = false;
  const begin = (): void => {
    state.set(system.initial());
    drawn = [];
    runs++;
    hasEnded = false;
  };
  const report = (steps: number, found: Found<S> | null): SampleReport<S> => ({
    steps,
    runs,
    ended,
    found,
    seconds: (performance.now() - started) / 1000,
  });
  begin();
  const perActor: (readonly S[])[] = [];
  for (let done = 0; done < options.steps; done++) {
    if ((done & 0xfffff) === 0xfffff) options.progress?.(done);
    let possible = 0;
    for (let actor = 0; actor < system.actors; actor++) {
      perActor[actor] = system.steps(state, actor);
      if (perActor[actor]!.length > 0) possible++;
    }
    const isEnd = system.isEnd(state);
    if (possible === 0 && !isEnd)
      return report(done, {
        violation: { property: DEADLOCK, message: "Nobody can do anything any more." },
        schedule: replay(system, drawn),
      });
    if (isEnd && !hasEnded) {
      hasEnded = true;
      ended++;
    }
    if (possible === 0 || (hasEnded && drawn.length >= restartAfter)) {
      begin();
      continue;
    }
    let nth = random() % possible;
    let actor = 0;
    while (perActor[actor]!.length === 0 || nth-- > 0) actor++;
    const steps = perActor[actor]!;
    const choice = steps.length === 1 ? 0 : random() % steps.length;
    const step = steps[choice]!;
    drawn.push(actor * 0x10000 + choice);
    if (step.violation !== null)
      return report(done + 1, { violation: step.violation, schedule: replay(system, drawn) });
    system.apply(state, actor, step, next);
    state.set(next);
  }
  return report(options.steps, null);
}

function replay<S extends Step>(system: System<S>, drawn: readonly number[]): Taken<S>[] {
  const state = new Int32Array(system.width);
  const next = new Int32Array(system.width);
  state.set(system.initial());
  return drawn.map((via) => {
    const actor = Math.floor(via / 0x10000);
    const step = system.steps(state, actor)[via % 0x10000]!;
    const taken = { actor, step, before: state.slice() };
    if (step.violation === null) {
      system.apply(state, actor, step, next);
      state.set(next);
    }
    return taken;
  });
}
