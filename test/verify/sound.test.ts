/** Programs that are rewritten as they should be, and that verify once called different; each for a kind. */
import { describe, expect, it } from "vitest";
import { canCompile, compile } from "../rewrite/compile.js";
import { tryRewriting } from "./tried.js";

/** A C program around assembly of its own. */
const withAssembly = (text: string, c: string): string =>
  `#include <stdio.h>\n#include <sys/sdt.h>\n#include <sys/wait.h>\n#include <unistd.h>\n__asm__(${text
    .split("\n")
    .map((line) => JSON.stringify(`${line}\n`))
    .join("\n")});\n${c}`;

const note = (site: string, name: string, argument: string): string => `.section .note.stapsdt,"","note"
.balign 4
.4byte 8, 994f-992f, 3
.asciz "stapsdt"
992: .8byte ${site}, _.stapsdt.base, 0
.asciz "sound"
.asciz "${name}"
.asciz "${argument}"
994: .balign 4
.text`;

const programs = {
  "a system call behind which nothing comes": withAssembly(
    `.text
.globl end
.type end,@function
end: .cfi_startproc
 test %edi,%edi
 je 1f
 xor %eax,%eax
 mov $60,%al
 syscall
 hlt
1: ret
 .cfi_endproc
.size end,.-end`,
    `void end(int);
int main(void) { DTRACE_PROBE(sound, main); end(0); if (fork() == 0) end(3); int s; wait(&s); printf("%x\\n", s); return 0; }`,
  ),
  "the same, where the number is not known": withAssembly(
    `.text
.globl end
.type end,@function
end: .cfi_startproc
 test %esi,%esi
 je 1f
 xor %edx,%edx
 mov %esi,%eax
 syscall
 hlt
1: ret
 .cfi_endproc
.size end,.-end`,
    `void end(int, int);
int main(void) { DTRACE_PROBE(sound, main); end(3, 0); if (fork() == 0) end(3, 60); int s; wait(&s); printf("%x\\n", s); return 0; }`,
  ),
  "a system call between a pop and a push": withAssembly(
    `.text
.globl raw
.type raw,@function
raw: .cfi_startproc
 mov %rdi,%rax
 pop %r12
 syscall
 push %r12
 cmp $0xfffffffffffff001,%rax
 jbe 1f
 neg %rax
 ret
1: ret
 .fill 600,1,0xcc
 .cfi_endproc
.size raw,.-raw`,
    `long raw(long);
__attribute__((noinline)) int f(int x) { x *= 77; DTRACE_PROBE1(sound, f, x); return (x * 12345) ^ (x >> 3); }
int main(void) { int s, r = f(1); __asm__ volatile("" ::: "r12"); if (raw(57) == 0) { r += f(2); _exit(r & 7); } wait(&s); printf("%x\\n", s); return 0; }`,
  ),
  "a function without unwind rules beside one with them": withAssembly(
    `.text
.globl bare, ruled
.type bare,@function
bare:
 mov %edi,%eax
1: nop
 ret
.size bare,.-bare
.type ruled,@function
ruled: .cfi_startproc
 sub $24,%rsp
 .cfi_adjust_cfa_offset 24
 lea 0x12345(%rdi),%eax
 imul $0x12345,%eax,%eax
 add $0x12345,%eax
 add $24,%rsp
 .cfi_adjust_cfa_offset -24
 ret
 .cfi_endproc
.size ruled,.-ruled
${note("1b", "bare", "-4@%edi")}`,
    `int bare(int), ruled(int);
int main(void) { DTRACE_PROBE(sound, main); printf("%d %d\\n", bare(3), ruled(4)); return 0; }`,
  ),
  // Who came in at .Lmid + 7 would run an instruction that ends in the middle of the xor.
  "a probe behind an instruction in whose middle an address is, that only is a base": withAssembly(
    `.text
.globl askew, leap
.type askew,@function
askew: .cfi_startproc
 xor %eax,%eax
 mov %edi,-0x10(%rsp)
.Lmid: movl $0x4d,-0x64(%rsp)
 add $0x1b,%eax
 xor -0x64(%rsp),%eax
1: nop
 jmp 2f
2: inc %eax
 ret
 .cfi_endproc
.size askew,.-askew
.type leap,@function
leap: .cfi_startproc
 lea .Lmid+7(%rip),%rcx
 lea .Lone-(.Lmid+7)(%rcx),%rcx
 jmp *%rcx
 int3
.Lone: lea 3(%rdi),%eax
 ret
 .cfi_endproc
.size leap,.-leap
${note("1b", "askew", "-4@%eax")}`,
    `int askew(int), leap(int);
int main(void) { DTRACE_PROBE(sound, main); printf("%d %d\\n", askew(3), leap(4)); return 0; }`,
  ),
  // They are the last bytes of their functions: what follows is padding, and another function.
  "probes in front of what is never reached": `#include <stdio.h>
#include <sys/sdt.h>
__attribute__((noinline)) int f(int i, int x) {
  x += i;
  DTRACE_PROBE1(sound, a, x);
  if (x > 100) {
    x++;
    DTRACE_PROBE1(sound, b, x);
    __builtin_unreachable();
  }
  return x ^ 3;
}
__attribute__((noinline)) int g(int x) {
  x *= 3;
  for (int k = 0; k < x % 5; k++) x += k;
  if (x > 1000) {
    DTRACE_PROBE(sound, c);
    __builtin_unreachable();
  }
  return x;
}
int main(void) { printf("%d %d\\n", f(1, 2), g(4)); return 0; }`,
  // gcc says the second behind the thunk of an indirect jump, as if nothing had left the stack.
  "a branch to a place of which the unwind table says another frame": withAssembly(
    `.text
.p2align 4
 ret
.p2align 4
.globl two
.type two,@function
two: .cfi_startproc
 lea 1(%rdi),%eax
4: test %edi,%edi
 js 2f
3: dec %edi
 cmp $17,%edi
 je 4b
 jg 3b
 je 1f
 ret
 .cfi_adjust_cfa_offset 8
1: nop
2: lea 9(%rdi),%eax
 cltq
 ret
 .cfi_endproc
.size two,.-two
${note("1b", "two", "-4@%edi")}`,
    `int two(int);
int main(void) { DTRACE_PROBE(sound, main); printf("%d %d\\n", two(3), two(40)); return 0; }`,
  ),
  "a read of the file's own header, which says where the section headers are": withAssembly(
    `.text
.globl header
.type header,@function
header: .cfi_startproc
 xor %eax,%eax
1: nop
 lea __ehdr_start(%rip),%rcx
 mov 40(%rcx),%rdx
 ret
 .cfi_endproc
.size header,.-header
${note("1b", "header", "-4@%edi")}`,
    `int header(long);
int main(void) { DTRACE_PROBE(sound, main); printf("%d\\n", header(3)); return 0; }`,
  ),
} as const;

