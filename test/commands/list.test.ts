import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { vaddr } from "../../src/address.js";
import { readBuildId } from "../../src/elf/build-id.js";
import { parseElf, sectionNamed } from "../../src/elf/image.js";
import { functionAt } from "../../src/elf/symbols.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { must } from "../run.js";
import { folder, sample } from "../sample/sample.js";
import { usdtNop5 } from "./in-process.js";

interface Site {
  provider: string;
  name: string;
  location: string;
  base: string;
  semaphore: string;
  arguments: string[];
  instruction: string;
  function: string | null;
}

interface Document {
  schemaVersion: number;
  files: { path: string; buildId: string | null; sites: Site[] }[];
}

async function listed(...paths: string[]): Promise<Document> {
  const { status, stdout, stderr } = await usdtNop5("list", "--json", ...paths);
  expect(stderr).toBe("");
  expect(status).toBe(0);
  return JSON.parse(stdout) as Document;
}

/** The probes as readelf prints them: Provider, Name, Location, Base, Semaphore, Arguments. */
async function readelfNotes(path: string): Promise<string[][]> {
  const text = await must("readelf", ["-nW", path]);
  const fields =
    /Provider: (.*)\n\s+Name: (.*)\n\s+Location: (\w+), Base: (\w+), Semaphore: (\w+)\n\s+Arguments: ?(.*)\n/g;
  const hex = (digits: string): string => `0x${BigInt(digits).toString(16)}`;
  return [...text.matchAll(fields)].map(([, provider, name, location, base, semaphore, args]) => [
    provider!,
    name!,
    hex(location!),
    hex(base!),
    hex(semaphore!),
    args!,
  ]);
}

describe("list --json", () => {
  it("has the document of the contract", async () => {
    const path = await sample();
    const document = await listed(path);
    expect(Object.keys(document)).toEqual(["schemaVersion", "files"]);
    expect(document.schemaVersion).toBe(1);
    expect(document.files).toHaveLength(1);
    expect(Object.keys(document.files[0]!)).toEqual(["path", "buildId", "sites"]);
    expect(document.files[0]!.path).toBe(path);
    expect(Object.keys(document.files[0]!.sites[0]!)).toEqual([
      "provider",
      "name",
      "location",
      "base",
      "semaphore",
      "arguments",
      "instruction",
      "function",
      "twin",
    ]);
  });

  it.each([[[]], [["-no-pie"]], [["-static"]], [["-fuse-ld=lld"]]])("agrees with readelf, flags %j", async (flags) => {
    const path = await sample(...flags);
    const { sites } = (await listed(path)).files[0]!;
    // readelf applies no prelink rule; in a file that was never prelinked it adds nothing.
    expect(sites.map((s) => [s.provider, s.name, s.location, s.base, s.semaphore, s.arguments.join(" ")])).toEqual(
      await readelfNotes(path),
    );
  });

  it("says what stands at each site and in which function", async () => {
    const { sites } = (await listed(await sample())).files[0]!;
    const of = Object.fromEntries(sites.map((s) => [s.name, [s.instruction, s.function]]));
    expect(of).toEqual({
      add: ["nop", "add"],
      guarded: ["nop", "guarded"],
      first: ["nop", "neighbours"],
      second: ["nop", "neighbours"],
      nop5: ["nop5", "layouts"],
      nop10: ["nop10", "layouts"],
      nop_nop5: ["nop,nop5", "layouts"],
      nop_nop10: ["nop,nop10", "layouts"],
      other: ["mov rbx,rdi", "layouts"],
    });
  });

  it("gives the build-id that readelf prints, or null", async () => {
    const printed = /Build ID: (\w+)/.exec(await must("readelf", ["-n", await sample()]))?.[1];
    expect((await listed(await sample())).files[0]!.buildId).toBe(printed);
    expect((await listed(await sample("-Wl,--build-id=none"))).files[0]!.buildId).toBeNull();
  });

  it("knows no function in a stripped file but those of .dynsym", async () => {
    const stripped = join(folder(), "stripped");
    await must("strip", ["-o", stripped, await sample()]);
    expect((await listed(stripped)).files[0]!.sites.map((s) => s.function)).toEqual(Array(9).fill(null));
    await must("strip", ["-o", stripped, await sample("-rdynamic")]);
    expect((await listed(stripped)).files[0]!.sites[0]!.function).toBe("add");
  });

  it("finds the build-id through the program headers where no section holds it", async () => {
    const bytes = readFileSync(await sample());
    const image = parseElf(bytes);
    const section = sectionNamed(image, ".note.gnu.build-id")!;
    const buildId = readBuildId(image);
    expect(buildId).toMatchObject({ offset: section.sh_offset + 16, size: 20 });
    bytes.writeUInt32LE(1, image.header.e_shoff + section.index * 64 + 4);
    expect(readBuildId(parseElf(bytes))).toEqual(buildId);
  });

  it("says when a location is in no executable segment", async () => {
    const path = join(folder(), "dead");
    const bytes = readFileSync(await sample());
    const note = readUsdtNotes(parseElf(bytes))[0]!;
    bytes.writeBigUInt64LE(4n, note.locationOffset);
    writeFileSync(path, bytes);
    const site = (await listed(path)).files[0]!.sites[0]!;
    expect([site.location, site.instruction, site.function]).toEqual(["0x4", "(in no executable segment)", null]);
  });

  it("adds nothing where .stapsdt.base is missing", async () => {
    const path = join(folder(), "baseless");
    const bytes = readFileSync(await sample());
    const notes = readUsdtNotes(parseElf(bytes));
    const name = bytes.lastIndexOf(".stapsdt.base\0");
    expect(name).toBeGreaterThan(0);
    bytes.write("x", name + 1);
    bytes.writeBigUInt64LE(0x9999n, notes[0]!.locationOffset + 8);
    writeFileSync(path, bytes);
    const { sites } = (await listed(path)).files[0]!;
    expect(sites.map((s) => Number(s.location))).toEqual(notes.map((note) => note.location));
    expect(sites[0]!.base).toBe("0x9999");
  });

  it("applies the prelink rule to location and semaphore", async () => {
    const path = join(folder(), "prelinked");
    const bytes = readFileSync(await sample());
    const before = readUsdtNotes(parseElf(bytes))[0]!;
    // As if the file had been linked 0x1000 lower and then moved up.
    for (const [field, value] of [before.location, before.base, before.semaphore].entries())
      bytes.writeBigUInt64LE(BigInt(value - 0x1000), before.locationOffset + field * 8);
    writeFileSync(path, bytes);
    const site = (await listed(path)).files[0]!.sites[0]!;
    expect(Number(site.location)).toBe(before.location);
    expect(Number(site.semaphore)).toBe(before.semaphore);
    expect(Number(site.base)).toBe(before.base - 0x1000);
  });
});

