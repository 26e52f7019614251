/**
 * Faults in the ways to new code that go through other bytes than a window's: short branches that lead elsewhere, short jmps
 * that became near ones, and the jumps in padding.
 */
import { CodeFaults } from "./code-faults.js";
import type { Fault } from "./fault.js";
import { entersElsewhere, type Piece } from "./semantics.js";
import type { Spot, Subject } from "./spots.js";

const JUMP_SIZE = 5;

export function wayFaults(subject: Subject): Fault[] {
  const starts = [...subject.spots, ...subject.helpers].map((s) => s.entry?.address);
  const further = subject.entries.filter((e) => !starts.includes(e.address) && e.bytes[0] === 0xe9);
  const inPadding = further.flatMap((entry) => throughPadding(subject, entry));
  return [...inPadding, ...shortBranches(subject)];
}

/** The probe with whose new code a branch goes on. */
function spotOf({ spots, helpers }: Subject, target: number | undefined): Spot | undefined {
  return [...spots, ...helpers].find((s) => s.pieces.some((p) => p.address === target));
}

/** A near jump that leads into new code from other bytes than a window's. */
function throughPadding(subject: Subject, entry: Piece): Fault[] {
  const { target } = entry.facts;
  const spot = spotOf(subject, target);
  if (spot === undefined) return [];
  const distances = [-1, 1, JUMP_SIZE, spot.nop - target!, spot.pieces[0]!.address - target!];
  return new CodeFaults(subject, spot).led("a jump through padding", entry, distances);
}

/** Short branches, changed or in a window, that lead to a jump to new code, or to another such. */
function shortBranches(subject: Subject): Fault[] {
  const { changed, read, rewritten } = subject;
  const faults: Fault[] = [];
  for (const { start, end } of changed)
    for (let at = start - 1; at < end; at++) {
      const piece = read(at);
      if (piece === undefined || piece.bytes.length !== 2 || piece.facts.branchField?.size !== 1) continue;
      const final = endOf(subject, piece.facts.target!);
      const spot = final && spotOf(subject, final.facts.target);
      if (spot === undefined) continue;
      const plan = new CodeFaults(subject, spot);
      faults.push(...plan.led("a short branch to padding", piece, [-2, -1, 1, 2, JUMP_SIZE]));
      const offset = subject.offset(at);
      const before = rewritten.original.bytes.subarray(offset, offset + 2);
      // Only its distance is another one: it was a branch before.
      if (before[0] !== piece.bytes[0]) continue;
      const old = at + 2 + before.readInt8(1);
      if (entersElsewhere(read, piece.facts.target!, old))
        faults.push(
          plan.fault(
            "a short branch not led elsewhere",
            `${piece.facts.text} leads to 0x${old.toString(16)} as before`,
            [{ offset, bytes: before }],
          ),
        );
    }
  return faults;
}

/** The jump to new code at which short jumps from an address on end. */
function endOf({ read, entries }: Subject, start: number): Piece | undefined {
  let at = start;
  for (let i = 0; i < 3; i++) {
    const entry = entries.find((e) => e.address === at);
    if (entry !== undefined) return entry;
    const piece = read(at);
    if (piece?.bytes[0] !== 0xeb) return undefined;
    at = piece.facts.target!;
  }
  return undefined;
}
