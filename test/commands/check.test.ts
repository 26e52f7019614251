/** `check`: probes that should be there and are not, in files that lost them the way linkers and strippers lose them. */
import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { parseElf } from "../../src/elf/image.js";
import { readUsdtNotes } from "../../src/usdt/notes.js";
import { build } from "../fixtures/build.js";
import { skipBecause } from "../packages/skips.js";
import { must } from "../run.js";
import { folder, sample, sampleCopy } from "../sample/sample.js";
import { type Printed, usdtNop5 } from "./in-process.js";

interface Shortage {
  readonly probe: string;
  readonly expected: number;
  readonly found: number;
}

interface Checked {
  readonly path: string;
  readonly missing: readonly Shortage[];
  readonly fewer: readonly Shortage[];
  readonly removed: readonly { readonly name: string; readonly location: string }[];
  readonly slow: readonly { readonly name: string; readonly twin: string | null; readonly reason: string }[];
}

async function checked(...argv: string[]): Promise<{ status: number; files: readonly Checked[] }> {
  const { status, stdout, stderr } = await usdtNop5("check", "--json", ...argv);
  expect(stderr).toBe("");
  const document = JSON.parse(stdout) as { schemaVersion: number; files: readonly Checked[] };
  expect(Object.keys(document)).toEqual(["schemaVersion", "files"]);
  expect(document.schemaVersion).toBe(1);
  return { status, files: document.files };
}

const nothing = { missing: [], fewer: [], removed: [], slow: [] };

/** A copy of the sample whose note of this name leads to no code, as of a function that a linker removed. */
async function withRemoved(name: string): Promise<string> {
  const path = await sampleCopy();
  const bytes = readFileSync(path);
  const note = readUsdtNotes(parseElf(bytes)).find((one) => one.name === name)!;
  bytes.writeBigUInt64LE(4n, note.locationOffset);
  writeFileSync(path, bytes);
  return path;
}

/** A copy of the sample without its notes. */
async function stripped(): Promise<string> {
  const path = join(folder(), "probes");
  await must("objcopy", ["--remove-section", ".note.stapsdt", await sample(), path]);
  return path;
}

/** The document of `list --json` in a file. */
async function listOf(...paths: string[]): Promise<string> {
  const { stdout } = await usdtNop5("list", "--json", ...paths);
  const list = join(folder(), "list.json");
  writeFileSync(list, stdout);
  return list;
}

async function twins(): Promise<string> {
  const source = fileURLToPath(new URL("../usdt/twins.S", import.meta.url));
  const built = await build({ output: "twins", compiler: "gcc", sources: [source], flags: ["-pie"] });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return built.path;
}