/** Built with -finstrument-functions: each callee hands its return address to a profiler. */
const profiled = `#include <stdio.h>
#include <sys/sdt.h>
static int n;
#define PLAIN __attribute__((no_instrument_function, noinline))
PLAIN void __cyg_profile_func_enter(void *f, void *from) { n += from != 0; }
PLAIN void __cyg_profile_func_exit(void *f, void *from) { n += from != 0; }
static int seen;
__attribute__((noinline)) void callee(int x) { seen += x; }
__attribute__((noinline)) void caller(int a) {
  callee(a); DTRACE_PROBE(sound, first);
  callee(a + 1); DTRACE_PROBE(sound, second);
  callee(a + 2); }
int main(void) { caller(3); printf("%d %d\\n", seen, n); return 0; }
`;

/** A C program with many probes in one long straight function. */
const oneFunction = (count: number): string => `#include <sys/sdt.h>
volatile int v;
__attribute__((noinline)) int f(int x) {
${Array.from({ length: count }, (_, i) => `v += x; DTRACE_PROBE2(sound, p${i}, x, v); if (x & ${1 << (i % 20)}) v ^= x;`).join("\n")}
return v; }
int main(void) { return f(3) & 1; }
`;

describe.skipIf(!canCompile)("verify has nothing to say about", () => {
  it.each(Object.entries(programs))("%s", async (_, source) => {
    const { problems, rewritten } = await tryRewriting(await compile(source));
    expect(problems).toEqual([]);
    expect(rewritten).toBeGreaterThan(0);
  });

  it("a call that leads by new code and whose callee reads its return address, which is the same", async () => {
    const { problems, report } = await tryRewriting(await compile(profiled, "-O2", "-finstrument-functions"));
    expect(problems).toEqual([]);
    expect(report.sites.map((s) => s.tactic)).toContain("call-through");
  });

  it("400 probes in one function, and takes time in proportion to how many there are", async () => {
    const times: number[] = [];
    for (const count of [100, 400]) {
      const tried = await tryRewriting(await compile(oneFunction(count), "-O1"), false);
      expect(tried.problems).toEqual([]);
      expect(tried.rewritten).toBe(count);
      times.push(tried.verifying);
    }
    expect(times[1]! / times[0]!).toBeLessThan(12);
  });

  it("a probe that only a branch leads to, behind padding that never runs: nothing is written for that", async () => {
    const source = `.text
.globl main, f, other
.type other,@function
other: .cfi_startproc
 mov (%rdi),%eax
 ret
 .cfi_endproc
.size other,.-other
.type f,@function
f: .cfi_startproc
 mov $39,%eax
 cmp $4,%esi
 je 1f
 mov (%rdi),%eax
 ret
 .byte 0x0f,0x1f,0x80,0,0,0,0
 mov 4(%rdi),%eax
 jmp other
 .byte 0x66,0x90
1: nop
 syscall
 add %ecx,%eax
 ret
 .byte 0x66,0x2e,0x0f,0x1f,0x84,0,0,0,0,0
 .cfi_endproc
.size f,.-f
.type main,@function
main: .cfi_startproc
 sub $24,%rsp
 .cfi_adjust_cfa_offset 24
 movl $5,(%rsp)
 mov %rsp,%rdi
 mov $4,%esi
 call f
 xor %eax,%eax
 add $24,%rsp
 .cfi_adjust_cfa_offset -24
 ret
 .cfi_endproc
.size main,.-main
.section .stapsdt.base,"a"
_.stapsdt.base: .byte 0
${note("1b", "hop", "8@%rdi")}
.section .note.GNU-stack,"",@progbits
`;
    const { problems, report } = await tryRewriting(await compile(source, "-x", "assembler-with-cpp"));
    expect(problems).toEqual([]);
    expect(report.sites.map((s) => [s.status, s.displaced])).toEqual([["rewritten", []]]);
  });
});
