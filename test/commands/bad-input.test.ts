/**
 * Files that cannot be worked on: each has its own error, one line on stderr, exit status 1, and nothing is written.
 */
import {
  chmodSync,
  copyFileSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseElf, sectionNamed } from "../../src/elf/image.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { must, run } from "../run.js";
import { folder, sample, sampleCopy } from "../sample/sample.js";
import { usdtNop5 } from "./in-process.js";

const commands = ["list", "rewrite", "revert", "verify"] as const;

/** Every command refuses the file and leaves the folder as it was. Returns the words of the first, `list`. */
async function refused(path: string): Promise<string> {
  const before = filesBeside(path);
  const words: string[] = [];
  for (const command of commands) {
    const { status, stdout, stderr } = await usdtNop5(command, path);
    expect(stderr).toMatch(/^usdt-nop5: [^\n]+\n$/);
    expect(stderr.startsWith(`usdt-nop5: ${path}: `)).toBe(true);
    expect(stderr).not.toContain("defect in usdt-nop5");
    expect(status).toBe(1);
    expect(stdout).toBe("");
    words.push(stderr.slice(`usdt-nop5: ${path}: `.length).trimEnd());
  }
  expect(filesBeside(path)).toEqual(before);
  return words[0]!;
}

function filesBeside(path: string): string[] {
  try {
    return readdirSync(dirname(path));
  } catch {
    return [];
  }
}

/** The sample with some bytes changed. */
async function changed(change: (bytes: Buffer) => void): Promise<string> {
  const path = await sampleCopy();
  const bytes = readFileSync(path);
  change(bytes);
  writeFileSync(path, bytes);
  return path;
}

async function written(content: string | Buffer): Promise<string> {
  const path = join(folder(), "input");
  writeFileSync(path, content);
  return path;
}

describe("files of other kinds", () => {
  it.each<[string, string | Buffer, string]>([
    ["an empty file", "", "not an ELF file (offset 0x0)"],
    ["a script", "#!/bin/sh\necho\n", "not an ELF file (offset 0x0)"],
    ["four bytes of magic", Buffer.from("\x7fELF"), "truncated: the ELF header is cut short (offset 0x4)"],
  ])("%s", async (_name, content, words) => {
    expect(await refused(await written(content))).toBe(words);
  });

  it.each<[string, (bytes: Buffer) => void, RegExp]>([
    ["32-bit", (b) => b.writeUInt8(1, 4), /^a 32-bit ELF file/],
    ["big-endian", (b) => b.writeUInt8(2, 5), /^a big-endian ELF file/],
    ["another machine", (b) => b.writeUInt16LE(183, 18), /^built for AArch64; only x86-64 is supported/],
    ["a machine without a name", (b) => b.writeUInt16LE(9999, 18), /^built for machine 9999/],
    ["a core file", (b) => b.writeUInt16LE(4, 16), /^a core file/],
    ["no type", (b) => b.writeUInt16LE(0, 16), /^neither a program nor a shared library/],
    ["no section headers", (b) => b.fill(0, 40, 48), /^no section headers/],
    ["no section headers, by number", (b) => b.fill(0, 60, 64), /^no section headers/],
    ["no program headers", (b) => b.writeUInt16LE(0, 56), /^no program headers/],
  ])("%s", async (_name, change, words) => {
    expect(await refused(await changed(change))).toMatch(words);
  });

  it("an object file", async () => {
    const path = join(folder(), "probes.o");
    await must("gcc", ["-c", "-o", path, join(import.meta.dirname, "../sample/probes.c")]);
    expect(await refused(path)).toMatch(/^an object file: rewrite the program or library after linking/);
  });
});

