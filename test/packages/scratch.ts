/**
 * Scratch directories and bounded runs. What a test starts it also ends, by process id; what it writes lies below /tmp,
 * since a checkout may be in a place where the unprivileged user that runs postgres cannot go.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";

export interface Scratch {
  readonly dir: string;
  file(name: string): string;
  remove(): void;
}

export function scratchDirectory(label: string): Scratch {
  const dir = mkdtempSync(path.join(tmpdir(), `nop5-${label}-`));
  chmodSync(dir, 0o755);
  return {
    dir,
    file: (name) => path.join(dir, name),
    remove: () => rmSync(dir, { recursive: true, force: true }),
  };
}

export interface RunOptions {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly input?: string;
  readonly uid?: number | undefined;
  readonly gid?: number | undefined;
  readonly timeout?: number;
}

export interface RunResult {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly milliseconds: number;
}

/** Enough environment to run programs, and none of the variables of the user's own that would change what they print. */
function environment(extra: Readonly<Record<string, string>> = {}): Record<string, string> {
  return { PATH: process.env.PATH ?? "/usr/bin:/bin", LC_ALL: "C.UTF-8", TZ: "UTC", HOME: "/nonexistent", ...extra };
}

export function start(command: string, args: readonly string[], options: RunOptions = {}): ChildProcess {
  return spawn(command, args, {
    cwd: options.cwd ?? "/",
    env: environment(options.env),
    stdio: ["pipe", "pipe", "pipe"],
    ...(options.uid === undefined ? {} : { uid: options.uid }),
    ...(options.gid === undefined ? {} : { gid: options.gid }),
  });
}

/** Runs to the end, or kills the process when its time is up: then the signal is SIGKILL. */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  const began = performance.now();
  const child = start(command, args, options);
  const stdout = collect(child.stdout);
  const stderr = collect(child.stderr);
  child.stdin?.on("error", () => {}); // a program may end before it has read all of its input
  child.stdin?.end(options.input ?? "");
  const timer = setTimeout(() => child.kill("SIGKILL"), options.timeout ?? 60_000);
  try {
    const [status, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (code, sig) => resolve([code, sig]));
    });
    return { status, signal, stdout: stdout(), stderr: stderr(), milliseconds: performance.now() - began };
  } finally {
    clearTimeout(timer);
  }
}

/** The same, for what must succeed. */
export async function mustRun(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const r = await run(command, args, options);
  if (r.status !== 0) {
    throw new Error(`${command} ${args.join(" ")}: ${r.signal ?? `exit ${r.status}`}\n${r.stdout}\n${r.stderr}`);
  }
  return r.stdout;
}

function collect(stream: NodeJS.ReadableStream | null): () => string {
  const chunks: Buffer[] = [];
  stream?.on("data", (c: Buffer) => chunks.push(c));
  return () => Buffer.concat(chunks).toString("utf8");
}
