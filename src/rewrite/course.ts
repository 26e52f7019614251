/**
 * Whether a fork guard comes along, and a selector, decided before the plan: the layout depends on both, and what is
 * said of forks.
 *
 * A guard that turns out to be of no use (no probe for it, no place) is not half a rewrite: all that follows is done
 * once more without it.
 */
import type { FileLayout } from "../usdt/forms.js";
import { type ForkGuardPlan, guardedStart, NO_NOP5, planForkGuard, uncoveredWords } from "./fork-guard/fork-guard.js";
import { chooseLayout } from "./layout-choice.js";
import type { Program } from "./program.js";
import { planSelector, type SelectorPlan } from "./selector/selector.js";

export interface Course {
  readonly layout: FileLayout;
  /** The guard that comes along, or undefined. */
  readonly guard: ForkGuardPlan | undefined;
  /** Why there is none, for people; null where there is one, and where no kernel needs one. */
  readonly noGuard: string | null;
  /** What universal probes ask; or why there can be none; undefined where none is wanted. */
  readonly selector: SelectorPlan | string | undefined;
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
  const common = { noGuard: null, neverForks: false, wayToFork: program.wayToFork };
  if (layout !== "universal") return { ...common, layout, guard, selector: undefined };
  const selector = planSelector(guardedStart(guard));
  if (typeof selector === "object") return { ...common, layout, guard, selector };
  // Without a selector there is no nop5 either, and no need of a guard for one; unless there were some before.
  const others = unguarded(program, null, program.wayToFork);
  return hasChoice ? others : { ...others, guard };
}

/**
 * What is tried when a course has turned out to be of no use. Universal probes are given up before anything else, where
 * the options leave the choice: then there is no nop5 either, and no need of a guard, unless some were there before.
 * @param reason why, for people
 */
export function nextCourse(program: Program, course: Course, reason: string): Course {
  if (typeof course.selector === "object" && program.options.layout === "auto" && reason !== NO_NOP5) {
    const guard = program.hasNop5 ? course.guard : undefined;
    return { ...course, layout: "nop,nop10", guard, selector: reason };
  }
  if (course.guard === undefined) throw new Error(`no course is left: ${reason}`);
  const without = withoutGuard(program, course.guard, reason);
  return typeof course.selector === "string" ? { ...without, layout: "nop,nop10", selector: course.selector } : without;
}

/** Without the guard that was tried. @param reason why it is of no use */
const withoutGuard = (program: Program, { uncovered }: ForkGuardPlan, reason: string): Course =>
  unguarded(program, reason, uncovered.length > 0 ? uncoveredWords(uncovered) : program.wayToFork);

function unguarded(program: Program, noGuard: string | null, wayToFork: string | undefined): Course {
  const { options } = program;
  const layout = chooseLayout(options.layout, options.kernel, wayToFork === undefined);
  const course = { layout, guard: undefined, noGuard, selector: undefined, neverForks: false, wayToFork };
  if (layout !== "universal" || program.notes.length === 0) return course;
  const selector = planSelector({ image: program.image, callsFirst: false });
  if (typeof selector === "object" || options.layout !== "auto") return { ...course, selector };
  return { ...course, layout: "nop,nop10", selector };
}
