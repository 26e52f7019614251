/** Runs a tool and waits for it, with an environment in which tools speak English and no colours. */
import { spawn } from "node:child_process";

export interface Outcome {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly environment?: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Milliseconds until the tool is ended: a program that was broken by its rewriting may never end by itself. */
  readonly timeout?: number;
}

const basic: NodeJS.ProcessEnv = { ...process.env, LC_ALL: "C", NO_COLOR: "1", CI: "true" };
delete basic.SOURCE_DATE_EPOCH;

export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: { ...basic, ...options.environment },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: options.timeout ?? 60_000,
      killSignal: "SIGKILL",
    });
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
    child.on("error", reject);
    child.on("close", (status, signal) =>
      resolve({
        status,
        signal,
        stdout: Buffer.concat(stdout).toString("latin1"),
        stderr: Buffer.concat(stderr).toString("latin1"),
      }),
    );
  });
}

/** The same for a tool that has to succeed. */
export async function must(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const outcome = await run(command, args, options);
  if (outcome.status !== 0) {
    throw new Error(
      `${command} ${args.join(" ")}: ${outcome.signal ?? `exit ${outcome.status}`}\n${outcome.stderr || outcome.stdout}`,
    );
  }
  return outcome.stdout;
}
