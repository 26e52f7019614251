/**
 * Workers, watched from outside: one whose command takes more than ten seconds of CPU time, or whose memory goes beyond 512 MB, is
 * killed, and that is a fault of the mutant. One that dies by itself is one as well.
 */
import { type ChildProcess, fork } from "node:child_process";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Judged } from "./trial.js";
import type { Report, Task } from "./worker.js";

/** CPU time of a command, and by the clock, where the machine has other work: seconds. */
const MOST_CPU = 10;
const MOST_TIME = 100;
const MOST_MEMORY = 512 * 2 ** 20;
const LOOK_EVERY = 200;
/** Seeds that a worker is given at once. */
export const CHUNK = 50;
/** Clock ticks a second, as /proc counts: what Linux shows to programs on x86. */
const TICKS = 100;

export interface Watched {
  /** Seeds that nobody has yet; undefined where there are no more. */
  take(): Task | undefined;
  judged(seed: number, base: string, judged: Judged): void;
}

/** Runs workers until there are no more seeds. */
export async function watch(
  script: string,
  bases: string,
  jobs: number,
  watched: Watched,
): Promise<{ readonly cpuSeconds: number; readonly peak: number }> {
  const ends = await Promise.all(
    Array.from({ length: jobs }, (_, k) => new Watch(script, bases, join(bases, `work-${k}`), watched).run()),
  );
  return { cpuSeconds: ends.reduce((sum, e) => sum + e.cpu, 0), peak: Math.max(...ends.map((e) => e.peak)) };
}

/** One worker after the other, in a folder of their own. */
class Watch {
  private task: Task | undefined;
  private cpu = 0;
  private peak = 0;

  constructor(
    private readonly script: string,
    private readonly bases: string,
    private readonly folder: string,
    private readonly watched: Watched,
  ) {}

  async run(): Promise<{ cpu: number; peak: number }> {
    this.task = this.watched.take();
    while (this.task !== undefined) await this.worker();
    return { cpu: this.cpu, peak: this.peak };
  }

  /** A worker from its start to its end, which is that of its last task, or of a mutant. */
  private worker(): Promise<void> {
    rmSync(this.folder, { recursive: true, force: true });
    mkdirSync(this.folder, { recursive: true });
    const child = fork(this.script, ["--worker", this.bases, this.folder], { execArgv: [] });
    const now = { seed: this.task!.from, base: "", command: "starting", since: Date.now(), cpu: 0, used: 0 };
    let fault: string | undefined;
    const kill = (what: string): void => {
      fault ??= `${now.command}: ${what}`;
      child.kill("SIGKILL");
    };
    const look = setInterval(() => {
      const { cpu, memory } = usage(child);
      now.used = Math.max(now.used, cpu);
      if (cpu - now.cpu > MOST_CPU) kill(`more than ${MOST_CPU} s of CPU time`);
      if (Date.now() - now.since > MOST_TIME * 1000) kill(`more than ${MOST_TIME} s`);
      if (memory > MOST_MEMORY) kill(`more than ${MOST_MEMORY / 2 ** 20} MB`);
    }, LOOK_EVERY);
    child.on("message", (message) => {
      const report = message as Report;
      if (report.kind === "ready") return this.give(child);
      if (report.kind === "command") {
        const { cpu } = usage(child);
        now.used = Math.max(now.used, cpu);
        Object.assign(now, { ...report, since: Date.now(), cpu });
        return;
      }
      this.peak = Math.max(this.peak, report.peak);
      if (report.peak > MOST_MEMORY) return kill(`more than ${MOST_MEMORY / 2 ** 20} MB`);
      this.task = { from: report.seed + 1, to: this.task!.to };
      this.watched.judged(report.seed, report.base, report.judged);
    });
    return new Promise((resolve) => {
      child.on("exit", (status, signal) => {
        clearInterval(look);
        this.cpu += now.used;
        // It ends by itself when it is let go after its last task.
        if (this.task !== undefined) this.died(now, fault ?? `${now.command}: it ended with ${signal ?? status}`);
        resolve();
      });
    });
  }

  /** The rest of its task, or another one. */
  private give(child: ChildProcess): void {
    if (this.task!.from >= this.task!.to) this.task = this.watched.take();
    if (this.task === undefined) child.disconnect();
    else child.send(this.task);
  }

  private died({ seed, base, command }: { seed: number; base: string; command: string }, what: string): void {
    if (command === "starting") throw new Error(`a worker does not start: ${what}`);
    this.task = { from: seed + 1, to: this.task!.to };
    this.watched.judged(seed, base, { outcomes: { [command]: "killed" }, fault: what });
    if (this.task.from >= this.task.to) this.task = this.watched.take();
  }
}

/** CPU time in seconds and memory in bytes of a process; nothing of one that has ended. */
function usage({ pid }: ChildProcess): { cpu: number; memory: number } {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, "latin1")
      .replace(/^.*\) /, "")
      .split(" ");
    const pages = Number(readFileSync(`/proc/${pid}/statm`, "latin1").split(" ")[1]);
    return { cpu: (Number(fields[11]) + Number(fields[12])) / TICKS, memory: pages * 4096 };
  } catch {
    return { cpu: 0, memory: 0 };
  }
}
