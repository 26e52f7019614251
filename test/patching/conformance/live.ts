/**
 * Carries steps out on the live kernel: a program of the model as a process, uprobes through tracefs, and what /proc shows.
 *
 * Everything has a time limit, and whatever happens the uprobes are taken away and the process is ended.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { constants } from "node:os";
import type { Duplex } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { PAGE_SIZE } from "../../../src/address.js";
import { treatmentAt } from "../../../src/kernel/treatment.js";
import { runningKernel } from "../../../src/live/running-kernel.js";
import type { Program } from "../../../src/patching/programs.js";
import type { Act } from "../../../src/patching/state.js";
import { type AttachedProbes, attach, type ProbePoint } from "../../packages/uprobes.js";
import { gaps, mapsOf, TRAMPOLINE } from "./address-space.js";
import { Command, FIRST_SOCKET, type LiveProgram, stopWord } from "./live-program.js";
import type { Observation, Outcome, Performer, SpaceSeen, Step } from "./observation.js";

const TIMEOUT = 12_000;
const kernel = runningKernel();
const REPORT_SIZE = 16;

interface Report {
  readonly value: number;
  readonly wrong: number;
}

interface Case {
  readonly program: Program;
  readonly threads: number;
  /** A child repairs what it has inherited before its first pass. */
  readonly repairs: boolean;
  /** Return probes as well. */
  readonly returns: boolean;
}

export class LiveRun implements Performer {
  private readonly process: ChildProcess;
  private readonly received: Buffer[] = [];
  private readonly ended: Promise<string>;
  private endedBy: string | null = null;
  private child: { readonly pid: number; isAlive: boolean; hasBegun: boolean } | null = null;
  private probes: { readonly entries: AttachedProbes; readonly returns: AttachedProbes | null } | null = null;
  private readonly others: AttachedProbes[] = [];
  private hitsBefore = { entries: 0, returns: 0 };

  /** How often programs have run their loops, in all threads. */
  passes = 0;

  private constructor(
    private readonly path: string,
    private readonly live: LiveProgram,
    private readonly what: Case,
  ) {
    const slots = what.threads + (what.program.forks === null ? 0 : 1);
    const sockets = new Array<"pipe">(slots).fill("pipe");
    this.process = spawn(path, [], { stdio: ["ignore", "ignore", "inherit", ...sockets] });
    this.ended = new Promise((resolve) => {
      this.process.once("error", (error) => resolve(String(error)));
      this.process.once("exit", (status, signal) => {
        this.endedBy = signal ?? `exit status ${status}`;
        resolve(this.endedBy);
      });
    });
    for (let slot = 0; slot < slots; slot++) {
      this.received.push(Buffer.alloc(0));
      this.socket(slot).on("error", () => {}); // whose end is gone
      this.socket(slot).on("data", (chunk: Buffer) => {
        this.received[slot] = Buffer.concat([this.received[slot]!, chunk]);
      });
    }
  }

  /**
   * Starts the program and runs a few steps of its own: a pass that is the measure of all others, and its filter.
   * @param path the file that `live` has been written to
   */
  static async start(path: string, live: LiveProgram, what: Case): Promise<LiveRun> {
    const run = new LiveRun(path, live, what);
    try {
      const { semaphore, filter } = what.program;
      if (semaphore !== null) await run.whenMapped(() => run.poke(semaphore, 1));
      await run.command(0, Command.pass, 1, live.loop);
      if (semaphore !== null) run.poke(semaphore, 0);
      if (filter && (await run.command(0, Command.filter)).value !== 0) throw new Error("no seccomp filter can be set");
      return run;
    } catch (error) {
      await run.stop();
      throw error;
    }
  }

  /** A process that has been started may not have its memory yet. */
  private async whenMapped(write: () => void): Promise<void> {
    for (const end = Date.now() + TIMEOUT; ; await sleep(10)) {
      try {
        return write();
      } catch (error) {
        if (Date.now() > end || (error as NodeJS.ErrnoException).code !== "EIO") throw error;
      }
    }
  }

  get pid(): number {
    return this.process.pid!;
  }

  async perform(step: Step): Promise<Outcome> {
    switch (step.do) {
      case "attach":
        this.attach();
        return "right";
      case "detach":
        this.detach();
        return "right";
      case "join":
        this.others.push(attach(this.taken()));
        return "right";
      case "act":
        await this.act(step.act, step.who);
        return "right";
      case "pass":
        return this.pass(step.thread, step.times, this.live.loop);
      case "fork":
        return this.fork();
      case "child":
        return this.childPasses(step.times);
    }
  }

