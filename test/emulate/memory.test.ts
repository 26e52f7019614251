/** What Memory does when pages come into being during an access. */
import { expect, it } from "vitest";
import { PAGE_SIZE, runtimeAddress } from "../../src/address.js";
import { Memory, Perm } from "../../src/emulate/memory.js";

const FIRST = runtimeAddress(0x10000);
const MISSING = runtimeAddress(0x7000_0000);

/** A memory with `pages` mapped pages, in which each missing page comes with the bytes 1, 2, 3... */
function withMisses(pages: number): Memory {
  const memory = new Memory();
  memory.map(FIRST, pages * PAGE_SIZE, Perm.RW);
  memory.onMiss = (page) => {
    memory.map(page, PAGE_SIZE, Perm.RW);
    memory.poke(
      page,
      Uint8Array.from({ length: PAGE_SIZE }, (_, i) => (i + 1) & 255),
    );
    return true;
  };
  return memory;
}

const reads: readonly [string, (memory: Memory, lo: number) => readonly number[], readonly number[]][] = [
  ["8 bits", (m, lo) => [m.read8(lo, 0)], [0x01]],
  ["16 bits", (m, lo) => [m.read16(lo, 0)], [0x0201]],
  ["32 bits", (m, lo) => [m.read32(lo, 0)], [0x04030201]],
  ["64 bits", (m, lo) => [m.read64(lo, 0), m.hi], [0x04030201, 0x08070605]],
  ["128 bits", read128, [0x04030201, 0x08070605, 0x0c0b0a09, 0x100f0e0d]],
];

function read128(memory: Memory, lo: number): readonly number[] {
  memory.read128(lo, 0);
  return [...memory.q];
}

// At one of these sizes the missing page is the one that makes the arena grow.
const sizes = [0, 1, 31, 62, 63, 64, 127, 128];

it.each(reads)("reads %s of a page that comes into being", (_name, read, expected) => {
  for (const pages of sizes) expect(read(withMisses(pages), MISSING)).toEqual(expected);
});

it("reads across two pages that come into being", () => {
  for (const pages of sizes) {
    const memory = withMisses(pages);
    expect([memory.read64(MISSING + PAGE_SIZE - 4, 0), memory.hi]).toEqual([0x00fffefd, 0x04030201]);
  }
});

it("writes into a page, and across two, that come into being", () => {
  for (const pages of sizes) {
    const memory = withMisses(pages);
    memory.write8(MISSING, 0, 0x55);
    memory.write64(MISSING + PAGE_SIZE - 4, 0, 0x11223344, 0x55667788);
    expect([...memory.peek(MISSING, 3)]).toEqual([0x55, 2, 3]);
    expect(memory.peek(runtimeAddress(MISSING + PAGE_SIZE - 5), 10)).toEqual(
      Uint8Array.of(0xfc, 0x44, 0x33, 0x22, 0x11, 0x88, 0x77, 0x66, 0x55, 5),
    );
  }
});
