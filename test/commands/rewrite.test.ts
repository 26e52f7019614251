/**
 * The commands rewrite and revert around the rewriter: options, report, exit status, what is written where. The rewriter
 * itself is replaced here by one that gives back what a test wants.
 */
import { readdirSync, readFileSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { vaddr } from "../../src/address.js";
import type { ElfImage } from "../../src/elf/image.js";
import { InputError } from "../../src/errors.js";
import type { RewriteOptions, RewriteResult, SiteReport } from "../../src/rewritten/contract.js";
import { sampleCopy } from "../sample/sample.js";
import { usdtNop5 } from "./in-process.js";

const rewriter = vi.hoisted(() => ({
  rewrite: vi.fn<(image: ElfImage, options: RewriteOptions) => RewriteResult>(),
  revert: vi.fn<(image: ElfImage) => { size: number; pieces: { offset: number; bytes: Uint8Array }[] }>(),
}));
vi.mock("../../src/rewrite/rewrite.js", () => ({ rewrite: rewriter.rewrite }));
vi.mock("../../src/rewrite/revert.js", () => ({ revert: rewriter.revert }));

const done: SiteReport = {
  provider: "sample",
  name: "add",
  location: vaddr(0x1290),
  newLocation: vaddr(0x5000),
  twin: null,
  status: "rewritten",
  tactic: "displace",
  redZone: "live",
  guard: true,
  reason: null,
  reasonCode: null,
  displaced: ["mov rdi,rbx"],
  cost: null,
};
const skipped: SiteReport = {
  ...done,
  name: "guarded",
  newLocation: done.location,
  status: "skipped",
  tactic: null,
  redZone: "unknown",
  guard: false,
  reason: "a jump leads into the bytes behind it",
  reasonCode: "entered",
  displaced: [],
};

const result = (sites: readonly SiteReport[], content: string | null): RewriteResult => ({
  report: {
    layout: "nop5",
    inputSize: 100,
    outputSize: content?.length ?? 100,
    sites,
    hazards: [{ code: "fork", message: "a child that forks while traced dies" }],
    forkGuard: { installed: true, reason: null, sites: 1, pages: 1 },
  },
  content: content === null ? null : { size: content.length, pieces: [{ offset: 0, bytes: Buffer.from(content) }] },
});

beforeEach(() => {
  rewriter.rewrite.mockReset().mockReturnValue(result([done], "rewritten"));
  rewriter.revert.mockReset().mockReturnValue({ size: 8, pieces: [{ offset: 0, bytes: Buffer.from("original") }] });
});

const beside = (path: string): string[] => readdirSync(dirname(path)).sort();

describe("rewrite", () => {
  it("writes FILE.nop5 beside FILE and prints the document of the contract", async () => {
    const path = await sampleCopy();
    const before = readFileSync(path);
    const { status, stdout, stderr } = await usdtNop5("rewrite", "--json", path);
    expect([status, stderr]).toEqual([0, ""]);
    expect(JSON.parse(stdout)).toEqual({
      schemaVersion: 1,
      input: path,
      output: `${path}.nop5`,
      layout: "nop5",
      size: { input: 100, output: 9 },
      summary: { sites: 1, rewritten: 1, already: 0, skipped: 0 },
      sites: [
        {
          provider: "sample",
          name: "add",
          location: "0x1290",
          newLocation: "0x5000",
          status: "rewritten",
          tactic: "displace",
          redZone: "live",
          guard: true,
          reason: null,
          reasonCode: null,
          twin: null,
          displaced: ["mov rdi,rbx"],
          cost: null,
        },
      ],
      hazards: [{ code: "fork", message: "a child that forks while traced dies" }],
      forkGuard: { installed: true, reason: null, sites: 1, pages: 1 },
      tracing: [
        { kernel: "before 6.18", plain: "stepped", libbpf: "stepped", probes: 1 },
        { kernel: "6.18 to 7.1", plain: "optimized", libbpf: "optimized", probes: 1 },
        { kernel: "7.2 and later", plain: "emulated", libbpf: "emulated", probes: 1 },
      ],
    });
    expect(readFileSync(`${path}.nop5`, "utf8")).toBe("rewritten");
    expect(readFileSync(path)).toEqual(before);
    expect(beside(path)).toEqual(["probes", "probes.nop5"]);
  });

  it("hands the options on, with their defaults", async () => {
    const path = await sampleCopy();
    await usdtNop5("rewrite", path);
    expect(rewriter.rewrite.mock.lastCall![1]).toEqual({
      kernel: "any",
      layout: "auto",
      only: [],
      newBuildId: false,
      tableAtEnd: false,
      keepOffsets: false,
      forkGuard: true,
    });
    await usdtNop5(
      ...["rewrite", path, "--kernel", "any", "--layout", "nop,nop10", "--only", "sample:*"],
      ...["--only", "*:add", "--new-build-id", "--keep-offsets", "--table-at-end", "--no-fork-guard"],
    );
    expect(rewriter.rewrite.mock.lastCall![1]).toEqual({
      kernel: "any",
      layout: "nop,nop10",
      only: ["sample:*", "*:add"],
      newBuildId: true,
      tableAtEnd: true,
      keepOffsets: true,
      forkGuard: false,
    });
  });

  it("tells people what happened to each probe", async () => {
    rewriter.rewrite.mockReturnValue(
      result([done, skipped, { ...skipped, status: "already", reason: null }], "rewritten"),
    );
    const path = await sampleCopy();
    const { stdout } = await usdtNop5("rewrite", path);
    expect(stdout).toBe(
      [
        `${path}: 3 USDT probes, layout nop5: 1 rewritten, 1 already done, 1 skipped`,
        "  rewritten  0x1290 -> 0x5000 sample:add: displace, red zone live, guarded",
        "             moved: mov rdi,rbx",
        "  skipped    0x1290 sample:guarded: a jump leads into the bytes behind it",
        "  already    0x1290 sample:guarded",
        "  traced on Linux before 6.18: a trap and a single step a hit, about 2.9 times slower than the one-byte nop",
        "  traced on Linux 6.18 to 7.1: a call instead of a trap, twice as fast or better",
        "  traced on Linux 7.2 and later: a trap a hit, as for the one-byte nop",
        "  fork guard: a forked child looks at 1 probe in 1 page before anything else runs",
        "warning (fork): a child that forks while traced dies",
        `written: ${path}.nop5 (100 -> 9 bytes, -91.00 %)`,
        "",
      ].join("\n"),
    );
  });

  it("replaces the file in place", async () => {
    const path = await sampleCopy();
    const { status, stdout } = await usdtNop5("rewrite", "--in-place", path, "--json");
    expect(status).toBe(0);
    expect((JSON.parse(stdout) as { output: string }).output).toBe(path);
    expect(readFileSync(path, "utf8")).toBe("rewritten");
    expect(beside(path)).toEqual(["probes"]);
  });

  it("copies a file where there is nothing to do", async () => {
    rewriter.rewrite.mockReturnValue(result([], null));
    const path = await sampleCopy();
    const { status, stdout } = await usdtNop5("rewrite", path, "-o", `${path}.out`);
    expect(status).toBe(0);
    expect(stdout).toContain("no USDT probes");
    expect(readFileSync(`${path}.out`)).toEqual(readFileSync(path));
    expect(statSync(`${path}.out`).mode).toBe(statSync(path).mode);
  });

  it("does not touch a file in place where there is nothing to do", async () => {
    rewriter.rewrite.mockReturnValue(result([{ ...done, status: "already" }], null));
    const path = await sampleCopy();
    const { ino, ctimeNs } = statSync(path, { bigint: true });
    expect((await usdtNop5("rewrite", path, "--in-place")).status).toBe(0);
    const after = statSync(path, { bigint: true });
    expect([after.ino, after.ctimeNs]).toEqual([ino, ctimeNs]);
  });

  it("writes nothing in a dry run, and does not look at the output", async () => {
    const path = await sampleCopy();
    const { status, stdout } = await usdtNop5("rewrite", path, "--dry-run", "--json", "-o", "/none/of/it");
    expect(status).toBe(0);
    expect((JSON.parse(stdout) as { output: null }).output).toBeNull();
    expect(beside(path)).toEqual(["probes"]);
  });

  it("writes nothing with --strict where a probe is skipped, reports, and exits with 3", async () => {
    rewriter.rewrite.mockReturnValue(result([done, skipped], "rewritten"));
    const path = await sampleCopy();
    const text = await usdtNop5("rewrite", path, "--strict");
    expect(text.status).toBe(3);
    expect(text.stdout).toContain("nothing written");
    const { status, stdout, stderr } = await usdtNop5("rewrite", path, "--strict", "--json");
    expect([status, stderr]).toEqual([3, ""]);
    expect(JSON.parse(stdout)).toMatchObject({ output: null, summary: { skipped: 1 } });
    expect(beside(path)).toEqual(["probes"]);
  });

  it("counts for --strict only the probes that were asked for", async () => {
    rewriter.rewrite.mockReturnValue(result([done, skipped], "rewritten"));
    const path = await sampleCopy();
    expect((await usdtNop5("rewrite", path, "--strict", "--only", "sample:add")).status).toBe(0);
    expect((await usdtNop5("rewrite", path, "--strict", "--only", "sample:g*")).status).toBe(3);
    expect((await usdtNop5("rewrite", path, "--strict", "--dry-run")).status).toBe(3);
  });

  it("says when a pattern matches nothing", async () => {
    const path = await sampleCopy();
    const { status, stderr } = await usdtNop5("rewrite", path, "--only", "sampel:add");
    expect([status, stderr]).toEqual([0, `usdt-nop5: ${path}: --only sampel:add matches no probe\n`]);
  });

  it.each([
    [["sampel:add"], ["sampel:add"]],
    [["sample:add", "sampel:*"], ["sampel:*"]],
    [
      ["x:y", "sample:*", "y:x"],
      ["x:y", "y:x"],
    ],
  ])("writes nothing with --strict where a pattern matches nothing: %j", async (patterns, missed) => {
    const path = await sampleCopy();
    const only = patterns.flatMap((pattern) => ["--only", pattern]);
    const warnings = missed.map((pattern) => `usdt-nop5: ${path}: --only ${pattern} matches no probe\n`).join("");
    for (const options of [[], ["--in-place"], ["--dry-run"]]) {
      const before = readFileSync(path);
      const strict = await usdtNop5("rewrite", path, "--strict", ...only, ...options);
      expect([strict.status, strict.stderr]).toEqual([3, warnings]);
      expect(strict.stdout).toContain("--strict: a pattern of --only matches no probe, nothing written\n");
      expect(readFileSync(path)).toEqual(before);
      const json = await usdtNop5("rewrite", path, "--strict", "--json", ...only, ...options);
      expect([json.status, (JSON.parse(json.stdout) as { output: null }).output]).toEqual([3, null]);
      expect(beside(path)).toEqual(["probes"]);
    }
    const { status, stderr } = await usdtNop5("rewrite", path, ...only);
    expect([status, stderr]).toEqual([0, warnings]);
    expect(beside(path)).toEqual(["probes", "probes.nop5"]);
  });

  it("writes nothing with --strict and such a pattern where there is nothing to do either", async () => {
    rewriter.rewrite.mockReturnValue(result([], null));
    const path = await sampleCopy();
    expect((await usdtNop5("rewrite", path, "--strict", "--only", "sample:add")).status).toBe(3);
    expect(beside(path)).toEqual(["probes"]);
    expect((await usdtNop5("rewrite", path, "--strict")).status).toBe(0);
  });

  it("tells no hazard again that is accepted, but in JSON", async () => {
    const two = result([done], "rewritten");
    rewriter.rewrite.mockReturnValue({
      ...two,
      report: { ...two.report, hazards: [...two.report.hazards, { code: "detach", message: "a damaged byte" }] },
    });
    const path = await sampleCopy();
    const warned = async (...accepted: string[]): Promise<readonly string[]> => {
      const { status, stdout } = await usdtNop5("rewrite", path, ...accepted.flatMap((code) => ["--accept", code]));
      expect(status).toBe(0);
      return [...stdout.matchAll(/^warning \((.*)\)/gm)].map(([, code]) => code!);
    };
    expect(await warned()).toEqual(["fork", "detach"]);
    expect(await warned("fork")).toEqual(["detach"]);
    expect(await warned("detach", "fork", "punned")).toEqual([]);
    const { stdout } = await usdtNop5("rewrite", path, "--json", "--accept", "fork");
    const { hazards } = JSON.parse(stdout) as { hazards: readonly { code: string }[] };
    expect(hazards.map(({ code }) => code)).toEqual(["fork", "detach"]);
  });

  it("makes one line of an error, and of a defect", async () => {
    const path = await sampleCopy();
    rewriter.rewrite.mockImplementation(() => {
      throw new InputError("too odd", "address 0x1290");
    });
    expect(await usdtNop5("rewrite", path, "--json")).toEqual({
      status: 1,
      stdout: "",
      stderr: `usdt-nop5: ${path}: too odd (address 0x1290)\n`,
    });
    rewriter.rewrite.mockImplementation(() => {
      throw new TypeError("undefined is not\na function");
    });
    const { status, stderr } = await usdtNop5("rewrite", path);
    expect(status).toBe(1);
    expect(stderr).toMatch(/^usdt-nop5: [^\n]*: a defect in usdt-nop5, please report it: TypeError: [^\n]*\n$/);
    expect(beside(path)).toEqual(["probes"]);
  });

  it("lets a path's strange characters through in JSON only", async () => {
    const path = await sampleCopy("pr\x1bobes");
    const text = await usdtNop5("rewrite", path);
    expect(text.stdout).not.toContain("\x1b");
    const { stdout } = await usdtNop5("rewrite", path, "--json");
    expect((JSON.parse(stdout) as { input: string }).input).toBe(path);
  });
});

describe("revert", () => {
  it("writes FILE.orig beside FILE, or replaces it", async () => {
    const path = await sampleCopy();
    const { status, stdout } = await usdtNop5("revert", path, "--json");
    expect(status).toBe(0);
    const size = { input: statSync(path).size, output: 8 };
    expect(JSON.parse(stdout)).toEqual({ schemaVersion: 1, input: path, output: `${path}.orig`, size });
    expect(readFileSync(`${path}.orig`, "utf8")).toBe("original");
    expect((await usdtNop5("revert", "--in-place", path)).status).toBe(0);
    expect(readFileSync(path, "utf8")).toBe("original");
  });

  it("refuses, and writes nothing", async () => {
    rewriter.revert.mockImplementation(() => {
      throw new InputError("not what rewrite wrote");
    });
    const path = await sampleCopy();
    const { status, stderr } = await usdtNop5("revert", path);
    expect([status, stderr]).toEqual([1, `usdt-nop5: ${path}: not what rewrite wrote\n`]);
    expect(beside(path)).toEqual(["probes"]);
  });
});
