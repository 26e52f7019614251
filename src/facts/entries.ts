/**
 * What leads into the code around the sites: a list of addresses with the reason why something may arrive there.
 *
 * An entry is either certain (a decoded branch, a relocation) or could not be ruled out (a word that looks like one, in
 * bytes that cannot be decoded). For a tactic both mean the same: this byte stays the start of an instruction.
 */

import { hex, type Vaddr, vaddr } from "../address.js";
import { lowerBound } from "../sorted.js";
import { type FrozenRange, FrozenRanges } from "./frozen.js";

/** A decoded direct jmp or jcc that leads to an entry. */
export interface Branch {
  /** Where the instruction begins, and where it ends. */
  readonly at: Vaddr;
  readonly end: Vaddr;
  /** It has a 32-bit distance, in its last 4 bytes, and so can be led elsewhere. */
  readonly wide: boolean;
}

export interface Entry {
  readonly address: Vaddr;
  /** For people: what leads there. */
  readonly reason: string;
  /** The branches that lead there, where nothing else does; else undefined. */
  readonly branches: readonly Branch[] | undefined;
  /** Where branches lead there, and something else does or may: what that is. */
  readonly besides: string | undefined;
  /** Something leads there; else it only could not be ruled out. */
  readonly isCertain: boolean;
  /** Something other than branches and jump tables knows the address. */
  readonly isNamed: boolean;
}

interface Found {
  reason: string;
  from: Vaddr | undefined;
  branches: Branch[] | undefined;
  besides: Reason | undefined;
  isCertain: boolean;
  isNamed: boolean;
}

interface Reason {
  readonly reason: string;
  readonly from: Vaddr | undefined;
}

const inWords = ({ reason, from }: Reason): string => (from === undefined ? reason : reason.replace("@", hex(from)));

/** Collects entries in any order and then answers questions about ranges. */
export class Entries {
  private readonly found = new Map<Vaddr, Found>();
  private readonly questions = new Map<Vaddr, (() => void)[]>();
  private readonly rows: QuestionRow[] = [];
  private readonly frozen = new FrozenRanges();
  /** All addresses in ascending order and as a set, from one question about a range to the next new address. */
  private sorted: Float64Array | undefined;
  private listed: ReadonlySet<number> = new Set();

  /**
   * @param reason what leads there; `@` in it stands for the address `from`. Most reasons are never read, so they are
   * put together when one is
   * @param branch the branch that leads there, where it is one
   * @param isNamed whether somebody knows the address by it
   */
  add(address: Vaddr, reason: string, from?: Vaddr, branch?: Branch, isNamed = branch === undefined): void {
    const known = this.found.get(address);
    if (known === undefined) {
      this.found.set(address, {
        reason,
        from,
        branches: branch && [branch],
        besides: undefined,
        isCertain: true,
        isNamed,
      });
      if (!this.listed.has(address)) this.sorted = undefined;
      return;
    }
    if (isNamed) known.isNamed = true;
    if (!known.isCertain) Object.assign(known, { reason, from, isCertain: true });
    if (branch === undefined) notOnlyBranches(known, { reason, from });
    else if (known.branches?.every((b) => b.at !== branch.at)) known.branches.push(branch);
  }

  /** As `add`, for what could not be ruled out: bytes that look as if they led there. */
  suspect(address: Vaddr, reason: string, from?: Vaddr): void {
    this.suspectTable(address, reason, from);
    this.found.get(address)!.isNamed = true;
  }

  /** As `suspect`, for the words of tables that are added to something before anybody jumps there. */
  suspectTable(address: Vaddr, reason: string, from?: Vaddr): void {
    const known = this.found.get(address);
    if (known !== undefined) notOnlyBranches(known, { reason, from });
    else {
      this.found.set(address, {
        reason,
        from,
        branches: undefined,
        besides: undefined,
        isCertain: false,
        isNamed: false,
      });
      if (!this.listed.has(address)) this.sorted = undefined;
    }
  }

  /**
   * Something may lead to this address; to find out costs decoding, so it is left until somebody asks about the
   * address.
   * @param settle adds the entry if it is one
   */
  addQuestion(address: Vaddr, settle: () => void): void {
    const open = this.questions.get(address);
    if (open !== undefined) open.push(settle);
    else {
      this.questions.set(address, [settle]);
      if (!this.listed.has(address)) this.sorted = undefined;
    }
  }

  /** As `addQuestion` for very many: `settle` is told which of the addresses it is about. */
  addQuestions(addresses: readonly number[], settle: (index: number) => void): void {
    if (addresses.length === 0) return;
    const first = new Map<number, number>();
    const next = new Int32Array(addresses.length);
    for (let i = addresses.length - 1; i >= 0; i--) {
      next[i] = first.get(addresses[i]!) ?? -1;
      first.set(addresses[i]!, i);
    }
    this.rows.push({ first, next, settle });
    this.sorted = undefined;
  }

  freeze(range: FrozenRange): void {
    this.frozen.add(range);
  }

  /** The entries with start <= address < end, in ascending order. */
  within(start: number, end: number): readonly Entry[] {
    for (const address of this.addressesWithin(start, end)) {
      for (const row of this.rows) settleRow(row, address);
      const open = this.questions.get(address);
      this.questions.delete(address);
      for (const settle of open ?? []) settle();
    }
    // A settled question may have added another address than the one it was asked about.
    return this.addressesWithin(start, end).flatMap((address) => {
      const found = this.found.get(address);
      if (found === undefined) return [];
      const { branches, besides, isCertain, isNamed } = found;
      return [{ address, reason: inWords(found), branches, besides: besides && inWords(besides), isCertain, isNamed }];
    });
  }

  /** The addresses with start <= address < end that something leads to, or may lead to. */
  addressesWithin(start: number, end: number): Vaddr[] {
    if (this.sorted === undefined) {
      const listed = new Set<number>(this.found.keys());
      for (const address of this.questions.keys()) listed.add(address);
      for (const { first } of this.rows) for (const address of first.keys()) listed.add(address);
      this.listed = listed;
      this.sorted = Float64Array.from(listed).sort();
    }
    const { sorted } = this;
    const low = lowerBound(sorted, start);
    let last = low;
    while (last < sorted.length && sorted[last]! < end) last++;
    return Array.from(sorted.subarray(low, last), vaddr);
  }

  /** Whether something may arrive at exactly this address. */
  has(address: Vaddr): boolean {
    return this.within(address, address + 1).length > 0;
  }

  /** The first frozen range that touches [start, end), in the order in which they were told. */
  frozenWithin(start: number, end: number): FrozenRange | undefined {
    return this.frozen.within(start, end);
  }
}

/**
 * Questions that are settled alike: by address the first one, and by each the next one about the same address, or -1.
 */
interface QuestionRow {
  readonly first: Map<number, number>;
  readonly next: Int32Array;
  readonly settle: (index: number) => void;
}

function settleRow({ first, next, settle }: QuestionRow, address: number): void {
  const open = first.get(address);
  if (open === undefined) return;
  first.delete(address);
  for (let index = open; index >= 0; index = next[index]!) settle(index);
}

function notOnlyBranches(found: Found, reason: Reason): void {
  if (found.branches !== undefined) found.besides = reason;
  found.branches = undefined;
}

/** How an entry reads in a reason for skipping a site. */
export const describeEntry = (entry: Entry): string => `${entry.reason} leads to ${hex(entry.address)}`;
