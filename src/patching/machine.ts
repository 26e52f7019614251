/**
 * What one CPU does with one instruction, asked for single states: the emulated CPU (src/emulate) as a function from a
 * snapshot to the snapshot after the next instruction.
 *
 * A snapshot is everything that belongs to one thread alone: its registers, and the bytes of its memory that are other
 * than they were in the beginning. Threads do not see each other's snapshots; what they share, the code at the probes
 * and a semaphore, is laid over the memory for one instruction at a time. Snapshots are numbered, and each instruction
 * is run once for each of them.
 */
import { PAGE_SIZE, runtimeAddress } from "../address.js";
import { Cpu } from "../emulate/cpu.js";
import { Fault, type Outcome } from "../emulate/fault.js";
import { Memory, Perm } from "../emulate/memory.js";
import { Gpr, IP, joinAddress, State, XMM } from "../emulate/state.js";
import { Numbering } from "../explore/numbering.js";

/** Words of the state that a snapshot keeps: everything up to the last xmm register. */
const KEPT_WORDS = XMM + 16 * 4;

export interface Snapshot {
  /** As in emulate/state.ts; the flags are those of a popf. */
  readonly words: Int32Array;
  /** Runtime address and byte, ascending: where the memory differs from what was loaded. */
  readonly memory: ReadonlyMap<number, number>;
}

/** Bytes at a runtime address. */
export interface Bytes {
  readonly address: number;
  readonly bytes: Uint8Array;
}

export interface Ran {
  readonly outcome: Outcome;
  /** The snapshot after the instruction; where it faulted, the one before it. */
  readonly snapshot: number;
}

export class Machine {
  private readonly memory = new Memory();
  private readonly cpu = new Cpu(this.memory);
  private readonly snapshots = new Numbering<Snapshot>(keyOf);
  private readonly ran = new Map<string, Ran>();
  /** Pages as they were loaded, by address / PAGE_SIZE; others were zeros. */
  private readonly loaded = new Map<number, Uint8Array>();
  private written: number[] = [];

  constructor() {
    this.memory.onWrite = (address, size) => {
      for (let i = 0; i < size; i++) this.written.push(address + i);
    };
  }

  /** Maps whole pages around some bytes of code or data and loads them. */
  load({ address, bytes }: Bytes, permissions: number): void {
    const pages: number[] = [];
    for (let page = address - (address % PAGE_SIZE); page < address + bytes.length; page += PAGE_SIZE) pages.push(page);
    for (const page of pages)
      if (this.memory.permissionsAt(runtimeAddress(page)) === undefined)
        this.memory.map(runtimeAddress(page), PAGE_SIZE, permissions);
    this.memory.poke(runtimeAddress(address), bytes);
    for (const page of pages) this.loaded.set(page / PAGE_SIZE, this.memory.peek(runtimeAddress(page), PAGE_SIZE));
  }

  /** Maps pages of zeros that can be read and written. */
  room(address: number, size: number): void {
    this.memory.map(runtimeAddress(address), size, Perm.RW);
  }

  /** Has somebody else map pages, some of them when they are touched. */
  mapMore(maps: (memory: Memory) => void): void {
    const { memory } = this;
    maps(memory);
    const bringIn = memory.onMiss;
    memory.onMiss = (page, access) => {
      if (bringIn?.(page, access) !== true) return false;
      this.loaded.set(page / PAGE_SIZE, memory.peek(page, PAGE_SIZE));
      return true;
    };
    for (const page of memory.mappedPages()) this.loaded.set(page / PAGE_SIZE, memory.peek(page, PAGE_SIZE));
  }

  /** The words of a CPU that has just begun. */
  blankWords(): Int32Array {
    return new State().w.slice(0, KEPT_WORDS);
  }

  /** The snapshot at another rip. */
  at(snapshot: Snapshot, ip: number): Snapshot {
    return withRegisters(snapshot, new Map(), ip);
  }

  numberOf(snapshot: Snapshot): number {
    return this.snapshots.numberOf(snapshot);
  }

  valueOf(number: number): Snapshot {
    return this.snapshots.valueOf(number);
  }

  /** How many different snapshots there have been. */
  get size(): number {
    return this.snapshots.size;
  }

  /** A byte of a snapshot's memory, or undefined where nothing is mapped. */
  byteAt(snapshot: Snapshot, address: number): number | undefined {
    const own = snapshot.memory.get(address);
    if (own !== undefined) return own;
    try {
      return this.peekByte(address);
    } catch (error) {
      if (error instanceof Fault) return undefined;
      throw error;
    }
  }

  /** Up to 15 bytes of code as they were loaded. */
  codeAt(address: number): Uint8Array {
    return this.memory.fetch(runtimeAddress(address), 15);
  }

