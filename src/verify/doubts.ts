/**
 * What the witness says of each window, held against what the proof went by: an arrival that nobody expected, a window
 * about which nothing can be said, a moved instruction whose place somebody knows.
 */

import { hex, type Interval, type Vaddr } from "../address.js";
import type { ElfImage } from "../elf/image.js";
import type { Certificate } from "../rewritten/certificate.js";
import { countWhile } from "../sorted.js";
import type { Doubt, Evidence, ExaminedWindow } from "./evidence.js";
import type { Changed, Testimony } from "./witness/testimony.js";
import { examine } from "./witness/witness.js";

/**
 * What the witness says of bytes that changed, and of what is claimed of them. It is to be asked before the facts are
 * gathered: it lets go of all that it knows.
 * @throws InputError where a table of the original is damaged
 */
export const testify = (
  original: ElfImage,
  windows: readonly Changed[],
  certificates: readonly Certificate[],
): Testimony => examine(original, { windows, certificates });

export function withDoubts(
  testimony: Testimony,
  changed: readonly Interval<Vaddr>[],
  found: readonly ExaminedWindow[],
): readonly ExaminedWindow[] {
  const doubts = found.map((): Doubt[] => []);
  const windowAt = (address: number): number => {
    const low = countWhile(found.length, (i) => found[i]!.window.end <= address);
    return low < found.length && found[low]!.window.start <= address ? low : -1;
  };
  const proved = found.map(
    ({ window, proof }) => new Set<number>([...window.arrivals.map((a) => a.address), ...(proof?.together ?? [])]),
  );
  for (const { address, why, certain, from } of testimony.arrivals) {
    // Where a branch of a window leads is followed with it.
    if (from !== undefined && windowAt(from) >= 0) continue;
    const inside = windowAt(address);
    const index = inside >= 0 ? inside : windowAt(changedBehind(changed, address));
    if (index < 0 || proved[index]!.has(address)) continue;
    const reason = `execution may arrive at ${hex(address)}, and the proof does not begin there: ${why}`;
    doubts[index]!.push({ verdict: certain ? "different" : "unproved", reason });
  }
  for (const [run, reason] of testimony.unknown) {
    const index = windowAt(changed[run]!.start);
    if (index >= 0 && !found[index]!.window.isPun) doubts[index]!.push({ verdict: "unproved", reason });
  }
  for (const [run, reason] of testimony.patched) {
    const index = windowAt(changed[run]!.start);
    if (index >= 0) doubts[index]!.push({ verdict: "unproved", reason });
  }
  for (const [run, { verdict, why }] of testimony.failing) {
    const index = windowAt(changed[run]!.start);
    if (index >= 0 && !found[index]!.window.isPun) doubts[index]!.push({ verdict, reason: why });
  }
  const movedBy = ({ proof }: ExaminedWindow): readonly number[] =>
    proof === undefined ? [] : proof.replaced.map(({ start }) => start).filter((at) => !proof.keptCalls.has(at));
  const moved = new Set<number>(found.flatMap(movedBy));
  for (const address of moved) {
    const reason = testimony.asked.has(address) ? testimony.noticed.get(address) : "its old place did not change";
    const index = windowAt(address);
    if (index >= 0 && reason !== undefined)
      doubts[index]!.push({ verdict: "unproved", reason: `the instruction at ${hex(address)} moved, and ${reason}` });
  }
  for (const [index, { proof }] of found.entries())
    for (const { original: at, stackShift } of proof?.passings ?? [])
      if (stackShift !== 0 && !testimony.stack.has(at))
        doubts[index]!.push({
          verdict: "unproved",
          reason: `rsp is lowered at ${hex(at)}, where it may be no stack pointer`,
        });
  return found.map((one, i) => (doubts[i]!.length === 0 ? one : { ...one, doubts: doubts[i]! }));
}

/** The first changed byte after an address, or -1. */
function changedBehind(changed: readonly Interval<Vaddr>[], address: number): number {
  return changed[countWhile(changed.length, (i) => changed[i]!.start < address)]?.start ?? -1;
}

/**
 * Whom a window's doubts concern: the probes that its proof passed or that it holds; else those on whose way something
 * in it runs, or whose new code it leads to; none: then it is nobody's, and a finding.
 */
export function notesFor({ window, proof }: ExaminedWindow, { pairs, found }: Evidence): readonly number[] {
  const own = new Set((proof?.passings ?? []).flatMap(({ notes }) => notes));
  for (const [note, { original }] of pairs.entries())
    if (original.location >= window.start && original.location < window.end) own.add(note);
  if (own.size > 0) return [...own];
  for (const other of found) {
    const isOnTheWay =
      other.proof?.frames.some(({ rewritten }) => rewritten >= window.start && rewritten < window.end) ||
      // A jump in padding that a branch goes through.
      other.proof?.ranInPlace.some(({ start, end }) => start < window.end && end > window.start) ||
      // A branch that leads to new code.
      proof?.walkedNew.some((own) => other.proof?.walkedNew.some((s) => s.start < own.end && s.end > own.start));
    if (isOnTheWay) for (const { notes } of other.proof!.passings) for (const note of notes) own.add(note);
  }
  return [...own];
}