describe("files that are cut short", () => {
  it("anywhere", async () => {
    const whole = readFileSync(await sample());
    const { header } = parseElf(whole);
    const path = await written("");
    const headers = Array.from({ length: 160 }, (_, i) => i);
    const steps = Array.from({ length: 80 }, (_, i) => Math.floor((whole.length * i) / 80));
    const table = Array.from({ length: 70 }, (_, i) => whole.length - 1 - i * 31);
    for (const length of new Set([...headers, ...steps, ...table, header.e_shoff, header.e_shoff - 1])) {
      if (length < 0 || length >= whole.length) continue;
      writeFileSync(path, whole.subarray(0, length));
      await refused(path);
    }
  });
});

describe("notes", () => {
  const noteSection = (bytes: Buffer) => sectionNamed(parseElf(bytes), ".note.stapsdt")!;

  it.each<[string, (bytes: Buffer) => void]>([
    ["a section that ends within a note's header", (b) => resize(b, 8)],
    ["a section that ends within a note", (b) => resize(b, 40)],
    ["a name longer than the section", (b) => b.writeUInt32LE(0xfffffff0, noteSection(b).sh_offset)],
    ["a descriptor longer than the section", (b) => b.writeUInt32LE(0xfffffff0, noteSection(b).sh_offset + 4)],
    ["a descriptor too short for its addresses", (b) => b.writeUInt32LE(16, noteSection(b).sh_offset + 4)],
    ["a descriptor that ends before its strings do", (b) => b.writeUInt32LE(28, noteSection(b).sh_offset + 4)],
    ["a location beyond 2^53", (b) => b.writeBigUInt64LE(2n ** 60n, readUsdtNotes(parseElf(b))[0]!.locationOffset)],
  ])("%s", async (_name, change) => {
    expect(await refused(await changed(change))).toMatch(/^damaged \.note\.stapsdt: .* \(offset 0x[0-9a-f]+\)$/);
  });

  it("a section that is larger than the file", async () => {
    const path = await changed((b) => resize(b, b.length));
    expect(await refused(path)).toMatch(/^truncated or damaged: section header \d+ leads outside of the file/);
  });

  function resize(bytes: Buffer, size: number): void {
    const { header } = parseElf(bytes);
    bytes.writeBigUInt64LE(BigInt(size), header.e_shoff + noteSection(bytes).index * 64 + 32);
  }
});

describe("paths", () => {
  it("a missing file", async () => {
    expect(await refused(join(folder(), "missing"))).toBe("cannot be read: no such file or directory");
  });

  it("a file in a missing folder, below a file, in a loop of links", async () => {
    const place = folder();
    writeFileSync(join(place, "file"), "");
    symlinkSync("loop", join(place, "loop"));
    expect(await refused(join(place, "none", "file"))).toBe("cannot be read: no such file or directory");
    expect(await refused(join(place, "file", "file"))).toBe("cannot be read: not a directory");
    expect(await refused(join(place, "loop"))).toMatch(/^cannot be read: too many symbolic links/);
  });

  it("a folder", async () => {
    const path = join(folder(), "sub");
    mkdirSync(path);
    expect(await refused(path)).toBe("is a directory");
  });

  it("a FIFO, without waiting for a writer", async () => {
    const path = join(folder(), "fifo");
    await must("mkfifo", [path]);
    expect(await refused(path)).toBe("not a regular file");
  });

  it("a device", async () => {
    for (const command of ["list", "rewrite --dry-run"]) {
      const { status, stderr } = await usdtNop5(...command.split(" "), "/dev/null");
      expect([status, stderr]).toEqual([1, "usdt-nop5: /dev/null: not a regular file\n"]);
    }
  });

  it.runIf(process.getuid?.() === 0)("an unreadable file (as another user)", async ({ skip }) => {
    const path = await sampleCopy();
    chmodSync(dirname(path), 0o755);
    chmodSync(path, 0o000);
    const program = join(import.meta.dirname, "../../bin/usdt-nop5.js");
    const { status, stderr } = await run("setpriv", [
      "--reuid=65534",
      "--regid=65534",
      "--clear-groups",
      process.execPath,
      program,
      "list",
      path,
    ]);
    skip(/Cannot find module|ERR_MODULE|EACCES/.test(stderr), "the checkout is closed to other users");
    expect([status, stderr]).toEqual([1, `usdt-nop5: ${path}: cannot be read: permission denied\n`]);
  });

  it("a name with a line end stays one line", async () => {
    const { stderr } = await usdtNop5("list", join(folder(), "two\nlines"));
    expect(stderr).toMatch(/^usdt-nop5: [^\n]*two\\x0alines: [^\n]*\n$/);
  });
});

