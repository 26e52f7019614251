/** The program as its users start it: pipes that close, disks that are full, terminals and colours. */
import { spawn } from "node:child_process";
import { openSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { wantsColours } from "../../src/commands/streams.js";
import { run } from "../run.js";
import { sample } from "../sample/sample.js";

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

it("says when stdout cannot take the document", async () => {
  const child = spawn(process.execPath, [program, "list", await sample()], {
    stdio: ["ignore", openSync("/dev/full", "w"), "pipe"],
  });
  let stderr = "";
  child.stderr!.on("data", (chunk: Buffer) => (stderr += chunk));
  const status = await new Promise((resolve) => child.on("close", resolve));
  expect([status, stderr]).toEqual([1, "usdt-nop5: standard output: cannot be written: no space left on the device\n"]);
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
