/**
 * Faults planted into unwind information: verify sees each. Where to plant is found with readelf, not with our own reader.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { usdtNop5 } from "../command.js";
import { readSections } from "../judges/headers.js";
import { canCompile, scratch } from "../rewrite/compile.js";
import { must } from "../run.js";
import { build, DENSE, type Pair, program } from "./pairs.js";

const LONG = process.env.LONG === "1";

interface Fde {
  /** File offset of the record. */
  readonly at: number;
  readonly end: number;
  readonly start: bigint;
  readonly isNew: boolean;
}

interface Subject extends Pair {
  readonly bytes: Buffer;
  readonly fdes: readonly Fde[];
  /** File offsets of the sections of the output. */
  readonly offset: (name: string) => number;
  readonly size: (name: string) => number;
}

async function subject(source: string, compiler: string, ...flags: readonly string[]): Promise<Subject> {
  const pair = await build(source, compiler, flags, ["--no-fork-guard"]);
  const sections = await readSections(pair.after);
  const section = (name: string) => sections.find((s) => s.name === name)!;
  const frames = section(".eh_frame");
  const code = section(".text.nop5");
  const dump = await must("readelf", ["--debug-dump=frames", pair.after]);
  const fdes = [...dump.matchAll(/^([0-9a-f]{8}) ([0-9a-f]{16}) [0-9a-f]{8} FDE cie=\w+ pc=([0-9a-f]+)\.\./gm)].map(
    ([, offset, length, pc]): Fde => {
      const at = Number(frames.offset) + Number.parseInt(offset!, 16);
      const start = BigInt(`0x${pc}`);
      const isNew = start >= code.address && start < code.address + code.size;
      return { at, end: at + 4 + Number.parseInt(length!, 16), start, isNew };
    },
  );
  return {
    ...pair,
    bytes: readFileSync(pair.after),
    fdes,
    offset: (name) => Number(section(name).offset),
    size: (name) => Number(section(name).size),
  };
}

/** What verify says of the rewritten file with a fault in it. */
async function verdict({ bytes, before }: Subject, plant: (file: Buffer) => void): Promise<number | null> {
  const file = Buffer.from(bytes);
  plant(file);
  expect(file.equals(bytes)).toBe(false);
  const path = scratch("planted");
  writeFileSync(path, file, { mode: 0o755 });
  return (await usdtNop5("verify", path, "--original", before)).status;
}

