/**
 * `status` on programs that this test starts: as nobody has touched them, under uprobes of a tracefs group of this test's
 * own, after these have gone, and with bytes in their memory that no kernel leaves whole.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { chmodSync, closeSync, copyFileSync, openSync, readFileSync, renameSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import type { Readable, Writable } from "node:stream";
import { beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { judge } from "../../src/live/patched.js";
import { type ProcessState, StatusReader } from "../../src/live/status.js";
import { usdtNop5 } from "../commands/in-process.js";
import { skipBecause } from "../packages/skips.js";
import { attach } from "../packages/uprobes.js";
import { run } from "../run.js";
import { cannotOptimize, cannotTrace } from "./kernel.js";
import { distinct, places } from "./places.js";
import { build, programSource, rewriteWith, scratch } from "./rewriting.js";
import { runTool } from "./tool.js";

interface Site {
  readonly name: string;
  readonly location: string;
  readonly twin: string | null;
  readonly state: string;
  readonly reason: string | null;
}

interface Process {
  readonly pid: number;
  readonly command: string;
  readonly trampolines: readonly string[];
  readonly files: readonly {
    readonly path: string;
    readonly stale: boolean;
    readonly reason: string | null;
    readonly sites: readonly Site[];
  }[];
}

interface Started {
  readonly pid: number;
  /** Waits until it has passed each of its probes once more. */
  pass(): Promise<void>;
  /** Ends its input; its exit status, or the signal that it died of. */
  finish(): Promise<number | string | null>;
}

/** Starts a program and waits until it is ready. It is ended with the test at the latest. */
async function start(command: string, args: readonly string[] = [], uid?: number): Promise<Started> {
  const ids = uid === undefined ? {} : { uid, gid: uid };
  const child: ChildProcessByStdio<Writable, Readable, null> = spawn(command, args, {
    stdio: ["pipe", "pipe", "inherit"],
    timeout: 120_000,
    killSignal: "SIGKILL",
    ...ids,
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  child.stdin.on("error", () => {});
  const ended = new Promise<number | string | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status, signal) => resolve(signal ?? status));
  });
  let said = "";
  let wake = (): void => {};
  child.stdout.on("data", (chunk: Buffer) => {
    said += chunk.toString("latin1");
    wake();
  });
  const lines = async (count: number): Promise<void> => {
    while (said.split("\n").length <= count) {
      const more = new Promise<void>((resolve) => {
        wake = resolve;
      });
      const end = await Promise.race([more, ended.then((how) => ({ how }))]);
      if (end !== undefined) throw new Error(`it ended: ${end.how}`);
    }
  };
  await lines(1);
  let passes = 1;
  return {
    pid: child.pid!,
    pass: () => {
      child.stdin.write("x");
      return lines(++passes);
    },
    finish: () => {
      child.stdin.end();
      return ended;
    },
  };
}

async function statusOf(pid: number): Promise<Process> {
  const { status, stdout, stderr } = await usdtNop5("status", "--json", "-p", String(pid));
  expect([status, stderr]).toEqual([0, ""]);
  const document = JSON.parse(stdout) as { schemaVersion: number; processes: readonly Process[] };
  expect(document.schemaVersion).toBe(1);
  expect(document.processes.map((process) => process.pid)).toEqual([pid]);
  return document.processes[0]!;
}

/** The states of the one file with this path, by name; of several places of a name in their order. */
async function statesIn(pid: number, file: string): Promise<Record<string, string>> {
  const { sites } = (await statusOf(pid)).files.find(({ path }) => path === file)!;
  const states: Record<string, string> = {};
  for (const { name, state } of sites) states[name] = states[name] === undefined ? state : `${states[name]}, ${state}`;
  return states;
}

const untouched = { plain: "untouched", five: "untouched", ten: "untouched", nop_five: "untouched" };

/** Writes bytes over a probe in the memory of a process of ours. */
function plant(pid: number, file: string, offset: number, bytes: readonly number[]): void {
  const mapping = readFileSync(`/proc/${pid}/maps`, "latin1")
    .split("\n")
    .filter((line) => line.endsWith(` ${file}`) && line.split(" ")[1]![2] === "x")
    .map((line) => line.split(" "))
    .map(([range, , from]) => ({ start: Number.parseInt(range!, 16), from: Number.parseInt(from!, 16) }))
    .find(({ from }) => offset >= from)!;
  const fd = openSync(`/proc/${pid}/mem`, "r+");
  try {
    writeSync(fd, Uint8Array.from(bytes), 0, bytes.length, mapping.start + offset - mapping.from);
  } finally {
    closeSync(fd);
  }
}