describe("check --expect", () => {
  it("says nothing against a file that has all", async () => {
    const path = await sample();
    const options = ["--expect", "sample:add", "--expect", "*:nop*=2", "--expect", "sample:*=9"];
    expect(await checked(path, ...options)).toEqual({ status: 0, files: [{ path, ...nothing }] });
    const { status, stdout } = await usdtNop5("check", path, ...options);
    expect([status, stdout]).toEqual([0, `${path}: 9 USDT probes as expected\n`]);
  });

  it.each([
    ["sample:adds", { probe: "sample:adds", expected: 1, found: 0 }],
    ["smaple:*=3", { probe: "smaple:*", expected: 3, found: 0 }],
  ])("finds what is missing: %s", async (expected, missing) => {
    const path = await sample();
    expect(await checked(path, "--expect", "sample:add", "--expect", expected)).toEqual({
      status: 3,
      files: [{ path, ...nothing, missing: [missing] }],
    });
    const { status, stdout } = await usdtNop5("check", path, "--expect", expected);
    expect(status).toBe(3);
    expect(stdout).toContain(`  missing  ${missing.probe}  none of ${missing.expected}\n`);
  });

  it("finds that there are fewer", async () => {
    const path = await sample();
    const fewer = [{ probe: "*:nop*", expected: 5, found: 4 }];
    expect(await checked(path, "--expect", "*:nop*=5")).toEqual({ status: 3, files: [{ path, ...nothing, fewer }] });
    expect((await checked(path, "--expect", "*:nop*=4")).status).toBe(0);
  });

  it("finds that a stripper took the notes", async () => {
    const { status, files } = await checked(await stripped(), "--expect", "*:*");
    expect([status, files[0]!.missing]).toEqual([3, [{ probe: "*:*", expected: 1, found: 0 }]]);
  });

  it("finds a probe in removed code, and does not count it", async () => {
    const path = await withRemoved("add");
    const alone = await checked(path, "--expect", "sample:add");
    expect([alone.status, alone.files[0]!.missing, alone.files[0]!.removed]).toEqual([
      3,
      [{ probe: "sample:add", expected: 1, found: 0 }],
      [{ provider: "sample", name: "add", location: "0x4" }],
    ]);
    // Of many one is enough, but a probe that nobody can hit is not silently left out; with a count it may be.
    const many = await checked(path, "--expect", "sample:*");
    expect([many.status, many.files[0]!.missing, many.files[0]!.removed.length]).toEqual([3, [], 1]);
    expect((await checked(path, "--expect", "sample:*=8")).status).toBe(0);
    const fewer = await checked(path, "--expect", "sample:*=9");
    expect([fewer.status, fewer.files[0]!.fewer]).toEqual([3, [{ probe: "sample:*", expected: 9, found: 8 }]]);
    const { stdout } = await usdtNop5("check", path, "--expect", "sample:add");
    expect(stdout).toContain("  removed  sample:add  0x4 is in no code of the file\n");
  });

  it
    .skipIf(skipBecause("check: what lld removed", existsSync("/usr/bin/ld.lld") ? null : "no lld"))
    .each([[[]], [["-Wl,--no-rosegment"]]])("finds what a linker removed, flags %j", async (flags) => {
    const source = fileURLToPath(new URL("./removed.c", import.meta.url));
    const all = ["-O2", "-ffunction-sections", "-Wl,--gc-sections", "-fuse-ld=lld", "-pie", ...flags];
    const built = await build({ output: "removed", compiler: "gcc", sources: [source], flags: all });
    if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
    const { status, files } = await checked(built.path, "--expect", "removed:*");
    expect([status, files[0]!.removed]).toEqual([3, [{ provider: "removed", name: "unused", location: "0x0" }]]);
    expect((await checked(built.path, "--expect", "removed:used")).status).toBe(0);
    // What was removed before is not missed.
    expect((await checked(built.path, "--baseline", await listOf(built.path))).status).toBe(0);
  });

  it("counts a universal probe once", async () => {
    const path = await twins();
    expect((await checked(path, "--expect", "twins:plain=1")).status).toBe(0);
    const { status, files } = await checked(path, "--expect", "twins:plain=2");
    expect([status, files[0]!.fewer]).toEqual([3, [{ probe: "twins:plain", expected: 2, found: 1 }]]);
  });

  it("checks each of several files, and goes on where one cannot be read", async () => {
    const [good, bad] = [await sample(), await stripped()];
    const { status, files } = await checked(good, bad, "--expect", "sample:add");
    expect([status, files.map(({ missing }) => missing.length)]).toEqual([3, [0, 1]]);
    const none = join(folder(), "none");
    const outcome = await usdtNop5("check", "--json", none, bad, "--expect", "sample:add");
    expect([outcome.status, outcome.stderr]).toEqual([
      1,
      `usdt-nop5: ${none}: cannot be read: no such file or directory\n`,
    ]);
    expect((JSON.parse(outcome.stdout) as { files: unknown[] }).files).toHaveLength(1);
  });

  it("lets no name of a file reach the terminal as an escape sequence", async () => {
    const path = await sampleCopy();
    const bytes = readFileSync(path);
    const note = readUsdtNotes(parseElf(bytes)).find(({ name }) => name === "add")!;
    bytes.writeBigUInt64LE(4n, note.locationOffset);
    bytes[note.locationOffset + 24] = 0x1b;
    writeFileSync(path, bytes);
    const { status, stdout } = await usdtNop5("check", path, "--expect", "*:*");
    expect([status, stdout.includes("\x1b"), stdout.includes("\\x1bample:add")]).toEqual([3, false, true]);
  });
});

