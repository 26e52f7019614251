/**
 * What a proof is about: both sides' code, where the notes of each say that probes are, and what changed. And the forms
 * that a rewritten probe has.
 */

import type { Interval, Vaddr } from "../address.js";
import { touches } from "../intervals.js";
import { lowerBound } from "../sorted.js";
import { NOP5, NOP10 } from "../x86/bytes.js";
import { Flow } from "../x86/decode.js";
import type { CodeReader, Instruction } from "./code-reader.js";
import { sameBytes } from "./same-instruction.js";
import type { Window } from "./window.js";
import type { OriginalLayout } from "./windows.js";

export interface Side {
  readonly code: CodeReader;
  /** The indices of the notes whose probe is at an address of this side; both sides count the notes of the original. */
  readonly notesAt: ReadonlyMap<Vaddr, readonly number[]>;
}

/** Through so many jumps in padding a branch may lead to new code. */
const MOST_JUMPS = 3;

export class Subject {
  private sites: readonly Vaddr[] | undefined;

  /**
   * @param changed bytes of the original that are others in the rewritten file; ascending and disjoint, like the rest
   * @param added new code: addresses that the original does not have
   */
  constructor(
    readonly original: Side,
    readonly rewritten: Side,
    readonly windows: readonly Window[],
    private readonly layout: OriginalLayout,
    private readonly changed: readonly Interval<Vaddr>[],
    private readonly added: readonly Interval<Vaddr>[],
  ) {}

  /** Whether an address is in new code. */
  isNew(address: Vaddr): boolean {
    return touches(this.added, address, address + 1);
  }

  /** The places of the original's probes in an interval, ascending. */
  sitesWithin({ start, end }: Interval<Vaddr>): readonly Vaddr[] {
    this.sites ??= [...this.original.notesAt.keys()].sort((a, b) => a - b);
    const { sites } = this;
    const low = lowerBound(sites, start);
    let last = low;
    while (last < sites.length && sites[last]! < end) last++;
    return sites.slice(low, last);
  }

  inWindow(address: Vaddr): boolean {
    return touches(this.windows, address, address + 1);
  }

  /**
   * Whether a call may return: what stands behind one at the end of a function is padding, or another function, and the call
   * of one that never returns.
   */
  mayReturn(call: Instruction): boolean {
    const part = this.layout.part(call.start);
    return part === undefined || call.end < part.end;
  }

  /** Whether an instruction's target lies in its own function, and is not where that begins. */
  isInner({ start }: Instruction, target: Vaddr): boolean {
    const part = this.layout.part(start);
    return part !== undefined && target > part.start && target < part.end;
  }

  /** Whether a branch of the rewritten side leads to new code: at once, or where it changed through jumps in padding. */
  leadsToNew(branch: Instruction): boolean {
    let at = branch.target;
    if (Number.isNaN(at)) return false;
    for (let jumps = 0; jumps < MOST_JUMPS && !this.isNew(at); jumps++) {
      const next = this.isChanged(branch) ? this.rewritten.code.at(at) : null;
      if (next === null || (next.flow & Flow.Jump) === 0 || !this.isChanged(next)) return false;
      at = next.target;
    }
    return this.isNew(at);
  }

  isChanged({ start, end }: Interval<Vaddr>): boolean {
    return touches(this.changed, start, end);
  }
}

/** What stands at a rewritten probe, and which of its bytes the kernel may patch. */
export interface PassedForm {
  readonly name: "nop5" | "nop,nop5" | "nop,nop10";
  readonly size: number;
  readonly patched: { readonly offset: number; readonly size: number };
}

const forms: readonly (PassedForm & { readonly bytes: Uint8Array })[] = [
  { name: "nop5", bytes: NOP5, size: 5, patched: { offset: 0, size: 5 } },
  { name: "nop,nop5", bytes: Uint8Array.of(0x90, ...NOP5), size: 6, patched: { offset: 1, size: 5 } },
  { name: "nop,nop10", bytes: Uint8Array.of(0x90, ...NOP10), size: 11, patched: { offset: 1, size: 10 } },
];

/** Bytes of the longest of them. */
export const LONGEST_FORM = 11;

/** The probe that the bytes begin with, of those that rewriting makes. */
export const formAt = (bytes: Uint8Array): PassedForm | undefined =>
  forms.find((form) => sameBytes(bytes.subarray(0, form.size), form.bytes));
