/**
 * What a proof is about: both sides' code, where the notes of each say that probes are, and what changed.
 */

import type { Interval, Vaddr } from "../address.js";
import { touches } from "../intervals.js";
import { lowerBound } from "../sorted.js";
import { Flow } from "../x86/decode.js";
import type { CodeReader, Instruction } from "./code-reader.js";
import type { FlagReaders } from "./flags-dead.js";
import type { Window } from "./window.js";
import type { OriginalLayout } from "./windows.js";

export interface Side {
  readonly code: CodeReader;
  /** The indices of the notes whose probe is at an address of this side; both sides count the notes of the original. */
  readonly notesAt: ReadonlyMap<Vaddr, readonly number[]>;
}

/** What universal probes have of the rewritten file. */
export interface UniversalPlaces {
  /** The byte that they ask; undefined where there is none. */
  readonly selector: Vaddr | undefined;
  /** The first places of probes that have two, and the second ones. */
  readonly firsts: ReadonlySet<Vaddr>;
  readonly twins: ReadonlySet<Vaddr>;
}

/** Through so many jumps in padding a branch may lead to new code. */
const MOST_JUMPS = 3;

export class Subject {
  private sites: readonly Vaddr[] | undefined;
  readonly selector: UniversalPlaces["selector"];
  readonly firsts: UniversalPlaces["firsts"];
  readonly twins: UniversalPlaces["twins"];

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
    { selector, firsts, twins }: UniversalPlaces,
    /** Who may need flags of the original. */
    readonly flags: FlagReaders,
  ) {
    this.selector = selector;
    this.firsts = firsts;
    this.twins = twins;
  }

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
   * Whether a call may return: what stands after one at the end of a function is padding, or another function, and the
   * call of one that never returns.
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

  /**
   * Whether a branch of the rewritten side leads to new code: at once, or where it changed through jumps in padding.
   */
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
