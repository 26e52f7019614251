/** What the witness only doubts is a site's verdict, and no finding about the file: what stands behind the doubt is known. */
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { canCompile, compile } from "../../rewrite/compile.js";
import { held, rewritten } from "../held.js";

const folder = fileURLToPath(new URL("./programs/", import.meta.url));

/** Labels that a table of distances from its own words leads to; the sites go through jumps in the padding in front. */
const source = `.include "p.inc"
FN same
 lea (%rdi),%rax
 ret
EFN same
FN by
 lea .Lt(%rip),%r8
 lea (%r8,%rdi,4),%rcx
 movslq (%rcx),%rax
 add %rax,%rcx
 mov %rcx,%rdi
 call same
 mov %rax,%rcx
 jmp *%rcx
EFN by
 .space 64,0xcc
FN body
 ud2
.L0: addl $3,8(%rdx)
 not %eax
 test $1,%sil
 jne 1f
 xor %esi,%eax
1: SITE zero
 add (%rdx),%eax
 add (%rdx),%eax
 bswap %eax
 nop
.L1: imul $15,%eax,%eax
 SITE one
 add %eax,(%rdx)
.L2: add $86000,%eax
 imul $41,%eax,%eax
 SITE two
.L3: add $92,%eax
 mov $3,%r10d
2: not %eax
 dec %r10d
 jne 2b
 SITE three
 bswap %eax
 nop
 not %eax
 ret
EFN body
FN main
 xor %eax,%eax
 ret
EFN main
.data
.balign 4
.Lt: .long 0x7fffffff
 .long .L1-.
 .long .L2-.
 .long .L3-.
 .long 1b-.Lt`;

describe.runIf(canCompile)("a site whose window is doubted", () => {
  it("is unproved, and its jumps in padding are no finding", async () => {
    const path = await compile(source, "-x", "assembler-with-cpp", `-Wa,-I,${folder}`, "-pie");
    const { bytes } = rewritten(path);
    const { sites, findings } = held(bytes);
    expect(sites.map(({ verdict }) => verdict)).toContain("unproved");
    expect(findings).toEqual([]);
  });
});
