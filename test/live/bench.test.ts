/**
 * `bench`: its sample is rewritten by every tactic that it claims, the program is a sound one by other tools' word, and the
 * figures are there. That they meet a target is a matter of the machine, so only what no load can turn round is checked.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { release } from "node:os";
import { describe, expect, it } from "vitest";
import { sampleFunctions, sampleProgram } from "../../src/bench/sample.js";
import { runningKernel } from "../../src/live/running-kernel.js";
import { readNotes } from "../judges/notes.js";
import { run } from "../run.js";
import { cannotCompile, cannotOptimize, cannotTrace } from "./kernel.js";
import { build, programSource, rewriteWith, scratch } from "./rewriting.js";
import { childrenOf, commandLine, eventsOf, isAlive, runTool, startTool } from "./tool.js";

interface Figure {
  readonly ns: number;
  readonly spread: number;
}

interface BenchDocument {
  readonly schemaVersion: number;
  readonly kernel: string;
  readonly file: string | null;
  readonly sites: readonly { readonly name: string; readonly tactic: string | null; readonly measuredAs: string }[];
  readonly rounds: number;
  readonly tracer: "bpf" | "tracefs" | null;
  readonly layout: string;
  readonly nop5: { readonly hit: Figure | null; readonly idle: Figure };
  readonly nop10: { readonly hit: Figure | null; readonly idle: Figure; readonly refused: boolean };
  readonly forms: readonly {
    readonly tactic: string;
    readonly guard: boolean;
    readonly hit: {
      nop: Figure;
      rewritten: Figure;
      toNop: number;
      toNop5: number;
      optimized: boolean;
      ran: string | null;
    } | null;
    readonly idle: { nop: Figure; rewritten: Figure; extra: number; noise: number };
  }[];
}

async function bench(...args: readonly string[]): Promise<BenchDocument> {
  const tool = startTool(["bench", "--json", "--rounds", "3", ...args]);
  const { status, stdout, stderr } = await tool.ended;
  if (status !== 0) throw new Error(`bench: ${status}\n${stderr}`);
  expect(eventsOf(tool.pid)).toEqual([]);
  return JSON.parse(stdout) as BenchDocument;
}

describe("the sample", () => {
  it("is a sound program, by readelf and by running it", async () => {
    const path = scratch("sample");
    writeFileSync(path, sampleProgram(1000), { mode: 0o755 });
    const { status, stdout } = spawnSync(path);
    expect([status, stdout.length]).toEqual([0, sampleFunctions.length * 32]);
    const judged = await run("readelf", ["-Wa", path]);
    expect([judged.status, judged.stderr]).toEqual([0, ""]);
    const names = (await readNotes(path)).map((note) => note.name);
    expect(names).toEqual([...sampleFunctions]);
    const symbols = (await run("nm", [path])).stdout;
    for (const name of sampleFunctions) expect(symbols).toMatch(new RegExp(` T ${name}$`, "m"));
  });
});

describe.skipIf(cannotTrace("bench"))("bench", () => {
  const optimizing = !cannotOptimize("bench: what is optimized");

  it("measures every form against itself and against a compiled-in nop5", async () => {
    const { schemaVersion, kernel, rounds, tracer, nop5, forms } = await bench();
    expect([schemaVersion, kernel, rounds]).toEqual([1, release(), 3]);
    expect(["bpf", "tracefs"]).toContain(tracer);
    expect(forms.map(({ tactic, guard }) => `${tactic} ${guard}`)).toEqual([
      "in-place false",
      "shift false",
      "displace false",
      "displace true",
      "call-through false",
    ]);
    expect(nop5.hit!.ns).toBeGreaterThan(nop5.idle.ns);
    for (const { hit, idle } of forms) {
      expect(hit!.optimized).toBe(optimizing);
      // A trap costs hundreds of nanoseconds on any machine, a pass that nobody traces a few.
      expect(hit!.nop.ns).toBeGreaterThan(20 * idle.nop.ns);
      expect(hit!.rewritten.ns).toBeGreaterThan(20 * idle.rewritten.ns);
      if (optimizing) expect(hit!.toNop).toBeLessThan(1);
      for (const { ns, spread } of [hit!.nop, hit!.rewritten, idle.nop, idle.rewritten]) {
        expect(ns).toBeGreaterThan(0.2);
        expect(spread).toBeGreaterThanOrEqual(0);
      }
    }
  });

  it("knows nop,nop10, and says of a nop10 that is refused", async () => {
    const { treats, optimizes } = runningKernel();
    const { layout, nop10, forms } = await bench("--layout", "nop,nop10");
    expect([layout, nop10.refused, nop10.hit === null]).toEqual([
      "nop,nop10",
      treats.nop10 === "refused",
      treats.nop10 === "refused",
    ]);
    expect(nop10.idle.ns).toBeGreaterThan(0.2);
    expect(forms.length).toBe(5);
    for (const { hit } of forms) expect(hit!.optimized).toBe(optimizes === "nop10");
    const { stdout } = await runTool(["bench", "--rounds", "1"]);
    const figure = treats.nop10 === "refused" ? "refused" : "\\d";
    expect(stdout).toMatch(new RegExp(`^ {2}compiled-in nop10 +${figure}`, "m"));
  });

  it("knows probes with two places, and says which of them the passes run", async () => {
    const { optimizes } = runningKernel();
    const { layout, forms } = await bench("--layout", "universal");
    expect(layout).toBe("universal");
    expect(forms.length).toBe(5);
    for (const { hit } of forms) {
      expect(hit!.ran).toBe(optimizes === "nop5" ? "nop5" : "nop10");
      expect(hit!.optimized).toBe(optimizes !== null);
    }
    const { stdout } = await runTool(["bench", "--layout", "universal", "--rounds", "1"]);
    expect(stdout).toContain(optimizes === "nop5" ? "call (nop5)" : "(nop,nop10)");
  });

  it.skipIf(cannotCompile("bench FILE --site"))("measures the form of a file's probe, rewritten or not", async () => {
    const program = await build("gcc", programSource("workload.c"), "-O2", "-pthread");
    const { path, sites } = await rewriteWith(program, "--layout", "nop5");
    for (const file of [program, path]) {
      const document = await bench(file, "--site", "live:*");
      expect(document.file).toBe(file);
      expect(document.sites).toMatchObject([{ name: "work", tactic: sites[0]!.tactic }]);
      expect(document.forms.length).toBe(1);
    }
  });

  it("leaves no probe behind when it is killed outright", async () => {
    // Its files stay, and go with the scratch folder.
    const TMPDIR = scratch("tmp");
    mkdirSync(TMPDIR);
    const tool = startTool(["bench", "--json", "--rounds", "500"], { environment: { TMPDIR } });
    const isHolder = (pid: number) => commandLine(pid)?.endsWith("/empty-probe") === true;
    let holder: number | undefined;
    for (let i = 0; holder === undefined && i < 100; i++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      holder = childrenOf(tool.pid).find(isHolder);
    }
    tool.process.kill("SIGKILL");
    await tool.ended;
    // Where the kernel takes no BPF program there is none: then what is left is for the next run, as after live.
    const pid = holder;
    if (pid === undefined) return console.warn("SKIPPED: bench killed: no BPF program was attached");
    // The kernel takes its time for taking uprobes away.
    const killed = Date.now();
    while (isAlive(pid) && Date.now() - killed < 20_000) await new Promise((resolve) => setTimeout(resolve, 100));
    console.log(`bench, killed: the probes were gone after ${Date.now() - killed} ms`);
    expect(isAlive(pid)).toBe(false);
    expect(eventsOf(tool.pid)).toEqual([]);
  });

  it("prints a table", async () => {
    const { status, stdout } = await runTool(["bench", "--rounds", "1"]);
    expect(status).toBe(0);
    expect(stdout.split("\n")[0]).toContain(`Linux ${release()}`);
    expect(stdout).toMatch(/^ *rewritten, displace, guard +\d+ \+-\d+% +\d+ \+-\d+% +\d\.\d\d +\d\.\d\d/m);
  });
});

describe("bench, asked wrongly", () => {
  it.each([
    [["/bin/true"], 2, /FILE and --site/],
    [["--site", "a:b"], 2, /FILE and --site/],
    [["--rounds", "0"], 2, /from 1 on/],
    [["/bin/true", "--site", "a:b"], 1, /^usdt-nop5: \/bin\/true: has no probe a:b\n$/],
    [["/nonexistent", "--site", "a:b"], 1, /^usdt-nop5: \/nonexistent: cannot be read/],
  ] as const)("%j", async (args, status, stderr) => {
    const outcome = await runTool(["bench", "--json", ...args]);
    expect(outcome).toMatchObject({ status, stdout: "" });
    expect(outcome.stderr).toMatch(stderr);
  });
});
