/**
 * What revert needs, found out at the end from the two files' bytes: whatever changed, and for whatever reason, is
 * among the differences. It is told where the output has stretches of the input, so that it is compared with the right
 * bytes.
 */
import type { Interval } from "../address.js";
import { addTo } from "../grouped.js";
import type { ByteSource, Undo } from "../rewritten/undo.js";

/** A stretch of the output that is, or is nearly, a stretch of the original. */
export interface Source {
  /** File offset in the output. */
  readonly from: number;
  /** File offset in the original. */
  readonly to: number;
  readonly size: number;
}

/** Whether the same number is added to so many words that to tell where they are costs less than their bytes. */
const FEW = 3;
/** Literals that are closer than this are one. */
const CLOSE = 3;
const CHUNK = 1 << 16;

/**
 * @param output its bytes as far as they are settled
 * @param sources what `output` has of the original; where several say something of a byte, a later one
 * @param unsettled bytes of the original that are told in any case: the output's are not known yet
 * @param trailing how many bytes at the end of both are the same
 */
export function undoFor(
  original: Buffer,
  output: ByteSource,
  sources: readonly Source[],
  unsettled: Interval,
  trailing: number,
): Undo {
  const end = original.length - trailing;
  const copies = disjoint(sources, end);
  const found = new Differences(original);
  let at = 0;
  for (const { from, to, size } of [...copies, { from: 0, to: end, size: 0 }]) {
    if (to > at) found.bytes(at, to);
    compare(original, output, { from, to, size }, found);
    at = to + size;
  }
  found.bytes(unsettled.start, unsettled.end);
  return { originalSize: original.length, trailing, copies, words: found.words(), literals: found.literals() };
}

/** For each byte in front of `end` the last source that has it; ascending. */
function disjoint(sources: readonly Source[], end: number): readonly Source[] {
  const begins = sources.map((source, priority) => ({ ...source, priority })).sort((a, b) => a.to - b.to);
  const borders = new Set(sources.flatMap(({ to, size }) => [Math.min(to, end), Math.min(to + size, end)]));
  const result: { from: number; to: number; size: number }[] = [];
  let active: (typeof begins)[number][] = [];
  let next = 0;
  let at = 0;
  for (const border of [...borders].sort((a, b) => a - b)) {
    if (active.length > 0) {
      const { from, to } = active.reduce((a, b) => (a.priority > b.priority ? a : b));
      const last = result.at(-1);
      const isMore = last !== undefined && last.to + last.size === at && last.from - last.to === from - to;
      if (isMore) last.size += border - at;
      else result.push({ from: from + at - to, to: at, size: border - at });
    }
    at = border;
    active = active.filter(({ to, size }) => to + size > at);
    for (; next < begins.length && begins[next]!.to <= at; next++)
      if (begins[next]!.to + begins[next]!.size > at) active.push(begins[next]!);
  }
  return result;
}

function compare(original: Buffer, output: ByteSource, { from, to, size }: Source, found: Differences): void {
  const scratch = Buffer.alloc(Math.min(size + 3, CHUNK));
  for (let done = 0; done < size; ) {
    // Chunks end at multiples of 4 in the original.
    const length = Math.min(size - done, CHUNK - ((to + done) % 4));
    const start = to + done;
    const other = scratch.subarray(0, length);
    other.fill(0);
    output.copy(other, 0, from + done, length);
    if (other.compare(original, start, start + length) !== 0) {
      let at = 0;
      for (const edge = Math.min(length, (4 - (start % 4)) % 4); at < edge; at++)
        if (other[at] !== original[start + at]) found.bytes(start + at, start + at + 1);
      for (; at + 4 <= length; at += 4) {
        const add = (original.readInt32LE(start + at) - other.readInt32LE(at)) | 0;
        if (add !== 0) found.word(start + at, add);
      }
      for (; at < length; at++) if (other[at] !== original[start + at]) found.bytes(start + at, start + at + 1);
    }
    done += length;
  }
}

class Differences {
  readonly #added = new Map<number, number[]>();
  readonly #stretches: Interval[] = [];

  constructor(private readonly original: Buffer) {}

  word(at: number, add: number): void {
    addTo(this.#added, add, at);
  }

  bytes(start: number, end: number): void {
    this.#stretches.push({ start, end });
  }

  words(): Undo["words"] {
    return [...this.#added].filter(([, places]) => places.length >= FEW).map(([add, places]) => ({ add, places }));
  }

  literals(): Undo["literals"] {
    const single = [...this.#added.values()].filter((places) => places.length < FEW).flat();
    const all = [...this.#stretches, ...single.map((at) => ({ start: at, end: at + 4 }))];
    const united: { start: number; end: number }[] = [];
    for (const { start, end } of all.sort((a, b) => a.start - b.start)) {
      const last = united.at(-1);
      if (last !== undefined && start <= last.end + CLOSE) last.end = Math.max(last.end, end);
      else united.push({ start, end });
    }
    return united.map(({ start, end }) => ({ to: start, bytes: this.original.subarray(start, end) }));
  }
}
