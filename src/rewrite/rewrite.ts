/**
 * The passes of a rewrite, from top to bottom: read `follow`. Each takes the program and what the passes before it have
 * found, and gives one value more; none changes what it is given, and nothing is written before the last.
 *
 *     program.ts           bytes, notes, and tables of facts that are made when a pass first asks
 *     course.ts            whether a fork guard comes along, and so which layout
 *     survey.ts            which form each probe gets
 *     plan-and-place.ts    what becomes of each, and where new code goes
 *     changes.ts           bytes that change where they stand, and unwind information
 *     outcome.ts           what is said of it
 *     assembly (below)     notes and symbols as edits; what the file carries
 *     assemble.ts          bytes
 *     placed.ts            a last look at them
 */
import { type ElfImage, fileSize, parseElf } from "../elf/image.js";
import { type Carry, isUntouched, makeOriginal, readCarry } from "../rewritten/carry.js";
import { encodeCertificates } from "../rewritten/certificate.js";
import type { RewriteOptions, RewriteResult } from "../rewritten/contract.js";
import { encodeMemo } from "../rewritten/memo.js";
import { isContent, type SparseContent, wholeFile } from "../sparse-content.js";
import { type Assembly, assemble } from "./assemble.js";
import { certificatesFor } from "./certificates.js";
import { type Changes, changesFor, movedSymbols } from "./changes.js";
import { type Course, chooseCourse, nextCourse } from "./course.js";
import type { Edit } from "./edits.js";
import type { Located } from "./locate.js";
import { changeNotes } from "./note-edits.js";
import { type Outcome, outcomeOf } from "./outcome.js";
import { checkPlaced } from "./placed.js";
import { planAndPlace } from "./plan-and-place.js";
import { type PlanReport, planReport } from "./plan-report.js";
import { type Program, readProgram } from "./program.js";
import { nothingToDo } from "./site-reports.js";
import { surveySites } from "./survey.js";
import { refuseTwoReadings } from "./two-readers.js";

/** What was planned, put together when it is asked for. */
interface Planned {
  readonly plan: () => PlanReport;
}

type Rewritten = RewriteResult & Planned;

/**
 * Rewrites a program or library.
 * @throws InputError where the file is damaged or not supported, or the options ask for what does not exist
 */
export function rewrite(image: ElfImage, options: RewriteOptions): Rewritten {
  const carry = readCarry(image);
  if (carry === undefined || !isUntouched(image)) return rewriteOriginal(image, options);
  // What the file says about itself may be anything. That there is nothing to do shows in what comes out again.
  const original = originalOf(image, carry);
  const { report, content, plan } = rewriteOriginal(original, options);
  if (content !== null && isContent(content, image)) return { report: nothingToDo(report), content: null, plan };
  // Where these options change nothing the original is the output, and not what was made of it before.
  return { report: { ...report, inputSize: fileSize(image) }, content: content ?? wholeFile(original), plan };
}

function originalOf(image: ElfImage, carry: Carry): ElfImage {
  const original = makeOriginal(image, carry);
  return parseElf(original.bytes, original);
}

function rewriteOriginal(original: ElfImage, options: RewriteOptions): Rewritten {
  const program = readProgram(original, options);
  if (program.notes.length > 0) refuseTwoReadings(original);
  for (let course = chooseCourse(program); ; ) {
    const done = follow(program, course);
    if (typeof done !== "string") return done;
    course = nextCourse(program, course, done);
  }
}

/** All passes, on one course; or why that is of no use. */
function follow(program: Program, course: Course): Rewritten | string {
  // A probe's form depends on what is below rsp, and some can have none: a tactic has to know how long it is.
  const survey = surveySites(program, course);
  // Plans are made of all probes together, since they compete for bytes; and only what has a place is done.
  const located = planAndPlace(program, course, survey);
  if (typeof located === "string") return located;
  // New code has addresses now: what leads there can be written, and records for whoever walks the stack.
  const changes = changesFor(program, course, located);
  // Before the output, for it carries what was said.
  const outcome = outcomeOf(program, course, survey, located, changes);
  const facts = program.tables?.facts;
  const { layout, ...said } = outcome;
  const result = (content: SparseContent | null, edits: readonly Edit[]): Rewritten => {
    const inputSize = fileSize(program.original);
    return {
      report: { layout, inputSize, outputSize: content?.size ?? inputSize, ...said },
      content,
      plan: () => planReport(layout, outcome.sites, facts, located, edits),
    };
  };
  if (!changes.any) return result(null, []);
  // Notes and symbols say where things are now.
  const assembly = assemblyOf(program, located, changes, outcome);
  const content = assemble(changes.image, assembly);
  // Whatever went wrong until here: the output is what the report says, or nothing is written.
  checkPlaced(content, {
    original: program.original,
    image: changes.image,
    frames: facts?.functions.ehFrame,
    assembly,
    sites: outcome.sites,
    placed: located.placed,
  });
  return result(content, assembly.edits);
}

/** All that the output is put together from. */
function assemblyOf(
  { original, notes, options, tables }: Program,
  located: Located,
  changes: Changes,
  outcome: Outcome,
): Assembly {
  const { proposals, code, placed } = located;
  const { image, guard, selector, unwind } = changes;
  const addedSections = [...(guard?.addedSections ?? []), ...(selector?.addedSections ?? [])];
  const noteChanges = changeNotes(image, notes, placed);
  // Of several notes with one location the first gives it its name.
  const firstAt = new Map(notes.map((note) => [note.location, note] as const).reverse());
  return {
    edits: [
      ...changes.code,
      ...noteChanges.edits,
      ...movedSymbols(located, changes),
      ...(guard?.edits ?? []),
      ...(selector?.edits ?? []),
    ],
    replaced: noteChanges.replaced,
    code,
    ...(typeof unwind === "object" && { unwind }),
    ...(guard && { tails: guard.tails }),
    addedSections,
    probeName: (site) => {
      const { provider, name } = firstAt.get(site)!;
      return `${provider}.${name}`;
    },
    memo: encodeMemo(options, outcome),
    certificates: encodeCertificates(certificatesFor(tables?.facts, proposals, code?.newCode)),
    original,
  };
}
