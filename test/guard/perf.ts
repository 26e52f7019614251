/** perf as a tracer of one process alone: the kernel asks it for each address space whether it wants a breakpoint there. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import type { Vaddr } from "../../src/address.js";

export const perfMissing = (): string | null =>
  spawnSync("perf", ["--version"], { timeout: 10_000 }).status === 0 ? null : "no perf";

const INT3 = 0xcc;

export interface PerfOnProcess {
  /** Attaches to the process; done when a breakpoint stands at each of the link-time addresses of its program, a PIE. */
  start(pid: number, sites: readonly Vaddr[]): Promise<void>;
  stop(): Promise<void>;
}

/** @param event as perf names it, GROUP:EVENT */
export function perfOnProcess(event: string, options: readonly string[]): PerfOnProcess {
  let perf: ChildProcess | undefined;
  let said = "";
  return {
    start: async (pid, sites) => {
      perf = spawn("perf", ["stat", ...options, "-e", event, "-p", `${pid}`], { stdio: ["ignore", "ignore", "pipe"] });
      perf.stderr!.on("data", (chunk: Buffer) => (said += chunk.toString("latin1")));
      const bias = loadBias(pid);
      for (let tries = 0; sites.some((site) => firstByte(pid, site + bias) !== INT3); tries++) {
        if (tries > 500 || perf.exitCode !== null) throw new Error(`perf does not attach:\n${said}`);
        await sleep(20);
      }
    },
    stop: async () => {
      if (perf === undefined || perf.exitCode !== null || perf.signalCode !== null) return;
      const ended = once(perf, "close");
      perf.kill("SIGINT");
      await ended;
    },
  };
}

const loadBias = (pid: number): number => Number.parseInt(readFileSync(`/proc/${pid}/maps`, "latin1"), 16);

function firstByte(pid: number, address: number): number {
  const fd = openSync(`/proc/${pid}/mem`, "r");
  try {
    const byte = new Uint8Array(1);
    readSync(fd, byte, 0, 1, address);
    return byte[0]!;
  } finally {
    closeSync(fd);
  }
}
