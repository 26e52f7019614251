/** Numbers of any length, seven bits a byte, lowest first; and a reader of these that bounds what it is asked for. */
import type { InputError } from "../errors.js";

export function varints(values: readonly number[]): Uint8Array {
  const out: number[] = [];
  for (const value of values) {
    let rest = value;
    while (rest >= 128) {
      out.push((rest % 128) | 128);
      rest = Math.floor(rest / 128);
    }
    out.push(rest);
  }
  return Uint8Array.from(out);
}

export class Cursor {
  /** @param damaged the error for whatever is not as it was written */
  constructor(
    private readonly all: Uint8Array,
    public at: number,
    readonly damaged: () => InputError,
  ) {}

  /** At most 2^56. */
  number(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.all[this.at++];
      if (byte === undefined || scale > 2 ** 49) throw this.damaged();
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  }

  bytes(size: number): Uint8Array {
    if (size > this.all.length - this.at) throw this.damaged();
    this.at += size;
    return this.all.subarray(this.at - size, this.at);
  }

  /** A count and so many items, of at least a byte each. */
  list<T>(item: () => T): T[] {
    const length = this.number();
    if (length > this.all.length - this.at) throw this.damaged();
    return Array.from({ length }, item);
  }
}
