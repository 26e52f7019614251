/**
 * What verification answers, as data that the command line, the report and the checks share. The names are those of the
 * command contract.
 */
import type { Vaddr } from "../address.js";

/**
 * equivalent: proved; `states` tells from how many states it was run besides, which proves nothing; unproved: it could not
 * be proved, with the reason; different: something shows that it is not the same program.
 */
export type Verdict = "equivalent" | "unproved" | "different";

/** The verdict on one note's probe. */
export interface SiteVerdict {
  readonly provider: string;
  readonly name: string;
  /** In the original. */
  readonly location: Vaddr;
  /** In the rewritten file: equal to `location` where the probe did not move. */
  readonly newLocation: Vaddr;
  /** Where the rewritten file has the probe a second time, of which a pass runs one; else null. */
  readonly twin: Vaddr | null;
  readonly verdict: Verdict;
  /** From how many states both sides were run. */
  readonly states: number;
  /** Why it is not equivalent, for a person to read, or null. */
  readonly reason: string | null;
  /** The state that shows a difference, or null. */
  readonly difference: Difference | null;
}

/** One run of both sides that ended differently. */
export interface Difference {
  /**
   * Each register, flag or piece of memory that matters: at the start, and at the end on both sides, in hexadecimal.
   */
  readonly rows: readonly {
    readonly name: string;
    readonly before: string;
    readonly original: string;
    readonly rewritten: string;
  }[];
  /** What ran on each side: link-time address and disassembly. */
  readonly originalTrace: readonly string[];
  readonly rewrittenTrace: readonly string[];
}

/** Something outside of the sites that is not as the original has it, and that rewriting does not explain. */
export interface FileFinding {
  /** "offset 0x..." or "address 0x...", or the name of a part of the file. */
  readonly where: string;
  readonly what: string;
}

export interface VerifyReport {
  readonly sites: readonly SiteVerdict[];
  /** Differences of the rest of the file; none where it is as it must be. */
  readonly findings: readonly FileFinding[];
  /** What could not be held against the original, since another tool changed the file after it was rewritten. */
  readonly uncompared: readonly string[];
  /**
   * The fork guard, or null where there is none. Equivalent: the program is the same with it, where nobody traces as
   * well as in a child of a traced process, but for what a guard is to do. What is different is among the findings,
   * too.
   */
  readonly forkGuard: { readonly verdict: Verdict; readonly reason: string | null } | null;
}

/*
 * verify.ts:    verify(rewritten: ElfImage, original: Original): VerifyReport         sites and rest, both
 * original.ts:  carriedOriginal(rewritten), givenOriginal(rewritten, bytes): what to hold it against, or an InputError
 */
