/** What may be said on the command line, and how wrong usage is answered: exit status 2 and one line on stderr. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { usdtNop5 } from "./in-process.js";

describe("wrong usage", () => {
  it.each([
    ["nonsense"],
    ["--nonsense"],
    ["list"],
    ["list", "--nonsense", "file"],
    ["rewrite"],
    ["rewrite", "one", "two"],
    ["rewrite", "file", "--layout", "nop7"],
    ["rewrite", "file", "--kernel", "five"],
    ["rewrite", "file", "--kernel", "6"],
    ["rewrite", "file", "--kernel", "6.18.x"],
    ["rewrite", "file", "--kernel", "7.2-rc1 "],
    ["emulate", "--kernel", "any"],
    ["rewrite", "file", "--only", "provider"],
    ["rewrite", "file", "--only", "provider:"],
    ["rewrite", "file", "-o", "out", "--in-place"],
    ["rewrite", "file", "-o", ""],
    ["rewrite", "file", "-o"],
    ["rewrite", "file", "--drop-attribute", "mode"],
    ["rewrite", "file", "--accept", "forks"],
    ["rewrite", "file", "--accept", ""],
    ["check", "--expect", "a:b"],
    ["check", "file"],
    ["check", "file", "--fast"],
    ["check", "file", "--expect", "a"],
    ["check", "file", "--expect", "a:b=0"],
    ["check", "file", "--expect", "a:=1"],
    ["check", "file", "--baseline", ""],
    ["check", "file", "--expect", "a:b", "--baseline", "list"],
    ["check", "file", "--expect", "a:b", "--kernel", "6.18"],
    ["check", "file", "--expect", "a:b", "--fast", "--kernel", "six"],
    ["status", "-p", "0"],
    ["status", "-p", "self"],
    ["status", "--all", "-p", "1"],
    ["status", "1"],
    ["revert"],
    ["revert", "file", "-o", "out", "--in-place"],
  ])("%s %s %s %s", async (...argv) => {
    const { status, stdout, stderr } = await usdtNop5(...argv.filter((word) => word !== undefined));
    expect(status).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toMatch(/^usdt-nop5: [^\n]+\n$/);
  });

  it("shows the help when nothing is said", async () => {
    const { status, stdout, stderr } = await usdtNop5();
    expect(status).toBe(2);
    expect(stdout).toBe("");
    expect(stderr).toContain("Usage: usdt-nop5");
  });
});

describe("help and version", () => {
  it.each([["--help"], ["rewrite", "--help"], ["list", "-h"], ["help", "revert"]])("%s %s", async (...argv) => {
    const { status, stdout, stderr } = await usdtNop5(...argv.filter((word) => word !== undefined));
    expect(status).toBe(0);
    expect(stdout).toContain("Usage: usdt-nop5");
    expect(stderr).toBe("");
  });

  it("prints the package's version", async () => {
    const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
    expect(await usdtNop5("--version")).toEqual({ status: 0, stdout: `${version}\n`, stderr: "" });
  });
});
