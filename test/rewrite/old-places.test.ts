/**
 * Where tables of a program with fixed addresses stood: a section, without which patchelf takes the place for free and
 * puts .dynamic into a segment that cannot be written. Verify accepts this section and none like it.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, it } from "vitest";
import { type ElfImage, parseElf, sectionNamed } from "../../src/elf/image.js";
import { revert } from "../../src/rewrite/revert.js";
import { findingsOf, newFindings } from "../judges/findings.js";
import { readSections } from "../judges/headers.js";
import { skipBecause } from "../packages/skips.js";
import { must, run } from "../run.js";
import { changed, complaints, held, type RewrittenFile, rewritten } from "../verify/held.js";
import { canCompile, compile, scratch } from "./compile.js";

/** Its symbols are exported, so that .dynsym is larger than what patchelf looks for room for. */
const source = `
#include <stdio.h>
#include <sys/sdt.h>
${Array.from({ length: 90 }, (_, i) => `long exported_${i} = ${i};`).join("\n")}
int main(int argc, char **argv) { DTRACE_PROBE1(old, argc, argc); printf("%d %ld\\n", argc, exported_7); }
`;

const linkers = ["lld", "mold"].filter((linker) => spawnSync(`ld.${linker}`, ["--version"]).status === 0);
const noPatchelf = skipBecause(
  "places of tables under patchelf",
  spawnSync("patchelf", ["--version"]).status === 0 ? null : "no patchelf",
);
const noLinker = skipBecause("places of tables that moved", linkers.length > 0 ? null : "neither lld nor mold");

/** The header of a section, to change. */
function headerOf(image: ElfImage, name: string): number {
  const section = sectionNamed(image, name);
  if (section === undefined) throw new Error(`no ${name}`);
  return image.header.e_shoff + section.index * 64;
}

const NAME = ".tables.old";
const oldOnes = async (file: string): Promise<string[]> =>
  (await readSections(file)).filter((s) => s.name === NAME).map((s) => s.type);

describe.skipIf(!canCompile || noLinker).each(linkers)("tables that moved, by %s", (linker) => {
  const built = (...flags: readonly string[]): Promise<string> =>
    compile(source, `-fuse-ld=${linker}`, "-rdynamic", "-Wl,--build-id=sha1", ...flags);
  let input: string;
  let made: RewrittenFile;
  let output: string;
  beforeAll(async () => {
    input = await built("-no-pie");
    made = rewritten(input, { forkGuard: true });
    output = scratch("output");
    writeFileSync(output, made.bytes, { mode: 0o755 });
  });

  it("leave a section where the first of them stood, in a program with fixed addresses alone", async () => {
    expect(await oldOnes(output)).toEqual(["PROGBITS"]);
    expect(newFindings(await findingsOf(input), await findingsOf(output))).toEqual([]);
    const { pieces } = revert(parseElf(made.bytes));
    expect(Buffer.concat(pieces.map((p) => p.bytes)).equals(made.original)).toBe(true);
    const pie = scratch("pie");
    writeFileSync(pie, rewritten(await built("-pie", "-fPIE"), { forkGuard: true }).bytes, { mode: 0o755 });
    expect(await oldOnes(pie)).toEqual([]);
  });

  it.skipIf(noPatchelf).each([
    ["--set-rpath", "/a/path/that/is/longer/than/what/was/there/before"],
    ["--add-needed", "libm.so.6"],
    ["--set-interpreter", "/lib64/../lib64/../lib64/ld-linux-x86-64.so.2"],
  ])("patchelf %s leaves a program that runs", async (...options) => {
    const after = scratch("after");
    copyFileSync(output, after);
    await must("patchelf", [...options, after]);
    expect(await must(after, ["1", "2"])).toBe("3 7\n");
    for (const strip of ["strip", "eu-strip"]) {
      const stripped = scratch("stripped");
      await must(strip, ["-o", stripped, output]);
      await must("patchelf", [...options, stripped]);
      expect(await must(stripped, ["1", "2"])).toBe("3 7\n");
    }
  });

  it.skipIf(noPatchelf)("and without that section one that does not", async () => {
    // It is somewhere else, behind all that is loaded.
    const bare = changed(made.bytes, (copy, image) => {
      const at = headerOf(image, NAME);
      const end = sectionNamed(image, ".usdt_nop5")!.sh_offset;
      for (const [field, value] of [0, 0, end, 0].entries()) copy.writeBigUInt64LE(BigInt(value), at + 8 + field * 8);
    });
    const file = scratch("bare");
    writeFileSync(file, bare, { mode: 0o755 });
    expect(await must(file, ["1", "2"])).toBe("3 7\n");
    await must("patchelf", ["--set-rpath", "/a/path/that/is/longer/than/what/was/there/before", file]);
    expect((await run(file, ["1", "2"])).signal).toBe("SIGSEGV");
  });

  it("verify accepts it", () => {
    expect(complaints(held(made.bytes))).toEqual([]);
    expect(complaints(held(made.bytes, made.original))).toEqual([]);
  });

  const complaintsOf = (bytes: Buffer): string => complaints(held(bytes, made.original)).join("\n");

  // The fields of a section header, and whether they are four bytes or eight.
  it.each([
    ["sh_type", 4],
    ["sh_flags", 8],
    ["sh_addr", 16],
    ["sh_offset", 24],
    ["sh_size", 32],
    ["sh_link", 40],
    ["sh_info", 44],
    ["sh_addralign", 48],
    ["sh_entsize", 56],
  ])("but not with another %s", (_field, at) => {
    for (const more of [1, 3]) {
      const copy = changed(made.bytes, (bytes, image) => {
        bytes[headerOf(image, NAME) + at]! += more;
      });
      expect(complaintsOf(copy)).toContain("section .tables.old: is not in the original");
    }
  });

  it("nor by another name, nor with bytes that nobody left there", () => {
    const named = changed(made.bytes, (bytes, image) => {
      const at = headerOf(image, NAME);
      bytes.writeUInt32LE(bytes.readUInt32LE(at) + 1, at);
    });
    expect(complaintsOf(named)).toContain("section tables.old: is not in the original");
    const filled = changed(made.bytes, (bytes, image) => {
      const { sh_offset, sh_size } = sectionNamed(image, NAME)!;
      bytes[sh_offset + sh_size - 1]! ^= 0x5a;
    });
    expect(complaintsOf(filled)).toContain("a byte that is not zero where a section was moved away");
  });
});
