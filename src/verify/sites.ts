/**
 * The verdict on each probe, from top to bottom: the notes of both files, the code that changed, the windows around it, the
 * proof for each, and what it says of whom.
 *
 * Nothing that rewriting says of its own work is asked: there are two files, and facts about the first.
 */
import { hex, PAGE_SIZE, type Vaddr, vaddr } from "../address.js";
import type { ElfImage } from "../elf/image.js";
import { gatherFacts, type ProgramFacts } from "../facts/program.js";
import { stackFacts } from "../facts/stack.js";
import { stackReads } from "../rewrite/stack-reads.js";
import { parseArguments } from "../usdt/arguments.js";
import { readUsdtNotes } from "../usdt/notes.js";
import { JUMP_SIZE, nopFill } from "../x86/bytes.js";
import { type ChangedCode, compareCode, type Stretch, touches, united, without } from "./changed-code.js";
import { CodeReader } from "./code-reader.js";
import type { Difference, SiteVerdict } from "./contract.js";
import { compareArguments, compareNotes, type NotePair, type NoteProblem, pairNotes } from "./note-pairs.js";
import { type Mismatch, type Passing, type Proof, Walk } from "./same-code.js";
import { sameBytes } from "./same-instruction.js";
import { formAt, LONGEST_FORM, Subject } from "./subject.js";
import { OriginalLayout, type Window, windowsOf } from "./windows.js";

export interface CodeReport {
  /** One for each note of the original, in their order. */
  readonly sites: readonly SiteVerdict[];
  /** Code at addresses of the original that changed, and new code, as far as the sites account for it. */
  readonly explained: readonly Stretch[];
  /** Code that changed, or is new, and that no site accounts for. */
  readonly unexplained: readonly Stretch[];
}

/** One verdict for each note of the original, in their order. @throws InputError where a file is damaged */
export const verifySites = (rewritten: ElfImage, original: ElfImage): readonly SiteVerdict[] =>
  examineCode(rewritten, original).sites;

/**
 * Judges all probes, and all code.
 * @throws InputError where a table of the original that has to be trusted (.eh_frame, relocations, symbols, notes) is damaged
 */
export function examineCode(rewritten: ElfImage, original: ElfImage): CodeReport {
  const pairs = pairNotes(readUsdtNotes(original), readUsdtNotes(rewritten));
  const notesAt = (location: (pair: NotePair) => Vaddr | undefined): Map<number, readonly number[]> => {
    const map = new Map<number, number[]>();
    pairs.forEach((pair, i) => {
      const at = location(pair);
      if (at !== undefined) map.set(at, [...(map.get(at) ?? []), i]);
    });
    return map;
  };
  const before = { code: new CodeReader(original), notesAt: notesAt((p) => p.original.location) };
  const after = { code: new CodeReader(rewritten), notesAt: notesAt((p) => p.rewritten?.location) };
  const code = withProbes(compareCode(original, rewritten), pairs, before.code, after.code);
  const readers = { original: before.code, rewritten: after.code };
  if (code.changed.length === 0) return judge({ pairs, code, ...readers, found: [], facts: undefined });

  const facts = gatherFacts(original, anchorsOf(pairs, code));
  const layout = new OriginalLayout(facts, before.code);
  const windows = windowsOf(facts, layout, code.changed);
  const subject = new Subject(before, after, windows, layout, code.changed, code.added);
  const found = windows.map((window): Found => ({ window, proof: prove(subject, window) }));
  return judge({ pairs, code, ...readers, found, facts, layout });
}

/**
 * The place of a probe that is another now counts as changed whatever its bytes are: nop becomes nop,nop5, or the probe
 * goes elsewhere and leaves a nop.
 */
function withProbes(code: ChangedCode, pairs: readonly NotePair[], before: CodeReader, after: CodeReader): ChangedCode {
  const probes = pairs.flatMap(({ original: { location }, rewritten }) => {
    const bytes = [before, after].map((side) => side.bytes(location, LONGEST_FORM));
    const isSame = rewritten?.location === location && formAt(bytes[0]!)?.name === formAt(bytes[1]!)?.name;
    return isSame || bytes[0]!.length === 0 ? [] : [{ start: location, end: location + 1 }];
  });
  return probes.length === 0 ? code : { ...code, changed: united([...code.changed, ...probes]) };
}

/** How far from an anchor the facts see what leads to a place; see facts/neighbourhoods.ts. */
const SEEN_BEFORE = 32;
const SEEN_BEHIND = 96;

