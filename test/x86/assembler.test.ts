/** What the small assembler writes is what objdump reads. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { Assembler, at } from "../../src/x86/assembler.js";
import { must } from "../run.js";

/** Disassembly by objdump, an instruction a line. */
async function disassembled(code: Assembler): Promise<string[]> {
  const folder = mkdtempSync(join(tmpdir(), "usdt-assembler-"));
  try {
    const file = join(folder, "code");
    writeFileSync(file, code.finish());
    const raw = ["-D", "-b", "binary", "-m", "i386:x86-64", "-M", "intel", "--no-show-raw-insn"];
    const text = await must("objdump", [...raw, `--adjust-vma=${code.base}`, file]);
    return [...text.matchAll(/^ *[0-9a-f]+:\t(.*?) *(?:#.*)?$/gm)].map(([, line]) => line!.replace(/ +/g, " "));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

it("encodes each operand form", async () => {
  const code = new Assembler(0x400000);
  code.op("mov", "rax", "r15").op("mov", "eax", 60).op("mov", "rdi", -1).op("mov", "rcx", 0x5a5a5a5a5a5a);
  code.op("mov", at("rbp"), "r12").op("mov", at("rsp", -8), 7).op("mov", "r9d", at("r13", 0x1234));
  code.op("movzx", "edi", at("rax")).op("lea", "rsi", at("r12", 24)).op("shr", "r15d", 8).op("and", "eax", 0xff);
  code.op("cmp", at("rsp", -16), "rcx").op("test", "rax", "rax").op("push", "rbx").op("pop", "r8").op("dec", "rbx");
  code.op("syscall").op("ret");
  expect(await disassembled(code)).toEqual([
    "mov rax,r15",
    "mov eax,0x3c",
    "mov rdi,0xffffffffffffffff",
    "movabs rcx,0x5a5a5a5a5a5a",
    "mov QWORD PTR [rbp+0x0],r12",
    "mov QWORD PTR [rsp-0x8],0x7",
    "mov r9d,DWORD PTR [r13+0x1234]",
    "movzx edi,BYTE PTR [rax]",
    "lea rsi,[r12+0x18]",
    "shr r15d,0x8",
    "and eax,0xff",
    "cmp QWORD PTR [rsp-0x10],rcx",
    "test rax,rax",
    "push rbx",
    "pop r8",
    "dec rbx",
    "syscall",
    "ret",
  ]);
});

it("leads branches and addresses to their labels", async () => {
  const code = new Assembler(0x400000);
  code.label("start").jump("end").jumpIf("ne", "start").call("end").address("r14", "start").address("rax", "end");
  code.align(16).label("end").system(231, 5);
  expect(code.addressOf("end")).toBe(0x400020);
  const lines = (await disassembled(code)).filter((line) => line !== "int3");
  expect(lines).toEqual([
    "jmp 0x400020",
    "jne 0x400000",
    "call 0x400020",
    "lea r14,[rip+0xffffffffffffffe9]",
    "lea rax,[rip+0x2]",
    "mov rdi,0x5",
    "mov eax,0xe7",
    "syscall",
  ]);
});

it("refuses what it does not know", () => {
  const code = new Assembler(0);
  expect(() => code.op("frobnicate", "rax", 1)).toThrow(/Frobnicate/);
  expect(() => code.label("twice").label("twice")).toThrow(/twice/);
  expect(() => new Assembler(0).jump("nowhere").finish()).toThrow(/nowhere/);
});
