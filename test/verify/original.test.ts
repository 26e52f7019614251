/** Which original a file is held against, and the files that cannot be verified: each has its own error, on one line. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeEach, describe, expect, it } from "vitest";
import { parseElf, type Section, sectionNamed } from "../../src/elf/image.js";
import { usdtNop5 } from "../commands/in-process.js";
import { must } from "../run.js";
import { folder, sample, sampleCopy } from "../sample/sample.js";
import { changed, rewritten } from "./held.js";

let path: string;
let original: string;
beforeEach(async () => {
  original = await sampleCopy("original");
  path = join(dirname(original), "rewritten");
  writeFileSync(path, rewritten(original).bytes, { mode: 0o755 });
});

/** Verify refuses; returns what it says. */
async function refused(file: string, ...options: string[]): Promise<string> {
  const { status, stdout, stderr } = await usdtNop5("verify", file, ...options);
  expect(stderr).toMatch(/^usdt-nop5: [^\n]+\n$/);
  expect(stderr).not.toContain("defect in usdt-nop5");
  expect([status, stdout]).toEqual([1, ""]);
  return stderr.slice("usdt-nop5: ".length).trimEnd();
}

const carry = (bytes: Buffer): Section => sectionNamed(parseElf(bytes), ".usdt_nop5")!;

function written(bytes: Buffer): string {
  const file = join(dirname(path), "changed");
  writeFileSync(file, bytes);
  return file;
}

describe("files that cannot be verified", () => {
  it("one that was not rewritten, whatever it is held against", async () => {
    const other = await sample("-O1");
    expect(await refused(original)).toMatch(/^.*original: not a rewritten file/);
    expect(await refused(original, "--original", other)).toMatch(/: not a rewritten file/);
    expect(await refused(original, "--original", original)).toMatch(
      /: not a rewritten file: it is the same as the original/,
    );
    expect(await refused(path, "--original", path)).toMatch(/: not a rewritten file: it is the same as the original/);
  });

  it("one of which the revert section is gone", async () => {
    const file = join(dirname(path), "removed");
    await must("objcopy", ["--remove-section", ".usdt_nop5", path, file]);
    expect(await refused(file)).toMatch(/not a rewritten file, or stripped of its section \.usdt_nop5/);
    expect(await refused(file, "--original", original)).toMatch(/not a rewritten file, or stripped/);
  });

  it("one whose revert section is damaged, at any of its bytes", async () => {
    const bytes = readFileSync(path);
    const { sh_offset, sh_size } = carry(bytes);
    for (let at = 0; at < sh_size; at += at < 160 ? 1 : 37) {
      const file = written(changed(bytes, (copy) => copy.writeUInt8(copy[sh_offset + at]! ^ 16, sh_offset + at)));
      for (const options of [[], ["--original", original]]) {
        const words = await refused(file, ...options);
        if (at >= 8 && at < 12) expect(words).toMatch(/\.usdt_nop5 was written by an? (?:newer|older) version/);
        else expect(words).toMatch(new RegExp(`damaged \\.usdt_nop5 \\(offset 0x${sh_offset.toString(16)}\\)$`));
      }
    }
  });

  it("one that does not belong to the original", async () => {
    const other = await sample("-O1");
    expect(await refused(path, "--original", other)).toBe(
      `${path}: the original does not belong to this file: it was made from another one`,
    );
    const almost = join(dirname(path), "almost");
    writeFileSync(
      almost,
      changed(readFileSync(original), (copy) => copy.writeUInt8(1, copy.length - 1)),
    );
    expect(await refused(path, "--original", almost)).toMatch(/the original does not belong to this file/);
  });

  it("one that was laid out anew since, without its original", async () => {
    const file = join(dirname(path), "stripped");
    await must("strip", ["-o", file, path]);
    expect(await refused(file)).toMatch(/changed since it was rewritten .*: give the original with --original$/);
    writeFileSync(file, Buffer.concat([readFileSync(path), Buffer.from("appended")]));
    expect(await refused(file)).toMatch(/changed since it was rewritten/);
  });

  it.each<[string, (file: string) => void, RegExp]>([
    ["a folder", (file) => mkdirSync(file), /is a directory$/],
    ["an empty file", (file) => writeFileSync(file, ""), /not an ELF file \(offset 0x0\)$/],
    ["a script", (file) => writeFileSync(file, "#!/bin/sh\n"), /not an ELF file \(offset 0x0\)$/],
    ["a missing file", () => {}, /cannot be read: no such file or directory$/],
    [
      "a file that is cut short",
      (file) => writeFileSync(file, readFileSync(path).subarray(0, -64)),
      /truncated or damaged/,
    ],
    [
      "another machine's",
      (file) =>
        writeFileSync(
          file,
          changed(readFileSync(path), (b) => b.writeUInt16LE(183, 18)),
        ),
      /built for AArch64/,
    ],
  ])("%s, as the file and as the original", async (_name, make, words) => {
    const file = join(folder(), "input");
    make(file);
    for (const said of [await refused(file), await refused(path, "--original", file)]) {
      expect(said).toMatch(words);
      // It is said of the file that it is about.
      expect(said.startsWith(`${file}: `)).toBe(true);
    }
  });
});