describe.skipIf(!canCompile)("faults in unwind information", () => {
  let guarded: Subject;
  let throwing: Subject;
  let hopping: Subject;
  beforeAll(async () => {
    hopping = await subject("steps.c", "gcc", "-O2", program("hops.S"));
    guarded = await subject("steps.c", "gcc", "-O2");
    throwing = await subject("throwing.cc", "g++", "-O2", "-std=c++14", ...DENSE);
  }, 300_000);
  const added = (s: Subject): Fde => s.fdes.find((f) => f.isNew)!;

  it("none: verify is content", async () => {
    for (const { after, before, fdes } of [guarded, throwing, hopping]) {
      expect(fdes.filter((f) => f.isNew).length).toBeGreaterThan(5);
      expect((await usdtNop5("verify", after, "--original", before)).status).toBe(0);
    }
  });

  it("a new record that begins later", async () => {
    for (const s of [guarded, throwing])
      for (const { at } of s.fdes.filter((f) => f.isNew))
        expect(await verdict(s, (f) => f.writeInt32LE(f.readInt32LE(at + 8) + 1, at + 8))).toBe(3);
  }, 300_000);

  it("a new record that ends before the jump back", async () => {
    const { at } = added(guarded);
    expect(await verdict(guarded, (f) => f.writeInt32LE(f.readInt32LE(at + 12) - 5, at + 12))).toBe(3);
  });

  it("a record of a jump in padding that is about more, less or something else, or has another row", async () => {
    const jumps = hopping.fdes.filter(({ at, isNew }) => !isNew && hopping.bytes.readInt32LE(at + 12) === 5);
    expect(jumps.length).toBe(2);
    for (const { at, end } of jumps) {
      for (const by of [-1, 1])
        expect(await verdict(hopping, (f) => f.writeInt32LE(f.readInt32LE(at + 12) + by, at + 12))).toBe(3);
      for (const by of [-1, 1])
        expect(await verdict(hopping, (f) => f.writeInt32LE(f.readInt32LE(at + 8) + by, at + 8))).toBe(3);
      // DW_CFA_def_cfa rsp, 24
      const row = hopping.bytes.subarray(at + 16, end).indexOf(Buffer.of(0x0c, 7, 24));
      expect(row).toBeGreaterThan(0);
      expect(await verdict(hopping, (f) => (f[at + 16 + row + 2]! -= 8))).toBe(3);
    }
  }, 300_000);

  it("a wrong row between a guard's halves", async () => {
    // DW_CFA_def_cfa rsp, 128 or more.
    const rows = guarded.fdes.flatMap(({ at, end, isNew }) => {
      if (!isNew) return [];
      const body = guarded.bytes.subarray(at + 16, end);
      const row = body.findIndex((byte, i) => byte === 0x0c && body[i + 1] === 7 && body[i + 2]! >= 128);
      return row < 0 ? [] : [at + 16 + row];
    });
    expect(rows.length).toBeGreaterThan(0);
    for (const row of rows) {
      expect(await verdict(guarded, (f) => (f[row + 2]! ^= 8))).toBe(3);
      // One instruction too early.
      expect(await verdict(guarded, (f) => (f[row - 1]! -= 5))).toBe(3);
    }
  });

  it("a register that is said to be saved elsewhere", async () => {
    const saved = guarded.fdes.flatMap(({ at, end, isNew }) => {
      if (!isNew) return [];
      const body = guarded.bytes.subarray(at + 17, end);
      const row = body.findIndex((byte) => byte === 0x83 || byte === 0x86);
      return row < 0 ? [] : [at + 17 + row];
    });
    expect(saved.length).toBeGreaterThan(0);
    for (const row of saved) expect(await verdict(guarded, (f) => (f[row + 1]! += 1))).toBe(3);
  });

  it("a table that is not in order, lacks an entry, or leads astray", async () => {
    const table = guarded.offset(".eh_frame_hdr") + 12;
    const entries = guarded.bytes.readUInt32LE(table - 4);
    for (const i of [0, Math.floor(entries / 2), entries - 2]) {
      const swap = (f: Buffer) => {
        const at = table + 8 * i;
        const [a, b] = [Buffer.from(f.subarray(at, at + 8)), Buffer.from(f.subarray(at + 8, at + 16))];
        f.set(b, at);
        f.set(a, at + 8);
      };
      expect(await verdict(guarded, swap)).toBe(3);
      expect(
        await verdict(guarded, (f) => f.writeInt32LE(f.readInt32LE(table + 8 * i + 4) + 4, table + 8 * i + 4)),
      ).toBe(3);
      expect(await verdict(guarded, (f) => f.writeInt32LE(f.readInt32LE(table + 8 * i) + 1, table + 8 * i))).toBe(3);
    }
    expect(await verdict(guarded, (f) => f.writeUInt32LE(entries - 1, table - 4))).toBe(3);
    expect(await verdict(guarded, (f) => f.writeInt32LE(f.readInt32LE(table - 8) + 8, table - 8))).toBe(3);
  }, 300_000);

  it("an old record that is another", async () => {
    const old = throwing.fdes.filter((f) => !f.isNew);
    for (const { at, end } of [old[1]!, old[Math.floor(old.length / 2)]!, old.at(-1)!]) {
      expect(await verdict(throwing, (f) => f.writeInt32LE(f.readInt32LE(at + 8) - 1, at + 8))).toBe(3);
      expect(await verdict(throwing, (f) => (f[end - 4]! ^= 1))).toBe(3);
    }
  });

  it("no zero at the end", async () => {
    const end = guarded.offset(".eh_frame") + guarded.size(".eh_frame");
    expect(await verdict(guarded, (f) => (f[end - 4] = 1))).toBe(3);
  });

  it("a personality routine that is another", async () => {
    // A CIE "zPLR": the pointer stands behind 4 bytes of length, 4 of id, 1 of version, 5 of text, 3 of factors, size, encoding.
    const at = throwing.bytes.indexOf(Buffer.from("\x01zPLR\0", "latin1"), throwing.offset(".eh_frame"));
    const pointer = at + 6 + 3 + 2;
    expect(await verdict(throwing, (f) => f.writeInt32LE(f.readInt32LE(pointer) + 8, pointer))).toBe(3);
  });

  it("handlers that are others: every byte of an exception table counts, or is room", async () => {
    const at = throwing.offset(".gcc_except_table.nop5");
    const size = throwing.size(".gcc_except_table.nop5");
    expect(size).toBeGreaterThan(80);
    let unseen = 0;
    for (let i = 0; i < size; i += LONG ? 3 : 11)
      if ((await verdict(throwing, (f) => (f[at + i]! ^= 4))) !== 3) unseen++;
    // Zeros between tables, and in front of types that are aligned.
    expect(unseen).toBeLessThan(size / 3 / 8);
  }, 240_000);

  it("something where the tables stood", async () => {
    const stood = (await readSections(guarded.before)).find((s) => s.name === ".eh_frame")!;
    expect(await verdict(guarded, (f) => (f[Number(stood.offset) + 100]! ^= 0x55))).toBe(3);
  });

  it("a program header that leads to where the table was", async () => {
    const sections = await readSections(guarded.before);
    const hdr = sections.find((s) => s.name === ".eh_frame_hdr")!;
    const lead = (f: Buffer) => {
      const [phoff, count] = [Number(f.readBigUInt64LE(32)), f.readUInt16LE(56)];
      for (let at = phoff; at < phoff + count * 56; at += 56)
        if (f.readUInt32LE(at) === 0x6474e550) {
          for (const field of [16, 24]) f.writeBigUInt64LE(hdr.address, at + field);
          f.writeBigUInt64LE(hdr.offset, at + 8);
        }
    };
    expect(await verdict(guarded, lead)).toBe(3);
  });
});
