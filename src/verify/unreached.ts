/**
 * Probes in code that nothing is known to lead to: a compiler left them there, or a jump leads there that nobody has
 * found. They have to be right all the same, for whoever comes along the code in front of them.
 *
 *     eb 10          jmp X
 *     0f 1f 40 00    nop            never runs: it may have been room for another jump
 *     89 d8          mov eax, ebx   straight code from here, or from the padding, or from the probe alone
 *     90             nop            <- probe
 *
 * From where nobody can say. One of the places from which the probe is reached is enough, and where none is right the
 * first one tells what is wrong.
 */

import type { Vaddr } from "../address.js";
import { Flow } from "../x86/decode.js";
import { Walk } from "./same-code.js";
import type { Subject } from "./subject.js";
import type { Arrival, Window } from "./window.js";

/** Instructions in front of a probe that are tried as the place where somebody arrives. */
const MOST_BEFORE = 16;

/** @param passed the notes whose probes some way leads through; those that are passed from here on are added */
export function followUnreached(subject: Subject, window: Window, walk: Walk, passed: Set<number>): void {
  for (const site of subject.sitesWithin(window)) {
    const notes = subject.original.notesAt.get(site)!;
    if (notes.every((note) => passed.has(note))) continue;
    const ways = startsBefore(subject, window, site).map(arrivalAt);
    const right = ways.find((way) => {
      const trial = new Walk(subject);
      trial.follow(way);
      const isRight = trial.mismatches.length === 0 && notes.every((note) => trial.passed.has(note));
      if (isRight) for (const note of trial.passed) passed.add(note);
      return isRight;
    });
    walk.follow(right ?? ways[0]!);
  }
}

const arrivalAt = (address: Vaddr): Arrival => ({ address, reason: "it holds a probe", doubtful: false });

/** The places from which straight code leads to a probe, in the window; the first of them first. */
function startsBefore({ original: { code } }: Subject, { start }: Window, site: Vaddr): Vaddr[] {
  const straight: Vaddr[] = [];
  for (let at = start; at < site; ) {
    const instruction = code.at(at);
    if (instruction === null) return [site];
    const ends = (instruction.flow & (Flow.Jump | Flow.IndirectJump | Flow.Return)) !== 0;
    if (ends) straight.length = 0;
    else straight.push(at);
    at = instruction.end;
  }
  return [...straight.slice(-MOST_BEFORE), site];
}