describe("the original that a file carries", () => {
  it("is used without --original, and is what --original is held to be", async () => {
    const runs = [await usdtNop5("verify", path), await usdtNop5("verify", path, "--original", original)];
    for (const { status, stdout, stderr } of runs) {
      expect([status, stderr]).toEqual([0, ""]);
      expect(stdout).toMatch(/: 9 USDT probes: 9 equivalent; the rest of the file is as it was\n$/);
    }
  });

  it("still comes out where only replaced bytes changed, which then are found in their place", async () => {
    const copy = changed(readFileSync(path), (bytes, image) => {
      const at = sectionNamed(image, ".text.nop5")!.sh_offset;
      bytes[at + 1]! ^= 1;
    });
    const { status, stdout } = await usdtNop5("verify", written(copy));
    expect(status).toBe(3);
    expect(stdout).toMatch(/different/);
    expect(stdout).not.toContain("no longer leads to its original");
  });

  it("no longer comes out where another byte changed: that is a difference and no error", async () => {
    const copy = changed(readFileSync(path), (bytes, image) => {
      bytes[sectionNamed(image, ".rodata")!.sh_offset + 4]! ^= 1;
    });
    const alone = await usdtNop5("verify", "--json", written(copy));
    expect(alone.status).toBe(3);
    const { summary, findings } = JSON.parse(alone.stdout) as {
      summary: { different: number };
      findings: { what: string }[];
    };
    expect(summary.different).toBe(1);
    expect(findings.map((f) => f.what).join()).toMatch(/no longer leads to its original; --original shows where/);
    const given = await usdtNop5("verify", written(copy), "--original", original);
    expect(given.status).toBe(3);
    expect(given.stdout).toMatch(/different {3}address 0x[0-9a-f]+: a byte differs in \.rodata/);
  });

  it("is that of the first rewriting, however often a file is rewritten", async () => {
    const again = join(dirname(path), "again");
    expect((await usdtNop5("rewrite", "--layout", "nop,nop10", path, "-o", again)).status).toBe(0);
    expect((await usdtNop5("verify", again, "--original", original)).status).toBe(0);
    expect((await usdtNop5("verify", again)).status).toBe(0);
  });

  it("is the stripped file where that is what was rewritten", async () => {
    // What an earlier rewriting left in it makes room for what the later one says.
    const [once, stripped, twice] = ["once", "stripped", "twice"].map((name) => join(dirname(path), name));
    const options = ["--layout", "nop5"];
    expect((await usdtNop5("rewrite", ...options, "--only", "sample:add", original, "-o", once!)).status).toBe(0);
    await must("strip", ["-o", stripped!, once!]);
    expect((await usdtNop5("rewrite", ...options, stripped!, "-o", twice!)).status).toBe(0);
    expect(readFileSync(twice!).equals(readFileSync(stripped!))).toBe(false);
    for (const given of [[], ["--original", stripped!]]) {
      const { status, stdout } = await usdtNop5("verify", twice!, ...given);
      expect(status, stdout).toBe(0);
    }
  });
});
