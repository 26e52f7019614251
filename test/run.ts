/** Runs a tool and waits for it, with an environment in which tools speak English and no colours. */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";

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

type Answer =
  | { readonly error: { readonly message: string; readonly code: string } }
  | (Pick<Outcome, "status" | "signal"> & { readonly stdout: Uint8Array; readonly stderr: Uint8Array });

const waiting = new Map<number, { resolve(answer: Answer): void; reject(error: Error): void }>();
let started = 0;
let starter: ChildProcess | undefined;

/** The small process that starts tools for this one: see starter.js. */
function theStarter(): ChildProcess {
  if (starter !== undefined) return starter;
  const made = fork(fileURLToPath(new URL("starter.js", import.meta.url)), [], {
    serialization: "advanced",
    execArgv: [],
  });
  made.on("message", ({ id, ...answer }: Answer & { id: number }) => {
    waiting.get(id)?.resolve(answer as Answer);
    waiting.delete(id);
    if (waiting.size === 0) made.channel?.unref();
  });
  made.on("exit", () => {
    starter = undefined;
    for (const { reject } of waiting.values()) reject(new Error("the process that starts tools has ended"));
    waiting.clear();
  });
  // It ends with this process, and keeps it only while something is waited for.
  made.unref();
  made.channel?.unref();
  starter = made;
  return made;
}

export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const id = started++;
  const answer = await new Promise<Answer>((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    const { cwd = process.cwd(), environment, timeout = 60_000 } = options;
    const to = theStarter();
    to.channel?.ref();
    to.send({ id, command, args, options: { cwd, env: { ...basic, ...environment }, timeout } });
  });
  if ("error" in answer) throw Object.assign(new Error(answer.error.message), { code: answer.error.code });
  const { status, signal } = answer;
  const [stdout, stderr] = [answer.stdout, answer.stderr].map((bytes) => Buffer.from(bytes).toString("latin1"));
  return { status, signal, stdout: stdout!, stderr: stderr! };
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
