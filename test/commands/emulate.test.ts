/** The emulate command: documents, texts and exit statuses. What it finds is tested in test/patching. */
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { canCompile, compile, manyProbes, scratch } from "../rewrite/compile.js";
import { usdtNop5 } from "./in-process.js";

interface Document {
  readonly schemaVersion: number;
  readonly kernel: string;
  readonly threads: number;
  readonly states: number;
  readonly exhaustive: boolean;
  readonly violations: readonly {
    readonly property: string;
    readonly message: string;
    readonly trace: readonly { readonly cpu: number; readonly step: string; readonly bytes: string }[];
  }[];
}

async function emulate(...options: readonly string[]): Promise<{ status: number; document: Document }> {
  const { status, stdout, stderr } = await usdtNop5("emulate", "--json", ...options);
  expect(stderr).toBe("");
  return { status, document: JSON.parse(stdout) as Document };
}

describe("documents", () => {
  it("nothing wrong: 0", async () => {
    const { status, document } = await emulate();
    expect(status).toBe(0);
    expect(document).toMatchObject({
      schemaVersion: 1,
      kernel: "6.18",
      threads: 2,
      exhaustive: true,
      violations: [],
    });
    expect(document.states).toBeGreaterThan(1000);
  });

  it("a violation: 3, with its schedule", async () => {
    const { status, document } = await emulate("--scenario", "redzone", "--no-guard", "--threads", "1");
    expect(status).toBe(3);
    const [violation] = document.violations;
    expect(violation!.property).toBe("red-zone");
    expect(violation!.message).toMatch(/rsp-0x/);
    const { trace } = violation!;
    expect(trace.map((t) => t.step)).toContain("syscall");
    // int3 is written by the patcher and met by the thread.
    expect(trace.filter((t) => t.bytes === "cc").map((t) => t.cpu)).toEqual([1, 0]);
    expect(trace.some((t) => t.cpu === 0 && /^e8( [0-9a-f]{2}){4}$/.test(t.bytes))).toBe(true);
  });

  it("the guard, the kernel, the fork guard make a difference", async () => {
    const status = async (...options: string[]): Promise<number> => (await emulate(...options)).status;
    expect(await status("--scenario", "redzone", "--guard")).toBe(0);
    expect(await status("--scenario", "redzone", "--kernel", "7.2")).toBe(0);
    expect(await status("--scenario", "fork", "--threads", "1")).toBe(3);
    expect(await status("--scenario", "fork", "--threads", "1", "--fork-guard")).toBe(0);
    expect(await status("--scenario", "fork", "--threads", "1", "--kernel", "7.2", "--no-fork-guard")).toBe(0);
  });

  it("a kernel counts to its range", async () => {
    const kernelOf = async (version: string): Promise<string> =>
      (await emulate("--kernel", version, "--threads", "1")).document.kernel;
    for (const version of ["5.10", "6.12.117", "legacy"]) expect(await kernelOf(version)).toBe("legacy");
    for (const version of ["6.18.44", "6.19", "7.1.13"]) expect(await kernelOf(version)).toBe("6.18");
    for (const version of ["7.2", "7.2.6", "7.3.4", "7.4"]) expect(await kernelOf(version)).toBe("7.2");
  });

  it("random runs are not exhaustive, and the same for the same seed", async () => {
    const options = ["--random", "7", "--steps", "20000", "--threads", "8", "--scenario", "redzone", "--no-guard"];
    const [a, b] = [await emulate(...options), await emulate(...options)];
    expect(a.document.exhaustive).toBe(false);
    expect(a.status).toBe(3);
    expect(b.document.violations).toEqual(a.document.violations);
    expect((await emulate("--random", "7", "--steps", "5000")).status).toBe(0);
  });

  it("a fault is looked for where it shows", async () => {
    const { status, document } = await emulate("--fault", "call-taken-back");
    expect([status, document.kernel, document.violations[0]!.property]).toEqual([3, "7.2", "torn-instruction"]);
    expect((await emulate("--fault", "optimize-no-last-sync")).status).toBe(0);
  });
});

