/**
 * Files with thousands of probes: no piece of the rewriter runs more than twice as often, and a little, where there are
 * twice as many. Counts are held against each other, not times.
 */
import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { rewrite } from "../../src/rewrite/rewrite.js";
import { grown, WorkMeter } from "../work.js";
import { canCompile, compile, manyProbes } from "./compile.js";

/** Functions whose probe has a branch right after it that leads back in: it has to be led to new code. */
const retargeted = (n: number): string => `
.text
.globl _start
_start: mov $60, %eax
  syscall
${Array.from(
  { length: n },
  (_, i) => `.p2align 4
.type f${i}, @function
f${i}: .cfi_startproc
  push %rbx
  .cfi_def_cfa_offset 16
  mov %edi, %ebx
  test %edi, %edi
  {disp32} jne 2f
  .rept 12
  lea 1(%rax), %eax
  .endr
  call g
1: nop
2: lea 3(%rbx), %eax
  mov %eax, %esi
  call g
  pop %rbx
  .cfi_def_cfa_offset 8
  ret
  .cfi_endproc
.size f${i}, . - f${i}
.pushsection .note.stapsdt, "", "note"
.balign 4
.4byte 8, 9f - 8f, 3
.asciz "stapsdt"
8: .8byte 1b, _.stapsdt.base, 0
.asciz "p"
.asciz "f${i}"
.asciz ""
9: .balign 4
.popsection
`,
).join("")}
.type g, @function
g: .cfi_startproc
  lea 1(%rax), %eax
  ret
  .cfi_endproc
.size g, . - g
.section .stapsdt.base, "a"
_.stapsdt.base: .byte 0
.section .note.GNU-stack, "", @progbits
`;

/** All probes in one function, some of them behind branches. */
const inOneFunction = (n: number): string => `
#include <sys/sdt.h>
volatile int v;
int main(int x, char **argv) {
${Array.from({ length: n }, (_, i) => `  v += x; STAP_PROBE2(p, s${i}, x, v); if (x & ${1 << (i % 20)}) v ^= x;`).join("\n")}
  return v == 0;
}
`;

const assembly = ["-x", "assembler-with-cpp", "-nostdlib", "-static-pie"];
const kinds: Readonly<
  Record<string, readonly [source: (n: number) => string, least: number, flags: readonly string[]]>
> = {
  "whose branches are led to new code": [retargeted, 300, assembly],
  // From each probe the ways after it are followed so far and no farther: fewer probes do not fill that.
  "in one function": [inOneFunction, 500, []],
  "in functions that somebody may patch": [manyProbes, 300, ["-fpatchable-function-entry=2"]],
  "without any padding": [manyProbes, 300, ["-falign-functions=1", "-Os"]],
};

const options = {
  kernel: "6.18",
  layout: "nop5",
  only: [],
  newBuildId: false,
  tableAtEnd: false,
  keepOffsets: false,
  forkGuard: true,
} as const;

describe.skipIf(!canCompile)("work grows with the number of probes, and no faster,", () => {
  let meter: WorkMeter;
  beforeAll(async () => {
    meter = await WorkMeter.start();
  });
  afterAll(() => meter.stop());

  it.each(Object.entries(kinds))("%s", async (_what, [source, count, flags]) => {
    const work: ReadonlyMap<string, number>[] = [];
    // The first compiles what the others run.
    for (const n of [3, count, 2 * count]) {
      const bytes = readFileSync(await compile(source(n), ...flags));
      work.push(
        await meter.of(() => {
          expect(rewrite(parseElf(bytes), options).report.sites.length).toBe(n);
        }),
      );
    }
    expect(grown(work[1]!, work[2]!, 100 * count)).toEqual([]);
  });
});
