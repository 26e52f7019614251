/**
 * hop takes padding in the reach of a short jump. What looks like padding may be entered, by a pointer say, and that
 * must be known as far from the site as the tactic reaches: the program below computes another result where it is not.
 */
import { describe, expect, it } from "vitest";
import { rewrite } from "../command.js";
import { must } from "../run.js";
import { canCompile, compile, scratch } from "./compile.js";

/**
 * The site has three bytes, with code in front that does not come to it and a jump target behind. In front of the function's
 * code, `distance` bytes away, stand nops that nothing runs into.
 */
const program = (distance: number, entered: boolean): string => `
#include <sys/sdt.h>
.globl f
.type f, @function
f: .cfi_startproc
  jmp .Lbegin
.Lnops:
  nop; nop; nop; nop; nop; nop; nop; nop
  add $5, %eax
  ret
.Lfiller:
  .rept ${(distance - 16) >> 2}
  lea 1(%eax), %eax
  .endr
  ret
.Lsite:
  STAP_PROBE(hop, site)
  jmp .Lout
.Lbehind:
  add $1, %eax
.Lout:
  add $2, %eax
  ret
.Lbegin:
  mov $10, %eax
  cmp $1, %edi
  je .Lbehind
  cmp $2, %edi
  je .Lsite
  cmp $3, %edi
  je .Lfiller
  ${entered ? "lea .Lnops(%rip), %rdx\n  jmp *%rdx" : "ret"}
  .cfi_endproc
.size f, . - f
.globl main
.type main, @function
main: .cfi_startproc
  push %rbx
  .cfi_def_cfa_offset 16
  .cfi_offset 3, -16
  xor %ebx, %ebx
1:
  mov %ebx, %edi
  call f
  mov %eax, %esi
  lea format(%rip), %rdi
  xor %eax, %eax
  call printf@PLT
  inc %ebx
  cmp $4, %ebx
  jne 1b
  xor %eax, %eax
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
  .cfi_endproc
.size main, . - main
.section .rodata
format: .asciz "%d\\n"
.section .note.GNU-stack, "", @progbits
`;

describe.skipIf(!canCompile)("hop", () => {
  const build = (distance: number, entered: boolean) =>
    compile(program(distance, entered), "-x", "assembler-with-cpp", "-fPIE", "-pie");

  it("uses padding that nothing enters", async () => {
    const input = await build(40, false);
    const output = scratch("free");
    const { sites } = await rewrite(input, output);
    expect(sites.map((s) => s.tactic)).toEqual(["hop"]);
    expect(await must(output, [])).toBe(await must(input, []));
  });

  it.each([40, 60, 80, 100, 110])(
    "leaves padding alone that a pointer leads into, %i bytes from the site",
    async (distance) => {
      const input = await build(distance, true);
      const output = scratch("entered");
      await rewrite(input, output);
      expect(await must(output, [])).toBe(await must(input, []));
    },
  );
});
