/**
 * The last look before anything is written: faults are planted between the plan and the output, as a mistake in the writer
 * would make them, and each has to be seen; then nothing is written.
 */

import { existsSync, readFileSync } from "node:fs";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { type ElfImage, offsetOf, parseElf, sectionNamed } from "../../src/elf/image.js";
import type { Assembly } from "../../src/rewrite/assemble.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import type { SparseContent } from "../../src/sparse-content.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { usdtNop5 } from "../commands/in-process.js";
import { plain } from "../verify/held.js";
import { canCompile, compile, scratch } from "./compile.js";

type Assemble = (image: ElfImage, assembly: Assembly) => SparseContent;

const fault = vi.hoisted(() => ({ plant: (assemble: Assemble): Assemble => assemble }));
vi.mock("../../src/rewrite/assemble.js", async (original) => {
  const real = await original<{ assemble: Assemble }>();
  return {
    ...real,
    assemble: (image: ElfImage, assembly: Assembly) => fault.plant(real.assemble)(image, assembly),
  };
});

const source = `
#include <sys/sdt.h>
#include <stdio.h>
__attribute__((noinline)) int leaf(int n) {
  volatile int a[8];
  int s = 0;
  for (int i = 0; i < 8; i++) a[i] = n * i;
  DTRACE_PROBE2(app, leaf, n, a[3]);
  for (int i = 0; i < 8; i++) s += a[i];
  return s;
}
__attribute__((noinline)) int two(int x) { DTRACE_PROBE1(app, two, x); return x * 3; }
int main(int c, char **v) { printf("%d\\n", leaf(c) + two(c)); }
`;

const options = { ...plain, forkGuard: true };

/** Changes bytes of an output that is not written yet. */
function changed(content: SparseContent, change: (bytes: Buffer, output: ElfImage) => void): SparseContent {
  const bytes = Buffer.alloc(content.size);
  for (const piece of content.pieces) bytes.set(piece.bytes, piece.offset);
  change(bytes, parseElf(Buffer.from(bytes)));
  return { size: content.size, pieces: [{ offset: 0, bytes }] };
}

const after =
  (change: (bytes: Buffer, output: ElfImage) => void) =>
  (assemble: Assemble): Assemble =>
  (image, assembly) =>
    changed(assemble(image, assembly), change);

const before =
  (change: (assembly: Assembly, image: ElfImage) => Assembly) =>
  (assemble: Assemble): Assemble =>
  (image, assembly) =>
    assemble(image, change(assembly, image));

const headerOf = (output: ElfImage, name: string): number =>
  output.header.e_shoff + sectionNamed(output, name)!.index * 64;

const faults: readonly [string, (assemble: Assemble) => Assemble, RegExp][] = [
  [
    "a section with new content is dropped",
    before((a) => ({ ...a, replaced: new Map() })),
    /the note of app:leaf would say 0x[0-9a-f]+, not 0x/,
  ],
  [
    "a note names another place",
    after((bytes, output) => {
      const note = readUsdtNotes(output)[1]!;
      bytes.writeUInt8(bytes[note.locationOffset]! ^ 1, note.locationOffset);
    }),
    /the note of app:two would say/,
  ],
  [
    "a note is gone",
    after((bytes, output) => void bytes.writeUInt32LE(4, readUsdtNotes(output)[1]!.offset + 8)),
    /would have 1 notes, not 2/,
  ],
  [
    "other bytes stand at a probe",
    after((bytes, output) => {
      bytes[offsetOf(output, readUsdtNotes(output)[0]!.location)! + 4] = 8;
    }),
    /what stands at 0x[0-9a-f]+ would not be the probe app:leaf/,
  ],
  [
    "a section is said to stand elsewhere",
    after((bytes, output) => {
      const at = headerOf(output, ".comment") + 24;
      bytes.writeBigUInt64LE(bytes.readBigUInt64LE(at) - 1n, at);
    }),
    /section \.comment would not have its content/,
  ],
  [
    "the header of a section is lost",
    after((bytes, output) => void bytes.writeUInt32LE(0, headerOf(output, ".rodata") + 4)),
    /section \.rodata would be missing/,
  ],
  [
    "new code has no symbol",
    after((bytes, output) => {
      const { sh_offset } = sectionNamed(output, ".symtab")!;
      const { index } = sectionNamed(output, ".text.nop5")!;
      for (let at: number = sh_offset; ; at += 24)
        if (bytes.readUInt16LE(at + 6) === index) {
          bytes.writeBigUInt64LE(0n, at + 8);
          return;
        }
    }),
    /the new code at 0x[0-9a-f]+ would have no symbol/,
  ],
  [
    "a symbol is given to another section",
    after((bytes, output) => {
      const { sh_offset, sh_size } = sectionNamed(output, ".symtab")!;
      const at = sh_offset + sh_size - 24 + 6;
      bytes.writeUInt16LE(bytes.readUInt16LE(at) === 1 ? 2 : 1, at);
    }),
    /symbol \d+ would not be what it was/,
  ],
  [
    "new code has no frame record",
    after((bytes, output) => {
      const { sh_offset, sh_size } = sectionNamed(output, ".eh_frame_hdr")!;
      bytes.writeUInt32LE(bytes.readUInt32LE(sh_offset + 8) - 3, sh_offset + 8);
      expect(sh_size).toBeGreaterThan(36);
    }),
    /would have no frame record/,
  ],
  [
    "the way back to the input is wrong",
    before((a) => ({
      ...a,
      original: { ...a.original, bytes: Buffer.from(a.original.bytes).fill(0xcc, 0x1000, 0x1001) },
    })),
    /the output would not revert to the input/,
  ],
  [
    "the way back to the input is damaged",
    after((bytes, output) => {
      const { sh_offset, sh_size } = sectionNamed(output, ".usdt_nop5")!;
      bytes[sh_offset + sh_size - 1]! ^= 1;
    }),
    /could not be reverted: damaged \.usdt_nop5/,
  ],
];

describe.skipIf(!canCompile)("what is planned and not placed", () => {
  let program = "";
  beforeAll(async () => {
    program = await compile(source, "-no-pie");
  });

  it("is nothing where the writer makes no mistake", () => {
    fault.plant = (assemble) => assemble;
    const { report } = rewrite(parseElf(readFileSync(program)), options);
    expect(report.sites.map((s) => s.status)).toEqual(["rewritten", "rewritten"]);
  });

  it.each(faults)("is an error: %s", (_name, plant, message) => {
    fault.plant = plant;
    expect(() => rewrite(parseElf(readFileSync(program)), options)).toThrow(message);
  });

  it("leaves one line, exit status 1 and no file", async () => {
    fault.plant = faults[0]![1];
    const output = scratch("out");
    const { status, stdout, stderr } = await usdtNop5("rewrite", program, "-o", output, "--kernel", "6.18");
    expect({ status, stdout, exists: existsSync(output) }).toEqual({ status: 1, stdout: "", exists: false });
    expect(stderr).toMatch(
      /^usdt-nop5: \S+: a defect in usdt-nop5, please report it: NotAsPlanned: the note of [^\n]*\n$/,
    );
  });
});
