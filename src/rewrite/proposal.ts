/**
 * What a tactic answers: a proposal, as data that can be printed, or a reason why not. Nothing is written here; new
 * code has no address yet.
 */
import type { Interval, Vaddr } from "../address.js";
import type { Branch } from "../facts/entries.js";
import type { CodeRange } from "../facts/functions.js";
import type { ProgramFacts } from "../facts/program.js";
import type { DecodedCode } from "../x86/decode.js";
import type { InputTables } from "./input-tables.js";
import type { Refusal } from "./refusal.js";
import type { WrittenForm } from "./written-form.js";

/** Where a proposal's far jump stands, if it has one. */
export const farJumpOf = ({ change }: Proposal): Vaddr | undefined =>
  change.kind === "detour" && typeof change.via === "object" && "far" in change.via ? change.via.far : undefined;

export type TacticName =
  | "in-place"
  | "shift"
  | "displace"
  | "straddle"
  | "call-through"
  | "retarget"
  | "hop"
  | "retarget-short"
  | "hop-retarget"
  | "displace-call"
  | "evict"
  | "punned";

/** A piece of new code: a probe, or an instruction of the window that moves. */
export type Fragment =
  | { readonly kind: "probe"; readonly site: Vaddr; readonly form: WrittenForm }
  | { readonly kind: "instruction"; readonly at: Vaddr; readonly bytes: Uint8Array };

export interface Proposal {
  readonly tactic: TacticName;
  /** The site for whose sake it is. */
  readonly site: Vaddr;
  /** The bytes that get new content, [start, end). Execution arrives at `start` only. */
  readonly window: Interval<Vaddr>;
  /** What runs instead. */
  readonly change: InPlaceChange | Detour;
  /** Disassembly of the instructions that will run at another address. */
  readonly displaced: readonly string[];
  /** Detours without a probe, around branches that cannot be led elsewhere where they stand. */
  readonly helpers: readonly Proposal[];
}

/** A probe in its new place. */
export interface PlacedProbe {
  /** Where its one-byte nop was. */
  readonly site: Vaddr;
  /** What its notes say from now on. */
  readonly location: Vaddr;
  readonly form: WrittenForm;
  /** By how much rsp is lower there than it was at the nop. */
  readonly stackShift: number;
  /** Of a universal probe the second place, its nop5. */
  readonly twin?: { readonly location: Vaddr; readonly stackShift: number };
}

/** The window is rewritten where it stands. */
export interface InPlaceChange {
  readonly kind: "in-place";
  readonly bytes: Uint8Array;
  readonly probes: readonly PlacedProbe[];
  /** The function part that ends later than before, since its last block moved into the padding after it. */
  readonly growth: { readonly range: CodeRange; readonly end: Vaddr } | undefined;
}

/** The window leads to new code, which goes back after the window. */
export interface Detour {
  readonly kind: "detour";
  /**
   * How the window leads there: by a jump at its start, or by the call that it ends with, after nops; the new code then
   * runs with rsp 8 lower than the probe did, and goes on to the function that was called; or by a short jump to
   * padding nearby, which holds the long one or another short one to the next padding; or not at all: only the branches
   * that are led to new code come there; or, of one byte, by a jump whose distance is the bytes after it, to a far
   * place that holds one more.
   */
  readonly via: "jump" | "call" | "branches" | { readonly hop: readonly Interval<Vaddr>[] } | { readonly far: Vaddr };
  readonly body: readonly Fragment[];
  /** Bytes after the window that its jump goes by, and so must not change. */
  readonly kept?: Interval<Vaddr>;
  /** Where the new code goes on, or undefined where its last instruction never falls through. */
  readonly resume: Vaddr | undefined;
  /** Branches into the window, which are led to the new code instead. */
  readonly retargets: readonly Retarget[];
}

/** A branch into a window, which is led to where the instruction at `target` is then. */
export interface Retarget {
  readonly branch: Branch;
  readonly target: Vaddr;
  /** Its own bytes, as they are. */
  readonly bytes: Uint8Array;
  /**
   * How that is done where it stands. Where it moves itself, in the window of a detour, it is encoded anew and needs no
   * way; "moves" says that it has to.
   */
  readonly way: RetargetWay;
}

/**
 *     near       its 32-bit distance changes
 *     widened    a short jmp becomes a near one, over the padding after it
 *     relay      its 8-bit distance changes: it leads to padding nearby that holds a near jump, or a short one to the next
 *     moves      by a detour of its own, or of another probe
 */
export type RetargetWay =
  | "near"
  | "moves"
  | { readonly kind: "widened"; readonly over: Interval<Vaddr> }
  | { readonly kind: "relay"; readonly through: readonly Interval<Vaddr>[] };

/** What is known of a probe before it has a place. */
export interface WantedProbe {
  readonly form: WrittenForm;
  /** The form where nothing below rsp can be needed by the program: without a guard. */
  readonly unguarded: WrittenForm;
  /** Bytes below rsp are or may be needed by the program or a tracer. */
  readonly usesRedZone: boolean;
  /** An argument of its notes lies below rsp. */
  readonly readsBelowStack: boolean;
  /** Why its notes' arguments could not follow where rsp is lower, or undefined where they can. */
  readonly stackPinned: Refusal | undefined;
}

/** What a tactic works from: one site, the function around it, the facts, and which other nops are probes. */
export interface SiteContext {
  readonly site: Vaddr;
  readonly code: DecodedCode;
  readonly range: CodeRange;
  /** The index of the site's nop among the instructions of `code`. */
  readonly index: number;
  readonly facts: ProgramFacts;
  readonly tables: InputTables;
  /** What a probe's nop at this address becomes, or undefined where none stands that is to be rewritten. */
  probe(address: Vaddr): WantedProbe | undefined;
  /** Whether any note names this address, wanted or not: such a byte is no room. */
  isSite(address: Vaddr): boolean;
  /** Whether no earlier proposal changes a byte of [start, end). */
  isFree(start: Vaddr, end: Vaddr): boolean;
  /** Whether an earlier proposal moves the instruction at this address to new code. */
  isMoved(address: Vaddr): boolean;
  /** Return addresses in new code can be unwound: calls may move. */
  readonly unwindable: boolean;
  /** Other code may move so that its bytes give room. */
  readonly evicts: boolean;
}

/** A tactic: a pure function from a site and facts to a proposal, or to the reason why it cannot. */
export type Tactic = (context: SiteContext) => Proposal | Refusal;
