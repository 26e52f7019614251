/**
 * Programs that show what a layout does to whom: built and rewritten here, and run on each kernel under a uprobe on
 * every probe. Shared with what runs in the guest.
 */
import type { LongNop } from "../../src/kernel/kernels.js";

/** A file, and where it is attached to. */
export interface Traced {
  readonly file: string;
  /** Where this nop stands after the one-byte nop that the note names, attach to it. */
  readonly behind: LongNop | null;
}

/** What a program did that was traced from its start to its end. */
export interface Ran {
  readonly output: string;
  /** How it ended. */
  readonly end: string;
  readonly sites: readonly SiteSeen[];
}

export interface SiteSeen {
  readonly name: string;
  readonly hits: number;
  readonly optimized: boolean;
}

/** What one did under tracers that came and went. */
export interface Toggled {
  /** By its own words. */
  readonly passed: number;
  readonly killed: number;
  readonly children: number;
  readonly wrong: number;
  /** How it ended. */
  readonly end: string;
  /** What was counted, and what was passed meanwhile: of the tracers that came and went while the program paused. */
  readonly counts: readonly { readonly hits: number; readonly passes: number }[];
  /** Why no tracer could attach to the running program, or null. */
  readonly refusal: string | null;
}

export interface Task {
  readonly run: readonly Traced[];
  readonly toggle: readonly Traced[];
}

export interface Answer {
  readonly kernel: string;
  readonly ran: readonly Ran[];
  readonly toggled: readonly Toggled[];
}
