/**
 * What a fork takes until the child has ended, for several forms of one program side by side (programs/clock.c).
 *
 * What moves such figures on a machine that does other things as well, and what is done about it:
 *     two processors, and where the child begins        parent and child have one processor
 *     what else runs meanwhile                          the forms take turns, some forks each; of these the lower quartile counts
 *     the layout of a process: how many page tables     each round has processes of its own, at addresses of its own
 *     there are to copy depends on its addresses
 *     the first forks, which fill caches                are not counted
 * A round's figure is the median of what its turns give, each in relation to the same turn of the first form; the whole figure is the
 * median of the rounds'. A form that is the same as the first says how far such figures are off.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import type { Readable, Writable } from "node:stream";

export interface Form {
  readonly path: string;
  /** What is said to clock.c, and to the loader. */
  readonly environment?: Readonly<Record<string, string>>;
}

export interface Cost {
  /** A fork, in microseconds: the median of all turns. */
  readonly microseconds: number;
  /** Of a child, on average. */
  readonly pageFaults: number;
  /** Per cent more than the first form: the median of the rounds, and between which figures half of the rounds are. */
  readonly more: number;
  readonly quartiles: readonly [number, number];
}

export interface Effort {
  readonly rounds: number;
  readonly turns: number;
  /** Forks in a turn. */
  readonly forks: number;
}

const WARM_UP = 20;

/** @param clock the library made from clock.c */
export async function compareForks(clock: string, forms: readonly Form[], effort: Effort): Promise<readonly Cost[]> {
  const took: number[][] = forms.map(() => []);
  const faults: number[][] = forms.map(() => []);
  const more: number[][] = forms.map(() => []);
  for (let round = 0; round < effort.rounds; round++) {
    const processes = forms.map((form) => new ForkClock(clock, form));
    for (const one of processes) await one.forks(WARM_UP);
    const ratios: number[][] = forms.map(() => []);
    for (let turn = 0; turn < effort.turns; turn++) {
      const quartiles: number[] = forms.map(() => 0);
      // Each form comes before each other as often as behind it.
      const order = forms.map((_, i) => (turn % 2 === 0 ? i : forms.length - 1 - i));
      for (const i of order) {
        const { nanoseconds, pageFaults } = await processes[i]!.forks(effort.forks);
        quartiles[i] = quantile(nanoseconds, 1 / 4);
        faults[i]!.push(pageFaults / effort.forks);
      }
      quartiles.forEach((quartile, i) => {
        took[i]!.push(quartile / 1000);
        ratios[i]!.push(100 * (quartile / quartiles[0]! - 1));
      });
    }
    ratios.forEach((of, i) => {
      more[i]!.push(quantile(of, 1 / 2));
    });
    for (const one of processes) await one.end();
  }
  return forms.map((_, i) => ({
    microseconds: quantile(took[i]!, 1 / 2),
    pageFaults: faults[i]!.reduce((a, b) => a + b) / faults[i]!.length,
    more: quantile(more[i]!, 1 / 2),
    quartiles: [quantile(more[i]!, 1 / 4), quantile(more[i]!, 3 / 4)],
  }));
}

function quantile(values: readonly number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = part * (sorted.length - 1);
  const [low, high] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
  return low + (high - low) * (at % 1);
}

class ForkClock {
  readonly #process: ChildProcessByStdio<Writable, Readable, null>;
  readonly #path: string;
  #output = "";
  #wake = (): void => {};

  constructor(clock: string, form: Form) {
    this.#path = form.path;
    this.#process = spawn(form.path, [], {
      env: { ...process.env, ...form.environment, LD_PRELOAD: clock, FORK_CLOCK_CPU: `${lastProcessor()}` },
      stdio: ["pipe", "pipe", "inherit"],
      timeout: 60_000,
      killSignal: "SIGKILL",
    });
    this.#process.stdin.on("error", () => {});
    this.#process.stdout.on("data", (chunk: Buffer) => {
      this.#output += chunk.toString("latin1");
      this.#wake();
    });
    this.#process.once("close", () => this.#wake());
  }

  async forks(count: number): Promise<{ readonly nanoseconds: readonly number[]; readonly pageFaults: number }> {
    this.#output = "";
    this.#process.stdin.write(`${count}\n`);
    while (!this.#output.endsWith("\n")) {
      if (this.#process.exitCode !== null || this.#process.signalCode !== null)
        throw new Error(`${this.#path} under the clock: ${this.#process.signalCode ?? this.#process.exitCode}`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const [pageFaults, ...nanoseconds] = this.#output.split(" ").map(Number);
    if (nanoseconds.length !== count) throw new Error(`${this.#path}: ${this.#output}`);
    return { pageFaults: pageFaults!, nanoseconds };
  }

  async end(): Promise<void> {
    const closed = once(this.#process, "close");
    this.#process.stdin.end();
    await closed;
  }
}

/** The last of those that this process may use. */
function lastProcessor(): number {
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(readFileSync("/proc/self/status", "latin1"))![1]!;
  return Number(/\d+$/.exec(list)![0]);
}
