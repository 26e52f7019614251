/**
 * Targets that are put together: copied or computed in vector registers, stored over in part, written by instructions that name no
 * operand. Whatever is rewritten of them does what it did, and verify does not call it different; that something is can be seen by
 * the programs that only hand a pointer on.
 */
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { canCompile, compile } from "../rewrite/compile.js";
import { tryRewriting } from "./tried.js";

const folder = fileURLToPath(new URL("./witness/programs/", import.meta.url));

/** `f(base, op, x, out)` gives its first label for no base, else it goes to `base` and a distance. */
const c = (body: string): string => `#include <sys/sdt.h>
#include <stdio.h>
struct S { void *p; long n; };
__attribute__((noinline)) void *f(char *base, int op, long x, long *out) {
${body}
 a: x += 100; DTRACE_PROBE(app, a);
 b: x++; DTRACE_PROBE(app, b);
 c: *out = x; return 0; }
int main() { void *b = f(0, 0, 0, 0); for (int i = 0; i < 3; i++) { long r; f(b, i, i * 7, &r); printf("%ld\\n", r); } return 0; }
`;
const offsets = "static const int o[] = { &&a - &&a, &&b - &&a, &&c - &&a };\nif (!base) return &&a;\n";

const programs = {
  "a struct that is copied": c(
    `${offsets}struct S s = { base + o[op], x }; asm volatile("" : "+m"(s)); struct S t = s; asm volatile("" : "+m"(t)); x = t.n; goto *t.p;`,
  ),
  "a label in memory, to which a word is added there": c(
    "static const int o[] = { &&a - &&a, &&b - &&a, &&c - &&a }; static void *volatile at; if (!base) return &&a; at = &&a; at += o[op]; goto *at;",
  ),
  "labels in memory, to each of which a word is added": c(
    `static const int o[] = { &&a - &&a, &&b - &&a, &&c - &&a }; static void *t[3]; if (!base) return &&a;
if (!t[0]) for (int i = 0; i < 3; i++) t[i] = &&a; asm volatile("" ::: "memory");
if (t[1] == t[0]) for (int i = 0; i < 3; i++) t[i] += o[i]; goto *t[op];`,
  ),
  "a sum of two vectors": c(
    `static const long o[][2] = { {&&a - &&a, 0}, {&&b - &&a, 1}, {&&c - &&a, 2} };
if (!base) return &&a;
void *t[2] = { base + o[op][0], base + o[op][1] }; asm volatile("" : "+m"(t)); goto *t[0];`,
  ),
};

/** `f` goes to `.La`, or to `.Lb` where edi is not 0; it begins at a multiple of 256. */
const assembly = (code: string): string => `.include "p.inc"
.text
.p2align 8
FN f
 xor %eax,%eax
${code}
.La: imul $3,%esi,%eax
 add $100,%eax
 SITE hit
.Lb: add $1,%eax
 add $2,%eax
 ret
 .space 32,0xcc
EFN f
FN main
 push %rbx
 xor %ebx,%ebx
1: mov %ebx,%edi
 mov $7,%esi
 call f
 mov %eax,%esi
 lea .Ltext(%rip),%rdi
 xor %eax,%eax
 call printf@plt
 inc %ebx
 cmp $2,%ebx
 jne 1b
 xor %eax,%eax
 pop %rbx
 ret
EFN main
.section .rodata
.Ltext: .asciz "%d\\n"
`;
const put = " lea .La(%rip),%rcx\n mov %rcx,-8(%rsp)\n test %edi,%edi\n je 1f\n";
const go = "1: xor %eax,%eax\n jmp *-8(%rsp)";

const codes = {
  "the pushed address's lowest byte":
    " lea .La(%rip),%rcx\n push %rcx\n test %edi,%edi\n je 1f\n movb $.Lb-f,(%rsp)\n1: ret",
  "a slot's lowest byte": `${put} movb $.Lb-f,-8(%rsp)\n${go}`,
  "a store that overlaps": `${put} mov $.Lb-f,%eax\n shl $56,%rax\n mov %rax,-15(%rsp)\n${go}`,
  "an addition to a byte": `${put} addb $.Lb-.La,-8(%rsp)\n${go}`,
  stosb: `${put} lea -8(%rsp),%rdi\n mov $.Lb-f,%al\n stosb\n${go}`,
  movsb: `${put} lea -8(%rsp),%rdi\n lea .Lbyte(%rip),%rsi\n movsb\n mov $7,%esi\n${go}\n.section .rodata\n.Lbyte: .byte .Lb-f\n.text`,
  maskmovdqu: `${put} lea -8(%rsp),%rdi\n mov $.Lb-f,%eax\n movd %eax,%xmm1\n mov $0x80,%eax\n movd %eax,%xmm0\n maskmovdqu %xmm0,%xmm1\n${go}`,
  pextrb: `${put} mov $.Lb-f,%eax\n movd %eax,%xmm0\n pextrb $0,%xmm0,-8(%rsp)\n${go}`,
  "bits that are turned": `${put} mov $.Lb-f,%eax\n xor $.La-f,%eax\n xor %al,-8(%rsp)\n${go}`,
};

describe.skipIf(!canCompile).concurrent("a target that is put together", () => {
  for (const [name, source] of Object.entries(programs))
    it.each(["-O1", "-O2", "-O3"])(`${name} at %s`, async (level) => {
      const path = await compile(source, "-x", "c", "-w", level);
      const { problems } = await tryRewriting(path);
      expect(problems).toEqual([]);
    });
  it.each(Object.entries(codes))("%s", async (_, code) => {
    const path = await compile(assembly(code), "-x", "assembler-with-cpp", `-Wa,-I,${folder}`, "-pie");
    const { problems } = await tryRewriting(path);
    expect(problems).toEqual([]);
  });

  it("is none where a barrier writes to what is at rsp", async () => {
    const barrier = " lock orl $0,(%rsp)\n lock orq $0,(%rsp)\n lock addl $0,-8(%rsp)";
    const path = await compile(
      assembly(`${put} lea .Lb(%rip),%rcx\n mov %rcx,-8(%rsp)\n1: xor %eax,%eax\n${barrier}\n jmp *-8(%rsp)`),
      "-x",
      "assembler-with-cpp",
      `-Wa,-I,${folder}`,
      "-pie",
    );
    const { problems, rewritten } = await tryRewriting(path);
    expect([problems, rewritten]).toEqual([[], 1]);
  });

  it("is not taken for one that is only handed on", async () => {
    const path = await compile(
      assembly(`${put} lea .Lb(%rip),%rcx\n mov %rcx,-8(%rsp)\n${go}`),
      "-x",
      "assembler-with-cpp",
      `-Wa,-I,${folder}`,
      "-pie",
    );
    const { problems, rewritten } = await tryRewriting(path);
    expect([problems, rewritten]).toEqual([[], 1]);
  });
});
