/**
 * What is known of two files before anybody is judged: their notes, the code that changed, and for each window what the
 * proof and the runs have shown.
 */

import type { Vaddr } from "../address.js";
import type { StackFacts } from "../facts/stack.js";
import type { ChangedCode } from "./changed-code.js";
import type { CodeReader } from "./code-reader.js";
import type { NotePair } from "./note-pairs.js";
import type { WindowRuns } from "./run-states.js";
import type { Proof } from "./same-code.js";
import type { Window } from "./window.js";
import type { OriginalLayout } from "./windows.js";

export interface Doubt {
  readonly verdict: "different" | "unproved";
  readonly reason: string;
}

export interface ExaminedWindow {
  readonly window: Window;
  /** Undefined where the original's code cannot be told. */
  readonly proof: Proof | undefined;
  /** Where code runs after the end of its function. */
  readonly uncovered: readonly Vaddr[];
  /** From each arrival. */
  readonly runs: readonly WindowRuns[];
  /** What the witness has against it. */
  readonly doubts: readonly Doubt[];
}

export interface Evidence {
  readonly pairs: readonly NotePair[];
  readonly code: ChangedCode;
  readonly original: CodeReader;
  readonly rewritten: CodeReader;
  readonly found: readonly ExaminedWindow[];
  /** Undefined where no code changed. */
  readonly stack: StackFacts | undefined;
  readonly layout: OriginalLayout | undefined;
}
