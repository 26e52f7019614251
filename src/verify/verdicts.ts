/**
 * From evidence to verdicts. Whatever shows a difference makes a site different: a proof that fails, a run that ends
 * otherwise, a note that says something else. What could not be decided makes it unproved. Else it is equivalent, by
 * its proof; how many states it was run from as well is only told.
 */

import { hex, type Interval, PAGE_SIZE, type Vaddr } from "../address.js";
import { groupBy } from "../grouped.js";
import { touches, union, without } from "../intervals.js";
import { writesRedZone } from "../kernel/kernels.js";
import { parseArguments } from "../usdt/arguments.js";
import type { UsdtNote } from "../usdt/notes.js";
import { stackReads } from "../usdt/stack-reads.js";
import type { Difference, SiteVerdict } from "./contract.js";
import { notesFor } from "./doubts.js";
import type { Evidence, ExaminedWindow } from "./evidence.js";
import { explainedCode } from "./explained.js";
import { compareArguments, compareNotes, type NotePair, type NoteProblem } from "./note-pairs.js";
import { describeRun } from "./run-both.js";
import type { StateRun } from "./run-states.js";
import type { FrameOrigin, Mismatch, Passing } from "./same-code.js";

export interface CodeReport {
  /** One for each note of the original, in their order. */
  readonly sites: readonly SiteVerdict[];
  /** Code at addresses of the original that changed, and new code, as far as the sites account for it. */
  readonly explained: readonly Interval<Vaddr>[];
  /** Code that changed, or is new, and that no site accounts for. */
  readonly unexplained: readonly Interval<Vaddr>[];
  /** For each instruction of new code that a proof came by, where the original is then. */
  readonly origins: readonly FrameOrigin[];
}

interface SiteProblem extends NoteProblem {
  readonly difference?: Difference;
}

/** What concerns one note. */
interface Case {
  readonly passings: Passing[];
  readonly problems: SiteProblem[];
  states: number;
  /** A run that shows what a traced probe does to the bytes below rsp. */
  traced: StateRun | undefined;
}

export function judge(evidence: Evidence): CodeReport {
  const { pairs, found } = evidence;
  const notesAt = groupBy(
    pairs.map((pair) => pair.original),
    (note) => note.location,
  );
  const cases = pairs.map((): Case => ({ passings: [], problems: [], states: 0, traced: undefined }));
  const blamed = new Set<ExaminedWindow>();
  for (const examined of found) {
    for (const passing of examined.proof?.passings ?? [])
      for (const note of passing.notes) cases[note]!.passings.push(passing);
    const accuse = (notes: readonly number[], problem: SiteProblem): void => {
      if (notes.length > 0) blamed.add(examined);
      for (const note of notes) cases[note]!.problems.push(problem);
    };
    const differing = examined.runs.flatMap(({ runs }) => runs).filter(({ both }) => both.difference !== undefined);
    const shown = differing.find(({ both }) => !both.onlyTraced);
    for (const run of differing.filter(({ both }) => both.onlyTraced))
      for (const note of run.both.original.passed) cases[note]!.traced ??= run;
    for (const mismatch of examined.proof?.mismatches ?? [])
      accuse(blame(mismatch, examined, evidence), mismatchProblem(mismatch, shown, evidence));
    if (shown !== undefined && examined.proof?.mismatches.length === 0)
      accuse(blameForRun(shown, examined, evidence), runProblem(shown, evidence));
    for (const at of examined.uncovered) {
      const reason = `the code at ${hex(at)} runs past the end of its function, as unwind information or a symbol has it`;
      accuse(nearest(at, at, examined, evidence), { verdict: "different", reason });
    }
    const { start, frozen } = examined.window;
    if (frozen !== undefined)
      accuse(nearest(start, start, examined, evidence), { verdict: "different", reason: frozen });
    for (const doubt of examined.doubts) accuse(notesFor(examined, evidence), doubt);
    for (const [note, states] of statesByNote(examined)) cases[note]!.states += states;
  }
  const sites = pairs.map((pair, i) => verdictOn(pair, cases[i]!, notesAt.get(pair.original.location)!, evidence));
  const explained = explainedCode(evidence, blamed);
  const { changed, added } = evidence.code;
  const origins = found.flatMap(({ proof }) => proof?.frames ?? []);
  return { sites, explained, unexplained: without(union([...changed, ...added]), explained), origins };
}

