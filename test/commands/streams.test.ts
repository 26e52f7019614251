/** The program as its users start it: pipes that close, disks that are full, terminals and colours. */
import { spawn } from "node:child_process";
import { openSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { wantsColours } from "../../src/commands/streams.js";
import { run } from "../run.js";
import { sample, sampleCopy } from "../sample/sample.js";

const program = join(import.meta.dirname, "../../bin/usdt-nop5.js");

describe("a reader that goes away", () => {
  it("is no error", async () => {
    const script = `${process.execPath} ${program} list --json ${Array(200)
      .fill(await sample())
      .join(" ")} | head -c 1`;
    const { status, stdout, stderr } = await run("bash", ["-c", `set -o pipefail; ${script}`]);
    expect([status, stdout, stderr]).toEqual([0, "{", ""]);
  });

  it("of stderr is none either", async () => {
    const script = `${process.execPath} ${program} list /nonexistent 2> >(exec true); echo $?`;
    expect((await run("bash", ["-c", script])).stdout).toBe("1\n");
  });
});

describe("a stdout that cannot take the text", () => {
  async function intoFull(...words: readonly string[]): Promise<[status: unknown, stderr: string]> {
    const child = spawn(process.execPath, [program, ...words], {
      stdio: ["ignore", openSync("/dev/full", "w"), "pipe"],
    });
    let stderr = "";
    child.stderr!.on("data", (chunk: Buffer) => (stderr += chunk));
    const status = await new Promise((resolve) => child.on("close", resolve));
    return [status, stderr];
  }
  const full = "usdt-nop5: standard output: cannot be written: no space left on the device";

  it("is said, and what was to be told is not done", async () => {
    expect(await intoFull("list", await sample())).toEqual([1, `${full}\n`]);
    expect(await intoFull("rewrite", "--dry-run", await sample())).toEqual([1, `${full}\n`]);
  });

  it("is said, and the file is written", async () => {
    const path = await sampleCopy();
    for (const json of [[], ["--json"]]) {
      const [out, back] = [`${path}.out`, `${path}.back`];
      expect(await intoFull("rewrite", ...json, path, "-o", out)).toEqual([0, `${full}; ${out} is written\n`]);
      expect(await intoFull("revert", ...json, out, "-o", back)).toEqual([0, `${full}; ${back} is written\n`]);
      expect(readFileSync(back).equals(readFileSync(path))).toBe(true);
    }
    expect(await intoFull("rewrite", path, "--in-place")).toEqual([0, `${full}; ${path} is written\n`]);
  });
});

describe("colours", () => {
  it("are for terminals only", async () => {
    const path = await sample();
    const plain = await run(process.execPath, [program, "list", path], { environment: { NO_COLOR: "", CI: "" } });
    expect(plain.stdout).not.toContain("\x1b");
    const terminal = (environment: string): Promise<{ stdout: string }> =>
      run("script", ["-qec", `env ${environment} ${process.execPath} ${program} list ${path}`, "/dev/null"]);
    expect((await terminal("-u NO_COLOR -u CI TERM=xterm")).stdout).toContain("\x1b[1m");
    expect((await terminal("-u CI NO_COLOR=1 TERM=xterm")).stdout).not.toContain("\x1b");
    expect((await terminal("-u NO_COLOR CI=true TERM=xterm")).stdout).not.toContain("\x1b");
  });

  it("are not wanted by a stream that is no terminal", () => {
    expect(wantsColours({ write: () => true })).toBe(false);
  });
});
