/**
 * The verdict on each probe, from top to bottom: the notes of both files, the code that changed, the windows around it,
 * the proof for each, and what it says of whom.
 *
 * Nothing that rewriting says of its own work is asked: there are two files, and facts about the first.
 */

import { interval, type Vaddr, vaddr } from "../address.js";
import { type ElfImage, sectionNamed } from "../elf/image.js";
import { InputError } from "../errors.js";
import type { FileFacts } from "../facts/file-facts.js";
import { gatherFacts } from "../facts/program.js";
import { StackFacts } from "../facts/stack.js";
import { addTo } from "../grouped.js";
import { touches, union, without } from "../intervals.js";
import { writesRedZone } from "../kernel/kernels.js";
import { readCarry } from "../rewritten/carry.js";
import { type Certificate, decodeCertificates } from "../rewritten/certificate.js";
import { SELECTOR_SECTION } from "../rewritten/section-names.js";
import { formAt, LONGEST_FORM } from "../usdt/forms.js";
import { readUsdtNotes, type UsdtNote } from "../usdt/notes.js";
import { type ChangedCode, compareCode } from "./changed-code.js";
import { CodeReader } from "./code-reader.js";
import { testify, withDoubts } from "./doubts.js";
import type { Evidence, ExaminedWindow } from "./evidence.js";
import { FlagReaders } from "./flags-dead.js";
import { FunctionEnds } from "./function-ends.js";
import { findForkDetours } from "./guard/fork-detours.js";
import { type NotePair, pairNotes } from "./note-pairs.js";
import { punsIn } from "./puns.js";
import { SideRunner } from "./run-side.js";
import { MANY_STATES, runStates, type Sides } from "./run-states.js";
import { type FrameOrigin, type Proof, Walk } from "./same-code.js";
import { SAVE_AT, selectionAt } from "./selection.js";
import { Subject, type UniversalPlaces } from "./subject.js";
import { followUnreached } from "./unreached.js";
import { type CodeReport, judge } from "./verdicts.js";
import type { Window } from "./window.js";
import { OriginalLayout, windowsOf } from "./windows.js";

export type { CodeReport } from "./verdicts.js";

/**
 * Judges all probes, and all code.
 * @throws InputError where a table of the original that has to be trusted (.eh_frame, relocations, symbols, notes) is
 * damaged
 */
export const examineCode = (rewritten: ElfImage, original: FileFacts): CodeReport =>
  judge(gatherEvidence(rewritten, original, true));

/**
 * Everything that the verdicts follow from.
 * @param file the original
 * @param asksWitness whether the witness is asked as well, who shares nothing with the facts (doubts.ts)
 * @throws InputError like examineCode
 */
export function gatherEvidence(rewritten: ElfImage, file: FileFacts, asksWitness = false): Evidence {
  const original = file.image;
  const rewrittenCode = new CodeReader(rewritten);
  const pairs = pairNotes(readUsdtNotes(original), readUsdtNotes(rewritten), rewrittenCode);
  const notesAt = (places: (pair: NotePair) => readonly (UsdtNote | undefined)[]): Map<Vaddr, readonly number[]> => {
    const map = new Map<Vaddr, number[]>();
    pairs.forEach((pair, i) => {
      for (const note of places(pair)) if (note !== undefined) addTo(map, note.location, i);
    });
    return map;
  };
  const before = { code: new CodeReader(original), notesAt: notesAt((p) => [p.original]) };
  const after = { code: rewrittenCode, notesAt: notesAt((p) => [p.rewritten, p.twin]) };
  const code = withoutForkDetours(
    original,
    rewritten,
    withProbes(compareCode(original, rewritten), pairs, before.code, after.code),
  );
  const readers = { original: before.code, rewritten: after.code };
  if (code.changed.length === 0) return { pairs, code, ...readers, found: [], stack: undefined, layout: undefined };

  const puns = punsIn(code, before.code, after);
  const changed = code.changed.map((run) => ({ ...run, jumpEnd: puns.get(run)?.end }));
  const testimony = asksWitness ? testify(original, changed, certificatesOf(rewritten)) : undefined;
  // Where functions lead that hold no change the witness says; the rewriter's answer is not asked for again.
  const asked = testimony === undefined ? "all functions" : "those asked about";
  const facts = gatherFacts(file, anchorsOf(pairs, code), asked);
  const stack = new StackFacts(facts);
  const layout = new OriginalLayout(facts, before.code);
  const windows = windowsOf(facts, layout, code.changed, puns, testimony?.arrivals ?? []);
  const subject = new Subject(
    before,
    after,
    windows,
    layout,
    code.changed,
    code.added,
    universalPlaces(rewritten, pairs),
    new FlagReaders(before.code, facts),
  );
  const sides = sidesFor(original, rewritten, subject, pairs);
  const functionEnds = new FunctionEnds(rewritten, facts, layout);
  const proofs = prove(subject, windows);
  const examined = windows.map((window, i): ExaminedWindow => {
    const proof = proofs[i];
    const uncovered = proof === undefined ? [] : functionEnds.uncovered(subject, proof);
    return { window, proof, uncovered, runs: run(stack, sides, window, proof), doubts: [] };
  });
  const found = testimony === undefined ? examined : withDoubts(testimony, code.changed, examined);
  return { pairs, code, ...readers, found, stack, layout };
}

function universalPlaces(rewritten: ElfImage, pairs: readonly NotePair[]): UniversalPlaces {
  const doubled = pairs.filter((pair) => pair.twin !== undefined);
  return {
    selector: sectionNamed(rewritten, SELECTOR_SECTION)?.sh_addr,
    firsts: new Set(doubled.map((pair) => pair.rewritten!.location)),
    twins: new Set(doubled.map((pair) => pair.twin!.location)),
  };
}