/** From how many states both sides passed a note's probe, and could be held against each other. */
function statesByNote({ runs }: ExaminedWindow): ReadonlyMap<number, number> {
  const counts = new Map<number, number>();
  for (const { both } of runs.flatMap((r) => r.runs)) {
    if (!both.says) continue;
    for (const note of new Set(both.original.passed)) counts.set(note, (counts.get(note) ?? 0) + 1);
  }
  return counts;
}

/** Which probes a mismatch is about: those that it names, else the one that is nearest among those of its window. */
function blame(mismatch: Mismatch, examined: ExaminedWindow, evidence: Evidence): readonly number[] {
  if (mismatch.notes.length > 0) return mismatch.notes;
  // A call leads far away: then it is about the probe that the way came by last.
  const places = mismatch.originalWay.map((at, i): [number, number] => [at, mismatch.rewrittenWay[i] ?? at]).reverse();
  for (const [original, rewritten] of [[mismatch.original, mismatch.rewritten] as const, ...places]) {
    const notes = nearest(original, rewritten, examined, evidence);
    if (notes.length > 0) return notes;
  }
  return [];
}

function blameForRun({ both }: StateRun, examined: ExaminedWindow, evidence: Evidence): readonly number[] {
  const passed = [...new Set([...both.original.passed, ...both.rewritten.passed])];
  if (passed.length > 0) return passed;
  const { inside } = both.rewritten;
  return nearest(both.original.inside.at(-1) ?? 0, inside.at(-1) ?? 0, examined, evidence);
}

function nearest(
  original: number,
  rewritten: number,
  { window, proof }: ExaminedWindow,
  { pairs, code }: Evidence,
): readonly number[] {
  const passed = new Set((proof?.passings ?? []).flatMap((p) => p.notes));
  const isInNew = touches(code.added, rewritten, rewritten + 1);
  let best: { note: number; distance: number } | undefined;
  pairs.forEach((pair, note) => {
    const { location } = pair.original;
    const isHere = passed.has(note) || (location >= window.start && location < window.end);
    const distance = Math.min(
      isHere ? Math.abs(location - original) : Number.POSITIVE_INFINITY,
      isInNew && pair.rewritten !== undefined
        ? Math.abs(pair.rewritten.location - rewritten)
        : Number.POSITIVE_INFINITY,
    );
    if (distance < (best?.distance ?? PAGE_SIZE)) best = { note, distance };
  });
  if (best === undefined) return [];
  const { location } = pairs[best.note]!.original;
  return pairs.flatMap((p, note) => (p.original.location === location ? [note] : []));
}

/** @param shown a run of the window that ended differently, if there is one */
function mismatchProblem(mismatch: Mismatch, shown: StateRun | undefined, evidence: Evidence): SiteProblem {
  const { verdict, reason, arrival, originalWay, rewrittenWay } = mismatch;
  const { original, rewritten } = evidence;
  if (shown !== undefined && !arrival.doubtful)
    return { ...runProblem(shown, evidence), reason: `${reason}; seen in a run: ${shown.both.difference}` };
  return {
    verdict,
    reason: arrival.doubtful ? `${reason} (if anything comes here: ${arrival.reason})` : reason,
    difference: {
      rows: [],
      originalTrace: originalWay.map((at) => original.text(at)),
      rewrittenTrace: rewrittenWay.map((at) => rewritten.text(at)),
    },
  };
}

function runProblem({ state, both }: StateRun, { original, rewritten }: Evidence): SiteProblem {
  return {
    verdict: "different",
    reason: `a run ends differently: ${both.difference}`,
    difference: describeRun(state, both, [(at) => original.text(at), (at) => rewritten.text(at)]),
  };
}

