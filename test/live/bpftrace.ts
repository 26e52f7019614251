/**
 * bpftrace as a tracer of USDT probes: it finds them and reads their arguments by the notes, with code of its own (in Debian
 * 12, that of bcc).
 *
 * It runs the program itself, since only then it knows when to stop.
 */
import { spawnSync } from "node:child_process";
import { run } from "../run.js";

/** Why bpftrace is of no use here, or null: it may be missing, or the kernel may have no BPF. */
export function bpftraceMissing(): string | null {
  if (spawnSync("bpftrace", ["--version"]).status !== 0) return "no bpftrace";
  const tried = spawnSync("bpftrace", ["-e", "interval:ms:1 { exit(); }"], { encoding: "utf8", timeout: 20_000 });
  return tried.status === 0 ? null : `bpftrace does not work here: ${tried.stderr.trim().split("\n").at(-1)}`;
}

export interface BpftraceProbe {
  readonly provider: string;
  readonly name: string;
  /** How many arguments to print. */
  readonly arguments: number;
}

export interface BpftraceRun {
  /** `name: value value ...` for each hit; sorted, for hits on different CPUs have no order. */
  readonly hits: readonly string[];
  /** What the program and bpftrace itself wrote. */
  readonly rest: string;
}

const MARK = "hit|";

/** @param command the program and its arguments, by spaces; bpftrace knows no quotes. */
export async function bpftrace(
  file: string,
  probes: readonly BpftraceProbe[],
  command: string,
  environment: Readonly<Record<string, string>> = {},
): Promise<BpftraceRun> {
  const script = probes.map(({ provider, name, arguments: count }) => {
    const numbers = Array.from({ length: count }, (_, i) => i);
    const values = ["0", ...numbers.map((i) => `arg${i}`)].slice(1);
    const format = `${MARK}${name}:${" %ld".repeat(count)}\\n`;
    return `usdt:${file}:${provider}:${name} { printf(${[`"${format}"`, ...values].join(", ")}); }`;
  });
  // Without randomization, in the program that bpftrace starts too: addresses are then the same in each run.
  const outcome = await run("setarch", ["-R", "bpftrace", "-e", script.join("\n"), "-c", command], {
    environment: { BPFTRACE_MAX_PROBES: "1024", ...environment },
    timeout: 90_000,
  });
  if (outcome.status !== 0)
    throw new Error(`bpftrace on ${file}: ${outcome.signal ?? outcome.status}\n${outcome.stderr}`);
  const lines = outcome.stdout.split("\n");
  const hits = lines.filter((line) => line.startsWith(MARK)).map((line) => line.slice(MARK.length));
  return { hits: hits.sort(), rest: lines.filter((line) => !line.startsWith(MARK)).join("\n") + outcome.stderr };
}
