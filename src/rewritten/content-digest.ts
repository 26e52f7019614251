/**
 * A digest of a file that may have gigabytes of zeros, which cost nothing to keep as holes and four seconds each four
 * gigabytes to run through SHA-256.
 *
 * It is the SHA-256 of the file, but where the file has long stretches of zeros: there it is the SHA-256 of the digest of
 * everything else and of where these stretches are. Both follow from the content alone, whether it has holes on the disk
 * or not: a stretch is made of whole blocks, and is as long as it can be.
 */
import { createHash } from "node:crypto";
import type { Interval } from "../address.js";
import { outside } from "../intervals.js";

const BLOCK = 1 << 16;
/** A stretch of fewer zeros is like any other bytes: it takes some 15 ms. */
const LONG = 1 << 24;
const zeros = Buffer.alloc(BLOCK);
const NAME = "usdt-nop5 zeros";

export class ContentDigest {
  readonly #hash = createHash("sha256");
  readonly #long: Interval[] = [];
  /** How many zeros in whole blocks came last, and have not been hashed. */
  #run = 0;
  /** Where the block begins that is being filled, and how much of it is. */
  #start = 0;
  #filled = 0;
  readonly #block = Buffer.alloc(BLOCK);

  /** The next bytes of the file. */
  bytes(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      const left = bytes.length - at;
      if (this.#filled === 0 && left >= BLOCK) {
        this.#whole(bytes.subarray(at, at + BLOCK));
        at += BLOCK;
        continue;
      }
      const size = Math.min(left, BLOCK - this.#filled);
      this.#block.set(bytes.subarray(at, at + size), this.#filled);
      this.#advance(size);
      at += size;
    }
  }

  /** The next `count` bytes of the file, which are zeros. */
  zeros(count: number): void {
    let left = count;
    while (left > 0) {
      if (this.#filled === 0 && left >= BLOCK) {
        const size = left - (left % BLOCK);
        this.#run += size;
        this.#start += size;
        left -= size;
        continue;
      }
      const size = Math.min(left, BLOCK - this.#filled);
      this.#block.fill(0, this.#filled, this.#filled + size);
      this.#advance(size);
      left -= size;
    }
  }

  #advance(size: number): void {
    this.#filled += size;
    if (this.#filled < BLOCK) return;
    this.#filled = 0;
    this.#whole(this.#block);
  }

  #whole(block: Uint8Array): void {
    if (block[0] === 0 && zeros.equals(block)) this.#run += BLOCK;
    else {
      this.#endRun();
      this.#hash.update(block);
    }
    this.#start += BLOCK;
  }

  #endRun(): void {
    if (this.#run >= LONG) this.#long.push({ start: this.#start - this.#run, end: this.#start });
    else for (let left = this.#run; left > 0; left -= BLOCK) this.#hash.update(zeros);
    this.#run = 0;
  }

  /** The digest of what came: 32 bytes. Nothing may follow. */
  digest(): Buffer {
    this.#endRun();
    const rest = this.#hash.update(this.#block.subarray(0, this.#filled)).digest();
    if (this.#long.length === 0) return rest;
    const places = new BigUint64Array(this.#long.flatMap(({ start, end }) => [BigInt(start), BigInt(end)]));
    return createHash("sha256").update(rest).update(NAME).update(new Uint8Array(places.buffer)).digest();
  }
}

/**
 * The digest of a file that is in memory.
 * @param holes stretches of `bytes` that are zeros and need not be looked at, ascending
 * @param zeroTail how many zeros follow after `bytes`
 */
export function digestOf(bytes: Buffer, holes: readonly Interval[], zeroTail: number): Buffer {
  const digest = new ContentDigest();
  let at = 0;
  for (const { start, end } of outside(holes, { start: 0, end: bytes.length })) {
    digest.zeros(start - at);
    digest.bytes(bytes.subarray(start, end));
    at = end;
  }
  digest.zeros(bytes.length - at + zeroTail);
  return digest.digest();
}