describe("list for people", () => {
  it("prints a line a probe", async () => {
    const path = await sample();
    const { status, stdout } = await usdtNop5("list", path);
    expect(status).toBe(0);
    const lines = stdout.split("\n");
    expect(lines[0]).toContain(`${path}: 9 USDT probes, build-id `);
    expect(lines).toHaveLength(12);
    expect(stdout).not.toContain("\x1b");
  });

  it("says so where there is none", async () => {
    const { status, stdout } = await usdtNop5("list", "/bin/true");
    expect(status).toBe(0);
    expect(stdout).toContain("no USDT probes");
  });

  it("does not let names in a file reach the terminal as escape sequences", async () => {
    const path = join(folder(), "evil\x1b[31m");
    const bytes = readFileSync(await sample());
    const note = readUsdtNotes(parseElf(bytes))[0]!;
    bytes[note.locationOffset + 24] = 0x1b;
    writeFileSync(path, bytes);
    const { stdout } = await usdtNop5("list", path);
    expect(stdout).not.toContain("\x1b");
    expect(stdout).toContain("\\x1bample:add");
  });

  it("lists the other files when one cannot be read", async () => {
    const path = await sample();
    const missing = join(folder(), "missing");
    const { status, stdout, stderr } = await usdtNop5("list", missing, path);
    expect(status).toBe(1);
    expect(stderr).toBe(`usdt-nop5: ${missing}: cannot be read: no such file or directory\n`);
    expect(stdout).toContain(`${path}: 9 USDT probes`);
    const json = await usdtNop5("list", missing, path, "--json");
    expect(json.status).toBe(1);
    expect((JSON.parse(json.stdout) as Document).files.map((file) => file.path)).toEqual([path]);
  });
});

describe("reading parts", () => {
  it("shows of a large library what reading all of it shows", async () => {
    const path = join(folder(), "library");
    copyFileSync(await sample("-static"), path);
    const image = parseElf(readFileSync(path));
    const notes = readUsdtNotes(image);
    expect(notes).toHaveLength(9);
    const { sites } = (await listed(path)).files[0]!;
    expect(sites.map((s) => s.function)).toEqual(notes.map((note) => functionAt(image, note.location)));
    expect(functionAt(image, vaddr(0))).toBeNull();
  });
});