/** What the rewritten file claims of its functions: nothing where it carries nothing, or what is damaged. */
function certificatesOf(rewritten: ElfImage): readonly Certificate[] {
  try {
    const carry = readCarry(rewritten);
    return (carry && decodeCertificates(carry.certificates)) ?? [];
  } catch (error) {
    if (error instanceof InputError) return [];
    throw error;
  }
}

/**
 * The place of a probe that is another now counts as changed whatever its bytes are: nop becomes nop,nop5, or the probe
 * goes elsewhere and leaves a nop.
 */
function withProbes(code: ChangedCode, pairs: readonly NotePair[], before: CodeReader, after: CodeReader): ChangedCode {
  const probes = pairs.flatMap(({ original: { location }, rewritten }) => {
    const bytes = [before, after].map((side) => side.bytes(location, LONGEST_FORM));
    const isSame = rewritten?.location === location && formAt(bytes[0]!) === formAt(bytes[1]!);
    return isSame || bytes[0]!.length === 0 ? [] : [interval(location, 1)];
  });
  return probes.length === 0 ? code : { ...code, changed: union([...code.changed, ...probes]) };
}

/** System calls that lead through new code for a fork guard's sake are judged with it. */
function withoutForkDetours(original: ElfImage, rewritten: ElfImage, code: ChangedCode): ChangedCode {
  const isNew = (address: number): boolean => touches(code.added, vaddr(address), address + 1);
  const windows = findForkDetours(original, rewritten, code.changed, isNew).map((detour) => detour.window);
  return windows.length === 0 ? code : { ...code, changed: without(code.changed, windows) };
}

/** How far from an anchor the facts see what leads to a place; see facts/neighbourhoods.ts. */
const SEEN_BEFORE = 32;
const SEEN_BEHIND = 96;

/**
 * The places around which the facts have to be gathered: probes that are no longer what they were, and changed bytes.
 */
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

/**
 * One proof for each window; none where the original's code cannot be told, and nothing speaks against it. What is
 * wrong after a probe is wrong whoever comes there.
 */
function prove(subject: Subject, windows: readonly Window[]): readonly (Proof | undefined)[] {
  const walks = windows.map((window) => {
    const walk = new Walk(subject);
    if (window.unknown === undefined) {
      for (const arrival of window.arrivals) walk.follow(arrival);
      return walk;
    }
    for (const site of subject.sitesWithin(window))
      walk.follow({ address: site, reason: "it holds a probe", doubtful: false });
    return walk.mismatches.some((m) => m.verdict === "different") ? walk : undefined;
  });
  // The ways of one window may lead through another.
  const passed = new Set(walks.flatMap((walk) => (walk === undefined ? [] : [...walk.passed])));
  return walks.map((walk, i) => {
    if (walk?.mismatches.length === 0) followUnreached(subject, windows[i]!, walk, passed);
    return walk?.proof();
  });
}

/** Both files in the emulator. */
function sidesFor(original: ElfImage, rewritten: ElfImage, subject: Subject, pairs: readonly NotePair[]): Sides {
  const { original: before, rewritten: after } = subject;
  const isNew = (address: Vaddr): boolean => subject.isNew(address);
  const destroys = new Set<Vaddr>();
  for (const pair of pairs)
    for (const note of [pair.rewritten, pair.twin]) {
      const to = note?.location;
      const from = pair.original.location;
      if (to === undefined || (to === from && !subject.isChanged(interval(from, 1)))) continue;
      const form = formAt(after.code.bytes(to, LONGEST_FORM));
      if (form !== undefined && writesRedZone(form.nop)) destroys.add(to);
    }
  const inWindow = (address: Vaddr): boolean => subject.inWindow(address);
  const isInside = (address: Vaddr): boolean => inWindow(address) || isNew(address);
  const isSave = (address: Vaddr): boolean =>
    isNew(address) && selectionAt(after.code, vaddr(address - SAVE_AT))?.save === address;
  return {
    original: new SideRunner(original, {
      ...before,
      isInside: inWindow,
      isNew,
      isSave: () => false,
      destroys: new Set(),
    }),
    rewritten: new SideRunner(rewritten, { ...after, isInside, isNew, isSave, destroys }),
    code: before.code,
    losesFlags: false,
  };
}

/**
 * Runs a window from each arrival that is certain, and from where calls return to it, since a run ends with a call;
 * from many more states where the proof has found something.
 */
function run(
  stack: StackFacts,
  sides: Sides,
  { arrivals, returns }: Window,
  proof: Proof | undefined,
): ExaminedWindow["runs"] {
  if (proof === undefined) return [];
  const states = proof.mismatches.length > 0 ? MANY_STATES : undefined;
  const certain = new Set(arrivals.filter((a) => !a.doubtful).map((a) => a.address));
  const calls = new Map(proof.frames.map((f) => [returnOf(f), f] as const).reverse());
  return [...new Set([...certain, ...returns])].map((original) => {
    const call = certain.has(original) ? undefined : calls.get(original);
    const rewritten = call === undefined ? original : vaddr(call.rewritten + call.lengths.rewritten);
    return runStates(
      { ...sides, losesFlags: proof.losesFlags },
      { original, rewritten },
      stack.addressesAt(original),
      states,
    );
  });
}

/** Where a call returns to that both sides make, in the original. */
const returnOf = ({ originals, lengths }: FrameOrigin): Vaddr | undefined =>
  lengths.original > 1 ? vaddr(originals[0]! + lengths.original) : undefined;
