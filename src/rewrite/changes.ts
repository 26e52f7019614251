/**
 * What changes by a plan whose new code has its place: bytes of code that stay where they are, unwind information for
 * what is new, and what the fork guard needs. Notes, symbols and headers follow from it.
 */
import type { ElfImage } from "../elf/image.js";
import type { ProgramFacts } from "../facts/program.js";
import type { Course } from "./course.js";
import { type Edit, editAt, editAtAddress, word } from "./edits.js";
import { type GuardChanges, guardChanges } from "./fork-guard/fork-guard.js";
import type { Located } from "./locate.js";
import type { NewCode } from "./new-code.js";
import type { Program } from "./program.js";
import type { InPlaceChange, Proposal } from "./proposal.js";
import { callsFirst, selectorChanges } from "./selector/selector.js";
import { symbolEdits } from "./symbols.js";
import type { UnwindLayout } from "./unwind/layout.js";
import { unwindFor } from "./unwind/plan.js";

export interface Changes {
  /** The input; where a guard or a selector is, with program headers that have room for their words. */
  readonly image: ElfImage;
  readonly guard: GuardChanges | undefined;
  readonly selector: ReturnType<typeof selectorChanges> | undefined;
  readonly code: readonly Edit[];
  /** Unwind information for new code, or why there is none; undefined where the input has none. */
  readonly unwind: UnwindLayout | string | undefined;
  /** Whether the output is anything but a copy: it may have a fork guard and no rewritten probe. */
  readonly any: boolean;
}

export function changesFor(program: Program, course: Course, located: Located): Changes {
  const { proposals, code } = located;
  const plan = typeof course.selector === "object" && located.selector !== undefined ? course.selector : undefined;
  const selector = plan && selectorChanges(plan, located.selector!);
  const first = plan && callsFirst(plan) ? located.selector?.start : undefined;
  const guard = course.guard && guardChanges(course.guard, located.guard!, first);
  const image = plan?.image ?? guard?.image ?? program.image;
  const edits = codeEdits(image, program.tables?.facts, proposals, code?.newCode);
  return {
    image,
    guard,
    selector,
    code: edits,
    unwind: unwindFor(program.tables?.unwind, code, edits),
    any: proposals.length > 0 || guard !== undefined,
  };
}

const growthsOf = (proposals: readonly Proposal[]): NonNullable<InPlaceChange["growth"]>[] =>
  proposals.flatMap(({ change }) => (change.kind === "in-place" && change.growth !== undefined ? [change.growth] : []));

/** The windows, the branches that lead to new code now, and the ends of functions that grew. */
function codeEdits(
  image: ElfImage,
  facts: ProgramFacts | undefined,
  proposals: readonly Proposal[],
  newCode: NewCode | undefined,
): Edit[] {
  const edits: Edit[] = [];
  for (const { change, window } of proposals)
    if (change.kind === "in-place") edits.push(editAtAddress(image, window.start, change.bytes));
  for (const { changes } of newCode?.chunks ?? [])
    for (const { at, bytes } of changes) edits.push(editAtAddress(image, at, bytes));
  for (const { range, end } of growthsOf(proposals)) {
    const offset = facts?.functions.fde(range)?.rangeOffset;
    if (offset !== undefined) edits.push(editAt(image, offset, word(end - range.start, 4)));
  }
  return edits;
}

/** What symbols say of sections that moved, and of functions that grew. */
export function movedSymbols({ code, proposals }: Located, { image, unwind }: Changes): Edit[] {
  const moved = code?.place.kind === "new segment" ? code.place.growth.moved : [];
  const tables = typeof unwind === "object" ? unwind.sections.filter(({ hasMoved }) => hasMoved) : [];
  return symbolEdits(image, [...moved, ...tables], growthsOf(proposals));
}
