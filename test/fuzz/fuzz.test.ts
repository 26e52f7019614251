/**
 * Damaged programs, the same in every run: with each of them each command is done, or refuses it in a line of ours; what is
 * rewritten reverts to the mutant byte for byte, runs as before, and `verify` finds nothing in it. `npm run fuzz` tries others, many,
 * and from outside.
 */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import * as elf from "../../src/elf/constants.js";
import { parseElf, sectionNamed } from "../../src/elf/image.js";
import { SMOKE } from "../extent.js";
import { sample } from "../sample/sample.js";
import { damageable, mutantOf } from "./mutate.js";
import { Tally } from "./tally.js";
import { Trial } from "./trial.js";
import { Judge } from "./worker.js";
import { writeBases } from "./write-bases.js";

const DT_RELACOUNT = 0x6ffffff9n;
const COUNT = SMOKE ? 60 : 600;

let place: string;
beforeAll(() => {
  place = mkdtempSync(join(tmpdir(), "usdt-fuzz-"));
});
afterAll(() => rmSync(place, { recursive: true, force: true }));

describe("damaged programs", () => {
  // In parts: where the machine has other work as well each takes minutes.
  const PART = 50;
  const parts = Array.from({ length: Math.ceil(COUNT / PART) }, (_, i) => i * PART);
  const tally = new Tally();
  let judge: Judge;
  beforeAll(async () => {
    await writeBases(place);
    judge = await Judge.start(place, join(place, "work"), () => {});
  });

  it.each(parts)(`of ${COUNT}, from %d on`, async (from) => {
    const faults: string[] = [];
    for (let seed = from; seed < Math.min(from + PART, COUNT); seed++) {
      const { outcomes, fault } = await judge.judge(seed);
      tally.add(outcomes);
      if (fault !== null) faults.push(`${seed} ${judge.baseOf(seed).name}: ${fault}`);
    }
    expect(faults).toEqual([]);
  });

  it("were tried: many were rewritten, many refused, many run as before", ({ skip }) => {
    const { list = {}, rewrite = {}, "native run": runs = {} } = tally.counts;
    // A part alone was asked for.
    if ((list.done ?? 0) + (list.refused ?? 0) < COUNT) return skip("not all were tried");
    console.log(JSON.stringify(tally.counts));
    // Else nothing is tried: most damage is in what nobody has to read.
    expect(rewrite.done).toBeGreaterThan(COUNT / 3);
    expect(rewrite.refused).toBeGreaterThan(COUNT / 20);
    expect(runs.same).toBeGreaterThan(COUNT / 6);
  });
});

describe("what was written once and could not be reverted, or was called different", () => {
  const places: readonly (readonly [string, (bytes: Buffer) => Iterable<readonly [string, (copy: Buffer) => void]>])[] =
    [
      [
        "any word of the search table is zero, or another",
        function* (bytes) {
          const { sh_offset, sh_size } = sectionNamed(parseElf(bytes), ".eh_frame_hdr")!;
          for (let at: number = sh_offset; at + 4 <= sh_offset + sh_size; at += 4)
            for (const value of [0, 1, 0xffffffff, 0x80000000])
              yield [`0x${at.toString(16)} is ${value}`, (copy) => void copy.writeUInt32LE(value, at)];
        },
      ],
      [
        "p_offset of a note's segment, and of others",
        function* (bytes) {
          const { header, programHeaders } = parseElf(bytes);
          const types = [elf.PT_NOTE, elf.PT_INTERP, elf.PT_GNU_PROPERTY, elf.PT_DYNAMIC, elf.PT_GNU_EH_FRAME];
          for (const { index, p_type, p_offset } of programHeaders.filter((p) => types.includes(p.p_type)))
            for (const by of [-16, -1, 1, 8, 0x1000])
              yield [
                `header ${index} of type ${p_type}, by ${by}`,
                (copy) => void copy.writeBigUInt64LE(BigInt(p_offset + by), header.e_phoff + index * elf.PHDR_SIZE + 8),
              ];
        },
      ],
      [
        "how many relocations are relative ones",
        function* (bytes) {
          const { sh_offset, sh_size } = sectionNamed(parseElf(bytes), ".dynamic")!;
          for (let at: number = sh_offset; at < sh_offset + sh_size; at += 16)
            if (bytes.readBigUInt64LE(at) === DT_RELACOUNT)
              for (const value of [0n, 1n, 2n, 100n, 2n ** 32n, 2n ** 63n, 2n ** 64n - 1n])
                yield [`${value}`, (copy) => void copy.writeBigUInt64LE(value, at + 8)];
        },
      ],
      [
        "no zero length ends the frame records",
        function* (bytes) {
          const image = parseElf(bytes);
          const { index, sh_offset, sh_size } = sectionNamed(image, ".eh_frame")!;
          for (const value of [1, 4, 8, 0xffffffff])
            yield [`${value}`, (copy) => void copy.writeUInt32LE(value, sh_offset + sh_size - 4)];
          const size = image.header.e_shoff + index * elf.SHDR_SIZE + 32;
          for (const by of [4, 8])
            yield [`${by} shorter`, (copy) => void copy.writeBigUInt64LE(BigInt(sh_size - by), size)];
        },
      ],
    ];

  it.each(places)("%s", async (_what, changes) => {
    const original = readFileSync(await sample());
    const trial = new Trial(join(place, "places"), null);
    const tally = new Tally();
    for (const [name, change] of changes(original)) {
      const bytes = Buffer.from(original);
      change(bytes);
      const { outcomes, fault } = await trial.judge({ seed: 0, bytes, behaviour: null });
      tally.add(outcomes);
      expect([name, fault]).toEqual([name, null]);
    }
    const { done = 0, refused = 0 } = tally.counts.rewrite!;
    expect(done + refused).toBeGreaterThan(4);
  });
});

it("a mutant is the same in every run, and of one table", async () => {
  const file = damageable(readFileSync(await sample()));
  for (let seed = 0; seed < 300; seed++) {
    const [one, two] = [mutantOf(file, seed), mutantOf(file, seed)];
    expect(one.bytes.equals(two.bytes)).toBe(true);
    const table = file.tables.find((t) => t.name === one.table)!;
    if (one.bytes.length !== file.bytes.length) continue;
    for (let at = 0; at < file.bytes.length; at++)
      if (one.bytes[at] !== file.bytes[at]) expect(at >= table.offset && at < table.offset + table.size).toBe(true);
  }
});
