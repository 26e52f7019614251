/** A tracer made of libbpf (attach.c) at work: what it says of probes that it attached to. */
import { spawn } from "node:child_process";

export interface SeenByLibbpf {
  readonly hits: number;
  /** Of the last hit, twelve of them; 0 where the probe has fewer. */
  readonly arguments: readonly string[];
}

/**
 * Attaches to probes (`PROVIDER:NAME`) of a file while `body` runs. Null for a probe that libbpf refuses.
 * @param command the tracer and its first argument
 */
export async function traceByLibbpf(
  command: readonly string[],
  file: string,
  probes: readonly string[],
  body: () => Promise<unknown>,
): Promise<ReadonlyMap<string, SeenByLibbpf | null>> {
  const tracer = spawn(command[0]!, [...command.slice(1), file, ...probes], { stdio: ["pipe", "pipe", "pipe"] });
  let [stdout, stderr] = ["", ""];
  tracer.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString("latin1")));
  const ended = new Promise<number | null>((resolve) => tracer.once("close", resolve));
  const ready = new Promise<void>((resolve) => {
    tracer.stdout.on("data", (chunk: Buffer) => {
      stdout += chunk.toString("latin1");
      if (stdout.startsWith("ready\n")) resolve();
    });
  });
  const timer = setTimeout(() => tracer.kill("SIGKILL"), 90_000);
  try {
    await Promise.race([ready, ended]);
    await body();
  } finally {
    tracer.stdin.end();
    await ended;
    clearTimeout(timer);
  }
  const lines = stdout.split("\n").slice(1, -1);
  if (lines.length !== probes.length) throw new Error(`libbpf on ${file}: ${stdout}\n${stderr}`);
  return new Map(lines.map((line) => [line.split(" ")[0]!, seen(line.split(" ").slice(1))]));
}

const seen = ([hits, ...values]: readonly string[]): SeenByLibbpf | null =>
  hits === "refused" ? null : { hits: Number(hits), arguments: values };
