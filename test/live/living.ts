/**
 * A traced program, looked at while it lives.
 *
 * What the kernel made of a probe stands in the process's own copy of the page, not in the file: it can only be read from
 * /proc/PID/mem before the process ends. So the programs of these tests say `ready` on a line of their own when they
 * have done their work, and then wait for the end of their input.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import type { Readable, Writable } from "node:stream";

export interface Ending {
  readonly status: number | null;
  readonly signal: NodeJS.Signals | null;
  /** All that it wrote, the line `ready` included. */
  readonly stdout: string;
}

export interface LivingProgram {
  /** What it wrote up to the line `ready`. */
  readonly said: string;
  /** The bytes of the process at a link-time address of its program. */
  bytesAt(address: bigint, length: number): string;
  /** Closes its input and waits for its end. */
  finish(): Promise<Ending>;
}

const READY = /^ready$/m;

/** A program that ended before it was ready. */
export class EndedEarly extends Error {
  constructor(
    path: string,
    readonly ending: Ending,
  ) {
    super(`${path} ended before it was ready: ${ending.signal ?? ending.status}\n${ending.stdout}`);
  }
}

/** Starts a program and waits until it is ready. One that does not get there within `timeout` milliseconds is ended. */
export async function start(path: string, timeout = 60_000, args: readonly string[] = []): Promise<LivingProgram> {
  const child: ChildProcessByStdio<Writable, Readable, null> = spawn(path, args, {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const timer = setTimeout(() => child.kill("SIGKILL"), timeout);
  let stdout = "";
  const ended = new Promise<Ending>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (status, signal) => {
      clearTimeout(timer);
      resolve({ status, signal, stdout });
    });
  });
  child.stdin.on("error", () => {}); // a program that died does not read its input
  const ready = new Promise<true>((resolve) => {
    child.stdout.on("data", (chunk: Buffer) => {
      stdout += chunk.toString("latin1");
      if (READY.test(stdout)) resolve(true);
    });
  });
  const first = await Promise.race([ready, ended]);
  if (first !== true) throw new EndedEarly(path, first);
  const pid = child.pid!;
  return {
    said: stdout.slice(0, READY.exec(stdout)!.index),
    bytesAt: (address, length) => readMemory(pid, loadBias(pid, path) + address, length),
    finish: () => {
      child.stdin.end();
      return ended;
    },
  };
}

/** Where the program's address 0 is: the mapping of the file's beginning, unless its addresses are fixed (ET_EXEC). */
function loadBias(pid: number, path: string): bigint {
  const ET_EXEC = 2;
  if (readFileSync(path).readUInt16LE(16) === ET_EXEC) return 0n;
  const first = readFileSync(`/proc/${pid}/maps`, "latin1")
    .split("\n")
    .find((line) => line.endsWith(` ${path}`) && line.split(/\s+/)[2] === "00000000");
  if (first === undefined) throw new Error(`process ${pid} does not map the beginning of ${path}`);
  return BigInt(`0x${first.slice(0, first.indexOf("-"))}`);
}

function readMemory(pid: number, address: bigint, length: number): string {
  const fd = openSync(`/proc/${pid}/mem`, "r");
  try {
    const bytes = Buffer.alloc(length);
    readSync(fd, bytes, 0, length, address);
    return bytes.toString("hex");
  } finally {
    closeSync(fd);
  }
}