describe("outputs", () => {
  const failing = async (path: string, ...options: string[]): Promise<string> => {
    const content = readFileSync(path);
    const { status, stdout, stderr } = await usdtNop5("rewrite", path, ...options);
    expect(status).toBe(1);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/^usdt-nop5: [^\n]+\n$/);
    expect(readFileSync(path)).toEqual(content);
    return stderr.slice("usdt-nop5: ".length).trimEnd();
  };

  it("a folder, a missing folder, a device", async () => {
    const path = await sampleCopy();
    const place = dirname(path);
    expect(await failing(path, "-o", place)).toBe(`${place}: is a directory`);
    expect(await failing(path, "-o", join(place, "none", "out"))).toBe(
      `${join(place, "none", "out")}: cannot be written: no such file or directory`,
    );
    expect(await failing(path, "-o", "/dev/null")).toBe("/dev/null: not a regular file");
    expect(readdirSync(place)).toEqual(["probes"]);
  });

  it("the input itself, by its name or another name of it", async () => {
    const path = await sampleCopy();
    const place = dirname(path);
    linkSync(path, join(place, "second"));
    for (const out of ["probes", "second", ".//probes"])
      expect(await failing(path, "-o", `${place}/${out}`)).toContain("is the same file as the input");
  });

  it("a link is replaced, wherever it leads", async () => {
    const path = await sampleCopy();
    const link = join(dirname(path), "link");
    const before = readFileSync(path);
    for (const target of ["nowhere", "probes", "/dev/null"]) {
      rmSync(link, { force: true });
      symlinkSync(target, link);
      expect((await usdtNop5("rewrite", path, "-o", link)).status).toBe(0);
      expect(lstatSync(link).isFile()).toBe(true);
    }
    expect(readFileSync(path)).toEqual(before);
  });

  it("a link of the system's is not", async () => {
    const path = await sampleCopy();
    expect(await failing(path, "-o", "/dev/stdout")).toMatch(/^\/dev\/stdout: is in a directory of the system's/);
  });

  it("an input that is a link, with --no-follow", async () => {
    const path = await sampleCopy();
    const link = join(dirname(path), "link");
    symlinkSync("probes", link);
    for (const command of ["rewrite", "revert"])
      for (const options of [["--in-place"], ["-o", `${link}.out`]]) {
        const { status, stderr } = await usdtNop5(command, link, "--no-follow", ...options);
        expect([status, stderr]).toEqual([1, `usdt-nop5: ${link}: is a symbolic link\n`]);
      }
    expect((await usdtNop5("rewrite", path, "--no-follow", "--in-place")).status).toBe(0);
  });

  it("a file with several hard links, in place", async () => {
    const path = await sampleCopy();
    linkSync(path, `${path}.second`);
    expect(await failing(path, "--in-place")).toMatch(/has 2 hard links; --break-hard-links replaces this one/);
  });

  it("a name that is too long", async () => {
    const path = await sampleCopy("n".repeat(252));
    expect(await failing(path)).toMatch(/cannot be written: name too long$/);
  });
});

describe("a file that is none of it", () => {
  it("is copied as it is when it has no probes", async () => {
    const path = join(folder(), "true");
    copyFileSync("/bin/true", path);
    const { status, stdout } = await usdtNop5("rewrite", path);
    expect(status).toBe(0);
    expect(stdout).toContain("no USDT probes");
    expect(readFileSync(`${path}.nop5`)).toEqual(readFileSync(path));
  });
});
