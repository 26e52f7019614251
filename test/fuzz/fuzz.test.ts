/**
 * Damaged programs, the same in every run: each is refused in words of ours, or is rewritten, reverts to itself byte for
 * byte, and `verify` finds nothing in it. A finding is the number of a mutant: `FUZZ=from,count npx vitest run test/fuzz`
 * tries others.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import * as elf from "../../src/elf/constants.js";
import { parseElf, sectionNamed } from "../../src/elf/image.js";
import { sample } from "../sample/sample.js";
import { plain } from "../verify/held.js";
import { mutantOf, tablesOf } from "./mutate.js";
import { type Outcome, tried } from "./trial.js";

const DT_RELACOUNT = 0x6ffffff9n;
const [from, count] = (process.env.FUZZ ?? (process.env.SMOKE === "1" ? "3000,20" : "3000,200")).split(",").map(Number);
const bases: readonly (readonly [string, readonly string[]])[] = [
  ["a program", []],
  ["a program with fixed addresses", ["-no-pie"]],
  ["a library", ["-shared", "-fPIC"]],
];

/**
 * What is known and not mended: both are records of frames that were damaged, of which a part is said anew for new code. The
 * file runs as before and reverts; `verify` calls it different.
 */
const known: ReadonlyMap<string, string> = new Map([
  ["a program 3001", "there is an unwind record, and that of the original cannot be read"],
  ["a program with fixed addresses 3065", "is in an unwind record, and 0x[0-9a-f]+ was in none"],
]);

/** How many there were of each outcome; faults with what they are. */
function counted(outcomes: Iterable<readonly [string, Outcome]>): { counts: Record<string, number>; faults: string[] } {
  const counts: Record<string, number> = {};
  const faults: string[] = [];
  for (const [name, outcome] of outcomes) {
    counts[outcome.kind] = (counts[outcome.kind] ?? 0) + 1;
    if (outcome.kind === "fault") faults.push(`${name}: ${outcome.what}`);
  }
  return { counts, faults };
}

describe("damaged programs", () => {
  it.each(bases)(`%s, ${count} times`, async (what, flags) => {
    const original = readFileSync(await sample(...flags));
    function* mutants(): Generator<readonly [string, Outcome]> {
      for (let seed = from!; seed < from! + count!; seed++) {
        const { bytes, table, changes } = mutantOf(original, seed);
        yield [`${what} ${seed} ${table} ${changes.join("; ")}`, tried(bytes, plain)];
      }
    }
    const { counts, faults } = counted(mutants());
    console.log(`${what}: ${JSON.stringify(counts)}`);
    const isKnown = (fault: string): boolean =>
      [...known].some(([name, words]) => fault.startsWith(`${name} `) && new RegExp(words).test(fault));
    expect(faults.filter((fault) => !isKnown(fault))).toEqual([]);
    // Else nothing is tried: most damage is in what nobody has to read.
    expect(counts.rewritten).toBeGreaterThan(count! / 4);
    expect(counts.refused).toBeGreaterThan(0);
    expect(counts.withheld ?? 0).toBeLessThanOrEqual(count! / 50);
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
    function* mutants(): Generator<readonly [string, Outcome]> {
      for (const [name, change] of changes(original)) {
        const copy = Buffer.from(original);
        change(copy);
        yield [name, tried(copy, plain)];
      }
    }
    const { counts, faults } = counted(mutants());
    expect(faults).toEqual([]);
    expect((counts.rewritten ?? 0) + (counts.refused ?? 0)).toBeGreaterThan(4);
  });
});

it("a mutant is the same in every run, and of one table", async () => {
  const original = readFileSync(await sample());
  for (let seed = 0; seed < 50; seed++) {
    const [one, two] = [mutantOf(original, seed), mutantOf(original, seed)];
    expect(one.bytes.equals(two.bytes)).toBe(true);
    const table = tablesOf(parseElf(original)).find((t) => t.name === one.table)!;
    for (let at = 0; at < original.length; at++)
      if (one.bytes[at] !== original[at]) expect(at >= table.offset && at < table.offset + table.size).toBe(true);
  }
});
