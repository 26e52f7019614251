/**
 * The command verify around the verification: options, report, exit status. The verification itself is replaced here by
 * one that answers what a test wants.
 */
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeEach, describe, expect, it, vi } from "vitest";
import { vaddr } from "../../src/address.js";
import type { SiteVerdict, VerifyReport } from "../../src/verify/contract.js";
import { sampleCopy } from "../sample/sample.js";
import { rewritten } from "../verify/held.js";
import { usdtNop5 } from "./in-process.js";

const verifier = vi.hoisted(() => ({ verify: vi.fn<() => VerifyReport>() }));
vi.mock("../../src/verify/verify.js", () => ({ verify: verifier.verify }));

const equivalent: SiteVerdict = {
  provider: "sample",
  name: "add",
  location: vaddr(0x1290),
  newLocation: vaddr(0x5000),
  twin: vaddr(0x5010),
  verdict: "equivalent",
  states: 12,
  reason: null,
  difference: null,
};
const unproved: SiteVerdict = { ...equivalent, name: "first", verdict: "unproved", reason: "vaddps is not known" };
const different: SiteVerdict = {
  ...equivalent,
  name: "second",
  newLocation: equivalent.location,
  twin: null,
  verdict: "different",
  reason: "rax is not the same",
  difference: {
    rows: [
      { name: "rax", before: "0x1", original: "0x3", rewritten: "0x4" },
      { name: "rdi", before: "0xffffffffffffffff", original: "0x2", rewritten: "0x2" },
    ],
    originalTrace: ["0x1290: nop", "0x1291: add rax,rdi"],
    rewrittenTrace: ["0x5000: nop5"],
  },
};
const finding = { where: "address 0x4010", what: "a byte differs in .data: 01, not 00" };

const report = (sites: readonly SiteVerdict[], rest: Partial<VerifyReport> = {}): VerifyReport => ({
  sites,
  findings: [],
  uncompared: [],
  forkGuard: null,
  ...rest,
});

let path: string;
beforeEach(async () => {
  const original = await sampleCopy();
  path = join(dirname(original), "rewritten");
  writeFileSync(path, rewritten(original).bytes);
  verifier.verify.mockReset();
});

const statusOf = async (answer: VerifyReport, ...options: string[]): Promise<number> => {
  verifier.verify.mockReturnValue(answer);
  const { status, stderr } = await usdtNop5("verify", path, ...options);
  expect(stderr).toBe("");
  return status;
};

describe("verify", () => {
  it("exits with 0, and with 3 where anything is different, or with --strict unproved", async () => {
    expect(await statusOf(report([equivalent]))).toBe(0);
    expect(await statusOf(report([equivalent]), "--strict")).toBe(0);
    expect(await statusOf(report([equivalent, unproved]))).toBe(0);
    expect(await statusOf(report([equivalent, unproved]), "--strict")).toBe(3);
    expect(await statusOf(report([equivalent, different]))).toBe(3);
    expect(await statusOf(report([equivalent], { findings: [finding] }))).toBe(3);
    expect(await statusOf(report([], { findings: [finding] }))).toBe(3);
    expect(await statusOf(report([equivalent], { uncompared: ["gone: .symtab"] }), "--strict")).toBe(0);
  });

  it("prints the document of the contract", async () => {
    verifier.verify.mockReturnValue(report([equivalent, unproved, different], { findings: [finding, finding] }));
    const { status, stdout, stderr } = await usdtNop5("verify", "--json", path);
    expect([status, stderr]).toEqual([3, ""]);
    const site = {
      provider: "sample",
      location: "0x1290",
      newLocation: "0x5000",
      twin: "0x5010",
      states: 12,
      reason: null,
      difference: null,
    };
    expect(JSON.parse(stdout)).toEqual({
      schemaVersion: 1,
      input: path,
      // One probe, and the rest of the file, whatever number of findings it has.
      summary: { sites: 3, equivalent: 1, unproved: 1, different: 2 },
      sites: [
        { ...site, name: "add", verdict: "equivalent" },
        { ...site, name: "first", verdict: "unproved", reason: "vaddps is not known" },
        {
          ...site,
          name: "second",
          newLocation: "0x1290",
          twin: null,
          verdict: "different",
          reason: "rax is not the same",
          difference: different.difference,
        },
      ],
      findings: [finding, finding],
      uncompared: [],
      forkGuard: null,
      live: null,
    });
  });

  it("prints a line for each probe that is not equivalent, and what shows a difference", async () => {
    verifier.verify.mockReturnValue(
      report([equivalent, unproved, different], {
        findings: [finding],
        uncompared: ["gone: .symtab (section headers)"],
      }),
    );
    const { stdout } = await usdtNop5("verify", path);
    expect(stdout).toBe(
      [
        `${path}: 3 USDT probes: 1 equivalent, 1 unproved, 1 different; 1 other difference`,
        "  unproved    0x1290 -> 0x5000 sample:first: vaddps is not known",
        "  different   0x1290 sample:second: rax is not the same",
        "                   BEFORE              ORIGINAL  REWRITTEN",
        "              rax  0x1                 0x3       0x4",
        "              rdi  0xffffffffffffffff  0x2       0x2",
        "              ORIGINAL RAN         REWRITTEN RAN",
        "              0x1290: nop          0x5000: nop5",
        "              0x1291: add rax,rdi",
        "  different   address 0x4010: a byte differs in .data: 01, not 00",
        "  not compared: gone: .symtab (section headers)",
        "",
      ].join("\n"),
    );
  });

  it("prints no more findings than anybody reads", async () => {
    const findings = Array.from({ length: 1000 }, () => finding);
    verifier.verify.mockReturnValue(report([equivalent], { findings }));
    const { stdout } = await usdtNop5("verify", path);
    expect(stdout.split("\n").length).toBeLessThan(50);
    expect(stdout).toContain("and 960 more (--json lists them)");
  });

  it("is wrong usage without a file, with two, or with an empty name", async () => {
    for (const words of [[], [path, path], [path, "--original", ""], [path, "--unknown"]]) {
      const { status, stdout, stderr } = await usdtNop5("verify", ...words);
      expect([status, stdout]).toEqual([2, ""]);
      expect(stderr).toMatch(/^usdt-nop5: [^\n]+\n$/);
    }
  });
});
