/**
 * Which functions have to be followed for the sake of all others: those that make addresses of code and may compute
 * with them, and those that may jump to a computed place. Most do neither, and are seen not to at a glance.
 */

import { type Vaddr, vaddr } from "../address.js";
import { addTo } from "../grouped.js";
import { Flow } from "../x86/decode.js";
import { distantEnd, mayCallInside, mayLeave, waysOut } from "./byte-hints.js";
import type { CodeRange, FunctionIndex } from "./functions.js";
import { handsOnAll } from "./values/carried.js";
import type { ElfMemory } from "./values/memory.js";
import type { NameIndex } from "./values/names.js";
import { hasPlainTransfers, leavesFor, type Tables } from "./values/quick.js";
import type { ReturnReaders } from "./values/return-readers.js";

/** What has to be known of the program. All addresses are link-time addresses. */
export interface Around {
  readonly memory: ElfMemory;
  readonly names: NameIndex;
  readonly functions: FunctionIndex;
  readonly readers: ReturnReaders;
  partsOf(range: CodeRange): readonly CodeRange[] | string;
  /** Whether an instruction makes an address, and it does not only look so. */
  isMade(name: { readonly at: number; readonly target: number }): boolean;
  isNamedInside(part: CodeRange): boolean;
  /** Whether a link-time address is in a function and not its start. */
  isInside(address: number): boolean;
  clobbered(target: Vaddr): number;
  landingPads(range: CodeRange, call: Vaddr): readonly Vaddr[];
  thunkRegister(target: Vaddr): number;
}

export class Followed {
  /** Which ranges may leave for a computed place, by their index, as far as that was asked. */
  private readonly leaves: boolean[] = [];

  constructor(private readonly context: Around) {}

  /** The ranges that make addresses of code and may compute with them. */
  *makers(): Iterable<CodeRange> {
    const made = new Map<number, number[]>();
    const makesInside = new Set<number>();
    for (const name of this.context.names.allMade()) {
      const { at } = name;
      const range = this.context.functions.containing(at);
      if (range === undefined || !this.context.isMade(name)) continue;
      addTo(made, range.index, at);
      if (this.context.isInside(name.target)) makesInside.add(range.index);
    }
    const readers = new Set<number>(
      [...this.context.readers.all()].map(({ start }) => start).filter((start) => this.context.names.isCalled(start)),
    );
    for (let i = 0; i < this.context.functions.count; i++) {
      const range = this.context.functions.range(i);
      if (readers.size > 0 && this.calls(range, readers)) {
        yield range;
        continue;
      }
      const own = made.get(i);
      const isHandedOn = own === undefined || this.handsOn(range, own);
      // Code that finds out where it is, or goes by the global offset table, as large models do.
      const isOdd =
        this.context.names.usesOffsetTable(range.start, range.end) ||
        this.context.names.makesStray(range.start, range.end);
      // A label that it keeps elsewhere may come back, and a table's word be added to it.
      if (!isHandedOn || isOdd || makesInside.has(i) || this.callsInside(range)) yield range;
    }
  }

  private calls(range: CodeRange, callees: ReadonlySet<number>): boolean {
    const bytes = this.context.functions.bytes(range);
    for (let p = 0; p + 5 <= bytes.length; p++)
      if (bytes[p] === 0xe8 && callees.has(range.start + distantEnd(bytes, p))) return true;
    return false;
  }

  private callsInside(range: CodeRange): boolean {
    if (!mayCallInside(this.context.functions.bytes(range))) return false;
    const { start, end, count, flow, targets, unclean } = this.context.functions.code(range);
    if (unclean !== undefined) return true;
    for (let i = 0; i < count; i++) if (flow[i]! & Flow.Call && targets[i]! > start && targets[i]! < end) return true;
    return false;
  }

  private tablesOf(range: CodeRange): Tables {
    return {
      isReadOnly: (address) => this.context.memory.isReadOnly(address),
      landingPads: (call) => this.context.landingPads(range, call),
      thunkRegister: this.context.thunkRegister,
      isNamedInside: this.context.isNamedInside(range),
    };
  }

  private handsOn(range: CodeRange, made: readonly number[]): boolean {
    const code = this.context.functions.code(range);
    let tables: Tables | undefined;
    let parts: readonly CodeRange[] | string | undefined;
    return handsOnAll(code, made, {
      fixed: this.context.memory.fixed,
      clobbered: this.context.clobbered,
      landingPads: (call) => this.context.landingPads(range, call),
      isTailCall: (target) => {
        const other = this.context.functions.containing(target);
        if (other === undefined) return false;
        parts ??= this.context.partsOf(range);
        return typeof parts !== "string" && !parts.some((part) => part.index === other.index);
      },
      leaves: (index) => {
        tables ??= this.tablesOf(range);
        return leavesFor(code, index, tables);
      },
    });
  }

  /**
   * Those that may jump to a computed place and load an address of code from memory, where the loader or the file put
   * it.
   */
  loaders(): Iterable<CodeRange> {
    return this.leaving((range, bytes) => this.loadsPointer(range, bytes));
  }

  /**
   * Whether bytes look like an operand in memory where a pointer to code is: relative to rip, or in fixed programs as
   * it stands.
   */
  private loadsPointer({ start }: CodeRange, bytes: Uint8Array): boolean {
    const { memory } = this.context;
    const isPointer = (place: number): boolean => {
      const value = memory.isImage(place) ? memory.pointerAt(place) : undefined;
      return value !== undefined && (memory.fixed ? value.plain : value.image).some((n) => memory.isCode(n));
    };
    for (let p = 1; p + 4 <= bytes.length; p++) {
      if (memory.fixed && isPointer(distantEnd(bytes, p - 1) - p - 4)) return true;
      if ((bytes[p - 1]! & 0xc7) !== 0x05) continue;
      // After the distance an operand of up to four bytes may follow.
      const end = start + distantEnd(bytes, p - 1);
      if (isPointer(end) || isPointer(end + 1) || isPointer(end + 2) || isPointer(end + 4)) return true;
    }
    return false;
  }

  /** The ranges that may jump to a computed place. */
  leavers(): Iterable<CodeRange> {
    return this.leaving(() => true);
  }

  private mayUseThunk({ start }: CodeRange, bytes: Uint8Array): boolean {
    for (const to of waysOut(bytes)) if (this.context.thunkRegister(vaddr(start + to)) >= 0) return true;
    return false;
  }

  private *leaving(isAsked: (range: CodeRange, bytes: Uint8Array) => boolean): Iterable<CodeRange> {
    for (let i = 0; i < this.context.functions.count; i++) {
      const range = this.context.functions.range(i);
      const bytes = this.context.functions.bytes(range);
      this.leaves[i] ??= mayLeave(bytes) || this.mayUseThunk(range, bytes);
      if (!this.leaves[i] || !isAsked(range, bytes)) continue;
      if (!hasPlainTransfers(this.context.functions.code(range), this.tablesOf(range))) yield range;
    }
  }
}
