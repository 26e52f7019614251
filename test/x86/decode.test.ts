/** The common instructions, which are decoded from their bytes here, are what iced-x86 says they are. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { hex, vaddr } from "../../src/address.js";
import { parseElf } from "../../src/elf/image.js";
import { FunctionIndex } from "../../src/facts/functions.js";
import { commonInstruction } from "../../src/x86/common-instructions.js";
import { addressOf, type DecodedCode, decode, lengthOf } from "../../src/x86/decode.js";
import { disassemble } from "../../src/x86/relocate.js";
import { corpus, corpusPath, FETCH_TIMEOUT, fetchPackages } from "../packages/corpus.js";

function textAt(code: DecodedCode, i: number): string {
  const from = code.offsets[i]!;
  const bytes = code.bytes.subarray(from, from + 15);
  return `${hex(addressOf(code, i))} ${Buffer.from(bytes).toString("hex")} ${disassemble(bytes, addressOf(code, i))}`;
}

/** Fails with the first instruction that differs. */
function expectSame(fast: DecodedCode, slow: DecodedCode): void {
  for (let i = 0; i < Math.min(fast.count, slow.count); i++) {
    const [ours, theirs] = [fast, slow].map((c) => [c.offsets[i], lengthOf(c, i), c.flow[i], c.targets[i]]);
    if (ours!.every((value, k) => Object.is(value, theirs![k]))) continue;
    expect(ours, textAt(slow, i)).toEqual(theirs);
  }
  expect({ count: fast.count, unclean: fast.unclean }).toEqual({ count: slow.count, unclean: slow.unclean });
}

describe("common instructions", () => {
  it.each(Object.values(corpus))("$path", { timeout: FETCH_TIMEOUT }, (file) => {
    fetchPackages();
    const functions = FunctionIndex.of(parseElf(readFileSync(corpusPath(file))));
    let common = 0;
    let all = 0;
    for (let f = 0; f < functions.count; f += 10) {
      const range = functions.range(f);
      const bytes = functions.bytes(range);
      const slow = decode(bytes, range.start, false);
      expectSame(decode(bytes, range.start), slow);
      for (let i = 0; i < slow.count; i++) if (commonInstruction(bytes, slow.offsets[i]!) !== 0) common++;
      all += slow.count;
    }
    expect(all).toBeGreaterThan(10_000);
    expect(common / all, "how many are common").toBeGreaterThan(0.9);
  });

  it("random bytes, each with every prefix and opcode in front", { timeout: 300_000 }, () => {
    let seed = 20261122;
    const random = (): number => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return seed >>> 24;
    };
    const prefixes = [
      [],
      [0x48],
      [0x41],
      [0x4f],
      [0x66],
      [0xf2],
      [0xf3],
      [0x66, 0x48],
      [0xf3, 0x44],
      [0xf0],
      [0x40, 0x48],
    ];
    for (const prefix of prefixes)
      for (const map of [[], [0x0f]])
        for (let opcode = 0; opcode < 256; opcode++)
          for (let round = 0; round < 24; round++) {
            // Every length down to nothing behind the opcode: what is cut short is no instruction.
            const rest = Array.from({ length: round < 8 ? round : 14 }, random);
            const bytes = Uint8Array.from([...prefix, ...map, opcode, ...rest]);
            const start = vaddr(round % 2 === 0 ? 0x401000 : 0);
            expectSame(decode(bytes, start), decode(bytes, start, false));
          }
  });
});

describe("instructions of Intel APX", () => {
  it.each([
    ["REX2", [0xd5, 0x10, 0x89, 0xc0]],
    ["REX2 behind a prefix", [0x66, 0xd5, 0x10, 0x89, 0xc0]],
    ["EVEX with map 4", [0x62, 0xf4, 0x7c, 0x18, 0x01, 0xc3]],
  ])("%s: the function is left alone, and the reason says why", (_, bytes) => {
    expect(decode(Uint8Array.from(bytes), vaddr(0x1000)).unclean).toMatch(/Intel APX/);
  });

  it("other bytes that are no instruction are not taken for them", () => {
    expect(decode(Uint8Array.from([0x06, 0xd5]), vaddr(0x1000)).unclean).toBe("bytes that are no instruction");
  });
});
