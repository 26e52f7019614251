/**
 * Why five nops that may be entered in their middle do not become a nop5, not even one of which each tail is a nop: what the
 * kernel makes of it, once it is traced, is a call, and has no such tails.
 */
import { writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { usdtNop5 } from "../command.js";
import { run } from "../run.js";
import { cannotOptimize } from "./kernel.js";
import { build, scratch } from "./rewriting.js";

const PREFIXED = "0x66, 0x66, 0x66, 0x66, 0x90";
const CANONICAL = "0x0f, 0x1f, 0x44, 0x00, 0x00";

/** Comes by the nop5 a hundred times, and then into it `argv[1]` bytes behind its start. */
const source = (bytes: string): string => `
#include <stdio.h>
#include <stdlib.h>
long enter(long value, long offset);
__asm__(
  ".globl enter\\n.type enter, @function\\nenter: .cfi_startproc\\n"
  "mov %rdi, %rax\\nlea 9f(%rip), %rcx\\nadd %rsi, %rcx\\njmp *%rcx\\n"
  "9: .byte ${bytes}\\nlea 1(%rax), %rax\\nret\\n.cfi_endproc\\n.size enter, .-enter\\n"
  ".pushsection .note.stapsdt, \\"\\", \\"note\\"\\n.balign 4\\n.long 2f-1f, 4f-3f, 3\\n1: .asciz \\"stapsdt\\"\\n2: .balign 4\\n"
  "3: .quad 9b, 0, 0\\n.asciz \\"five\\"\\n.asciz \\"nops\\"\\n.asciz \\"\\"\\n4: .balign 4\\n.popsection\\n");
int main(int argc, char **argv) {
  long sum = 0;
  for (long i = 0; i < 100; i++) sum += enter(i, 0);
  sum += enter(0, atol(argv[1]));
  printf("%ld\\n", sum);
}
`;

describe.skipIf(cannotOptimize("five nops that are entered"))("a nop5 that is entered in its middle", () => {
  let programs: { readonly prefixed: string; readonly canonical: string };
  beforeAll(async () => {
    const compile = (bytes: string): Promise<string> => {
      const file = scratch("five-nops.c");
      writeFileSync(file, source(bytes));
      return build("gcc", file, "-O2");
    };
    const [prefixed, canonical] = await Promise.all([compile(PREFIXED), compile(CANONICAL)]);
    programs = { prefixed, canonical };
  });

  it("does harm untraced, but for the one with prefixes", async () => {
    for (const offset of ["1", "2", "3", "4"]) {
      expect(await run(programs.prefixed, [offset])).toMatchObject({ status: 0, stdout: "5051\n" });
      expect((await run(programs.canonical, [offset])).signal).not.toBe(null);
    }
  });

  it.each(["1", "2", "3", "4"])(
    "kills the traced program, prefixes or not, %s bytes behind its start",
    async (offset) => {
      const { stdout } = await usdtNop5("live", "--json", "--", programs.prefixed, offset);
      const { exitCode, sites } = JSON.parse(stdout) as { exitCode: number | null; sites: readonly { hits: number }[] };
      expect(sites[0]!.hits).toBe(100);
      expect(exitCode).toBe(null);
    },
  );
});
