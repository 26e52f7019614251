/**
 * The notes of both files, side by side, and whether the arguments of two that belong together find the same values:
 * the rewritten one where rsp may be lower and the probe stands elsewhere.
 */

import { hex } from "../address.js";
import { groupBy } from "../grouped.js";
import { parseArguments, type UsdtArgument, usesRegister, withDisplacement } from "../usdt/arguments.js";
import { formAt, LONGEST_FORM } from "../usdt/forms.js";
import type { UsdtNote } from "../usdt/notes.js";
import type { CodeReader } from "./code-reader.js";

export interface NotePair {
  readonly original: UsdtNote;
  /** Undefined where the rewritten file has no such note. */
  readonly rewritten: UsdtNote | undefined;
  /** The note of its second place, where the rewritten probe is universal. */
  readonly twin: UsdtNote | undefined;
}

/**
 * Notes of the same provider and name belong together in the order in which they stand. Where the rewritten file has
 * more, some probes have two: the second stands directly after the first.
 * @param code the rewritten file's: what stands at both says that they are two places of one
 */
export function pairNotes(
  original: readonly UsdtNote[],
  rewritten: readonly UsdtNote[],
  code: CodeReader,
): readonly NotePair[] {
  const after = new Map(rewritten.map((note, i) => [note, rewritten[i + 1]] as const));
  const open = groupBy(rewritten, key);
  const left = new Map([...groupBy(original, key)].map(([name, notes]) => [name, notes.length]));
  for (const list of open.values()) list.reverse();
  const formOf = ({ location }: UsdtNote): string | undefined => formAt(code.bytes(location, LONGEST_FORM))?.layout;
  return original.map((note) => {
    const list = open.get(key(note)) ?? [];
    const first = list.pop();
    const wanted = left.get(key(note))! - 1;
    left.set(key(note), wanted);
    const second = list.at(-1);
    const isTwin =
      first !== undefined &&
      second !== undefined &&
      list.length > wanted &&
      second === after.get(first) &&
      formOf(first) === "nop,nop10" &&
      formOf(second) === "nop5";
    if (isTwin) list.pop();
    return { original: note, rewritten: first, twin: isTwin ? second : undefined };
  });
}

const key = (note: UsdtNote): string => `${note.provider}\0${note.name}`;

/** What is the matter with a note, or undefined. */
export interface NoteProblem {
  readonly verdict: "different" | "unproved";
  readonly reason: string;
}

const different = (reason: string): NoteProblem => ({ verdict: "different", reason });

/** What does not depend on where the probe stands. */
export function compareNotes({ original, rewritten, twin }: NotePair): NoteProblem | undefined {
  if (rewritten === undefined) return different("the rewritten file has no note for it");
  for (const { semaphore } of [rewritten, ...(twin === undefined ? [] : [twin])])
    if (original.semaphore !== semaphore)
      return different(
        `its semaphore is at ${hex(original.semaphore)}, and at ${hex(semaphore)} in the rewritten file`,
      );
  return undefined;
}

/**
 * Whether the arguments find the same values.
 * @param distance by how many bytes the probe moved
 * @param stackShift by how much rsp is lower at the rewritten probe
 */
export function compareArguments(
  original: UsdtNote,
  rewritten: UsdtNote,
  distance: number,
  stackShift: number,
): NoteProblem | undefined {
  const before = parseArguments(original.argumentText).arguments;
  const after = parseArguments(rewritten.argumentText).arguments;
  if (before.length !== after.length)
    return different(`it has ${before.length} arguments, and ${after.length} in the rewritten file`);
  for (let i = 0; i < before.length; i++) {
    const problem = compareArgument(before[i]!, after[i]!, distance, stackShift);
    if (problem !== undefined) return problem;
  }
  return undefined;
}

function compareArgument(
  before: UsdtArgument,
  after: UsdtArgument,
  distance: number,
  stackShift: number,
): NoteProblem | undefined {
  const moved = distance !== 0 || stackShift !== 0;
  if (before.kind === "unknown" && before.text === after.text)
    return moved
      ? { verdict: "unproved", reason: `the argument ${before.text} is not understood, and its probe moved` }
      : undefined;
  const expected = argumentThere(before, distance, stackShift);
  if (expected === undefined)
    return different(`the argument ${before.text} is rsp itself, which is ${stackShift} lower at the rewritten probe`);
  if (normal(expected) === normal(after)) return undefined;
  return different(
    `the argument ${before.text} has to be ${expected.text} at the rewritten probe, and is ${after.text}`,
  );
}

/** What an argument has to be where the probe is now, or undefined where it cannot be expressed. */
function argumentThere(argument: UsdtArgument, distance: number, stackShift: number): UsdtArgument | undefined {
  if (argument.kind === "rip-relative" && distance !== 0)
    return withDisplacement(argument, argument.displacement - distance);
  if (stackShift === 0 || !usesRegister(argument, "rsp")) return argument;
  if (argument.kind === "memory") return withDisplacement(argument, argument.displacement + stackShift);
  return undefined;
}

/** One way to write a displacement. */
const normal = (argument: UsdtArgument): string =>
  argument.kind === "memory" || argument.kind === "rip-relative"
    ? withDisplacement(argument, argument.displacement).text
    : argument.text;
