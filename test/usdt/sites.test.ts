import { describe, expect, it } from "vitest";
import { probeInstruction } from "../../src/usdt/sites.js";
import { NOP5, NOP10 } from "../../src/x86/bytes.js";

describe("probeInstruction", () => {
  it.each<[string, readonly number[], string | null]>([
    ["a nop before anything", [0x90, 0xc3], "nop"],
    ["a nop at the end of its segment", [0x90], "nop"],
    ["nop5", [...NOP5, 0xc3], "nop5"],
    ["nop10", [...NOP10], "nop10"],
    ["nop,nop5", [0x90, ...NOP5], "nop,nop5"],
    ["nop,nop10", [0x90, ...NOP10], "nop,nop10"],
    ["a nop before a nop5 that is cut short", [0x90, 0x0f, 0x1f, 0x44, 0x00], "nop"],
    ["two neighbours", [0x90, 0x90, ...NOP5], "nop"],
    ["another five-byte nop", [0x0f, 0x1f, 0x44, 0x00, 0x08], "nop5"],
    ["one with an index", [0x0f, 0x1f, 0x44, 0x20, 0x00], "nop5"],
    ["one of prefixes", [0x66, 0x66, 0x66, 0x66, 0x90], "nop5"],
    ["one with REX.W", [0x66, 0x66, 0x66, 0x48, 0x90], "nop5"],
    ["a long one with a prefix", [0x66, 0x0f, 0x1f, 0x40, 0x00], "nop5"],
    ["one with fs", [0x64, 0x0f, 0x1f, 0x40, 0x00], "nop5"],
    ["one that the kernel refuses, with cs", [0x2e, 0x0f, 0x1f, 0x40, 0x00], null],
    ["xchg r8, rax", [0x66, 0x66, 0x66, 0x49, 0x90], null],
    ["a jump to what follows", [0xe9, 0, 0, 0, 0], null],
    ["lea to itself", [0x48, 0x8d, 0x64, 0x24, 0x00], null],
    ["a nop of four bytes", [0x66, 0x66, 0x66, 0x90, 0xc3], null],
    ["another five-byte nop behind a nop", [0x90, 0x0f, 0x1f, 0x44, 0x00, 0x08], "nop"],
    ["another ten-byte nop", [0x66, 0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], null],
    ["pause", [0xf3, 0x90], null],
    ["nothing", [], null],
  ])("%s", (_name, bytes, expected) => {
    expect(probeInstruction(Uint8Array.from(bytes))).toBe(expected);
  });
});
