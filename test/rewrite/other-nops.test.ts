/** Probes that are a nop5 of other bytes than everybody writes: Linux 6.18 turns them into a call all the same. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type ListedSite, type RewriteDocument, usdtNop5 } from "../command.js";
import { run } from "../run.js";
import { canCompile, compile, scratch } from "./compile.js";

const program = (bytes: string): string => `
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
__attribute__((noinline)) static void hit(int v) {
  __asm__ volatile("1: .byte ${bytes}\\n"
    ".pushsection .note.stapsdt,\\"\\",\\"note\\"\\n.balign 4\\n.4byte 8,3f-2f,3\\n.asciz \\"stapsdt\\"\\n"
    "2: .8byte 1b,0,0\\n.asciz \\"n\\"\\n.asciz \\"five\\"\\n.asciz \\"-4@%0\\"\\n.balign 4\\n3:\\n.popsection" ::"r"(v));
}
int main(void) {
  for (int i = 0; i < 50; i++) hit(i);
  if (fork() == 0) { hit(1); _exit(3); }
  int status;
  wait(&status);
  printf("%d\\n", WEXITSTATUS(status));
}
`;

interface ListDocument {
  readonly files: readonly { readonly sites: readonly ListedSite[] }[];
}

describe.skipIf(!canCompile)("another five-byte nop", () => {
  it.each([
    "0x66,0x66,0x66,0x66,0x90",
    "0x0f,0x1f,0x44,0x00,0x08",
    "0x0f,0x1f,0x44,0x20,0x00",
    "0x66,0x0f,0x1f,0x40,0x00",
  ])("becomes the usual one, with a fork guard: %s", async (bytes) => {
    const file = await compile(program(bytes));
    const output = scratch("out");
    const outcome = await usdtNop5("rewrite", file, "-o", output, "--json", "--kernel", "6.18");
    const document = JSON.parse(outcome.stdout) as RewriteDocument;
    expect(document.sites.map((s) => s.status)).toEqual(["rewritten"]);
    expect(document.forkGuard).toMatchObject({ installed: true, sites: 1 });
    const listed = JSON.parse((await usdtNop5("list", "--json", output)).stdout) as ListDocument;
    expect(listed.files[0]!.sites).toMatchObject([{ location: document.sites[0]!.newLocation, instruction: "nop5" }]);
    expect((await usdtNop5("verify", "--strict", output)).status).toBe(0);
    expect(await run(output, [])).toEqual(await run(file, []));
    await usdtNop5("revert", output, "-o", `${output}.back`);
    expect(readFileSync(`${output}.back`).equals(readFileSync(file))).toBe(true);
  });

  it("is judged as a nop5 where the layout does not ask for one", async () => {
    const file = await compile(program("0x66,0x66,0x66,0x66,0x90"));
    const { stdout } = await usdtNop5("rewrite", file, "--dry-run", "--json", "--layout", "nop,nop10");
    const { sites, hazards } = JSON.parse(stdout) as RewriteDocument;
    expect(sites.map((s) => s.status)).toEqual(["already"]);
    expect(hazards.map((h) => h.code)).toEqual(expect.arrayContaining(["fork", "old-kernel", "detach"]));
  });

  it("is none where the kernel refuses it", async () => {
    const file = await compile(program("0x2e,0x0f,0x1f,0x40,0x00"));
    const { stdout } = await usdtNop5("rewrite", file, "--dry-run", "--json");
    expect((JSON.parse(stdout) as RewriteDocument).sites.map((s) => s.status)).toEqual(["skipped"]);
  });
});
