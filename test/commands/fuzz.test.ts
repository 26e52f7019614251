/**
 * Damaged files, made by chance but the same ones in every run: a few bytes of the headers, the notes or the symbols are
 * changed. Whatever comes of it is a result or our own error, never another exception, and never takes long.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { readBuildId } from "../../src/elf/build-id.js";
import { parseElf, sectionNamed } from "../../src/elf/image.js";
import { functionsAt } from "../../src/elf/symbols.js";
import { InputError } from "../../src/errors.js";
import { parseArguments, printArguments } from "../../src/usdt/arguments.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { codeFrom, probeInstruction } from "../../src/usdt/sites.js";
import { generator } from "../fuzz/random.js";
import { sample } from "../sample/sample.js";

/** Values that sizes and offsets go wrong with. */
const odd = [0, 1, 0x7f, 0x80, 0xff];

function read(bytes: Buffer): void {
  const image = parseElf(bytes);
  const notes = readUsdtNotes(image);
  functionsAt(
    image,
    notes.map((note) => note.location),
  );
  readBuildId(image);
  for (const note of notes) {
    const code = codeFrom(image, note.location);
    if (code !== null) probeInstruction(code);
    expect(printArguments(parseArguments(note.argumentText))).toBe(note.argumentText);
  }
}

describe("damaged files", () => {
  const rounds = 4000;
  it.each(["the headers", "the notes", "the symbols", "the build-id"])(`${rounds} times in %s`, async (where) => {
    const original = readFileSync(await sample());
    const image = parseElf(original);
    const { e_phoff, e_phnum, e_shoff, e_shnum } = image.header;
    const section = (name: string): [number, number] => {
      const found = sectionNamed(image, name)!;
      return [found.sh_offset, found.sh_size];
    };
    const ranges: Record<string, [number, number][]> = {
      "the headers": [
        [0, 64],
        [e_phoff, e_phnum * 56],
        [e_shoff, e_shnum * 64],
      ],
      "the notes": [section(".note.stapsdt")],
      "the symbols": [section(".symtab"), section(".strtab"), section(".dynsym")],
      "the build-id": [section(".note.gnu.build-id")],
    };
    const next = generator(where.length);
    let refused = 0;
    for (let round = 0; round < rounds; round++) {
      const bytes = Buffer.from(original);
      for (let i = next(3); i >= 0; i--) {
        const [offset, size] = ranges[where]![next(ranges[where]!.length)]!;
        bytes[offset + next(size)] = next(2) === 0 ? odd[next(odd.length)]! : next(256);
      }
      try {
        read(bytes);
      } catch (error) {
        if (!(error instanceof InputError)) throw new Error(`round ${round}: ${String(error)}`, { cause: error });
        refused++;
      }
    }
    // Neither all of it nor nothing: else the test would not test anything.
    expect(refused).toBeLessThan(rounds);
    if (where !== "the symbols") expect(refused).toBeGreaterThan(0);
  });
});
