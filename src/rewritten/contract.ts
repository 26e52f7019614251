/**
 * What goes into a rewrite and what comes out of it: the data that the command line, the report and the file writer
 * share with the pipeline. The names of the report are those of the command contract.
 */

import type { Vaddr } from "../address.js";
import type { KernelName } from "../kernel/kernels.js";
import type { SparseContent } from "../sparse-content.js";
import type { FileLayout } from "../usdt/forms.js";
import type { HazardCode } from "./hazard-codes.js";

/** The kernels that a file will be traced on: a range of the table, or all of them. */
export type Kernel = KernelName | "any";
export type Layout = "auto" | FileLayout;

export interface RewriteOptions {
  readonly kernel: Kernel;
  readonly layout: Layout;
  /** Patterns PROVIDER:NAME, * as wildcard; none means every probe. */
  readonly only: readonly string[];
  /** Derive a new build-id from the old one instead of keeping it. */
  readonly newBuildId: boolean;
  /** Allow the program header table at the end of the file, where nothing else is possible. */
  readonly tableAtEnd: boolean;
  /** Let the file become as long as it takes for perf to find all probes: .bss is a hole in it then. */
  readonly keepOffsets: boolean;
  /** Put code into the file that keeps forked children alive, on kernels that kill them at a nop5. */
  readonly forkGuard: boolean;
}

export type SiteStatus = "rewritten" | "already" | "skipped";
export type RedZone = "unused" | "live" | "unknown";

/** What a probe costs in memory, in each process that loads the file. */
export interface SiteCost {
  /** By how many bytes of address space the file reaches further for it. */
  readonly addressSpace: number;
  /** How many pages are mapped for it alone. */
  readonly pages: number;
}

/** What became of one note's probe. */
export interface SiteReport {
  readonly provider: string;
  readonly name: string;
  readonly location: Vaddr;
  /** Where the probe is now: equal to `location` where it did not move. */
  readonly newLocation: Vaddr;
  /** Of a universal probe the second place, its nop5; `newLocation` is that of its nop,nop10 then. Else null. */
  readonly twin: Vaddr | null;
  readonly status: SiteStatus;
  /** The tactic's name, or null where the site was not rewritten. */
  readonly tactic: string | null;
  readonly redZone: RedZone;
  readonly guard: boolean;
  /** Why the site was skipped, for a person to read, or null. */
  readonly reason: string | null;
  /** The same in a word that stays the same, for scripts: the first of the reasons; see docs/reasons.md. */
  readonly reasonCode: string | null;
  /** Disassembly of the instructions that now run at another address. */
  readonly displaced: readonly string[];
  /** What it costs but for the bytes of its new code, or null where that is nothing. */
  readonly cost: SiteCost | null;
}

/** Something that the user should know before this file is deployed. */
export interface Hazard {
  readonly code: HazardCode;
  readonly message: string;
}

/** What became of the fork guard: code that a forked child runs before any of the program's. */
interface ForkGuardReport {
  readonly installed: boolean;
  /** Why it is not there, for a person to read, or null. */
  readonly reason: string | null;
  /** How many nop5 sites it looks at, and in how many pages of memory. */
  readonly sites: number;
  readonly pages: number;
}

export interface RewriteReport {
  /** The layout that was chosen: never "auto". */
  readonly layout: FileLayout;
  readonly inputSize: number;
  readonly outputSize: number;
  readonly sites: readonly SiteReport[];
  readonly hazards: readonly Hazard[];
  /** Null where the options ask for none: no layout that makes nop5, or no kernel that needs a guard. */
  readonly forkGuard: ForkGuardReport | null;
}

export interface RewriteResult {
  readonly report: RewriteReport;
  /** The new file, or null where it would be the input, byte for byte. */
  readonly content: SparseContent | null;
}

/*
 * The two functions that a command calls (rewrite.ts and revert.ts):
 *
 *     rewrite(image: ElfImage, options: RewriteOptions): RewriteResult
 *     revert(image: ElfImage): SparseContent            throws InputError when the file is not exactly what rewrite wrote
 */
