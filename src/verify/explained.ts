/**
 * Which of the changed bytes the sites account for: what has a proof, and what a site has been blamed for. Whatever is
 * left over has been changed by somebody else.
 */

import { type Interval, interval, type Vaddr, vaddr } from "../address.js";
import { touches, union, without } from "../intervals.js";
import { JUMP_SIZE, nopFill } from "../x86/bytes.js";
import type { CodeReader } from "./code-reader.js";
import type { Evidence, ExaminedWindow } from "./evidence.js";
import type { Proof } from "./same-code.js";
import { sameBytes } from "./same-instruction.js";

/**
 * What the sites account for. Whole instructions of the original: a jump takes the first bytes of one, and what is left
 * of it never runs, if it is int3 or nops. Between pieces of new code there is int3, in front of it there may be zeros.
 */
export function explainedCode(
  { pairs, code, found, rewritten, layout }: Evidence,
  blamed: ReadonlySet<ExaminedWindow>,
): readonly Interval<Vaddr>[] {
  const explained: Interval<Vaddr>[] = [];
  const sites = union(pairs.map(({ original: { location } }) => interval(location, 1)));
  const replaced: Interval<Vaddr>[] = [];
  const ran: Interval<Vaddr>[] = [];
  const walked: Interval<Vaddr>[] = [];
  for (const one of found) {
    const { window, proof } = one;
    // What could not be told is a site's verdict where one is; where none is, nobody answers for the change.
    const isSite = touches(sites, window.start, window.end);
    if (proof === undefined || blamed.has(one)) {
      if (isSite || blamed.has(one)) explained.push(window);
      walked.push(...(proof?.walkedNew ?? []));
    }
    // A difference or a doubt that no probe is near enough to answer for is nobody's. Of what is only doubted the ways
    // are known.
    if (proof === undefined || proof.mismatches.some((m) => m.verdict === "different")) continue;
    if (proof.mismatches.length + one.doubts.length > 0 && !blamed.has(one)) continue;
    if (accountsFor(proof)) replaced.push(...proof.replaced.map((run) => layout!.widened(run)));
    ran.push(...proof.ranInPlace);
    walked.push(...proof.walkedNew);
  }
  const whole = union(replaced);
  const dead = without(whole, union(ran));
  const isNew = (address: Vaddr): boolean => touches(code.added, address, address + 1);
  explained.push(...without(whole, dead), ...dead.filter((s) => isDead(rewritten, isNew, s)));
  // New code that a proof stopped at is a site's own trouble.
  const stops = found.flatMap((one) => (blamed.has(one) ? (one.proof?.mismatches ?? []) : [])).map((m) => m.rewritten);
  const fillers = without(code.added, union(walked)).filter(
    (s) => isFiller(rewritten, s) || stops.some((at) => at >= s.start && at < s.end),
  );
  explained.push(...walked, ...fillers);
  return union(explained);
}

/**
 * Whether there is a reason for a window to have changed: it has a rewritten probe, or leads to one. Code that is
 * written in another way for no probe's sake may do the same; it has no business to change.
 */
const accountsFor = ({ passings, walkedNew }: Proof): boolean =>
  walkedNew.length > 0 || passings.some(({ form }) => form !== undefined);

/** Bytes between pieces of new code, and between it and what stood before. */
const isFiller = (code: CodeReader, { start, end }: Interval<Vaddr>): boolean =>
  code.bytes(start, end - start).every((byte) => byte === 0xcc || byte === 0);

/**
 * Bytes that nothing runs: int3 after a jump to new code, so that a mistake is loud; nops after a block that moved up
 * into padding.
 */
function isDead(code: CodeReader, isNew: (address: Vaddr) => boolean, { start, end }: Interval<Vaddr>): boolean {
  const bytes = code.bytes(start, end - start);
  if (bytes.every((byte) => byte === 0xcc)) return true;
  const jump = code.at(vaddr(start - JUMP_SIZE));
  const isBehindDetour = jump !== null && jump.length === JUMP_SIZE && isNew(jump.target);
  return !isBehindDetour && sameBytes(bytes, nopFill(bytes.length));
}
