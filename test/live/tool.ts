/** The tool while it runs: started with an input, signalled, and what it leaves in tracefs. */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { bin } from "../command.js";
import type { Outcome } from "../run.js";
import { uprobeLines } from "../uprobe-lines.js";

export interface StartedTool {
  readonly process: ChildProcess;
  readonly pid: number;
  readonly ended: Promise<Outcome>;
  /** Waits until the tool or its command has written this line to stdout or stderr. */
  said(line: string): Promise<void>;
}

export interface ToolOptions {
  /** Standard input; none by default. */
  readonly input?: string;
  readonly cwd?: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** In a process group of its own. */
  readonly detached?: boolean;
  readonly uid?: number;
}

/** Starts the command under test. One that has not ended after a minute is killed. */
export function startTool(args: readonly string[], options: ToolOptions = {}): StartedTool {
  const child = spawn(process.execPath, [bin, ...args], {
    cwd: options.cwd,
    env: { ...process.env, LC_ALL: "C", CI: "true", ...options.environment },
    stdio: ["pipe", "pipe", "pipe"],
    timeout: 60_000,
    killSignal: "SIGTERM",
    detached: options.detached ?? false,
    ...(options.uid === undefined ? {} : { uid: options.uid, gid: options.uid }),
  });
  const said = { stdout: "", stderr: "" };
  const waiting: { line: string; resolve(): void }[] = [];
  const check = (): void => {
    const lines = `${said.stdout}\n${said.stderr}`.split("\n");
    for (const one of waiting.filter(({ line }) => lines.includes(line))) one.resolve();
  };
  for (const name of ["stdout", "stderr"] as const)
    child[name].on("data", (chunk: Buffer) => {
      said[name] += chunk.toString("latin1");
      check();
    });
  child.stdin.on("error", () => {});
  child.stdin.end(options.input ?? "");
  const ended = new Promise<Outcome>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status, signal) => resolve({ status, signal, ...said }));
  });
  return {
    process: child,
    pid: child.pid ?? 0,
    ended,
    said: (line) =>
      Promise.race([
        new Promise<void>((resolve) => {
          waiting.push({ line, resolve });
          check();
        }),
        ended.then((outcome) => {
          throw new Error(`it ended before it said ${line}: ${JSON.stringify(outcome)}`);
        }),
      ]),
  };
}

export const runTool = (args: readonly string[], options?: ToolOptions): Promise<Outcome> =>
  startTool(args, options).ended;

/** The events that a run of the tool has, or has left. */
export const eventsOf = (pid: number): readonly string[] => uprobeLines(new RegExp(`usdt_nop5_\\d+_${pid}_`));

/** The processes that a process has started and that live. */
export const childrenOf = (pid: number): readonly number[] =>
  readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").split(" ").filter(Boolean).map(Number);

/** How a process was started, its words separated by blanks; null where it is gone, or has been and waits to be reaped. */
export function commandLine(pid: number): string | null {
  try {
    const words = readFileSync(`/proc/${pid}/cmdline`, "latin1").split("\0").filter(Boolean);
    return words.length === 0 ? null : words.join(" ");
  } catch {
    return null;
  }
}

/** Whether a process is there, be it on its way out. A zombie, which only waits to be reaped, is not. */
export function isAlive(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat[stat.lastIndexOf(")") + 2] !== "Z";
  } catch {
    return false;
  }
}
