/**
 * System calls that change files, and how to let one of them fail: strace shows which there are, and puts an error in the place
 * of one. It counts for each thread of its own; with one worker thread, Node makes them in the same order each time.
 */
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { bin } from "../command.js";

/** What changes a file, its attributes or a directory. `openat` counts where it makes a file, `write` where it goes to one. */
const CALLS = [
  ["write", "pwrite64", "writev", "pwritev", "pwritev2", "copy_file_range", "sendfile", "fallocate"],
  ["truncate", "ftruncate", "fsync", "fdatasync", "sync_file_range", "syncfs"],
  ["rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "mkdir", "mkdirat", "openat", "creat"],
  ["unlink", "unlinkat", "rmdir", "chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat"],
  ["utime", "utimes", "utimensat", "futimesat", "setxattr", "lsetxattr", "fsetxattr"],
  ["removexattr", "lremovexattr", "fremovexattr"],
].flat();

/** One call of a run: the number-th of its name in its thread. */
export interface Place {
  readonly call: string;
  readonly number: number;
  /** As strace shows it, for people. */
  readonly shown: string;
}

export interface Ended {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command under strace, which writes what it shows to `log`. */
export async function traced(log: string, options: readonly string[], args: readonly string[]): Promise<Ended> {
  const strace = ["-f", "-qq", "-s", "64", "--seccomp-bpf", "-e", "signal=none", "-o", log, ...options];
  const environment = { ...process.env, UV_THREADPOOL_SIZE: "1", NO_COLOR: "1", LC_ALL: "C" };
  const child = spawn("strace", [...strace, process.execPath, bin, ...args], {
    env: environment,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const said = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const)
    child[stream].setEncoding("utf8").on("data", (text: string) => {
      said[stream] += text;
    });
  const status = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", resolve);
  });
  return { status, ...said };
}

/** The calls of a run that change files, in their order. */
export async function placesOf(scratch: string, args: readonly string[]): Promise<readonly Place[]> {
  const log = join(scratch, "calls");
  const { status, stderr } = await traced(log, ["-y", "-e", `trace=${CALLS.join(",")}`], args);
  if (status !== 0) throw new Error(`${args.join(" ")}: exit ${status} ${stderr}`);
  const counts = new Map<string, number>();
  const places: Place[] = [];
  for (const line of readFileSync(log, "utf8").split("\n")) {
    const [, thread, call, rest] = /^(\d+) +(\w+)\((.*)/.exec(line) ?? [];
    if (thread === undefined || call === undefined || rest === undefined) continue;
    const number = (counts.get(`${thread} ${call}`) ?? 0) + 1;
    counts.set(`${thread} ${call}`, number);
    // Reports go to pipes, and threads wake each other by pipes and counters of their own.
    if (call === "write" && !/^\d+<\//.test(rest)) continue;
    if (call === "openat" && !rest.includes("O_CREAT")) continue;
    places.push({ call, number, shown: `${call}(${rest}`.slice(0, 90) });
  }
  return places;
}

/** The options of strace that let these calls fail, each once. */
export const failing = (error: string, ...places: readonly Pick<Place, "call" | "number">[]): readonly string[] => [
  "-e",
  `trace=${[...new Set(places.map(({ call }) => call))].join(",")}`,
  ...places.flatMap(({ call, number }) => ["-e", `inject=${call}:error=${error}:when=${number}`]),
];

/** How many calls failed in a run, by what strace wrote. */
export const injected = (log: string): number => readFileSync(log, "utf8").split("(INJECTED)").length - 1;
