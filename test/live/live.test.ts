/**
 * `live`: commands of every kind do under real uprobes what they do without, hits are exact, and nothing stays in tracefs,
 * whatever becomes of the command or of the tool.
 */
import { appendFileSync, copyFileSync, mkdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { runningKernel } from "../../src/live/running-kernel.js";
import { corpus, corpusPath, FETCH_TIMEOUT } from "../packages/corpus.js";
import { run } from "../run.js";
import { uprobeLines } from "../uprobe-lines.js";
import { cannotOptimize, cannotTrace } from "./kernel.js";
import { build, programSource, rewriteWith, scratch } from "./rewriting.js";
import { childrenOf, commandLine, eventsOf, runTool, startTool, type ToolOptions } from "./tool.js";

interface LiveDocument {
  readonly schemaVersion: number;
  readonly kernel: string;
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly sites: readonly {
    readonly file: string;
    readonly provider: string;
    readonly name: string;
    readonly hits: number;
    readonly optimized: boolean;
    readonly bytes: string | null;
  }[];
}

interface Run extends LiveDocument {
  readonly stderr: string;
}

async function live(args: readonly string[], options?: ToolOptions): Promise<Run> {
  const tool = startTool(["live", "--json", ...args], options);
  const { status, signal, stdout, stderr } = await tool.ended;
  if (status !== 0) throw new Error(`live ${args.join(" ")}: ${signal ?? status}\n${stderr}`);
  expect(eventsOf(tool.pid)).toEqual([]);
  return { ...(JSON.parse(Buffer.from(stdout, "latin1").toString()) as LiveDocument), stderr };
}

const skipped = cannotTrace("live");
const optimizing = !skipped && !cannotOptimize("live: what is optimized");

describe.skipIf(skipped)("live", () => {
  let plain: string;
  let rewritten: string;
  beforeAll(async () => {
    plain = await build("gcc", programSource("workload.c"), "-O2", "-pthread");
    rewritten = (await rewriteWith(plain, "--layout", "nop5")).path;
  });
  /** One site, hit so often, and seen as the kernel left it. */
  const expectSite = (result: LiveDocument, hits: number, optimized = optimizing): void => {
    expect(result.sites).toMatchObject([{ provider: "live", name: "work", hits, optimized }]);
    expect(result.sites[0]!.bytes).toMatch(optimized ? /^e8[0-9a-f]{8}$/ : /^cc[0-9a-f]{8}$/);
  };

  describe("counts each hit and sees what the kernel made of the site", () => {
    const cases: readonly { what: string; args: readonly string[]; hits: number; exitCode: number }[] = [
      { what: "a program that lives two milliseconds", args: ["quick"], hits: 10, exitCode: 0 },
      { what: "threads", args: ["threads"], hits: 8000, exitCode: 0 },
      { what: "a first thread that ends before the others", args: ["leave"], hits: 3000, exitCode: 0 },
      { what: "children by fork, and by vfork and exec", args: ["forks"], hits: 50, exitCode: 0 },
      { what: "a chain of execs", args: ["execs", "4"], hits: 50, exitCode: 6 },
      { what: "a child that stops and goes on", args: ["stops"], hits: 20, exitCode: 0 },
    ];
    it.each(cases)("of $what", async ({ args, hits, exitCode }) => {
      const result = await live(["--", rewritten, ...args]);
      expect(result).toMatchObject({ schemaVersion: 1, exitCode, signal: null });
      expect(result.kernel).toBe((await run("uname", ["-r"])).stdout.trim());
      expectSite(result, hits);
      const before = await live(["--", plain, ...args]);
      expect(before).toMatchObject({ exitCode, signal: null });
      expectSite(before, hits, false);
    });

    it.each(["SIGTERM", "SIGSEGV", "SIGKILL"] as const)("of a program that is killed by %s", async (signal) => {
      const result = await live(["--", rewritten, "killed", String(constants.signals[signal])]);
      expect(result).toMatchObject({ exitCode: null, signal });
      expectSite(result, 10);
    });

    it("a hundred times in a row", async () => {
      const loop = 'for i in 0 1 2 3 4 5 6 7 8 9; do for j in 0 1 2 3 4 5 6 7 8 9; do "$0" quick || exit 1; done; done';
      const result = await live(["--file", rewritten, "--", "sh", "-c", loop, rewritten]);
      expect(result).toMatchObject({ exitCode: 0 });
      expectSite(result, 1000);
    });
  });

  it("hands signals on as they come", async () => {
    expect(await live(["--", rewritten, "signals"])).toMatchObject({ exitCode: 0 });
  });

  it("gives the command its own standard input and output", async () => {
    const text = "one\ntwo\n\x00\xff three".repeat(50);
    const outcome = await runTool(["live", "--", rewritten, "copies"], { input: text });
    expect(outcome.status).toBe(0);
    const bytes = Buffer.from(text).toString("latin1");
    expect(outcome.stdout.startsWith(bytes)).toBe(true);
    expect(outcome.stdout.slice(bytes.length)).toMatch(/^exit status 0; 1 of 1 probe hit, /);
    expect(outcome.stderr).toBe("");
    const json = await live(["--", rewritten, "copies"], { input: text });
    expect(json.stderr).toBe(bytes);
    expectSite(json, bytes.length);
  });

  it("raises semaphores, and counts each site of a probe", async () => {
    const program = await build("gcc", programSource("gated.c"), "-O2");
    expect((await run(program, [])).stdout).toBe("opened 0\n");
    const result = await live(["--", program]);
    expect(result.stderr).toBe("opened 7\n");
    const hits = result.sites.map(({ name, hits }) => `${name} ${hits}`).sort();
    expect(hits).toEqual(["open 3", "open 7", "shut 3"]);
  });

  it("finds the command in PATH, and the interpreter of a script", async () => {
    const folder = scratch("bin");
    mkdirSync(folder);
    const environment = { PATH: `${folder}:${process.env.PATH}` };
    copyFileSync(rewritten, join(folder, "nop5-workload"));
    const named = await live(["--", "nop5-workload", "quick"], { environment });
    expect(named.sites).toMatchObject([{ file: join(folder, "nop5-workload"), hits: 10 }]);

    // The kernel runs INTERPRETER ARGUMENT SCRIPT: the workload takes the argument and does not care for the rest.
    const script = (name: string, first: string): string => {
      writeFileSync(join(folder, name), `${first}\n`, { mode: 0o755 });
      return join(folder, name);
    };
    const direct = script("direct", `#! ${rewritten} threads`);
    expect((await live(["--", direct], { environment })).sites).toMatchObject([{ file: rewritten, hits: 8000 }]);
    const byEnv = script("by-env", "#!/usr/bin/env nop5-workload");
    expect((await live(["--", byEnv], { environment })).sites).toMatchObject([{ file: join(folder, "nop5-workload") }]);
    const bare = script("bare", `${rewritten} quick; exit 4`);
    const shell = await live(["--file", rewritten, "--", bare]);
    expect(shell).toMatchObject({ exitCode: 4, sites: [{ file: rewritten, hits: 10 }] });
  });

  it("traces files whose names have blanks and other signs", async () => {
    const folder = scratch("odd");
    mkdirSync(folder);
    const path = join(folder, "a b#c:d(e) é");
    copyFileSync(rewritten, path);
    const result = await live(["--", path, "threads"]);
    expect(result.sites).toMatchObject([{ file: path }]);
    expectSite(result, 8000);
    const relative = await live(["--", `./${path.slice(folder.length + 1)}`], { cwd: folder });
    expectSite(relative, 10);
  });

  it("says what it could not see: a program that went on as another one", async () => {
    const program = await build("gcc", programSource("goes-on.c"), "-O2");
    const result = await live(["--", program]);
    expect(result.sites).toMatchObject([{ hits: 10, optimized: false, bytes: null }]);
    expect(result.stderr).toMatch(
      /^usdt-nop5: 1 probe that was hit was not seen in any process that ended; .* 1 time/m,
    );
  });

  it("ends with the command, whatever the command leaves behind", async () => {
    const leaves = '"$0" quick; sleep 20 >&- 2>&- <&- & echo $! >&2; exit 3';
    const result = await live(["--file", rewritten, "--", "sh", "-c", leaves, rewritten]);
    expect(result.exitCode).toBe(3);
    const left = Number(/^(\d+)$/m.exec(result.stderr)?.[1]);
    // It was let go and lives.
    process.kill(left, "SIGKILL");
  });

  it("runs beside another one", async () => {
    const copies = [0, 1].map(() => {
      const copy = scratch("copy");
      copyFileSync(rewritten, copy);
      return copy;
    });
    const results = await Promise.all(copies.flatMap((copy) => [live(["--", copy, "threads"])]));
    for (const result of results) expectSite(result, 8000);
    // Uprobes are on files: each run counts what the other one does with the same file.
    const same = await Promise.all([0, 1].map(() => live(["--", copies[0]!, "threads"])));
    for (const { sites } of same) expect([8000, 16000]).toContain(Math.ceil(sites[0]!.hits / 8000) * 8000);
    for (const { sites } of same) expect(sites[0]!.hits).toBeGreaterThanOrEqual(8000);
  });

  describe("on signals to the tool", () => {
    it.each(["SIGTERM", "SIGINT"] as const)("hands %s on, reports, and leaves nothing behind", async (signal) => {
      const tool = startTool(["live", "--json", "--", rewritten, "waits"]);
      await tool.said("ready");
      expect(eventsOf(tool.pid).length).toBe(1);
      tool.process.kill(signal);
      const { status, stdout, stderr } = await tool.ended;
      expect(status).toBe(0);
      expect(stderr).toBe(`ready\ngot ${constants.signals[signal]}\n`);
      expect(JSON.parse(stdout)).toMatchObject({ exitCode: 5, signal: null });
      expect(eventsOf(tool.pid)).toEqual([]);
    });

    it("does not repeat a signal that reached the whole process group", async () => {
      // The first SIGINT ends the wait; a second one would find the program with its default action, or pending.
      const count =
        'n=0; trap "n=\\$((n+1))" INT; echo ready >&2; i=0; while [ $i -lt 40 ]; do sleep 0.02; i=$((i+1)); done; echo "caught $n" >&2';
      const tool = startTool(["live", "--json", "--file", rewritten, "--", "bash", "-c", count], { detached: true });
      await tool.said("ready");
      process.kill(-tool.pid, "SIGINT");
      const { status, stderr } = await tool.ended;
      expect({ status, stderr: stderr.split("\n") }).toMatchObject({ status: 0 });
      expect(stderr).toMatch(/^caught 1$/m);
    });

    it("leaves to the next run what it cannot remove: kill -9", async () => {
      const tool = startTool(["live", "--json", "--", rewritten, "waits"]);
      await tool.said("ready");
      const [event] = eventsOf(tool.pid);
      expect(event).toContain(rewritten);
      const [watcher] = childrenOf(tool.pid);
      const [command] = childrenOf(watcher!);
      tool.process.kill("SIGKILL");
      await Promise.race([tool.ended, new Promise((resolve) => setTimeout(resolve, 500))]);
      // The command is not disturbed by that: it waits for its signal still.
      expect(commandLine(command!)).toBe(`${rewritten} waits`);
      expect((await live(["--", plain, "quick"])).exitCode).toBe(0);
      expect(eventsOf(tool.pid)).toEqual([]);
      process.kill(command!, "SIGTERM");
      await tool.ended;
    });
  });

  it("removes what dead runs have left, and nothing of anybody else", async () => {
    const events = "/sys/kernel/tracing/uprobe_events";
    const namespace = /\d+/.exec(readlinkSync("/proc/self/ns/pid"))![0];
    // Not this process: it was not started at 1. And not process 1, wherever another namespace has it.
    const dead = `usdt_nop5_${namespace}_${process.pid}_1`;
    const elsewhere = "usdt_nop5_1_1_1";
    const foreign = `nop5_test_${process.pid}`;
    const groups = [dead, elsewhere, foreign];
    for (const group of groups) appendFileSync(events, `p:${group}/${group}_0 ${plain}:0x1000\n`);
    writeFileSync(`/sys/kernel/tracing/events/${foreign}/${foreign}_0/enable`, "1");
    const present = () => groups.filter((group) => uprobeLines(new RegExp(`^p:${group}/`)).length > 0);
    try {
      expect((await live(["--", plain, "quick"])).exitCode).toBe(0);
      expect(present()).toEqual([elsewhere, foreign]);
      expect(readFileSync(`/sys/kernel/tracing/events/${foreign}/${foreign}_0/enable`, "latin1").trim()).toBe("1");
    } finally {
      for (const group of present()) {
        writeFileSync(`/sys/kernel/tracing/events/${group}/${group}_0/enable`, "0");
        appendFileSync(events, `-:${group}/${group}_0\n`);
      }
    }
    expect(present()).toEqual([]);
  });

  it("says so when the program that traces the command is killed, and lets the command be", async () => {
    const tool = startTool(["live", "--json", "--", rewritten, "waits"]);
    await tool.said("ready");
    const [watcher] = childrenOf(tool.pid);
    const [command] = childrenOf(watcher!);
    process.kill(watcher!, "SIGKILL");
    const waits = commandLine(command!);
    process.kill(command!, "SIGTERM");
    const { status, stdout, stderr } = await tool.ended;
    expect({ status, stdout, waits }).toEqual({ status: 1, stdout: "", waits: `${rewritten} waits` });
    expect(stderr).toMatch(/^usdt-nop5: .*: the process that traces it was killed$/m);
    expect(eventsOf(tool.pid)).toEqual([]);
  });

  it("refuses what it cannot do with one line", async () => {
    const text = scratch("text");
    writeFileSync(text, "no program\n", { mode: 0o644 });
    const broken = scratch("broken");
    writeFileSync(broken, "\x7fELF, as it says", { mode: 0o755 });
    const refusals: readonly (readonly [readonly string[], number, RegExp])[] = [
      [["--", "no-such-command-anywhere"], 1, /^usdt-nop5: no-such-command-anywhere: no such command in PATH\n$/],
      [["--", text], 1, /: may not be executed\n$/],
      [["--", dirname(rewritten)], 1, /: is no program\n$/],
      [["--file", text, "--", "true"], 1, /text: not an ELF file/],
      [["--file", "/nonexistent", "--", "true"], 1, /^usdt-nop5: \/nonexistent: cannot be read/],
      [["--", broken], 1, /: truncated: the ELF header is cut short/],
      [["--file", rewritten, "--", broken], 1, /: cannot be executed: ENOEXEC\n$/],
      [[], 2, /^usdt-nop5: missing required argument 'command'\n$/],
      [["--behind", "nop7", "--", "true"], 2, /^usdt-nop5: .*nop7/],
    ];
    for (const [args, status, stderr] of refusals) {
      const outcome = await runTool(["live", "--json", ...args]);
      expect(outcome).toMatchObject({ status, stdout: "" });
      expect(outcome.stderr).toMatch(stderr);
      expect(outcome.stderr.trim().split("\n").length).toBe(1);
    }
  });

  it("needs root", async () => {
    const uid = 65534;
    const reachable = await runTool(["--version"], { uid });
    if (reachable.status !== 0) return console.warn("SKIPPED: live without root: others cannot read this folder");
    const outcome = await runTool(["live", "--json", "--", "true"], { uid });
    expect(outcome).toMatchObject({ status: 1, stdout: "" });
    expect(outcome.stderr).toMatch(/^usdt-nop5: true: .*uprobes need root\n$/);
  });

  it("attaches behind the one-byte nop where it is told to", async () => {
    const both = (await rewriteWith(plain, "--layout", "nop,nop5")).path;
    expectSite(await live(["--", both, "quick"]), 10, false);
    expectSite(await live(["--behind", "nop5", "--", both, "quick"]), 10);
  });

  it("says of a nop10 that it is refused where the kernel refuses it", async () => {
    const both = (await rewriteWith(plain, "--layout", "nop,nop10")).path;
    expectSite(await live(["--", both, "quick"]), 10, false);
    if (runningKernel().treats.nop10 !== "refused") return console.warn("SKIPPED: this kernel takes probes on nop10");
    const { sites } = await live(["--behind", "nop10", "--", both, "quick"]);
    expect(sites).toMatchObject([
      { hits: 0, optimized: false, bytes: null, untraced: expect.stringMatching(/^refused: Linux /) },
    ]);
    const { stdout } = await runTool(["live", "--behind", "nop10", "--", both, "quick"]);
    expect(stdout).toMatch(/^ {2}\S+ +0x[0-9a-f]+ +0 +refused /m);
  });

  it("attaches to 531 probes", { timeout: FETCH_TIMEOUT }, async () => {
    let path: string;
    try {
      path = corpusPath(corpus.libjvm);
    } catch (error) {
      return console.warn(`SKIPPED: live on libjvm.so: ${error instanceof Error ? error.message : error}`);
    }
    const before = process.hrtime.bigint();
    const result = await live(["--file", path, "--", "true"]);
    const milliseconds = Number(process.hrtime.bigint() - before) / 1e6;
    expect(result.sites.filter((site) => site.file === path).length).toBe(531);
    console.log(`live, 531 probes: ${milliseconds.toFixed(0)} ms for all of it`);
    expect(milliseconds).toBeLessThan(10_000);
  });
});
