/**
 * What the program said of kernels before they were booted and asked, and was wrong: each as its users see it. All of
 * it is run as a process, so that an older build (USDT_NOP5=its bin/usdt-nop5.js) can be held against it: that fails
 * each of these. What only shows on the kernels that it is about, doctor's word on 7.2 and later, is held there by
 * test/kernels, in the same way.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { type RewriteDocument, startNop5 } from "../command.js";
import { must } from "../run.js";
import { cannotCompile, cannotOptimize, cannotTrace } from "./kernel.js";
import { build, programSource, scratch } from "./rewriting.js";

const NOP10 = ".byte 0x66,0x2e,0x0f,0x1f,0x84,0,0,0,0,0";
/** A function with a compiled-in nop10, so that `before` bytes of its page are left for it. */
const ten = (before: number): string => `
.globl main
.balign 4096
.skip ${4096 - before}, 0x90
probe: ${NOP10}
ret
main: call probe
xor %eax, %eax
ret
.section .note.GNU-stack, ""
.section .note.stapsdt, "", "note"
.balign 4
.4byte 8, 3f-2f, 3
.asciz "stapsdt"
2: .8byte probe, 0, 0
.asciz "n"
.asciz "ten"
.asciz ""
.balign 4
3:
`;

async function assembled(source: string): Promise<string> {
  const [text, file] = [scratch("ten.s"), scratch("ten")];
  await must("sh", ["-c", `printf '%s' "$0" > ${text} && gcc ${text} -no-pie -o ${file}`, source]);
  return file;
}

async function document(command: string, ...args: readonly string[]): Promise<unknown> {
  const { status, stdout, stderr } = await startNop5(command, "--json", ...args);
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout);
}

describe.skipIf(cannotCompile("what was wrong about kernels"))("what was wrong about kernels", () => {
  let plain: string;
  beforeAll(async () => {
    plain = await build("gcc", programSource("fork.c"), "-O2");
  });

  it.each([
    ["6.12", "nop,nop10"],
    ["6.18.44", "nop5"],
    ["7.1.13", "nop5"],
    ["7.2", "nop,nop10"],
    ["7.2.13", "nop,nop10"],
    ["7.3.4", "nop,nop10"],
    ["7.4", "nop,nop10"],
  ])("rewrite --kernel %s, auto: %s", async (kernel, layout) => {
    const output = scratch("output");
    expect(await document("rewrite", plain, "-o", output, "--kernel", kernel)).toMatchObject({ layout });
  });

  it.each([
    ["6.12", "legacy"],
    ["7.1.13", "6.18"],
    ["7.2.6", "7.2"],
    ["7.3.4", "7.2"],
    ["7.4", "7.2"],
  ])("emulate --kernel %s is that of %s", async (kernel, name) => {
    expect(await document("emulate", "--kernel", kernel)).toMatchObject({ kernel: name, violations: [] });
  });

  it.each(["rewrite", "emulate"])("%s --help: which versions a name stands for", async (command) => {
    const { stdout } = await startNop5(command, "--help");
    const said = stdout.replaceAll(/\s+/g, " ");
    expect(said).toContain("6.18 stands for 6.18 to 7.1");
    expect(said).toContain("7.2 stands for 7.2 and later");
  });

  it("a warning of what 6.18 to 7.1 do does not say 7.2", async () => {
    const { hazards } = (await document(
      "rewrite",
      ...[plain, "-o", scratch("output"), "--layout", "nop5", "--no-fork-guard"],
    )) as RewriteDocument;
    const messages = hazards.map(({ message }) => message).join("\n");
    expect(messages).toContain("7.1");
    expect(messages).not.toMatch(/6\.18 to 7\.2|\(7\.3 |before 7\.3/);
  });

  it("the report names a compiled-in nop10 that lies in two pages", async () => {
    const of = async (before: number): Promise<readonly string[]> => {
      const file = await assembled(ten(before));
      const options = ["--dry-run", "--layout", "nop,nop10"];
      return ((await document("rewrite", file, ...options)) as RewriteDocument).hazards.map(({ code }) => code);
    };
    expect([await of(10), await of(9)]).toEqual([[], ["refused"]]);
  });

  it.skipIf(cannotOptimize("a nop10 that is refused"))("live says that a nop10 is refused", async () => {
    const compiled = await assembled(ten(64));
    const rewritten = scratch("output");
    await document("rewrite", plain, "-o", rewritten, "--layout", "nop,nop10");
    for (const args of [[compiled], ["--behind", "nop10", rewritten]]) {
      const { sites } = (await document("live", ...args.slice(0, -1), "--", args.at(-1)!)) as { sites: unknown };
      expect(sites).toMatchObject([{ hits: 0, untraced: expect.stringMatching(/^refused/) }]);
    }
  });

  it.skipIf(cannotTrace("bench of nop,nop10"))("bench measures nop,nop10", async () => {
    expect(await document("bench", "--rounds", "1", "--layout", "nop,nop10")).toMatchObject({ layout: "nop,nop10" });
  });
});