describe("check --fast", () => {
  /** Which probes of the sample are slow. */
  const slow = async (path: string, ...options: string[]): Promise<string[]> => {
    const { status, files } = await checked(path, "--fast", ...options);
    const names = files[0]!.slow.map(({ name }) => name);
    expect(status).toBe(names.length === 0 ? 0 : 3);
    return names;
  };
  const plain = ["add", "guarded", "first", "second"];

  it.each([
    ["any", [...plain, "nop5", "nop10", "other"]],
    ["6.18", [...plain, "nop10", "nop_nop10", "other"]],
    // What 7.2 emulates is no call, and a nop5 is emulated.
    ["7.2", [...plain, "nop5", "nop_nop5", "other"]],
  ])("asks what is a call on %s and nowhere slower", async (kernel, names) => {
    expect(await slow(await sample(), "--expect", "sample:*", "--kernel", kernel)).toEqual(names);
  });

  it("takes any kernel by default, says why, and asks no probe that is not expected", async () => {
    const path = await sample();
    expect(await slow(path, "--expect", "sample:nop*")).toEqual(["nop5", "nop10"]);
    const { stdout } = await usdtNop5("check", path, "--fast", "--expect", "*:*");
    expect(stdout).toMatch(/slow +sample:add +0x[0-9a-f]+ a trap on Linux before 6.18, 6.18 to 7.1, 7.2 and later\n/);
    expect(stdout).toMatch(/slow +sample:nop5 +0x[0-9a-f]+ a trap and a single step on Linux before 6.18\n/);
    expect(stdout).toMatch(/slow +sample:nop10 +0x[0-9a-f]+ Linux before 6.18 refuses it\n/);
    expect(stdout).toMatch(/slow +sample:other +0x[0-9a-f]+ what stands there is no nop\n/);
    expect((await usdtNop5("check", path, "--expect", "*:*")).status).toBe(0);
  });

  it.each(["any", "6.18", "7.2", "legacy"])("finds universal probes fast on %s", async (kernel) => {
    const names = ["plain", "guarded", "kept"];
    const expects = names.flatMap((name) => ["--expect", `twins:${name}`]);
    // Before 6.18 nothing is a call.
    expect(await slow(await twins(), ...expects, "--kernel", kernel)).toEqual(kernel === "legacy" ? names : []);
  });

  it("passes what rewrite made, and not what it was made of", async () => {
    const path = await sampleCopy();
    expect(await slow(path, "--expect", "sample:add")).toEqual(["add"]);
    expect((await usdtNop5("rewrite", "--in-place", "--only", "sample:add", path)).status).toBe(0);
    expect(await slow(path, "--expect", "sample:add")).toEqual([]);
  });
});

