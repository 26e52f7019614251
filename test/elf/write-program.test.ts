/** Programs written without a compiler: the kernel runs them, readelf and objdump find nothing to complain about. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { vaddr } from "../../src/address.js";
import { PF_R, PF_W, PF_X } from "../../src/elf/constants.js";
import { parseElf } from "../../src/elf/image.js";
import { type ProgramSegment, writeProgram } from "../../src/elf/write-program.js";
import { must, run } from "../run.js";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), "usdt-nop5-program-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

/**
 *     mov eax, [0x500123]     the word in .rodata: 41
 *     add eax, 1
 *     mov [0x600ff8], eax     .bss
 *     mov edi, [0x600ff8]
 *     mov eax, 60             exit
 *     syscall
 */
const code = Uint8Array.of(
  ...[0x8b, 0x04, 0x25, 0x23, 0x01, 0x50, 0x00],
  ...[0x83, 0xc0, 0x01],
  ...[0x89, 0x04, 0x25, 0xf8, 0x0f, 0x60, 0x00],
  ...[0x8b, 0x3c, 0x25, 0xf8, 0x0f, 0x60, 0x00],
  ...[0xb8, 0x3c, 0x00, 0x00, 0x00],
  ...[0x0f, 0x05],
);
const text: ProgramSegment = { name: ".text", address: vaddr(0x400678), bytes: code, flags: PF_R | PF_X };
const rodata: ProgramSegment = {
  name: ".rodata",
  address: vaddr(0x500123),
  bytes: Uint8Array.of(41, 0, 0, 0),
  flags: PF_R,
};
const bss: ProgramSegment = {
  name: ".bss",
  address: vaddr(0x600000),
  bytes: new Uint8Array(0),
  size: 0x1000,
  flags: PF_R | PF_W,
};

function write(name: string, segments: readonly ProgramSegment[]): string {
  const file = path.join(folder, name);
  writeFileSync(file, writeProgram(text.address, segments), { mode: 0o755 });
  return file;
}

test("a program with code, data and zeroed memory runs", async () => {
  const file = write("runs", [bss, text, rodata]);
  expect((await run(file, [])).status).toBe(42);
});

test("readelf and objdump read it without a warning", async () => {
  const file = write("read", [bss, text, rodata]);
  const readelf = await run("readelf", ["-aW", file]);
  expect(readelf.status).toBe(0);
  expect(readelf.stderr).toBe("");
  expect(readelf.stdout).not.toMatch(/warning|error/i);
  const sections = [...readelf.stdout.matchAll(/^ {2}\[ *\d+\] (\.\S+) +(\S+) +0*([0-9a-f]+) /gm)].map((m) =>
    m.slice(1, 4),
  );
  expect(sections).toEqual(
    [
      [".text", "PROGBITS", "400678"],
      [".rodata", "PROGBITS", "500123"],
      [".bss", "NOBITS", "600000"],
      [".shstrtab", "STRTAB", ""],
    ].map(([name, type, address]) => [name, type, address || "0"]),
  );
  const loads = [...readelf.stdout.matchAll(/^ +LOAD +0x\S+ 0x0*(\S+) 0x\S+ 0x0*(\S*) 0x0*(\S+) (R?W? ?E?)/gm)];
  expect(loads.map((m) => [m[1], m[2], m[3], m[4]!.replaceAll(" ", "")])).toEqual([
    ["400678", code.length.toString(16), code.length.toString(16), "RE"],
    ["500123", "4", "4", "R"],
    ["600000", "", "1000", "RW"],
  ]);
  const objdump = await must("objdump", ["-d", "-M", "intel", file]);
  expect(objdump).toContain("mov    eax,DWORD PTR ds:0x500123");
});

test("what cannot be loaded as asked for is refused", () => {
  expect(() => writeProgram(vaddr(0x500123), [text, rodata])).toThrow("entry");
  expect(() => writeProgram(text.address, [text, { ...rodata, address: vaddr(0x400f00) }])).toThrow("shares a page");
  expect(() => writeProgram(text.address, [{ ...text, size: 0x2000 }])).toThrow("in part");
  expect(() => writeProgram(text.address, [{ ...text, size: 1 }])).toThrow("smaller in memory");
});

test("our own reader takes it", () => {
  const image = parseElf(writeProgram(text.address, [bss, text, rodata]));
  expect(image.sections.map((s) => s.name)).toEqual(["", ".text", ".rodata", ".bss", ".shstrtab"]);
});