  /** Ends passes that are under way, for good. */
  endPasses(): void {
    for (let thread = 0; thread < this.what.threads; thread++) this.poke(stopWord(thread), 1);
  }

  observe(): Pick<Observation, "hits" | "returns" | "spaces"> {
    const { entries, returns } = this.hits();
    const spaces: (SpaceSeen | null)[] = [this.endedBy === null ? this.look(this.process.pid!) : null];
    if (this.what.program.forks === "fork") {
      const { child } = this;
      spaces.push(child?.isAlive === true ? this.look(child.pid) : null);
    }
    return { hits: entries, returns, spaces };
  }

  /** Ends the program; says how it ended if it had not yet. */
  async finish(): Promise<string> {
    if (this.endedBy === null) this.send(0, Command.exit, 0);
    return this.within(this.ended, "its end");
  }

  /** Whatever has happened: nothing stays behind. May be called again. */
  async stop(): Promise<void> {
    try {
      this.detach();
    } finally {
      if (this.child?.isAlive === true && this.endedBy === null) process.kill(this.child.pid, "SIGKILL");
      if (this.endedBy === null) this.process.kill("SIGKILL");
      await this.within(this.ended, "its end");
      for (const stream of this.process.stdio) stream?.destroy();
    }
  }

  /** The probes, but for those that this kernel refuses: one would keep it from taking the others. */
  private taken(): ProbePoint[] {
    const { offsets, semaphoreOffset } = this.live;
    const counter = semaphoreOffset === null ? {} : { refCtrOffset: semaphoreOffset };
    const { sites } = this.what.program;
    const taken = offsets.filter((_, i) => treatmentAt(kernel, sites[i]!.original, sites[i]!.address) !== "refused");
    return taken.map((offset) => ({ path: this.path, offset, ...counter }));
  }

  private attach(): void {
    const points = this.taken();
    if (points.length === 0) return;
    const entries = attach(points);
    this.probes = { entries, returns: null };
    if (this.what.returns)
      this.probes = { entries, returns: attach(points.map((point) => ({ ...point, atReturn: true }))) };
  }

  private detach(): void {
    this.hitsBefore = this.hits();
    this.probes?.returns?.detach();
    this.probes?.entries.detach();
    this.probes = null;
    for (const other of this.others.splice(0)) other.detach();
  }

  private hits(): { entries: number; returns: number } {
    const sum = (probes: AttachedProbes | null | undefined): number =>
      (probes?.hits() ?? []).reduce((a, b) => a + b, 0);
    return {
      entries: this.hitsBefore.entries + sum(this.probes?.entries),
      returns: this.hitsBefore.returns + sum(this.probes?.returns),
    };
  }

  private async act(act: Act, who: "program" | "child"): Promise<void> {
    const [slot, pid] = who === "program" ? [0, this.pid] : [this.what.threads, this.child!.pid];
    const { sites, semaphore } = this.what.program;
    switch (act) {
      case "unmap":
        for (const { start, end, name } of mapsOf(pid))
          if (name === TRAMPOLINE) await this.done(slot, Command.unmap, start, end - start);
        break;
      case "crowd":
        for (const { start, end } of gaps(
          mapsOf(pid),
          sites.map(({ address }) => address),
        ))
          await this.done(slot, Command.map, start, end - start);
        break;
      case "clear":
        this.poke(semaphore!, 0, pid);
        break;
      case "overwrite":
        for (const { address, original } of sites)
          for (const [i, byte] of original.entries()) this.poke(address + i, byte, pid);
        break;
    }
  }

  /** A system call of the program's that has to succeed. */
  private async done(slot: number, command: number, address: number, size: number): Promise<void> {
    const { value } = await this.command(slot, command, size, address);
    if (value < 0) throw new Error(`${this.path}: a mapping at 0x${address.toString(16)} answers ${value}`);
  }

  private async pass(slot: number, times: number, enter: number): Promise<Outcome> {
    const report = await Promise.race([this.command(slot, Command.pass, times, enter), this.ended]);
    if (typeof report === "string") return report;
    this.passes += times - report.value;
    return report.wrong === 0 ? "right" : "wrong";
  }

  private async fork(): Promise<Outcome> {
    const passed = await this.pass(0, 1, this.live.loop);
    if (passed !== "right") return passed;
    const slot = this.what.threads;
    if (this.what.program.forks === "vfork") {
      // The parent's report comes when the child has gone.
      this.send(0, Command.vfork);
      await this.report(slot);
      return "right";
    }
    const { value } = await this.command(0, Command.fork);
    await this.report(slot);
    this.child = { pid: value, isAlive: true, hasBegun: false };
    return "right";
  }

