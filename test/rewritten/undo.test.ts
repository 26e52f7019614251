/** From an output back to its original: made of the two, encoded, read again, followed; and what a damaged one may not do. */
import { describe, expect, it } from "vitest";
import { InputError } from "../../src/errors.js";
import { type Source, undoFor } from "../../src/rewrite/undo.js";
import { decodeUndo, encodeUndo, fileSource, followAll, leadsTo, type Undo } from "../../src/rewritten/undo.js";
import { Cursor, varints } from "../../src/rewritten/varints.js";

const damaged = (): InputError => new InputError("damaged");
const read = (bytes: Uint8Array, most = 2 ** 20): Undo => decodeUndo(new Cursor(bytes, 0, damaged), most);
const nothing = { start: 0, end: 0 };

/** Numbers from 0 up to n, the same in every run. */
function numbers(seed: number): (n: number) => number {
  let x = seed;
  return (n) => {
    x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    return (x >>> 8) % n;
  };
}

/** An original of some pages, and an output in which stretches of it moved, words were changed alike, and bytes were edited. */
function changed(seed: number): { original: Buffer; output: Buffer; sources: Source[] } {
  const below = numbers(seed);
  const original = Buffer.from(Array.from({ length: 2000 + below(300_000) }, () => below(256)));
  const output = Buffer.concat([original, Buffer.alloc(below(5000), 0xee)]);
  const sources: Source[] = [{ from: 0, to: 0, size: original.length }];
  for (let n = below(5); n > 0; n--) {
    const to = below(original.length - 500);
    const size = below(500);
    const from = below(output.length - size);
    original.copy(output, from, to, to + size);
    sources.push({ from, to, size });
    const add = below(1 << 24);
    for (let at = from + ((4 - (to % 4)) % 4); at + 4 <= from + size; at += 4 * (1 + below(4)))
      output.writeInt32LE((output.readInt32LE(at) + add) | 0, at);
  }
  for (let n = below(50); n > 0; n--) output[below(output.length)] = below(256);
  return { original, output, sources };
}

describe("an undo", () => {
  it.each(Array.from({ length: 60 }, (_, seed) => seed))("leads from any output to its original: %i", (seed) => {
    const { original, output, sources } = changed(seed);
    const trailing = seed % 3 === 0 ? 100 : 0;
    const end = Buffer.concat([output, Buffer.from("headers"), original.subarray(original.length - trailing)]);
    const made = undoFor(original, fileSource(output), sources, { start: 32, end: 64 }, trailing);
    const undo = read(encodeUndo(made));
    expect(followAll(fileSource(end), undo).equals(original)).toBe(true);
    expect(leadsTo(fileSource(end), undo, original)).toBe(true);
    const other = Buffer.from(original);
    other[(seed * 7919) % original.length]! ^= 1;
    expect(leadsTo(fileSource(end), undo, other)).toBe(false);
    // Whatever happened to bytes that were not settled.
    end.fill(0xaa, 32, 64);
    if (sources.slice(1).every(({ from }) => from >= 64)) expect(leadsTo(fileSource(end), undo, original)).toBe(true);
  });

  it("is short where words of a table changed by one number", () => {
    const original = Buffer.alloc(80_000);
    const output = Buffer.alloc(80_000);
    for (let at = 0; at < original.length; at += 8) output.writeInt32LE(-123456, at);
    const undo = undoFor(original, fileSource(output), [{ from: 0, to: 0, size: 80_000 }], nothing, 0);
    expect(encodeUndo(undo).length).toBeLessThan(40);
    expect(followAll(fileSource(output), read(encodeUndo(undo))).equals(original)).toBe(true);
  });
});

describe("what is damaged", () => {
  const { original, output, sources } = changed(5);
  const good = encodeUndo(undoFor(original, fileSource(output), sources, nothing, 0));

  it("is refused or leads elsewhere, and neither reads nor writes outside: any byte of it changed", () => {
    for (let at = 0; at < good.length; at += Math.max(1, Math.floor(good.length / 400)))
      for (const bit of [1, 0x40, 0x80]) {
        const bytes = Buffer.from(good);
        bytes[at]! ^= bit;
        try {
          const undo = read(bytes);
          expect(undo.originalSize).toBeLessThan(2 ** 50);
          followAll(fileSource(output), undo);
        } catch (error) {
          expect(error).toBeInstanceOf(InputError);
        }
      }
  });

  it("is refused where it ends early", () => {
    for (const size of [0, 1, 2, 5, good.length - 1]) expect(() => read(good.subarray(0, size))).toThrow("damaged");
  });

  it.each<[string, readonly number[], RegExp]>([
    ["a size beyond all bytes that are there", [2 ** 40, 0, 0, 0, 0], /damaged/],
    ["a size of which most would be zeros", [2 ** 19, 0, 0, 0, 0], /does not lead/],
    ["more bytes at the end than there are", [100, 101, 0, 0, 0], /damaged/],
    ["a stretch behind the original's end", [100, 0, 1, 90, 20, 0, 0, 0], /damaged/],
    ["a stretch in front of the output", [100, 0, 1, 0, 20, 1, 0, 0], /damaged/],
    ["a stretch behind the output's end", [100, 0, 1, 0, 20, 2 * 90, 0, 0], /does not lead/],
    ["a word behind the original's end", [100, 0, 0, 1, 2, 1, 2 * 25, 0], /damaged/],
    ["a word that changes without end", [100, 0, 0, 1, 2, 2, 1, 2 ** 30, 0], /damaged/],
    ["more words than there are bytes", [100, 0, 0, 1, 2, 2, 3, 2 ** 40, 0], /damaged/],
    ["a longer list than there is", [100, 0, 2 ** 45], /damaged/],
  ])("asks for %s", (_what, list, message) => {
    const undo = (): Buffer => followAll(fileSource(Buffer.alloc(100)), read(varints(list)));
    expect(undo).toThrow(message);
    expect(undo).toThrow(InputError);
  });
});
