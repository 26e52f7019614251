/**
 * Branches that have no near form, or prefixes, and have to move with the bytes that they stand in, to lead to an instruction that
 * moved behind its probe; and an operand that is relative to eip, which stays where it is.
 */
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { tryRewriting } from "../verify/tried.js";
import { canCompile, compile } from "./compile.js";

const folder = fileURLToPath(new URL("../verify/witness/programs/", import.meta.url));

/** `f` is called with 1, 2 and 3 in rdi; what stands in front of `.L0` may go to `.L1`, right behind the probe. */
const program = (code: string): string => `.include "p.inc"
.text
FN f
 xor %eax,%eax
${code}
 jmp .L0
.L0: add $100,%eax
 SITE hit
.L1: add $1,%eax
 add $1,%eax
 ret
EFN f
FN main
 push %rbx
 mov $1,%ebx
1: mov %ebx,%edi
 call f
 mov %eax,%esi
 lea .Ltext(%rip),%rdi
 xor %eax,%eax
 call printf@plt
 inc %ebx
 cmp $4,%ebx
 jne 1b
 xor %eax,%eax
 pop %rbx
 ret
EFN main
.section .rodata
.Ltext: .asciz "%d\\n"
`;

const high = " bts $40,%rcx\n btr $0,%rcx\n";
const codes = {
  jrcxz: " mov %rdi,%rcx\n dec %rcx\n nop\n jrcxz .L1",
  "jrcxz of a register with high bits": ` mov %rdi,%rcx\n${high} nop\n jrcxz .L1`,
  jecxz: ` mov %rdi,%rcx\n${high} nop\n jecxz .L1`,
  loop: " mov %rdi,%rcx\n nop\n loop .L1",
  "loop that counts in ecx": ` mov %rdi,%rcx\n${high} nop\n addr32 loop .L1`,
  loope: " lea 1(%rdi),%rcx\n cmp $2,%edi\n nop\n loope .L1",
  loopne: " lea 1(%rdi),%rcx\n cmp $2,%edi\n nop\n loopne .L1",
  "jcc with a hint": " cmp $2,%edi\n nop\n .byte 0x3e,0x75,(.L1-.-1)",
  "jcc with bnd": " cmp $2,%edi\n nop\n bnd jne .L1",
  "jcc with REX": " cmp $2,%edi\n nop\n .byte 0x48,0x75,(.L1-.-1)",
};

const built = (code: string): Promise<string> =>
  compile(program(code), "-x", "assembler-with-cpp", `-Wa,-I,${folder}`, "-pie");

describe.skipIf(!canCompile).concurrent("a branch that moves, to what moved", () => {
  it.each(Object.entries(codes))("%s", async (_, code) => {
    // By how far it is from the probe it stays, or moves by one way or another.
    for (const nops of ["", " nop\n", " nop\n nop\n", " nop\n nop\n nop\n"]) {
      const { problems } = await tryRewriting(await built(code.replace(/^ nop\n/m, nops)));
      expect(problems).toEqual([]);
    }
  });
});

describe.skipIf(!canCompile)("an operand relative to eip", () => {
  it.each([["-pie"], ["-no-pie"]])("does not move (%s)", async (flag) => {
    const load = ".byte 0x67; mov .Lword(%rip),%eax";
    const text = program("").replace(" SITE hit\n", ` SITE hit\n ${load}\n`).concat(".balign 4\n.Lword: .long 77\n");
    const path = await compile(text, "-x", "assembler-with-cpp", `-Wa,-I,${folder}`, flag);
    const { problems, report } = await tryRewriting(path, flag === "-no-pie");
    expect(problems).toEqual([]);
    expect(report.sites.map((s) => s.status)).toEqual(["skipped"]);
  });
});