/** The places around which the facts have to be gathered: probes that are no longer what they were, and changed bytes. */
function anchorsOf(pairs: readonly NotePair[], { changed }: ChangedCode): readonly Vaddr[] {
  const anchors = new Set<Vaddr>();
  for (const { original, rewritten } of pairs) {
    const { location } = original;
    if (rewritten?.location !== location || touches(changed, location, location + 1)) anchors.add(location);
  }
  const sorted = [...anchors].sort((a, b) => a - b);
  let next = 0;
  let last = Number.NEGATIVE_INFINITY;
  for (const { start, end } of changed) {
    for (let at: number = start; at < end; at++) {
      while (next < sorted.length && sorted[next]! <= at + SEEN_BEFORE) last = sorted[next++]!;
      if (at >= last - SEEN_BEFORE && at < last + SEEN_BEHIND) continue;
      last = at;
      anchors.add(vaddr(at));
    }
  }
  return [...anchors];
}

interface Found {
  readonly window: Window;
  /** Undefined where the original's code cannot be told. */
  readonly proof: Proof | undefined;
}

function prove(subject: Subject, window: Window): Proof | undefined {
  if (window.unknown !== undefined) return undefined;
  const walk = new Walk(subject);
  for (const arrival of window.arrivals) walk.follow(arrival);
  // Code that nothing is known to lead to has to be right all the same where it holds a probe.
  const holdsProbe = [...subject.original.notesAt].some(
    ([at, notes]) =>
      at >= window.start && at < window.end && !walk.passings.some((p) => p.notes.some((n) => notes.includes(n))),
  );
  if (holdsProbe && walk.mismatches.length === 0)
    walk.follow({ address: window.start, reason: "it holds a probe", doubtful: false });
  return walk.proof();
}

interface Evidence {
  readonly pairs: readonly NotePair[];
  readonly code: ChangedCode;
  readonly original: CodeReader;
  readonly rewritten: CodeReader;
  readonly found: readonly Found[];
  readonly facts: ProgramFacts | undefined;
  readonly layout?: OriginalLayout;
}

function judge(evidence: Evidence): CodeReport {
  const { pairs, found } = evidence;
  const passings = new Map<number, Passing[]>();
  for (const { proof } of found)
    for (const passing of proof?.passings ?? [])
      for (const note of passing.notes) passings.set(note, [...(passings.get(note) ?? []), passing]);
  const mismatches = new Map<number, Mismatch[]>();
  const blamed = new Set<Found>();
  for (const one of found)
    for (const mismatch of one.proof?.mismatches ?? [])
      for (const note of blame(mismatch, one, evidence)) {
        mismatches.set(note, [...(mismatches.get(note) ?? []), mismatch]);
        blamed.add(one);
      }
  const sites = pairs.map((pair, i) => verdictOn(pair, passings.get(i) ?? [], mismatches.get(i) ?? [], evidence));
  const explained = explainedCode(evidence, blamed);
  const { changed, added } = evidence.code;
  return { sites, explained, unexplained: without(united([...changed, ...added]), explained) };
}

/** Which probes a mismatch is about: those that it names, else the one that is nearest among those of its window. */
function blame(mismatch: Mismatch, { window, proof }: Found, { pairs, code }: Evidence): readonly number[] {
  if (mismatch.notes.length > 0) return mismatch.notes;
  const passed = new Set(proof!.passings.flatMap((p) => p.notes));
  let nearest: { note: number; distance: number } | undefined;
  pairs.forEach(({ original, rewritten }, note) => {
    const { location } = original;
    const isHere = location >= window.start && location < window.end;
    const isNew = rewritten !== undefined && touches(code.added, mismatch.rewritten, mismatch.rewritten + 1);
    const distance = Math.min(
      isHere || passed.has(note) ? Math.abs(location - mismatch.original) : Number.POSITIVE_INFINITY,
      isNew ? Math.abs(rewritten.location - mismatch.rewritten) : Number.POSITIVE_INFINITY,
    );
    if (distance < (nearest?.distance ?? PAGE_SIZE)) nearest = { note, distance };
  });
  if (nearest === undefined) return [];
  const { location } = pairs[nearest.note]!.original;
  return pairs.flatMap((p, note) => (p.original.location === location ? [note] : []));
}

function verdictOn(
  pair: NotePair,
  passings: readonly Passing[],
  mismatches: readonly Mismatch[],
  evidence: Evidence,
): SiteVerdict {
  const { original, rewritten } = pair;
  const { provider, name, location } = original;
  const problem = problemOf(pair, passings, mismatches, evidence);
  return {
    provider,
    name,
    location,
    newLocation: rewritten?.location ?? location,
    verdict: problem?.verdict ?? "equivalent",
    states: 0,
    reason: problem?.reason ?? null,
    difference: problem?.difference ?? null,
  };
}

interface SiteProblem extends NoteProblem {
  readonly difference?: Difference;
}

/** The gravest of what is wrong with a site: what shows a difference comes before what could not be decided. */
function problemOf(
  pair: NotePair,
  passings: readonly Passing[],
  mismatches: readonly Mismatch[],
  evidence: Evidence,
): SiteProblem | undefined {
  const problems: SiteProblem[] = [];
  const add = (problem: SiteProblem | undefined): void => {
    if (problem !== undefined) problems.push(problem);
  };
  add(compareNotes(pair));
  for (const mismatch of mismatches) add(describeMismatch(mismatch, evidence));
  const { rewritten } = pair;
  if (rewritten !== undefined) {
    for (const { rewritten: at, original: from, stackShift } of passings)
      add(compareArguments(pair.original, rewritten, at - from, stackShift));
    if (passings.length === 0 && problems.length === 0) add(untouchedProblem(pair, evidence));
  }
  add(stackProblem(pair, passings, evidence));
  return problems.find((p) => p.verdict === "different") ?? problems[0];
}