const skipped = cannotTrace("status");
const optimizing = !skipped && !cannotOptimize("status: calls");

describe.skipIf(skipped)("status", () => {
  let file: string;
  beforeAll(async () => {
    file = await build("gcc", programSource("states.c"), "-O2");
  });
  const offsetOf = async (name: string): Promise<number> =>
    (await places(file)).find(({ note }) => note.name === name)!.point.offset;
  /** A copy of its own, which may be replaced. */
  const copy = (): string => {
    const path = scratch("copy");
    copyFileSync(file, path);
    return path;
  };

  it("follows a probe from the nop to the trap, to the call and back", async () => {
    const program = await start(file);
    await program.pass();
    expect(await statesIn(program.pid, file)).toEqual(untouched);
    // Linux before 7.2 takes no uprobe on a bare nop10.
    const traced = distinct(await places(file)).filter(({ note }) => note.name !== "ten");
    const probes = attach(traced.map(({ point }) => point));
    try {
      expect(await statesIn(program.pid, file)).toEqual({
        plain: "trap",
        five: "trap",
        ten: "untouched",
        nop_five: "trap",
      });
      expect((await statusOf(program.pid)).trampolines).toEqual([]);
      await program.pass();
      const five = optimizing ? "call" : "trap";
      expect(await statesIn(program.pid, file)).toEqual({ plain: "trap", five, ten: "untouched", nop_five: "trap" });
      expect((await statusOf(program.pid)).trampolines).toHaveLength(optimizing ? 1 : 0);
      await program.pass();
      expect(probes.hits()).toEqual([2, 2, 2]);
    } finally {
      probes.detach();
    }
    expect(await statesIn(program.pid, file)).toEqual(untouched);
    await program.pass();
    expect(await program.finish()).toBe(0);
  });

  it.skipIf(!optimizing)("sees the call after the nop, where a tracer attaches there", async () => {
    const program = await start(file);
    const place = (await places(file, 1n)).find(({ note }) => note.name === "nop_five")!;
    const probes = attach([place.point]);
    try {
      expect(await statesIn(program.pid, file)).toEqual({ ...untouched, nop_five: "trap" });
      await program.pass();
      expect(await statesIn(program.pid, file)).toEqual({ ...untouched, nop_five: "call" });
    } finally {
      probes.detach();
    }
    expect(await program.finish()).toBe(0);
  });

  it("lists both places of a universal probe", async () => {
    const { path } = await rewriteWith(file, "--layout", "universal", "--only", "states:plain");
    const program = await start(path);
    const two = (await statusOf(program.pid)).files[0]!.sites.filter(({ name }) => name === "plain");
    expect(two.map(({ twin }) => twin)).toEqual([two[1]!.location, two[0]!.location]);
    const traced = distinct(await places(path)).filter(({ note }) => note.name === "plain");
    const probes = attach(traced.map(({ point }) => point));
    try {
      await program.pass();
      expect(await statesIn(program.pid, path)).toEqual({
        ...untouched,
        plain: optimizing ? "trap, call" : "trap, trap",
      });
    } finally {
      probes.detach();
    }
    expect(await statesIn(program.pid, path)).toEqual({ ...untouched, plain: "untouched, untouched" });
    expect(await program.finish()).toBe(0);
  });

  it.each([
    ["a nop with an operand of a call's", "five", [0x0f, 0x0b, 0, 0, 0]],
    ["a trap over a call", "five", [0xcc, 0x0b, 0, 0, 0]],
    ["a call to nowhere", "five", [0xe8, 0, 0, 0, 0]],
    ["what 7.2 leaves", "ten", [0x66, 0x8d, 0x64, 0x24, 0x80, 0xe8, 0, 0, 0, 0]],
    ["a half of what 7.2 writes", "ten", [0x48, 0x8d, 0x64, 0x24, 0x80, 0, 0, 0, 0, 0]],
    ["a call by 7.2 to nowhere", "ten", [0x48, 0x8d, 0x64, 0x24, 0x80, 0xe8, 0, 0, 0, 0]],
    ["something after the nop", "nop_five", [0x90, 0x0f, 0x0b, 0, 0, 0]],
    ["something over the nop", "plain", [0xf4]],
  ])("sees what is torn: %s", async (_what, name, bytes) => {
    const program = await start(file);
    plant(program.pid, file, await offsetOf(name), bytes);
    expect(await statesIn(program.pid, file)).toEqual({ ...untouched, [name]: "torn" });
    const { status, stdout } = await usdtNop5("status", "-p", String(program.pid));
    expect(status).toBe(0);
    expect(stdout).toMatch(new RegExp(`torn +0x[0-9a-f]+ +states:${name} +[0-9a-f]+ stands there: `));
    expect(stdout).toContain("4 places: 3 untouched, 1 torn");
  });

  it.each([
    ["trap", "ten", [0xcc]],
    ["trap", "nop_five", [0x90, 0xcc]],
    ["trap", "plain", [0xcc]],
    // What is left of a call is an operand of the nop.
    ["untouched", "ten", [0x66, 0x2e, 0x0f, 0x1f, 0x84, 0xe8, 1, 2, 3, 4]],
  ])("does not take for torn what is whole: %s at %s", async (state, name, bytes) => {
    const program = await start(file);
    plant(program.pid, file, await offsetOf(name), bytes);
    expect(await statesIn(program.pid, file)).toEqual({ ...untouched, [name]: state });
  });

  it("takes for torn only what stays so: the kernel may be at work", async () => {
    const program = await start(file);
    const offset = await offsetOf("five");
    const states = async (looking: Promise<ProcessState | null>): Promise<readonly string[]> =>
      (await looking)!.files[0]!.sites.map(({ state }) => state);
    plant(program.pid, file, offset, [0xcc, 0x0b, 0, 0, 0]);
    // The first look is over when this has its promise.
    const looking = new StatusReader().look(program.pid);
    plant(program.pid, file, offset, [0x0f, 0x1f, 0x44, 0, 0]);
    expect(await states(looking)).toEqual(Array(4).fill("untouched"));
    plant(program.pid, file, offset, [0xcc, 0x0b, 0, 0, 0]);
    expect(await states(new StatusReader().look(program.pid))).toContain("torn");
  });

  it("says that a process runs the file of before a rewrite", async () => {
    const path = copy();
    const before = await start(path);
    expect((await statusOf(before.pid)).files).toMatchObject([{ path, stale: false }]);
    expect((await usdtNop5("rewrite", "--in-place", path)).status).toBe(0);
    const after = await start(path);
    const old = (await statusOf(before.pid)).files[0]!;
    expect([old.path, old.stale, old.reason]).toEqual([path, true, null]);
    // The probes are those of the file that it runs, which has no name any more.
    expect(await statesIn(before.pid, path)).toEqual(untouched);
    const fresh = (await statusOf(after.pid)).files[0]!;
    expect([fresh.path, fresh.stale]).toEqual([path, false]);
    expect(fresh.sites.map(({ location }) => location)).not.toEqual(old.sites.map(({ location }) => location));
    expect((await usdtNop5("status", "-p", String(before.pid))).stdout).toContain(
      "stale: its path leads to another file",
    );
    expect([await before.finish(), await after.finish()]).toEqual([0, 0]);
  });

  it("knows a file that is gone from one that has another name, and one that is called so", async () => {
    const [gone, moved, odd] = [copy(), copy(), `${copy()} (deleted)`];
    copyFileSync(file, odd);
    const programs = [await start(gone), await start(moved), await start(odd)];
    rmSync(gone);
    renameSync(moved, `${moved}.new`);
    const files = await Promise.all(programs.map(async ({ pid }) => (await statusOf(pid)).files[0]!));
    expect(files.map(({ path, stale }) => [path, stale])).toEqual([
      [gone, true],
      [`${moved}.new`, false],
      [odd, false],
    ]);
    for (const { sites } of files) expect(sites.map(({ state }) => state)).toEqual(Array(4).fill("untouched"));
  });

  it("looks into another mount namespace", async ({ skip }) => {
    const works = (await run("unshare", ["-m", "true"])).status === 0;
    if (skipBecause("status: another mount namespace", works ? null : "unshare -m does not work")) skip();
    const script = 'mount -t tmpfs none "$(dirname "$2")" && cp "$1" "$2" && exec "$2"';
    // On /mnt, and seen in there alone.
    const inside = `/mnt/usdt-nop5-${process.pid}`;
    const program = await start("unshare", ["-m", "sh", "-c", script, "sh", file, inside]);
    expect((await statusOf(program.pid)).files).toMatchObject([{ path: inside, stale: false, reason: null }]);
    expect(await statesIn(program.pid, inside)).toEqual(untouched);
    expect(await program.finish()).toBe(0);
  });

  describe("without rights", () => {
    const NOBODY = 65534;

    it("refuses a process of somebody else in one line, and knows nothing of it with --all", async () => {
      const program = await start(file);
      const one = await runTool(["status", "-p", String(program.pid)], { uid: NOBODY });
      expect([one.status, one.stdout]).toEqual([1, ""]);
      expect(one.stderr).toMatch(
        new RegExp(`^usdt-nop5: process ${program.pid}: its mappings cannot be read: permission denied\n$`),
      );
      const all = await runTool(["status", "--all", "--json"], { uid: NOBODY });
      expect(all.status).toBe(0);
      const { processes } = JSON.parse(all.stdout) as { processes: readonly Process[] };
      expect(processes.find(({ pid }) => pid === program.pid)).toMatchObject({
        reason: "its mappings cannot be read: permission denied",
        files: [],
      });
    });

    it("sees one's own, and says why not where the file is gone", async () => {
      const path = copy();
      chmodSync(dirname(path), 0o755);
      chmodSync(path, 0o755);
      const program = await start(path, [], NOBODY);
      const look = async (): Promise<Process["files"][number]> => {
        const { status, stdout, stderr } = await runTool(["status", "--json", "-p", String(program.pid)], {
          uid: NOBODY,
        });
        expect([status, stderr]).toEqual([0, ""]);
        return (JSON.parse(stdout) as { processes: readonly Process[] }).processes[0]!.files[0]!;
      };
      const seen = await look();
      expect([seen.path, seen.stale, seen.reason]).toEqual([path, false, null]);
      // Where Yama lets nobody but root look at memory, that is said.
      for (const { state, reason } of seen.sites)
        expect(state === "untouched" || /^its memory cannot be read: .*root may/.test(reason!)).toBe(true);
      rmSync(path);
      const gone = await look();
      expect([gone.path, gone.stale, gone.sites]).toEqual([path, true, []]);
      expect(gone.reason).toMatch(/^the file is deleted, and \/proc\/\d+\/map_files cannot be followed: /);
    });
  });

  it("finds it among all processes, with --all and without", async () => {
    const program = await start(file);
    for (const options of [["--all"], []]) {
      const { status, stdout } = await usdtNop5("status", "--json", ...options);
      expect(status).toBe(0);
      const { processes } = JSON.parse(stdout) as { processes: readonly Process[] };
      const found = processes.find(({ pid }) => pid === program.pid)!;
      expect(found.files.map(({ path }) => path)).toEqual([file]);
    }
    const text = await usdtNop5("status", "--all");
    expect(text.stdout).toContain(`${file}: 4 places: 4 untouched\n`);
    expect(text.stdout).not.toContain("states:five");
  });
});

