/**
 * What the instructions of a range do, in flat arrays: an index an instruction, no object each. effects.ts fills them.
 */
import type { DecodedCode } from "./decode.js";
import { NONE } from "./registers.js";

/** What becomes of the registers. `target`, `source` and `constant` stand in the arrays of that name. */
export const Kind = {
  /** The registers in `writes` get something made of those in `values`; no more is known. */
  Generic: 0,
  /** target = source + constant, all 64 bits. */
  Add: 1,
  /** rsp -= constant, the value goes to memory. */
  Push: 2,
  /** rsp += constant, then the registers in `writes` come from memory. */
  Pop: 3,
  /** rsp &= constant, a negative power of two. */
  Align: 4,
  /** rsp -= something that is not known here. */
  Allocate: 5,
  /** rsp = rbp + 8, rbp comes from memory. */
  Leave: 6,
  /** rsp -= 8, rbp = rsp, rsp -= constant. */
  Enter: 7,
  Call: 8,
} as const;

/** Bits of `traits`. */
export const Trait = {
  /** The values go to memory or to a register that is not followed. */
  Leaks: 1,
  /** The kernel runs: it may read any memory that it is given an address of. */
  Kernel: 2,
  /** Nothing comes after it: ud2, hlt. */
  Ends: 4,
  /** std: string instructions go downwards from here on. */
  Downwards: 8,
} as const;

/** Bits of an access's mode; none of them means that an address is made and not used (lea). */
export const Access = {
  Read: 1,
  /** All of its bytes are written, whatever happens. */
  Write: 2,
  /** The place may lie anywhere around: a bit offset, a vector of indices, an address of 32 bits. */
  Vague: 4,
} as const;

/** No instruction has more accesses than this: gathers with sixteen elements have the most. */
const MOST_ACCESSES = 20;

/** The size of an access that goes on upwards for an unknown length. */
export const UNBOUNDED = 0x7fffffff;

export interface Effects {
  readonly code: DecodedCode;
  readonly kind: Uint8Array;
  readonly target: Int8Array;
  readonly source: Int8Array;
  readonly constant: Int32Array;
  /** A bit for each register that is written: of kinds Generic and Pop. */
  readonly writes: Uint16Array;
  /** Of those: written only in part, or only perhaps. */
  readonly keeps: Uint16Array;
  /** The registers whose values go into what is written, be it memory. */
  readonly values: Uint16Array;
  readonly traits: Uint8Array;
  /**
   * Instruction i has the accesses [firstAccess[i], firstAccess[i + 1]). Registers are those before the instruction.
   */
  readonly firstAccess: Uint32Array;
  readonly base: Int8Array;
  readonly index: Int8Array;
  readonly displacement: Float64Array;
  readonly size: Int32Array;
  readonly mode: Uint8Array;
}

/** The arrays while they are filled: for the longest range so far, kept and used again. */
export class EffectList {
  private capacity = 0;
  kind = new Uint8Array(0);
  target = new Int8Array(0);
  source = new Int8Array(0);
  constant = new Int32Array(0);
  writes = new Uint16Array(0);
  keeps = new Uint16Array(0);
  values = new Uint16Array(0);
  traits = new Uint8Array(0);
  firstAccess = new Uint32Array(0);
  base = new Int8Array(0);
  index = new Int8Array(0);
  displacement = new Float64Array(0);
  size = new Int32Array(0);
  mode = new Uint8Array(0);
  /** How many accesses there are so far. */
  accesses = 0;

  /** Makes room for a range of `count` instructions; all of them do nothing so far. */
  start(count: number): void {
    this.accesses = 0;
    if (count <= this.capacity) {
      for (const array of [this.kind, this.constant, this.writes, this.keeps, this.values, this.traits])
        array.fill(0, 0, count);
      this.target.fill(NONE, 0, count);
      this.source.fill(NONE, 0, count);
      return;
    }
    this.capacity = Math.max(2048, 2 * count);
    const { capacity } = this;
    this.kind = new Uint8Array(capacity);
    this.target = new Int8Array(capacity).fill(NONE);
    this.source = new Int8Array(capacity).fill(NONE);
    this.constant = new Int32Array(capacity);
    this.writes = new Uint16Array(capacity);
    this.keeps = new Uint16Array(capacity);
    this.values = new Uint16Array(capacity);
    this.traits = new Uint8Array(capacity);
    this.firstAccess = new Uint32Array(capacity + 1);
    const most = capacity * MOST_ACCESSES;
    this.base = new Int8Array(most);
    this.index = new Int8Array(most);
    this.displacement = new Float64Array(most);
    this.size = new Int32Array(most);
    this.mode = new Uint8Array(most);
  }

  access(base: number, index: number, displacement: number, size: number, mode: number): void {
    const a = this.accesses++;
    this.base[a] = base;
    this.index[a] = index;
    this.displacement[a] = displacement;
    this.size[a] = size;
    this.mode[a] = mode;
  }

  add(i: number, target: number, source: number, constant: number): void {
    this.kind[i] = Kind.Add;
    this.target[i] = target;
    this.source[i] = source;
    this.constant[i] = constant;
  }

  /** What has been filled in for `code`, in arrays of its own. */
  finish(code: DecodedCode): Effects {
    const { count } = code;
    const { accesses } = this;
    this.firstAccess[count] = accesses;
    return {
      code,
      kind: this.kind.slice(0, count),
      target: this.target.slice(0, count),
      source: this.source.slice(0, count),
      constant: this.constant.slice(0, count),
      writes: this.writes.slice(0, count),
      keeps: this.keeps.slice(0, count),
      values: this.values.slice(0, count),
      traits: this.traits.slice(0, count),
      firstAccess: this.firstAccess.slice(0, count + 1),
      base: this.base.slice(0, accesses),
      index: this.index.slice(0, accesses),
      displacement: this.displacement.slice(0, accesses),
      size: this.size.slice(0, accesses),
      mode: this.mode.slice(0, accesses),
    };
  }
}
