/**
 * Files that other tools worked on after they were rewritten, held against the original: what is loaded is compared, and
 * the rest is told, not passed over.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseElf, sectionNamed } from "../../src/elf/image.js";
import { usdtNop5 } from "../commands/in-process.js";
import { packagingSteps } from "../packaging.js";
import { canCompile, compile, manyProbes, scratch } from "../rewrite/compile.js";
import { must } from "../run.js";
import { rewritten } from "./held.js";

interface Document {
  readonly summary: { readonly sites: number; readonly equivalent: number; readonly different: number };
  readonly findings: readonly { readonly where: string; readonly what: string }[];
  readonly uncompared: readonly string[];
}

async function verifyAgainst(file: string, original: string): Promise<{ status: number; document: Document }> {
  const { status, stdout, stderr } = await usdtNop5("verify", "--json", file, "--original", original);
  expect(stderr).toBe("");
  return { status, document: JSON.parse(stdout) as Document };
}

const step = (name: string): (typeof packagingSteps)[number] => packagingSteps.find((s) => s.name === name)!;

const flags: Readonly<Record<string, readonly string[]>> = {
  "code in the rest of a page": ["-fno-asynchronous-unwind-tables"],
  "a new segment": ["-falign-functions=1", "-Wl,-z,noseparate-code"],
};

describe.skipIf(!canCompile).each(Object.entries(flags))("%s", (where, compilerFlags) => {
  const build = async (): Promise<{ original: string; file: string }> => {
    const original = await compile(manyProbes(12), "-g", ...compilerFlags);
    const file = scratch("rewritten");
    const { bytes } = rewritten(original);
    const segments = (content: Buffer): number => parseElf(content).programHeaders.length;
    expect(segments(bytes) - segments(readFileSync(original))).toBe(where === "a new segment" ? 1 : 0);
    writeFileSync(file, bytes, { mode: 0o755 });
    return { original, file };
  };

  it.each(["strip", "strip -g", "debuglink"])("%s: nothing that is loaded differs", async (name) => {
    const { original, file } = await build();
    const packaged = scratch(name.replace(" ", ""));
    await step(name).run(file, packaged);
    expect(readFileSync(packaged).equals(readFileSync(file))).toBe(false);
    const { status, document } = await verifyAgainst(packaged, original);
    expect(document.findings).toEqual([]);
    expect([status, document.summary.different]).toEqual([0, 0]);
    expect(document.summary.equivalent).toBe(document.summary.sites);
    // Debug information is gone, and that is said.
    expect(document.uncompared.join("\n")).toMatch(/gone: .*\.debug_info/);
  });

  it("strip, and then a byte of data, one of code and a permission: each is found", async () => {
    const { original, file } = await build();
    const packaged = scratch("stripped");
    await must("strip", ["-o", packaged, file]);
    const bytes = readFileSync(packaged);
    const image = parseElf(bytes);
    const stack = image.programHeaders.find((p) => p.p_type === 0x6474e551)!;
    const places: readonly (readonly [number, RegExp])[] = [
      [sectionNamed(image, ".rodata")!.sh_offset + 4, /differs in \.rodata/],
      [sectionNamed(image, ".init")!.sh_offset, /differs in \.init/],
      [image.header.e_phoff + stack.index * 56 + 4, /PT_GNU_STACK at 0x0: has the permissions RWX/],
    ];
    for (const [at, says] of places) {
      const copy = Buffer.from(bytes);
      copy[at]! ^= 1;
      const planted = join(dirname(packaged), "planted");
      writeFileSync(planted, copy);
      const { status, document } = await verifyAgainst(planted, original);
      expect(status).toBe(3);
      expect(document.findings.map((f) => f.what).join("\n")).toMatch(says);
    }
  });

  it("patchelf: what it changes of what is loaded is told, the probes are judged all the same", async () => {
    const { original, file } = await build();
    const packaged = scratch("patchelf");
    await step("patchelf").run(file, packaged);
    const { status, document } = await verifyAgainst(packaged, original);
    expect(status).toBe(3);
    expect(document.summary.equivalent).toBe(document.summary.sites);
    expect(document.findings.map((f) => f.what).join("\n")).toMatch(/DT_RUNPATH 0x[0-9a-f]+ is new/);
    expect(document.findings.length).toBeLessThan(40);
  });

  it("eu-strip takes along what tells that a file was rewritten: nothing can be said of it", async () => {
    const { original, file } = await build();
    const packaged = scratch("eu-strip");
    await step("eu-strip").run(file, packaged);
    const { status, stderr } = await usdtNop5("verify", packaged, "--original", original);
    expect(status).toBe(1);
    expect(stderr).toMatch(/stripped of its section \.usdt_nop5/);
  });
});