it("has one line for a process that is not there", async () => {
  // More than the kernel ever gives.
  const { status, stdout, stderr } = await usdtNop5("status", "-p", "4194305");
  expect([status, stdout, stderr]).toEqual([1, "", "usdt-nop5: process 4194305: no such process\n"]);
});

it("knows a call of 7.2 by where it leads", () => {
  const nop10 = Uint8Array.of(0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0);
  const call = Uint8Array.of(0x48, 0x8d, 0x64, 0x24, 0x80, 0xe8, 0xf6, 0x0f, 0, 0);
  const targets: number[] = [];
  const at = (isThere: boolean): string =>
    judge(nop10, call, 0x400000, (target) => {
      targets.push(target);
      return isThere;
    }).state;
  expect([at(true), at(false)]).toEqual(["call", "torn"]);
  expect(targets).toEqual([0x401000, 0x401000]);
  // After the one-byte nop everything is one byte further on.
  const after = (code: Uint8Array): Uint8Array => Uint8Array.of(0x90, ...code);
  expect(judge(after(nop10), after(call), 0x400000, (target) => target === 0x401001).state).toBe("call");
});

it("knows nothing where memory cannot be read, and of what is no nop only whether a trap is there", () => {
  const never = (): boolean => false;
  const nop5 = Uint8Array.of(0x0f, 0x1f, 0x44, 0, 0);
  expect(judge(nop5, nop5.subarray(0, 4), 0, never)).toEqual({
    state: "unknown",
    reason: "its memory cannot be read there",
  });
  const mov = Uint8Array.of(0x48, 0x89, 0xfb, 0x90);
  const states = [0x48, 0xcc, 0xe8].map((first) => judge(mov, Uint8Array.of(first, 0x89, 0xfb, 0x90), 0, never).state);
  expect(states).toEqual(["untouched", "trap", "unknown"]);
});