describe("texts", () => {
  it("a column a CPU", async () => {
    const { status, stdout } = await usdtNop5("emulate", "--fault", "optimize-no-second-sync");
    expect(status).toBe(3);
    const lines = stdout.split("\n");
    const head = lines.find((l) => l.includes("CPU 0"))!;
    expect(head.trim().split(/\s{2,}/)).toEqual(["CPU 0", "CPU 1", "patcher"]);
    // What each actor does begins in its own column.
    expect(lines.find((l) => l.includes("registers the probe"))!.indexOf("registers")).toBe(head.indexOf("patcher"));
    expect(lines.at(-2)).toMatch(/fetches a mixture {2}\[e8 /);
    expect(stdout).toMatch(/states, .*transitions/);
  });

  it("--fault list: name, tab, what it does, harmless at the end of those that are", async () => {
    const { status, stdout } = await usdtNop5("emulate", "--fault", "list");
    expect(status).toBe(0);
    const rows = stdout.trimEnd().split("\n");
    expect(rows.length).toBeGreaterThanOrEqual(20);
    for (const row of rows) expect(row).toMatch(/^[a-z0-9-]+\t\S.*$/);
    const harmless = rows.filter((row) => row.endsWith("harmless")).map((row) => row.split("\t")[0]);
    expect(harmless).toEqual(["optimize-no-last-sync", "unoptimize-no-last-sync", "no-recheck", "syncs-twice"]);
  });
});

describe("wrong usage: 2", () => {
  for (const options of [
    ["--fault", "nonsense"],
    ["--kernel", "five"],
    ["--scenario", "none"],
    ["--threads", "0"],
    ["--random", "x"],
    ["--random", "1", "--exhaustive"],
    ["--steps", "5"],
    ["--site", "a:b"],
    ["file"],
    ["file", "--site", "a:b", "--scenario", "plain"],
    ["file", "--site", "a:b", "--guard"],
  ])
    it(options.join(" "), async () => {
      const { status, stdout, stderr } = await usdtNop5("emulate", ...options);
      expect([status, stdout]).toEqual([2, ""]);
      expect(stderr).toMatch(/^usdt-nop5: .*\n$/);
    });
});

describe.skipIf(!canCompile)("files", () => {
  const rewritten = async (): Promise<string> => {
    const output = scratch("rewritten");
    const { status } = await usdtNop5("rewrite", await compile(manyProbes(3)), "--layout", "nop5", "-o", output);
    expect(status).toBe(0);
    return output;
  };

  it("probes of a rewritten file, one or several", async () => {
    const file = await rewritten();
    expect((await emulate(file, "--site", "many:p1")).status).toBe(0);
    const { status, document } = await emulate(file, "--site", "many:*", "--fault", "rcx-lost");
    expect([status, document.violations.length]).toEqual([3, 3]);
    const text = await usdtNop5("emulate", file, "--site", "many:p2");
    expect(text.stdout).toMatch(/^many:p2 at 0x[0-9a-f]+, Linux 6.18 to 7.1, 2 threads/);
  });

  it("what cannot be done: 1, one line", async () => {
    const file = await rewritten();
    const original = await compile(manyProbes(1));
    const damaged = scratch("damaged");
    writeFileSync(damaged, readFileSync(file).subarray(0, 100));
    for (const [path, site] of [
      [file, "many:none"],
      [original, "many:p0"],
      [damaged, "many:p0"],
      ["/nonexistent", "many:p0"],
    ] as const) {
      const { status, stdout, stderr } = await usdtNop5("emulate", path, "--site", site);
      expect([status, stdout]).toEqual([1, ""]);
      expect(stderr).toMatch(/^usdt-nop5: .+\n$/);
    }
  });
});
