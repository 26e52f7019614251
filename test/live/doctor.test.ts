/**
 * `doctor`: what it says is held against this kernel's own behaviour, seen by other means: uprobes of the tests' own on
 * programs of the tests' own.
 */
import { spawnSync } from "node:child_process";
import { release } from "node:os";
import { describe, expect, it } from "vitest";
import { kernelOf, kernelThatOptimizes, parseVersion } from "../../src/kernel/kernels.js";
import { detached } from "../../src/live/kernel-programs.js";
import { takesBack, takesBackFromTwo } from "../../src/live/kernel-tests.js";
import { writeProgramFile } from "../../src/live/program-file.js";
import { findTracefs } from "../../src/live/tracefs.js";
import { NOP10 } from "../../src/x86/bytes.js";
import { attach } from "../packages/uprobes.js";
import { must, run } from "../run.js";
import { cannotTrace } from "./kernel.js";
import { EndedEarly, start } from "./living.js";
import { places } from "./places.js";
import { build, programSource, rewriteWith } from "./rewriting.js";
import { eventsOf, startTool, type ToolOptions } from "./tool.js";

interface DoctorDocument {
  readonly schemaVersion: number;
  readonly kernel: string;
  readonly checks: readonly { readonly name: string; readonly status: string; readonly detail: string }[];
  readonly optimizes: string;
}

async function doctor(options?: ToolOptions): Promise<DoctorDocument & { check(name: string): string }> {
  const tool = startTool(["doctor", "--json"], options);
  const { status, stdout, stderr } = await tool.ended;
  expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  expect(eventsOf(tool.pid)).toEqual([]);
  const document = JSON.parse(stdout) as DoctorDocument;
  return { ...document, check: (name) => document.checks.find((check) => check.name === name)?.status ?? "missing" };
}

/** What stands at a traced probe when the kernel has had its say, and what the program said. */
async function tracedByte(file: string): Promise<{ byte: string; said: string }> {
  const [place] = await places(file);
  const probes = attach([place!.point]);
  try {
    const program = await start(file);
    const seen = { byte: program.bytesAt(place!.address, 1), said: program.said };
    await program.finish();
    return seen;
  } catch (error) {
    if (!(error instanceof EndedEarly)) throw error;
    return { byte: "", said: error.ending.stdout };
  } finally {
    probes.detach();
  }
}

