/** A nop10 that was compiled in and lies in two pages: no kernel makes a call of it, and those that would refuse it. */
import { describe, expect, it } from "vitest";
import { type RewriteDocument, usdtNop5 } from "../command.js";
import { canCompile, compile } from "./compile.js";

/** A function on a page of its own, with its probe so that `before` bytes of the page are left for it. */
const program = (nops: string, before: number): string => `
__asm__(".text\\n.balign 4096\\n.globl f\\n.type f,@function\\nf:\\n.skip ${4096 - before},0x90\\n1: ${nops}\\nret\\n.size f,.-f\\n"
  ".pushsection .note.stapsdt,\\"\\",\\"note\\"\\n.balign 4\\n.4byte 8,3f-2f,3\\n.asciz \\"stapsdt\\"\\n"
  "2: .8byte 1b,0,0\\n.asciz \\"n\\"\\n.asciz \\"ten\\"\\n.asciz \\"\\"\\n.balign 4\\n3:\\n.popsection");
void f(void);
int main(void) { f(); }
`;

const NOP10 = ".byte 0x66,0x2e,0x0f,0x1f,0x84,0,0,0,0,0";

async function refusal(nops: string, before: number, layout: string): Promise<string | null> {
  const file = await compile(program(nops, before));
  const { stdout } = await usdtNop5("rewrite", file, "--dry-run", "--json", "--layout", layout);
  const { hazards } = JSON.parse(stdout) as RewriteDocument;
  return hazards.find(({ code }) => code === "refused")?.message ?? null;
}

describe.skipIf(!canCompile)("a compiled-in nop10", () => {
  it.each([
    ["nop,nop10", `nop; ${NOP10}`, 11, 10],
    ["nop10", NOP10, 10, 9],
  ])("%s: the report names it where it lies in two pages", async (_what, nops, fits, crosses) => {
    expect(await refusal(nops, fits, "nop,nop10")).toBe(null);
    const message = await refusal(nops, crosses, "nop,nop10");
    expect(message).toMatch(
      /^1 probe had a nop10 already, and it lies in two pages \(0x[0-9a-f]+\): Linux 7\.2 and later refuse/,
    );
  });

  it("is none once it has become a nop5", async () => {
    expect(await refusal(`nop; ${NOP10}`, 10, "nop5")).toBe(null);
  });
});
