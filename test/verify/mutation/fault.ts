/**
 * A fault: what is changed, and what that means. Planting copies the bytes of a rewritten file and puts others there; the
 * plan knows nothing of what verification finds.
 */
import { Faulty } from "../planting.js";
import type { Subject } from "./spots.js";

export interface Patch {
  /** File offset. */
  readonly offset: number;
  readonly bytes: Uint8Array;
}

export interface Fault {
  readonly subject: Subject;
  readonly kind: string;
  /** The tactic of the probe it is planted at, or "file". */
  readonly tactic: string;
  /** The number of the note whose probe it is planted at, or undefined where it is about the rest of the file. */
  readonly note: number | undefined;
  /** What was changed, for a person to read. */
  readonly what: string;
  readonly patches: readonly Patch[];
}

/** The file with the fault. */
export function plant({ subject, what, patches }: Fault): Buffer {
  const { bytes } = new Faulty(subject.rewritten);
  for (const patch of patches) bytes.set(patch.bytes, patch.offset);
  if (bytes.equals(subject.rewritten.bytes)) throw new Error(`nothing was planted: ${what}`);
  return bytes;
}

/** Little-endian. */
export function number(value: number, size: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64LE(BigInt(value));
  return bytes.subarray(0, size);
}

/** Numbers from a seed, the same everywhere (mulberry32). */
export class Random {
  constructor(private state: number) {}

  below(limit: number): number {
    this.state = (this.state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), 1 | this.state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * limit);
  }

  shuffled<T>(list: readonly T[]): T[] {
    const result = [...list];
    for (let i = result.length - 1; i > 0; i--) {
      const j = this.below(i + 1);
      [result[i], result[j]] = [result[j]!, result[i]!];
    }
    return result;
  }
}

/**
 * Some of many faults: each kind in its turn gives one, at the tactic and in the layout that had the fewest so far, until there
 * are enough.
 */
export function chosen(faults: readonly Fault[], count: number, seed: number): readonly Fault[] {
  const random = new Random(seed);
  const kinds = new Map<string, Fault[]>();
  for (const fault of random.shuffled(faults)) {
    const kind = kinds.get(fault.kind);
    if (kind === undefined) kinds.set(fault.kind, [fault]);
    else kind.push(fault);
  }
  const used = new Map<string, number>();
  const usesOf = (f: Fault): number => used.get(placeOf(f)) ?? 0;
  const result: Fault[] = [];
  while (result.length < Math.min(count, faults.length))
    for (const kind of kinds.values()) {
      if (kind.length === 0 || result.length >= count) continue;
      const next = kind.reduce((best, f) => (usesOf(f) < usesOf(best) ? f : best));
      kind.splice(kind.indexOf(next), 1);
      used.set(placeOf(next), usesOf(next) + 1);
      result.push(next);
    }
  return result;
}

const placeOf = ({ tactic, subject: { name, layout } }: Fault): string => `${name} ${tactic} ${layout}`;
