/**
 * Whether a fork guard comes along, decided before the plan: the layout depends on it, and what is said of forks.
 *
 * A guard that turns out to be of no use (no probe for it, no place) is not half a rewrite: all that follows is done
 * once more without it.
 */
import type { ProbeLayout } from "../usdt/forms.js";
import { type ForkGuardPlan, planForkGuard, uncoveredWords } from "./fork-guard/fork-guard.js";
import { chooseLayout } from "./layout-choice.js";
import type { Program } from "./program.js";

export interface Course {
  readonly layout: ProbeLayout;
  /** The guard that comes along, or undefined. */
  readonly guard: ForkGuardPlan | undefined;
  /** Why there is none, for people; null where there is one, and where no kernel needs one. */
  readonly noGuard: string | null;
  /** It is known that the process never forks. */
  readonly neverForks: boolean;
  /** Why it may fork, or undefined where no way is seen. */
  readonly wayToFork: string | undefined;
}

/** With a guard, where one is asked for and may be of use. @throws InputError where tables of the file are damaged */
export function chooseCourse(program: Program): Course {
  const { options, notes } = program;
  if (notes.length === 0) return unguarded(program, null, undefined);
  const { forks } = program;
  const guard = planForkGuard(forks, notes, forks.places.length === 0 ? undefined : program.facts);
  if (guard.cover === undefined) {
    const { reason, neverForks } = guard;
    return { ...unguarded(program, reason, neverForks ? undefined : program.wayToFork), neverForks };
  }
  const layout = chooseLayout(options.layout, options.kernel, true);
  // For probes that are a nop5 already there is no other layout, and a guard that misses some forks is better than
  // none.
  const hasChoice = options.layout === "auto" && program.hasCandidates(layout);
  if (hasChoice && guard.uncovered.length > 0) return withoutGuard(program, guard, uncoveredWords(guard.uncovered));
  return { layout, guard, noGuard: null, neverForks: false, wayToFork: program.wayToFork };
}

/** Without the guard that was tried. @param reason why it is of no use */
export const withoutGuard = (program: Program, { uncovered }: ForkGuardPlan, reason: string): Course =>
  unguarded(program, reason, uncovered.length > 0 ? uncoveredWords(uncovered) : program.wayToFork);

function unguarded({ options }: Program, noGuard: string | null, wayToFork: string | undefined): Course {
  const layout = chooseLayout(options.layout, options.kernel, wayToFork === undefined);
  return { layout, guard: undefined, noGuard, neverForks: false, wayToFork };
}