/** @param notes all notes of the original that name the same place */
function verdictOn(
  pair: NotePair,
  { passings, problems, states, traced }: Case,
  notes: readonly UsdtNote[],
  evidence: Evidence,
): SiteVerdict {
  const { original, rewritten, twin } = pair;
  const { provider, name, location } = original;
  const all = [...problems, ...argumentProblems(pair, passings, problems.length > 0, evidence)];
  const stack = stackProblem(pair.original.location, notes, passings, traced, evidence);
  if (stack !== undefined) all.push(stack);
  // A note that is not the same explains all else. What shows a difference comes before what could not be decided.
  const different = all.filter((p) => p.verdict === "different");
  const shown = different.find((p) => (p.difference?.rows.length ?? 0) > 0) ?? different[0] ?? all[0];
  const problem = compareNotes(pair) ?? shown;
  return {
    provider,
    name,
    location,
    newLocation: rewritten?.location ?? location,
    twin: twin?.location ?? null,
    verdict: problem?.verdict ?? "equivalent",
    states,
    reason: problem?.reason ?? null,
    difference: shown?.difference ?? null,
  };
}

/** Whether the arguments find the same values, and whether the probe is passed at all. */
function argumentProblems(
  { original, rewritten, twin }: NotePair,
  passings: readonly Passing[],
  isAccused: boolean,
  evidence: Evidence,
): readonly SiteProblem[] {
  if (rewritten === undefined) return [];
  const found = passings.map((passing) =>
    compareArguments(
      original,
      passing.isTwin && twin !== undefined ? twin : rewritten,
      passing.rewritten - passing.original,
      passing.stackShift,
    ),
  );
  // Who passes one place of two passes the other where the selector says so.
  if (twin !== undefined && !isAccused && passings.some((p) => !p.isTwin) !== passings.some((p) => p.isTwin))
    found.push({ verdict: "different", reason: "one of its two places is never passed" });
  if (passings.length === 0 && !isAccused) found.push(untouchedProblem(original, rewritten, evidence));
  return found.filter((problem) => problem !== undefined);
}

/** A probe that no window's proof came by: it has to stand where it stood, as it stood. */
function untouchedProblem(original: UsdtNote, rewritten: UsdtNote, { code, found }: Evidence): SiteProblem | undefined {
  const { location } = original;
  const to = rewritten.location;
  if (to === location && !touches(code.changed, location, location + 1))
    return compareArguments(original, rewritten, 0, 0);
  const here = found.find(({ window }) => location >= window.start && location < window.end);
  const unknown = here?.window.unknown;
  if (unknown !== undefined) return { verdict: "unproved", reason: unknown };
  if (here?.proof?.isWhole === false)
    return { verdict: "unproved", reason: "not all ways to it were followed: there are too many" };
  return {
    verdict: "different",
    reason: `where the original passes its probe at ${hex(location)}, ${hex(to)} is not passed in the rewritten file`,
  };
}

const RED_ZONE = 128;

/**
 * A patched nop5 is a call: it writes its return address below rsp, and the trampoline pushes three registers more, 32
 * bytes in all. The facts are about all 128 bytes that a function may keep there.
 */
function stackProblem(
  location: Vaddr,
  notes: readonly UsdtNote[],
  passings: readonly Passing[],
  traced: StateRun | undefined,
  evidence: Evidence,
): SiteProblem | undefined {
  const { stack } = evidence;
  const isBare = passings.some(
    ({ form, stackShift }) => form !== undefined && writesRedZone(form.nop) && stackShift < RED_ZONE,
  );
  if (!isBare || stack === undefined) return undefined;
  const reads = notes.flatMap((note) => parseArguments(note.argumentText).arguments.flatMap(stackReads));
  const { redZone, because } = stack.redZone(location, reads);
  if (redZone === "unused") return undefined;
  const isSure = redZone === "live" || traced !== undefined;
  const what = isSure ? "overwrites" : "may overwrite";
  return {
    ...(traced && runProblem(traced, evidence)),
    verdict: isSure ? "different" : "unproved",
    reason: `its nop5, once traced, ${what} bytes below rsp that are needed: ${because}`,
  };
}
