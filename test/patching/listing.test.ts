/** Built-in programs and trampolines are machine code with texts beside it: objdump reads the same in the bytes. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Listed } from "../../src/patching/assemble.js";
import { makeProgram, type ProgramName } from "../../src/patching/programs.js";
import { protocols } from "../../src/patching/protocol.js";
import { NOP5, NOP10 } from "../../src/x86/bytes.js";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), "listing-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** What objdump says of some bytes: instructions with blanks made single. */
function disassembled(bytes: Uint8Array, address: number): string[] {
  const file = path.join(folder, "bytes");
  writeFileSync(file, bytes);
  const args = ["-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", `--adjust-vma=${address}`, file];
  const text = execFileSync("objdump", args, { encoding: "utf8", timeout: 20_000 });
  return text.split("\n").flatMap((row) => {
    const cells = row.split("\t");
    return cells.length < 3 ? [] : [cells[2]!.replace(/#.*/, "").trim().replace(/\s+/g, " ")];
  });
}

/** Lines that stand one behind the other. */
function stretches(listing: readonly Listed[]): Listed[][] {
  const runs: Listed[][] = [];
  let end = -1;
  for (const item of [...listing].sort((a, b) => a.address - b.address)) {
    if (item.address !== end) runs.push([]);
    runs.at(-1)!.push(item);
    end = item.address + item.bytes.length;
  }
  return runs;
}

/** The same instruction; labels stand for addresses that have a line of their own. */
function expectSame(read: string, text: string, listing: readonly Listed[]): void {
  const [mnemonic, operand] = text.split(" ");
  const withoutAddress = (s: string): string => s.replace(/\[rip\+.*?\]/, "[rip+]");
  if (/^(call|jmp|j[a-z]+)$/.test(mnemonic!) && operand !== "rax") {
    const target = Number.parseInt(read.split(" ")[1]!, 16);
    expect(read.split(" ")[0]).toBe(mnemonic);
    expect(listing.some((l) => l.address === target)).toBe(true);
  } else expect(withoutAddress(read)).toBe(withoutAddress(text));
}

const names: readonly ProgramName[] = [
  "plain",
  "redzone",
  "fork",
  "vfork",
  "signal",
  "seccomp",
  "far",
  "semaphore",
  "return",
  "session",
];

describe("programs", () => {
  for (const name of names)
    for (const [what, shape] of [
      ["nop5", { probe: NOP5 }],
      ["nop5 with a guard", { probe: NOP5, guard: true, forkGuard: "repair" }],
      ["nop10, int3 by the child", { probe: NOP10, forkGuard: "int3" }],
      ["nop5 across a page's end", { probe: NOP5, crossing: true }],
    ] as const)
      it(`${name}, ${what}`, () => {
        const { listing, sites } = makeProgram(name, shape);
        for (const run of stretches(listing)) {
          const read = disassembled(Buffer.concat(run.map((l) => l.bytes)), run[0]!.address);
          expect(read.length).toBe(run.length);
          for (const [i, { text }] of run.entries()) expectSame(read[i]!, text, listing);
        }
        for (const { address, original } of sites)
          expect([...listing.find((l) => l.address === address)!.bytes]).toEqual([...original]);
      });
});

describe("trampolines", () => {
  const saves = ["push rcx", "push r11", "push rax", "mov rax,0x150", "syscall", "pop rax", "pop r11", "pop rcx"];
  it("6.18", () => expect(disassembled(protocols["6.18"].trampoline, 0)).toEqual([...saves, "ret"]));
  it("7.2", () => expect(disassembled(protocols["7.2"].trampoline, 0)).toEqual([...saves, "ret 0x80"]));
  it("return probes", () =>
    expect(disassembled(protocols["6.18"].returnTrampoline, 0)).toEqual([
      "push rax",
      "push rcx",
      "push r11",
      "mov rax,0x14f",
      "syscall",
      "pop r11",
      "pop rcx",
      "ret",
    ]));
});