  /** Runs one instruction, with some shared bytes laid over the memory. */
  run(number: number, shared: readonly Bytes[] = []): Ran {
    const key = `${number}${shared.map((s) => ` ${s.address}:${s.bytes.join(".")}`).join("")}`;
    let ran = this.ran.get(key);
    if (ran === undefined) {
      ran = this.runOnce(number, shared);
      this.ran.set(key, ran);
    }
    return ran;
  }

  private runOnce(number: number, shared: readonly Bytes[]): Ran {
    const { cpu, memory } = this;
    const snapshot = this.valueOf(number);
    const covered = shared.map(({ address, bytes }) => memory.peek(runtimeAddress(address), bytes.length));
    for (const [address, byte] of snapshot.memory) this.pokeByte(address, byte);
    for (const { address, bytes } of shared) memory.poke(runtimeAddress(address), bytes);
    cpu.w.fill(0, KEPT_WORDS);
    cpu.w.set(snapshot.words);
    this.written = [];
    const outcome = cpu.step();
    const written = this.written;
    let after = number;
    if (outcome.kind !== "fault" && outcome.kind !== "unimplemented") {
      const bytes = new Map(snapshot.memory);
      for (const address of written) this.record(bytes, address, this.peekByte(address));
      // The words after the flags depend on how they were computed: make them those of a popf.
      const { rflags } = cpu;
      cpu.rflags = rflags;
      after = this.numberOf({ words: cpu.w.slice(0, KEPT_WORDS), memory: written.length > 0 ? sorted(bytes) : bytes });
    }
    for (const [i, { address }] of shared.entries()) memory.poke(runtimeAddress(address), covered[i]!);
    for (const address of [...snapshot.memory.keys(), ...written]) this.pokeByte(address, this.loadedByte(address));
    return { outcome, snapshot: after };
  }

  /** The snapshot with other bytes in its memory. */
  write(snapshot: Snapshot, { address, bytes }: Bytes): Snapshot {
    const memory = new Map(snapshot.memory);
    for (const [i, byte] of bytes.entries()) this.record(memory, address + i, byte);
    return { words: snapshot.words, memory: sorted(memory) };
  }

  private peekByte(address: number): number {
    return this.memory.peek(runtimeAddress(address), 1)[0]!;
  }

  private pokeByte(address: number, byte: number): void {
    this.memory.poke(runtimeAddress(address), Uint8Array.of(byte));
  }

  private record(memory: Map<number, number>, address: number, byte: number): void {
    if (byte === this.loadedByte(address)) memory.delete(address);
    else memory.set(address, byte);
  }

  private loadedByte(address: number): number {
    this.peekByte(address); // brings the page in
    return this.loaded.get(Math.floor(address / PAGE_SIZE))?.[address % PAGE_SIZE] ?? 0;
  }
}

const sorted = (bytes: ReadonlyMap<number, number>): Map<number, number> =>
  new Map([...bytes].sort(([a], [b]) => a - b));

function keyOf({ words, memory }: Snapshot): string {
  let key = words.join();
  for (const [address, byte] of memory) key += ` ${address}:${byte}`;
  return key;
}

/** rip of a snapshot. */
export const ipOf = ({ words }: Snapshot): number => joinAddress(words[IP]!, words[IP + 1]!);

/** rsp of a snapshot. */
export const spOf = ({ words }: Snapshot): number => joinAddress(words[2 * Gpr.RSP]!, words[2 * Gpr.RSP + 1]!);

/** A general-purpose register of a snapshot as a number; exact below 2^53. */
export const gprOf = ({ words }: Snapshot, index: number): number =>
  joinAddress(words[2 * index]!, words[2 * index + 1]!);

/** The snapshot with other registers (by their number) or another rip. */
export function withRegisters(snapshot: Snapshot, values: ReadonlyMap<number, number>, ip?: number): Snapshot {
  const words = snapshot.words.slice();
  for (const [index, value] of values) setWords(words, 2 * index, value);
  if (ip !== undefined) setWords(words, IP, ip);
  return { words, memory: snapshot.memory };
}

function setWords(words: Int32Array, at: number, value: number): void {
  words[at] = value | 0;
  words[at + 1] = Math.floor(value / 0x1_0000_0000) | 0;
}

/** The snapshot without the bytes below an address, where nobody's data can be: see properties.ts. */
export function withoutBelow(snapshot: Snapshot, from: number, to: number): Snapshot {
  let memory: Map<number, number> | undefined;
  for (const address of snapshot.memory.keys())
    if (address >= from && address < to) {
      memory ??= new Map(snapshot.memory);
      memory.delete(address);
    }
  return memory === undefined ? snapshot : { words: snapshot.words, memory };
}
