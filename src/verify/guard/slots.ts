/**
 * The table in which a guard keeps what threads had blocked before they forked: pairs of words after the file's
 * variables that no relocation fills, a key (the thread pointer, 0 where a slot is free) and a mask.
 */
import { runtimeAddress } from "../../address.js";
import type { Machine } from "./machine.js";
import { THREAD } from "./machine.js";

const WORD = 8;
const SLOT = 2 * WORD;

export interface Slot {
  readonly key: number;
  readonly mask: bigint;
}

const free: Slot = { key: 0, mask: 0n };
/** What other threads have left: some thread pointer, something that they had blocked. */
const another = (i: number): Slot => ({ key: THREAD + 0x1000 * (i + 1), mask: 0x5555_0000n + BigInt(i) });
const own = (i: number): Slot => ({ key: THREAD, mask: 0x0012_3456_789a_b001n * BigInt(i + 3) });

export class Slots {
  /** What a thread may find: each slot its own, alone and among others; others alone; all of them taken. */
  readonly scenes: readonly (readonly Slot[])[];

  /** @param start link-time address */
  constructor(
    private readonly machine: Machine,
    readonly start: number,
    readonly count: number,
  ) {
    const numbers = Array.from({ length: count }, (_, i) => i);
    const table = (of: (i: number) => Slot): readonly Slot[] => numbers.map(of);
    this.scenes = [
      table(() => free),
      ...numbers.map((at) => table((i) => (i === at ? own(i) : free))),
      ...numbers.map((at) => table((i) => (i === at ? own(i) : another(i)))),
      ...numbers.map((at) => table((i) => (i === at ? free : another(i)))),
      ...numbers.map((at) => table((i) => (i < at ? another(i) : free))),
      table(another),
    ];
  }

  put(slots: readonly Slot[]): void {
    const bytes = Buffer.alloc(SLOT * this.count);
    slots.forEach(({ key, mask }, i) => {
      bytes.writeBigUInt64LE(BigInt(key), SLOT * i);
      bytes.writeBigUInt64LE(mask, SLOT * i + WORD);
    });
    const { memory } = this.machine;
    const { onWrite } = memory;
    memory.onWrite = null;
    memory.poke(runtimeAddress(this.start + this.machine.bias), bytes);
    memory.onWrite = onWrite;
  }

  get(): readonly Slot[] {
    const bytes = Buffer.from(
      this.machine.memory.peek(runtimeAddress(this.start + this.machine.bias), SLOT * this.count),
    );
    return Array.from({ length: this.count }, (_, i) => ({
      key: Number(bytes.readBigUInt64LE(SLOT * i)),
      mask: bytes.readBigUInt64LE(SLOT * i + WORD),
    }));
  }

  readonly mayRead = (address: number, size: number): boolean =>
    size === WORD && address >= this.start && address < this.start + SLOT * this.count && address % WORD === 0;

  /** Keys, and masks as well where a slot is taken. */
  readonly mayWrite = this.mayRead;
}

export const isFree = ({ key }: Slot): boolean => key === 0;
export const isOwn = ({ key }: Slot): boolean => key === THREAD;
export const isSame = (a: Slot, b: Slot): boolean => a.key === b.key && a.mask === b.mask;
