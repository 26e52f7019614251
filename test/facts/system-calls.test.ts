/**
 * System calls and their numbers in small assembly functions: what is seen beside what is true. Wherever another way may lead
 * to the call, nothing is said.
 */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { FileFacts } from "../../src/facts/file-facts.js";
import { argumentsOf, findImportCalls } from "../../src/facts/import-calls.js";
import { gatherFacts } from "../../src/facts/program.js";
import { findSystemCalls, mayCopyMemory, numbersOf } from "../../src/facts/system-calls.js";
import { canCompile, compile } from "../rewrite/compile.js";

const program = (body: string, data = ""): Promise<string> =>
  compile(
    `.globl _start, f
.type _start, @function
_start: .cfi_startproc
call f
hlt
.cfi_endproc
.size _start, . - _start
.type f, @function
f: .cfi_startproc
${body}
ret
.cfi_endproc
.size f, . - f
.data
${data}
.section .note.GNU-stack, "", @progbits
`,
    "-x",
    "assembler-with-cpp",
    "-nostdlib",
    "-static",
  );

const numbers = async (body: string, data?: string): Promise<unknown> => {
  const file = new FileFacts(parseElf(readFileSync(await program(body, data))));
  const found = findSystemCalls(file);
  const { calls, unclear } = numbersOf(found, gatherFacts(file, found.places));
  return unclear.length > 0 ? unclear : calls.map((call) => [call.numbers, mayCopyMemory(call)]);
};

describe.skipIf(!canCompile)("the number of a system call", () => {
  it.each([
    ["given right before it", "mov $39, %eax; syscall", [[[39], false]]],
    ["of fork", "mov $57, %eax; syscall", [[[57], true]]],
    ["of vfork", "mov $58, %eax; syscall", [[[58], false]]],
    ["of clone with a copy", "mov $17, %edi; mov $56, %eax; syscall", [[[56], true]]],
    ["of clone with shared memory", "mov $0x111, %edi; mov $56, %eax; syscall", [[[56], false]]],
    ["of clone with flags from anywhere", "mov %rsi, %rdi; mov $56, %eax; syscall", [[[56], true]]],
    ["of clone3", "mov $435, %eax; syscall", [[[435], true]]],
    ["given by way of another register", "mov $39, %r9d; xor %edi, %edi; mov %r9d, %eax; syscall", [[[39], false]]],
    ["zero", "xor %eax, %eax; syscall", [[[0], false]]],
    ["made byte by byte", "xor %eax, %eax; mov $60, %al; syscall; hlt", [[[60], false]]],
    [
      "in its low byte on two ways",
      "mov $0x100, %eax; test %edi, %edi; je 1f; xor %eax, %eax; 1: mov $57, %al; syscall",
      [[[57, 313], true]],
    ],
    ["given in part, by its second byte", "xor %eax, %eax; mov $0, %ah; mov $57, %al; syscall", [[undefined, true]]],
    ["pushed and popped", "push $60; pop %rax; syscall", [[[60], false]]],
    [
      "pushed, and popped where something arrives",
      "push $60; 1: pop %rax; syscall; push %rdi; jmp 1b",
      [[undefined, true]],
    ],
    ["that two ways agree on", "mov $1, %eax; test %edi, %edi; je 1f; mov $39, %eax; 1: syscall", [[[39, 1], false]]],
    ["one of two, a fork", "mov $57, %eax; test %edi, %edi; je 1f; mov $39, %eax; 1: syscall", [[[39, 57], true]]],
    ["kept over a loop", "mov $39, %r9d; 1: mov %r9d, %eax; syscall; test %eax, %eax; jne 1b", [[[39], false]]],
    ["far away", "mov $39, %ebx; .fill 900, 1, 0x90; mov %ebx, %eax; syscall", [[[39], false]]],
    ["an argument", "mov %edi, %eax; syscall", [[undefined, true]]],
    ["from memory", "mov (%rdi), %eax; syscall", [[undefined, true]]],
    ["given in part", "mov $39, %eax; mov %sil, %al; syscall", [[undefined, true]]],
    ["given perhaps", "mov $39, %eax; test %edi, %edi; cmove %esi, %eax; syscall", [[undefined, true]]],
    ["that a call may change", "mov $39, %eax; call f; syscall", [[undefined, true]]],
    ["that a call keeps", "mov $39, %ebx; call f; mov %ebx, %eax; syscall", [[[39], false]]],
    [
      "of a second call",
      "mov $39, %eax; syscall; syscall",
      [
        [[39], false],
        [undefined, true],
      ],
    ],
    ["with a way around it", "test %edi, %edi; je 1f; mov $39, %eax; 1: syscall", [[undefined, true]]],
  ])("%s", async (_what, body, expected) => {
    const normal = (list: unknown): unknown =>
      JSON.parse(
        JSON.stringify(list, (_key, value) => (value === undefined ? "unknown" : value)),
        (key, value) =>
          key === "0" && Array.isArray(value) && value.every((n) => typeof n === "number") ? [...value].sort() : value,
      );
    expect(normal(await numbers(body))).toEqual(normal(expected));
  });

  it("is not known where a pointer leads right to the call", async () => {
    expect(await numbers("mov $39, %eax; here: syscall", ".quad here")).toEqual([[undefined, true]]);
  });

  it("is no question where the bytes of a call are part of another instruction", async () => {
    expect(await numbers("mov $0x050f, %eax")).toEqual([]);
    expect(await numbers("int $0x80")).toEqual([expect.stringMatching(/^int 0x80 at/)]);
  });

  it("is seen at the calls of an import, unless its address is handed out", async () => {
    const calls = async (body: string, ...flags: readonly string[]): Promise<unknown> => {
      const text = `#define _GNU_SOURCE\n#include <unistd.h>\n#include <sys/syscall.h>\nlong (*volatile p)();\n${body}`;
      const file = new FileFacts(parseElf(readFileSync(await compile(text, "-w", ...flags))));
      const all = findImportCalls(file, ["syscall"]);
      const found = argumentsOf(all, gatherFacts(file, all.places)).get("syscall");
      return Array.isArray(found) ? found.map((call) => call.arguments[0] ?? "unknown") : found;
    };
    const known = "int main(int n, char **v) { return syscall(SYS_gettid) + syscall(SYS_getppid); }";
    const ways = [[], ["-no-pie", "-fno-pie"], ["-fno-plt"], ["-fuse-ld=mold"], ["-fuse-ld=lld"], ["-fuse-ld=gold"]];
    for (const flags of ways) expect(await calls(known, ...flags), flags.join()).toEqual([[186], [110]]);
    expect(await calls("int main(int n, char **v) { return syscall(n); }")).toEqual(["unknown"]);
    for (const flags of ways)
      expect(await calls("int main(void) { p = syscall; return syscall(186); }", ...flags), flags.join()).toEqual(
        expect.stringMatching(/address|pointer/),
      );
    expect(await calls("long (*volatile q)() = syscall; int main(void) { return syscall(186); }")).toMatch(/pointer/);
  });
});
