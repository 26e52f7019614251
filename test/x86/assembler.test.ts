/** What the small assembler writes is what objdump reads. */
import { expect, it } from "vitest";
import { Assembler, at, byte } from "../../src/x86/assembler.js";
import { linkOne } from "../../src/x86/link.js";
import { disassembled } from "./disassembled.js";

const START = 0x400000;
const linesOf = (code: Assembler): Promise<string[]> => disassembled(linkOne(code, START).bytes, START);

it("encodes each operand form", async () => {
  const code = new Assembler();
  code.op("mov", "rax", "r15").op("mov", "eax", 60).op("mov", "rdi", -1).op("mov", "rcx", 0x5a5a5a5a5a5a);
  code.op("mov", at("rbp"), "r12").op("mov", at("rsp", -8), 7).op("mov", "r9d", at("r13", 0x1234));
  code.op("movzx", "edi", at("rax")).op("lea", "rsi", at("r12", 24)).op("shr", "r15d", 8).op("and", "eax", 0xff);
  code.op("cmp", at("rsp", -16), "rcx").op("test", "rax", "rax").op("push", "rbx").op("pop", "r8").op("dec", "rbx");
  code.lower(byte(8)).raise(8).op("syscall").op("ret");
  expect(await linesOf(code)).toEqual([
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
    "sub rsp,0x8",
    "add rsp,0x8",
    "syscall",
    "ret",
  ]);
});

it("leads branches and addresses to their labels", async () => {
  const code = new Assembler();
  code.label("start").jump("end").jumpIf("ne", "start").call("end").address("r14", "start").address("rax", "end");
  code.align(16).label("end").system(231, 5);
  code.callThrough("start").jumpThrough("end").jumpIfShort("e", "end").jumpIfRcxIsZero("end").jumpShort(0x400080);
  expect(linkOne(code, START).addressOf("end")).toBe(0x400020);
  const lines = (await linesOf(code)).filter((line) => line !== "int3");
  expect(lines).toEqual([
    "jmp 0x400020",
    "jne 0x400000",
    "call 0x400020",
    "lea r14,[rip+0xffffffffffffffe9]",
    "lea rax,[rip+0x2]",
    "mov rdi,0x5",
    "mov eax,0xe7",
    "syscall",
    "call QWORD PTR [rip+0xffffffffffffffcb]",
    "jmp QWORD PTR [rip+0xffffffffffffffe5]",
    "je 0x400020",
    "jrcxz 0x400020",
    "jmp 0x400080",
  ]);
});

it("refuses what it does not know", () => {
  expect(() => new Assembler().op("frobnicate", "rax", 1)).toThrow(/Frobnicate/);
});