describe("doctor", () => {
  it("speaks of this machine", async () => {
    const { schemaVersion, kernel, checks } = await doctor();
    expect(schemaVersion).toBe(1);
    expect(kernel).toBe(release());
    expect(checks.every((check) => ["ok", "warn", "fail", "skipped"].includes(check.status))).toBe(true);
    expect(checks.every((check) => check.name !== "" && check.detail !== "")).toBe(true);
    const tracers = checks.find((check) => check.name === "tracers")!.detail;
    const perf = await run("perf", ["--version"]).catch(() => null);
    if (perf !== null) expect(tracers).toContain(`perf ${/version (\S+)/.exec(perf.stdout)![1]}`);
    const gdb = await run("gdb", ["--version"]).catch(() => null);
    if (gdb !== null) expect(gdb.stdout).toContain(/gdb ([\w.-]+)/.exec(tracers)![1]);
  });

  it("says the same in text", async () => {
    const tool = startTool(["doctor"]);
    const { status, stdout } = await tool.ended;
    expect(status).toBe(0);
    for (const { name, status } of (await doctor()).checks)
      expect(stdout).toMatch(new RegExp(`^  ${status} +${name} `, "m"));
  });

  it("skips without root what needs it, and says why", async () => {
    const uid = 65534;
    if ((await startTool(["--version"], { uid }).ended).status !== 0)
      return console.warn("SKIPPED: doctor without root: others cannot read this folder");
    const document = await doctor({ uid });
    for (const name of [
      "tracefs",
      "uprobes",
      "nop5",
      "nop10",
      "red zone",
      "fork",
      "seccomp",
      "detach",
      "second tracer",
    ])
      expect(document.check(name), name).toBe("skipped");
    for (const { status, detail } of document.checks) if (status === "skipped") expect(detail).toMatch(/root/);
    expect(document.checks.some(({ status }) => status === "fail")).toBe(false);
  });

  it.each([
    // What 7.2 leaves: the first five bytes of the nop, and the call as its operands.
    ["66 2e 0f 1f 84 e8 d4 c3 b2 a1", 0],
    ["66 66 0f 1f 84 00 00 00 00 00", 1],
  ])("knows what a nop10 is when its tracer has gone: %s", (left, status) => {
    const { bytes, site } = detached(NOP10, kernelThatOptimizes("nop10").givesBack);
    bytes.set(Buffer.from(left.replaceAll(" ", ""), "hex"), site!);
    const file = writeProgramFile("left", bytes);
    try {
      expect(spawnSync(file.path, [], { input: "x" })).toMatchObject({ status, signal: null });
    } finally {
      file.remove();
    }
  });

  describe.skipIf(cannotTrace("doctor, against the kernel"))("agrees with what programs of our own see", () => {
    it("about uprobes, nop5, and children that fork", async () => {
      const document = await doctor();
      for (const name of ["root", "tracefs", "uprobes", "uprobe system call", "ptrace"])
        expect(document.check(name), name).toBe("ok");
      const compiled = await build("gcc", programSource("fork.c"), "-O2");
      const { path } = await rewriteWith(compiled, "--layout", "nop5", "--no-fork-guard");
      const { byte, said } = await tracedByte(path);
      expect(document.optimizes === "nop5").toBe(byte === "e8");
      if (document.optimizes === "nop5") {
        expect(document.check("nop5")).toBe("ok");
        expect(document.check("fork")).toBe(said.includes("child exit 0") ? "ok" : "warn");
      }
      const flags = (await must("cat", ["/proc/cpuinfo"])).includes("user_shstk");
      const shadow = document.checks.find((check) => check.name === "shadow stack")!.detail;
      expect(shadow.includes("do not support")).toBe(!flags);
    });

    it("about sites whose tracer has gone: a probe that stays is told from one that goes", async () => {
      const document = await doctor();
      if (document.optimizes !== "nop5") return console.warn("SKIPPED: detaching: no nop5 is optimized here");
      const tracefs = findTracefs().path!;
      // Were the program not to look at the site, it would find it whole in either case.
      expect(await takesBack("nop5", tracefs, true)).toBe(false);
      expect(document.check("detach")).toBe((await takesBack("nop5", tracefs)) ? "ok" : "warn");
      const compiled = await build("gcc", programSource("fork.c"), "-O2");
      const { path } = await rewriteWith(compiled, "--layout", "nop5");
      const [place] = await places(path);
      const probes = attach([place!.point]);
      const program = await start(path);
      probes.detach();
      const left = program.bytesAt(place!.address, 5);
      await program.finish();
      expect(document.check("detach")).toBe(left === "0f1f440000" ? "ok" : "warn");
    });

    it("about a second tracer: it does harm where a copy of the probe had no room, and there alone", async () => {
      const document = await doctor();
      const kernel = kernelOf(parseVersion(release())!);
      if (kernel.optimizes === null) return console.warn("SKIPPED: a second tracer: nothing is optimized here");
      const tracefs = findTracefs().path!;
      const isWhole = await takesBackFromTwo(kernel.optimizes, tracefs);
      expect(document.check("second tracer")).toBe(isWhole ? "ok" : "warn");
      expect(isWhole).toBe(kernel.tearsCalls === null);
      expect(await takesBackFromTwo(kernel.optimizes, tracefs, false)).toBe(document.check("detach") === "ok");
    });

    it("about red zones", async () => {
      const document = await doctor();
      if (document.optimizes !== "nop5") return console.warn("SKIPPED: red zones: no nop5 is optimized here");
      const work = await build("gcc", programSource("redzone.c"), "-O2", "-DREDZONE_NOP5", "-Dmain=work", "-c");
      const { said } = await tracedByte(await build("gcc", programSource("stay.c"), work));
      expect(said).toMatch(/^wrong \d+ of/m);
      expect(document.check("red zone")).toBe(/^wrong 0 of/m.test(said) ? "ok" : "warn");
    });
  });
});
