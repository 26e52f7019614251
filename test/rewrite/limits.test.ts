/** Limits, at their edge: how many sections a file can have, before and after. */
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import { sample } from "../sample/sample.js";
import { plain } from "../verify/held.js";

const SHDR_SIZE = 64;
const MOST = 65_279;

/** The sample with as many section headers, all new ones empty, in a table at its end. */
function withSections(original: Buffer, count: number): Buffer {
  const [shoff, shnum] = [Number(original.readBigUInt64LE(40)), original.readUInt16LE(60)];
  const table = Buffer.alloc(count * SHDR_SIZE);
  original.copy(table, 0, shoff, shoff + shnum * SHDR_SIZE);
  const padding = Buffer.alloc((8 - (original.length % 8)) % 8);
  const bytes = Buffer.concat([original, padding, table]);
  bytes.writeBigUInt64LE(BigInt(original.length + padding.length), 40);
  bytes.writeUInt16LE(count, 60);
  return bytes;
}

it("a file can have 65,279 sections, and so can the output", async () => {
  const original = readFileSync(await sample());
  const written = (count: number): number => {
    const { content } = rewrite(parseElf(withSections(original, count)), plain);
    const head = content!.pieces[0]!.bytes;
    return Buffer.from(head.buffer, head.byteOffset, 64).readUInt16LE(60);
  };
  const added = written(1000) - 1000;
  expect(added).toBeGreaterThan(0);
  expect(written(MOST - added)).toBe(MOST);
  expect(() => written(MOST - added + 1)).toThrow("the output would have 65280 sections: more than 65,279");
  expect(parseElf(withSections(original, MOST)).sections.length).toBe(MOST);
  expect(() => parseElf(withSections(original, MOST + 1))).toThrow("more than 65,279, which is not supported");
});
