/**
 * All states that a search has met, in the order in which it met them, in typed arrays: a state is `width` words, and a
 * hash table of indices finds it again. What a search keeps about a state besides (its parent) has the same index.
 */
const FIRST_CAPACITY = 1 << 12;

export class States {
  private words: Int32Array;
  private capacity = FIRST_CAPACITY;
  private table = new Int32Array(FIRST_CAPACITY * 4).fill(-1);
  count = 0;

  constructor(readonly width: number) {
    this.words = new Int32Array(FIRST_CAPACITY * width);
  }

  /** The state's index. A new one is `count - 1` as it was counted just now: compare `count` before and after. */
  add(state: Int32Array): number {
    const { width } = this;
    const mask = this.table.length - 1;
    let slot = hash(state, width) & mask;
    for (;;) {
      const index = this.table[slot]!;
      if (index < 0) break;
      if (this.isAt(index, state)) return index;
      slot = (slot + 1) & mask;
    }
    if (this.count === this.capacity) {
      this.grow();
      return this.add(state);
    }
    this.table[slot] = this.count;
    this.words.set(state, this.count * width);
    return this.count++;
  }

  read(index: number, into: Int32Array): void {
    const from = index * this.width;
    for (let i = 0; i < this.width; i++) into[i] = this.words[from + i]!;
  }

  /** Bytes that are held. */
  get bytes(): number {
    return this.words.byteLength + this.table.byteLength;
  }

  private isAt(index: number, state: Int32Array): boolean {
    const from = index * this.width;
    for (let i = 0; i < this.width; i++) if (this.words[from + i] !== state[i]) return false;
    return true;
  }

  private grow(): void {
    this.capacity *= 2;
    const words = new Int32Array(this.capacity * this.width);
    words.set(this.words);
    this.words = words;
    this.table = new Int32Array(this.capacity * 4).fill(-1);
    const mask = this.table.length - 1;
    for (let index = 0; index < this.count; index++) {
      let slot = hash(words.subarray(index * this.width, (index + 1) * this.width), this.width) & mask;
      while (this.table[slot]! >= 0) slot = (slot + 1) & mask;
      this.table[slot] = index;
    }
  }
}

/** Multiply and mix, word by word (the finalizer of Murmur3). */
function hash(state: Int32Array, width: number): number {
  let h = 0x9e3779b9 | 0;
  for (let i = 0; i < width; i++) {
    h = Math.imul(h ^ state[i]!, 0x85ebca6b);
    h ^= h >>> 13;
  }
  h = Math.imul(h, 0xc2b2ae35);
  return (h ^ (h >>> 16)) >>> 0;
}

/** Integers in a row that grows. */
export class Column {
  private values = new Int32Array(FIRST_CAPACITY);
  length = 0;

  push(value: number): void {
    if (this.length === this.values.length) {
      const values = new Int32Array(this.values.length * 2);
      values.set(this.values);
      this.values = values;
    }
    this.values[this.length++] = value;
  }

  at(index: number): number {
    return this.values[index]!;
  }

  get bytes(): number {
    return this.values.byteLength;
  }
}
