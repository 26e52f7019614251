/** The judges can say no: each is shown a file with the damage that it is there to find. */
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildEntry, type Entry, execute, matrix } from "../fixtures/matrix.js";
import { crossesPage, instructionsAt, nop5 } from "./code.js";
import { findingsOf, newFindings } from "./findings.js";
import { fileOffset, readSections, readSegments } from "./headers.js";
import { readNotes } from "./notes.js";

let scratch: string;
let entry: Entry;
let good: string;
beforeAll(async () => {
  scratch = mkdtempSync(join(tmpdir(), "usdt-judges-"));
  // eu-elflint has nothing to say about the symbols of this one, whatever the matrix deals out.
  const way = { compiler: "gcc", optimization: "-O2", link: "pie", linker: "bfd", extra: "gc-sections" } as const;
  entry = { ...matrix().find((each) => each.fixture.name === "loop")!, way };
  const built = await buildEntry(entry);
  if (!built.ok) throw new Error(built.because);
  good = built.path;
});
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

function damaged(name: string, damage: (bytes: Buffer) => void): string {
  const bytes = Buffer.from(readFileSync(good));
  damage(bytes);
  const path = join(scratch, name);
  writeFileSync(path, bytes);
  chmodSync(path, 0o755);
  return path;
}

const headerTable = (bytes: Buffer): { offset: number; count: number } => ({
  offset: Number(bytes.readBigUInt64LE(32)),
  count: bytes.readUInt16LE(56),
});

async function complaints(file: string): Promise<string> {
  return newFindings(await findingsOf(good), await findingsOf(file)).join("\n");
}

describe("findings", () => {
  it("an intact copy has none", async () => {
    expect(await complaints(damaged("intact", () => {}))).toBe("");
  });

  it("a segment both writable and executable", async () => {
    const file = damaged("wx", (bytes) => {
      const { offset, count } = headerTable(bytes);
      for (let i = 0; i < count; i++) {
        const header = offset + i * 56;
        if (bytes.readUInt32LE(header) === 1 && (bytes.readUInt32LE(header + 4) & 1) !== 0) bytes[header + 4] = 7;
      }
    });
    expect(await complaints(file)).toContain("both writable and executable");
  });

  it("PT_LOADs out of order", async () => {
    const file = damaged("order", (bytes) => {
      const { offset, count } = headerTable(bytes);
      const loads = Array.from({ length: count }, (_, i) => offset + i * 56).filter(
        (at) => bytes.readUInt32LE(at) === 1,
      );
      const first = Buffer.from(bytes.subarray(loads[0]!, loads[0]! + 56));
      bytes.copy(bytes, loads[0]!, loads[1]!, loads[1]! + 56);
      first.copy(bytes, loads[1]!);
    });
    expect(await complaints(file)).toContain("PT_LOADs are not in address order");
  });

  it("section headers out of address order", async () => {
    const text = (await readSections(good)).find((section) => section.name === ".text")!;
    const file = damaged("sections", (bytes) => {
      const header = Number(bytes.readBigUInt64LE(40)) + text.index * 64;
      bytes.writeBigUInt64LE(0x10n, header + 16);
    });
    expect(await complaints(file)).toContain("section .text is not in address order");
  });

  it("a note section cut short", async () => {
    const notes = (await readSections(good)).find((section) => section.name === ".note.stapsdt")!;
    const file = damaged("notes", (bytes) => {
      const header = Number(bytes.readBigUInt64LE(40)) + notes.index * 64;
      bytes.writeBigUInt64LE(notes.size - 9n, header + 32);
    });
    expect(await complaints(file)).not.toBe("");
  });

  it("a damaged symbol hash table", async () => {
    const hash = (await readSections(good)).find((section) => section.name === ".gnu.hash")!;
    const file = damaged("hash", (bytes) => {
      bytes.writeUInt32LE(0x7fff_ffff, Number(hash.offset) + 4);
    });
    expect(await complaints(file)).not.toBe("");
  });
});

describe("code and notes", () => {
  it("sees the instruction at a place, and nothing where none begins", async () => {
    const notes = await readNotes(good);
    const site = notes[0]!.location;
    const where = Number(fileOffset(await readSegments(good), site, "E"));
    const file = damaged("nop5", (bytes) => bytes.write(nop5, where, "hex"));
    expect((await instructionsAt(good, [site])).get(site)?.bytes).toBe("90");
    expect((await instructionsAt(file, [site])).get(site)?.bytes).toBe(nop5);
    expect((await instructionsAt(file, [0x10n])).get(0x10n)).toBeNull();
  });

  it("applies the prelink rule", async () => {
    const base = (await readSections(good)).find((section) => section.name === ".stapsdt.base")!;
    const file = damaged("prelink", (bytes) => {
      const header = Number(bytes.readBigUInt64LE(40)) + base.index * 64;
      bytes.writeBigUInt64LE(base.address + 0x1000n, header + 16);
    });
    const [before, after] = await Promise.all([readNotes(good), readNotes(file)]);
    expect(after.map((note) => note.location)).toEqual(before.map((note) => note.location + 0x1000n));
  });

  it("knows where a page ends", () => {
    expect([0xffbn, 0xffcn, 0xfffn, 0x1000n].map((address) => crossesPage(address))).toEqual([
      false,
      true,
      true,
      false,
    ]);
  });
});

describe("programs", () => {
  it("a broken one is seen to be broken", async () => {
    const site = (await readNotes(good))[0]!.location;
    const where = Number(fileOffset(await readSegments(good), site, "E"));
    const before = await execute(entry, good);
    // ud2
    expect(
      await execute(
        entry,
        damaged("broken", (bytes) => bytes.write("0f0b", where, "hex")),
      ),
    ).not.toEqual(before);
  });
});