  private async childPasses(times: number): Promise<Outcome> {
    const slot = this.what.threads;
    const { childBegin, childLoop } = this.live;
    if (this.what.program.forks === "vfork") {
      this.send(slot, Command.pass, 1, childLoop);
      await this.report(0);
      return this.childsEnd();
    }
    const child = this.child!;
    let left = times;
    if (!child.hasBegun && this.what.repairs) {
      child.hasBegun = true;
      left--;
      // The system calls of a repair leave other registers behind: not compared.
      const report = await Promise.race([this.command(slot, Command.pass, 1, childBegin), this.childsDeath()]);
      if (report === "dead") return this.childsEnd();
    }
    if (left === 0) return "right";
    const outcome = await Promise.race([this.pass(slot, left, childLoop), this.childsDeath()]);
    return outcome === "dead" ? this.childsEnd() : outcome;
  }

  /** A child that is a zombie has ended. */
  private async childsDeath(): Promise<"dead"> {
    const child = this.child!;
    for (let waited = 0; waited < TIMEOUT; waited += 5) {
      const stat = readFileSync(`/proc/${child.pid}/stat`, "latin1");
      if (/^\S+ \(.*\) Z/.test(stat)) return "dead";
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    return new Promise(() => {}); // somebody else's limit ends the wait
  }

  private async childsEnd(): Promise<Outcome> {
    if (this.child !== null) this.child.isAlive = false;
    const { wrong: status } = await this.command(0, Command.wait);
    const signal = status & 0x7f;
    if (signal !== 0) return Object.entries(constants.signals).find(([, number]) => number === signal)![0];
    // The exit status is what the child had in rdi: its leaf leaves that alone.
    return status === 5 << 8 ? "right" : `exit status ${status >> 8}`;
  }

  private look(pid: number): SpaceSeen {
    const { sites, semaphore } = this.what.program;
    const trampolines = mapsOf(pid)
      .filter(({ name }) => name === TRAMPOLINE)
      .map(({ start, end }) => {
        const size = end - start;
        return `0x${start.toString(16)}${size === PAGE_SIZE ? "" : ` of ${size} bytes`}`;
      });
    const fd = openSync(`/proc/${pid}/mem`, "r");
    try {
      const read = (address: number, length: number): Buffer => {
        const bytes = Buffer.alloc(length);
        readSync(fd, bytes, 0, length, address);
        return bytes;
      };
      return {
        sites: sites.map(({ address, original }) => hexBytes(read(address, original.length))),
        trampolines,
        semaphore: semaphore === null ? null : read(semaphore, 2).readUInt16LE(0),
      };
    } finally {
      closeSync(fd);
    }
  }

  private poke(address: number, value: number, pid = this.process.pid): void {
    const fd = openSync(`/proc/${pid}/mem`, "r+");
    try {
      writeSync(fd, Uint8Array.of(value), 0, 1, address);
    } finally {
      closeSync(fd);
    }
  }

  private socket(slot: number): Duplex {
    return this.process.stdio[FIRST_SOCKET + slot] as Duplex;
  }

  private send(slot: number, command: number, times = 0, enter = 0): void {
    this.socket(slot).write(new Uint8Array(BigUint64Array.of(BigInt(command), BigInt(times), BigInt(enter)).buffer));
  }

  private async command(slot: number, command: number, times = 0, enter = 0): Promise<Report> {
    this.send(slot, command, times, enter);
    return this.report(slot);
  }

  private async report(slot: number): Promise<Report> {
    const arrived = async (): Promise<Report> => {
      while (this.received[slot]!.length < REPORT_SIZE)
        await new Promise<void>((resolve) => this.socket(slot).once("data", () => resolve()));
      const bytes = this.received[slot]!;
      this.received[slot] = bytes.subarray(REPORT_SIZE);
      return { value: Number(bytes.readBigInt64LE(0)), wrong: Number(bytes.readBigInt64LE(8)) };
    };
    return this.within(arrived(), `the report of thread ${slot}`);
  }

  /** @throws Error after the time limit, unless the program has ended */
  private async within<T>(wanted: Promise<T>, what: string): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        if (this.endedBy === null || what === "its end") reject(new Error(`${this.path}: ${what} does not come`));
      }, TIMEOUT);
    });
    try {
      return await Promise.race([wanted, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}

export const hexBytes = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
