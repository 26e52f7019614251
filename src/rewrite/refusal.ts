/**
 * Why a probe stays as it is: a code that scripts can go by, and words for people. A tactic that cannot answers with
 * one, and so does whatever decides about a site before and after the tactics are asked. docs/reasons.md lists the
 * codes.
 */
import type { Vaddr } from "../address.js";

/** What each code means, whatever its words say of the one site. Codes never change their meaning. */
export const refusalCodes = {
  "not-asked": "--only names other probes",
  "removed-code": "the note's location is in no executable segment",
  "bare-nop10": "a ten-byte nop stands there, in front of which nothing is free",
  "not-a-nop": "another instruction stands there",
  "stack-pointer": "rsp may be no stack pointer there, and a traced probe writes below it",
  "pinned-stack": "rsp would be lower at the probe, and an argument of its note could not follow",
  "pinned-place": "the probe would be elsewhere, and an argument of its note could not follow",
  "unknown-code": "no function is known there, or its code cannot be decoded",
  "unknown-entries": "not all is known of what enters the bytes that are needed",
  entered: "something enters the bytes that are needed",
  "out-of-sight": "the bytes that are needed are farther from the probe than anything was looked for",
  patched: "somebody patches the bytes that are needed, or counts on where they are",
  "unwind-rule": "the unwind rules of the place would no longer hold",
  "landing-pad": "the code that would move is covered by a landing pad",
  "page-border": "the probe would cross the border of a page, where no kernel makes it fast",
  call: "a call would have to move",
  "fixed-instruction": "an instruction would have to move whose address the kernel or the processor looks at",
  "may-fault": "an instruction would have to move that may fault where somebody knows its address",
  "changes-frame": "an instruction in the code that would move changes the stack frame",
  "red-zone": "bytes below rsp are needed, or are written before the probe runs",
  "no-room": "too few bytes around the probe for what has to stand there",
  "no-call": "no direct call follows",
  "no-padding": "no padding has room for a jump within the reach of a short one",
  "other-probe": "another probe is in the way",
  "bytes-taken": "bytes that are needed change for another probe's sake",
  "next-function": "a function begins among the bytes that are needed",
  "far-target": "the bytes after the nop lead to no address where a jump can stand",
  "far-segments": "other probes' far jumps take all segments that there may be",
  "out-of-reach": "a jump would not reach its target from where there is room",
  "no-selector": "the file has no place for the byte that says which place of a universal probe runs, or for its code",
  "no-twin": "no second note has room",
  "no-place": "the file has no room for new code",
} as const;

export type RefusalCode = keyof typeof refusalCodes;

export class Refusal {
  constructor(
    readonly code: RefusalCode,
    readonly text: string,
    /** The instruction or the bytes that it is about, where it is about some. */
    readonly at: Vaddr | undefined,
  ) {}
}

export const refuse = (code: RefusalCode, text: string, at?: Vaddr): Refusal => new Refusal(code, text, at);

/** Several in one sentence, each only once. */
export const wordsOf = (refusals: readonly Refusal[]): string => [...new Set(refusals.map((r) => r.text))].join("; ");