/** A probe that no window's proof came by: it has to stand where it stood, as it stood. */
function untouchedProblem({ original, rewritten }: NotePair, { code, found }: Evidence): SiteProblem | undefined {
  const { location } = original;
  const to = rewritten!.location;
  if (to === location && !touches(code.changed, location, location + 1))
    return compareArguments(original, rewritten!, 0, 0);
  const unknown = found.find(({ window }) => location >= window.start && location < window.end)?.window.unknown;
  if (unknown !== undefined) return { verdict: "unproved", reason: unknown };
  return {
    verdict: "different",
    reason: `where the original passes its probe at ${hex(location)}, ${hex(to)} is not passed in the rewritten file`,
  };
}

/**
 * A patched nop5 is a call: it writes its return address below rsp, and the trampoline pushes three registers more, 32 bytes
 * in all. The facts are about all 128 bytes that a function may keep there.
 */
function stackProblem(
  pair: NotePair,
  passings: readonly Passing[],
  { facts, pairs }: Evidence,
): SiteProblem | undefined {
  const isBare = passings.some(
    ({ form, stackShift }) => form !== undefined && form.name !== "nop,nop10" && stackShift < RED_ZONE,
  );
  if (!isBare || facts === undefined) return undefined;
  const { location } = pair.original;
  const notes = pairs.filter((p) => p.original.location === location).map((p) => p.original);
  const reads = notes.flatMap((note) => parseArguments(note.argumentText).arguments.flatMap(stackReads));
  const { redZone, because } = stackFacts(facts, location, reads);
  if (redZone === "unused") return undefined;
  return redZone === "live"
    ? { verdict: "different", reason: `its nop5, once traced, overwrites bytes below rsp that are needed: ${because}` }
    : {
        verdict: "unproved",
        reason: `its nop5, once traced, may overwrite bytes below rsp that are needed: ${because}`,
      };
}

const RED_ZONE = 128;

function describeMismatch(mismatch: Mismatch, { original, rewritten }: Evidence): SiteProblem {
  const { verdict, reason, arrival, originalWay, rewrittenWay } = mismatch;
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

/**
 * What the sites account for. Whole instructions of the original: a jump takes the first bytes of one, and what is left of
 * it never runs, if it is int3 or nops. Between pieces of new code there is int3, in front of it there may be zeros.
 */
function explainedCode(
  { pairs, code, found, rewritten, layout }: Evidence,
  blamed: ReadonlySet<Found>,
): readonly Stretch[] {
  const explained: { start: number; end: number }[] = [];
  const replaced: Stretch[] = [];
  const ran: Stretch[] = [];
  const walked: Stretch[] = [];
  for (const one of found) {
    const { window, proof } = one;
    // What could not be told is a site's verdict where one is; where none is, nobody answers for the change.
    const isSite = pairs.some(({ original: { location } }) => location >= window.start && location < window.end);
    if (proof === undefined || blamed.has(one)) {
      if (isSite || blamed.has(one)) explained.push(window);
      continue;
    }
    replaced.push(...proof.replaced.map(({ start, end }) => layout!.widened(start, end)));
    ran.push(...proof.ranInPlace);
    walked.push(...proof.walkedNew);
  }
  const whole = united(replaced);
  const dead = without(whole, united(ran));
  const isNew = (address: number): boolean => touches(code.added, address, address + 1);
  explained.push(...without(whole, dead), ...dead.filter((s) => isDead(rewritten, isNew, s)));
  const fillers = without(code.added, united(walked)).filter((s) => isFiller(rewritten, s));
  explained.push(...walked, ...fillers);
  return united(explained);
}

/** Bytes between pieces of new code, and between it and what stood before. */
const isFiller = (code: CodeReader, { start, end }: Stretch): boolean =>
  code.bytes(start, end - start).every((byte) => byte === 0xcc || byte === 0);

/**
 * Bytes that nothing runs: int3 behind a jump to new code, so that a mistake is loud; nops behind a block that moved up into
 * padding.
 */
function isDead(code: CodeReader, isNew: (address: number) => boolean, { start, end }: Stretch): boolean {
  const bytes = code.bytes(start, end - start);
  if (bytes.every((byte) => byte === 0xcc)) return true;
  const jump = code.at(start - JUMP_SIZE);
  const isBehindDetour = jump !== null && jump.length === JUMP_SIZE && isNew(jump.target);
  return !isBehindDetour && sameBytes(bytes, nopFill(bytes.length));
}