describe("check --baseline", () => {
  it("finds what a file has lost, wherever it stands now", async () => {
    const path = await sampleCopy();
    const list = await listOf(path);
    expect((await checked(path, "--baseline", list)).status).toBe(0);
    const { status, files } = await checked(await stripped(), "--baseline", list);
    expect([status, files[0]!.missing.length, files[0]!.missing[0]]).toEqual([
      3,
      9,
      { probe: "sample:add", expected: 1, found: 0 },
    ]);
  });

  it("counts twins once on either side", async () => {
    const path = await sampleCopy();
    const before = await listOf(path);
    const output = join(folder(), "out");
    expect((await usdtNop5("rewrite", path, "-o", output)).status).toBe(0);
    const { stdout } = await usdtNop5("list", "--json", output);
    expect(stdout).toMatch(/"twin": "0x/);
    expect((await checked(output, "--baseline", before)).status).toBe(0);
    expect((await checked(path, "--baseline", await listOf(output))).status).toBe(0);
  });

  it("wants no probe that was in removed code before, and finds one that is now", async () => {
    const dead = await withRemoved("add");
    expect((await checked(dead, "--baseline", await listOf(dead))).status).toBe(0);
    expect((await checked(await sample(), "--baseline", await listOf(dead))).status).toBe(0);
    const { status, files } = await checked(dead, "--baseline", await listOf(await sample()));
    expect([status, files[0]!.missing.length, files[0]!.removed.length]).toEqual([3, 1, 1]);
  });

  it("takes a name as it is, and not as a pattern", async () => {
    const list = await listOf(await sample());
    const changed = readFileSync(list, "utf8").replace('"name": "add"', '"name": "*"');
    writeFileSync(list, changed);
    const { status, files } = await checked(await sample(), "--baseline", list);
    expect([status, files[0]!.missing]).toEqual([3, [{ probe: "sample:*", expected: 1, found: 0 }]]);
  });

  it("finds each of several files by its path, and says where it has none", async () => {
    const [one, other] = [await sampleCopy(), await stripped()];
    const list = await listOf(one, other);
    const { status, stderr } = await usdtNop5("check", one, other, "--baseline", list);
    expect([status, stderr]).toEqual([0, `usdt-nop5: ${other}: no probe is expected of it\n`]);
    const copy = join(folder(), "copy");
    copyFileSync(one, copy);
    expect(await usdtNop5("check", copy, "--baseline", list)).toEqual({
      status: 1,
      stdout: "",
      stderr: `usdt-nop5: ${list}: has no entry with the path ${copy}\n`,
    });
  });

  const site = { provider: "a", name: "b", instruction: "nop", twin: null };
  const filesOf = (...sites: unknown[]): unknown => ({ schemaVersion: 1, files: [{ path: "x", sites }] });

  it.each([
    ["", "is no JSON document"],
    ["[", "is no JSON document"],
    ["[".repeat(1_000_000), "is no JSON document"],
    ["\xff{}", "is no JSON document"],
    ["null", "is not what list --json prints (the document)"],
    ["[]", "is not what list --json prints (the document)"],
    [{ files: [] }, "is not what list --json prints (schemaVersion)"],
    [{ schemaVersion: 2, files: [] }, "is not what list --json prints (schemaVersion)"],
    [{ schemaVersion: 1, files: {} }, "is not what list --json prints (files)"],
    [{ schemaVersion: 1, files: [{ path: 1, sites: [] }] }, "is not what list --json prints (files[0].path)"],
    [{ schemaVersion: 1, files: [{ path: "x" }] }, "is not what list --json prints (files[0].sites)"],
    [filesOf(null), "is not what list --json prints (files[0].sites[0])"],
    [filesOf(site, { ...site, name: 7 }), "is not what list --json prints (files[0].sites[1].name)"],
    [filesOf({ ...site, provider: undefined }), "is not what list --json prints (files[0].sites[0].provider)"],
    [filesOf({ ...site, instruction: ["nop"] }), "is not what list --json prints (files[0].sites[0].instruction)"],
    [filesOf({ ...site, twin: "yes" }), "is not what list --json prints (files[0].sites[0].twin)"],
    [filesOf({ ...site, twin: "0x10" }), "has one place of a:b without its twin (files[0].sites)"],
    [
      filesOf({ ...site, provider: "\x1b[31m", twin: "0x1" }),
      "has one place of \\x1b[31m:b without its twin (files[0].sites)",
    ],
    [{ schemaVersion: 1, files: Array(2).fill({ path: "x", sites: [] }) }, "has a file twice (files[1].path)"],
  ])("refuses a list that is none: %j", async (content, message) => {
    const list = join(folder(), "list.json");
    writeFileSync(list, typeof content === "string" ? Buffer.from(content, "latin1") : JSON.stringify(content));
    const expected: Printed = { status: 1, stdout: "", stderr: `usdt-nop5: ${list}: ${message}\n` };
    expect(await usdtNop5("check", await sample(), "--baseline", list)).toEqual(expected);
  });

  it("takes names that objects have of their own", async () => {
    const list = join(folder(), "list.json");
    const names = ["__proto__", "constructor", "toString"];
    const sites = names.map((name) => ({ ...site, provider: name, name }));
    writeFileSync(list, JSON.stringify(filesOf(...sites)));
    const { status, files } = await checked(await sample(), "--baseline", list);
    expect([status, files[0]!.missing.map(({ probe }) => probe)]).toEqual([3, names.map((name) => `${name}:${name}`)]);
  });

  it("says that there is no such list, once", async () => {
    const list = join(folder(), "none.json");
    const { status, stderr } = await usdtNop5("check", await sample(), await stripped(), "--baseline", list);
    expect([status, stderr]).toEqual([1, `usdt-nop5: ${list}: cannot be read: no such file or directory\n`]);
  });
});
