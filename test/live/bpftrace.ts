/**
 * bpftrace as a tracer of USDT probes: it finds them and reads their arguments by the notes, with code of its own (in Debian
 * 12, that of bcc).
 */
import { spawn, spawnSync } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";

/** Why bpftrace is of no use here, or null: it may be missing, or the kernel may have no BPF. */
export function bpftraceMissing(): string | null {
  if (spawnSync("bpftrace", ["--version"]).status !== 0) return "no bpftrace";
  const tried = spawnSync("bpftrace", ["-e", "interval:ms:1 { exit(); }"], { encoding: "utf8", timeout: 20_000 });
  return tried.status === 0 ? null : `bpftrace does not work here: ${tried.stderr.trim().split("\n").at(-1)}`;
}

export interface BpftraceProbe {
  readonly provider: string;
  readonly name: string;
  /** What to do at a hit, in bpftrace's language. */
  readonly action: string;
}

const READY = "ready";

/**
 * Attaches to probes of a file, in all processes, while `body` runs; and what the actions printed meanwhile. bpftrace only
 * begins to print when it has attached everything, even what an earlier timer has to say.
 */
export async function withBpftrace(
  file: string,
  probes: readonly BpftraceProbe[],
  body: () => Promise<unknown>,
): Promise<string> {
  const script = [
    `interval:ms:50 { printf("${READY}\\n"); }`,
    ...probes.map(({ provider, name, action }) => `usdt:${file}:${provider}:${name} { ${action} }`),
  ];
  const tracer = spawn("bpftrace", ["-e", script.join("\n")], {
    env: { ...process.env, BPFTRACE_MAX_PROBES: "1024", BPFTRACE_MAX_BPF_PROGS: "1024", LC_ALL: "C" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const timer = setTimeout(() => tracer.kill("SIGKILL"), 90_000);
  let [stdout, stderr] = ["", ""];
  tracer.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString("latin1")));
  const ended = new Promise<number | null>((resolve) => tracer.once("close", resolve));
  tracer.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString("latin1")));
  /** Until the timer has said so once more, or twice. */
  const timerTicks = async (more: number): Promise<void> => {
    const wanted = stdout.split(READY).length + more;
    while (stdout.split(READY).length < wanted) {
      if (tracer.exitCode !== null || tracer.signalCode !== null) throw new Error(`bpftrace on ${file}:\n${stderr}`);
      await sleep(20);
    }
  };
  try {
    await timerTicks(1);
    await body();
    // What was in the buffers when the body ended has been read by then.
    await timerTicks(2);
  } finally {
    tracer.kill("SIGINT"); // its way to end: it prints what is left
    await ended;
    clearTimeout(timer);
  }
  return stdout.replaceAll(`${READY}\n`, "");
}
