/**
 * Runs a command under the watcher (watcher-program.ts), and lets the caller look at each of its processes when it is
 * about to end: then it is stopped, and its memory can be read.
 */
import { spawn } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { constants } from "node:os";
import type { Duplex, Readable } from "node:stream";
import { FileError } from "../files/file-error.js";
import { writeProgramFile } from "./program-file.js";
import { Event, MESSAGE_SIZE, SOCKET, watcherProgram } from "./watcher-program.js";

export interface Command {
  /** The file to execute. */
  readonly program: string;
  /** Its arguments, the zeroth included. */
  readonly argv: readonly string[];
  /** What its descriptors 0 to 2 are: one of ours, nothing, or a pipe whose content `output` gets. */
  readonly stdio: readonly [Stdio, Stdio, Stdio];
  /** Gets what the command writes into a pipe. */
  readonly output?: (descriptor: 1 | 2, chunk: Buffer) => void;
}

type Stdio = number | "ignore" | "pipe";

export interface Ending {
  readonly exitCode: number | null;
  readonly signal: NodeJS.Signals | null;
  /** How often a process went on as another program: what it was before could not be looked at. */
  readonly execs: number;
}

export interface Running {
  /** Sends the command a signal, as soon as it runs. Nothing happens when it has ended. */
  kill(signal: NodeJS.Signals): void;
  /** Whether a signal that reached the tool reached its whole process group, and so the command as well. */
  reachedAll(signal: NodeJS.Signals): boolean;
  readonly ended: Promise<Ending>;
}

/** How long we wait for output after the end of the command, in milliseconds. */
const OUTPUT_DELAY = 2000;

/**
 * Starts a command.
 * @param look is called with each thread that is about to end, while it is stopped, and with the processes that are
 * left
 *   when the command itself has ended. They are let go then.
 */
export function watch(command: Command, look: (thread: number) => void): Running {
  const file = writeProgramFile("watcher", watcherProgram());
  const child = new Child();
  let watcher: ReturnType<typeof spawn>;
  try {
    // When this returns the program runs: its file is not needed any more.
    watcher = spawn(file.path, [command.program, ...command.argv], {
      stdio: [...command.stdio, "pipe"],
      argv0: "usdt-nop5-watcher",
    });
  } finally {
    file.remove();
  }
  for (const descriptor of [1, 2] as const)
    (watcher.stdio[descriptor] as Readable | null)?.on("data", (chunk: Buffer) => command.output?.(descriptor, chunk));
  const watcherId = watcher.pid ?? 0;
  return {
    kill: (signal) => child.kill(signal),
    reachedAll: (signal) => isPending(watcherId, signal),
    ended: new Promise<Ending>((resolve, reject) => {
      const socket = watcher.stdio[SOCKET] as Duplex | null;
      const talk = converse(command.program, watcherId, look, child);
      watcher.once("error", (error) => reject(new FileError(file.path, `cannot be run: ${error.message}`)));
      if (socket === null || watcher.pid === undefined) return;
      socket.on("error", () => {}); // the watcher is gone: its end says so
      let rest: Buffer = Buffer.alloc(0);
      socket.on("data", (chunk: Buffer) => {
        rest = Buffer.concat([rest, chunk]);
        for (; rest.length >= MESSAGE_SIZE; rest = rest.subarray(MESSAGE_SIZE)) {
          try {
            if (talk.hear(rest)) socket.write(Uint8Array.of(1));
          } catch (error) {
            talk.fail(error);
            socket.destroy();
          }
        }
      });
      const conclude = (): void => {
        try {
          resolve(talk.outcome());
        } catch (error) {
          reject(error);
        }
      };
      // When the output has been read to its end, too; but what the command left running may keep that open for ever.
      watcher.once("close", conclude);
      watcher.once("exit", () => {
        const timer = setTimeout(() => {
          for (const stream of watcher.stdio) stream?.destroy();
          conclude();
        }, OUTPUT_DELAY);
        watcher.once("close", () => clearTimeout(timer));
      });
    }),
  };
}

/** The command's process. Signals that come before it exists wait for it. */
class Child {
  #id: number | null = null;
  readonly #waiting: NodeJS.Signals[] = [];
  #over = false;

  is(id: number): void {
    this.#id = id;
    for (const signal of this.#waiting) this.kill(signal);
  }

  ended(): void {
    this.#over = true;
  }

  kill(signal: NodeJS.Signals): void {
    if (this.#over) return;
    if (this.#id === null) this.#waiting.push(signal);
    else {
      try {
        process.kill(this.#id, signal);
      } catch (error) {
        // It has ended this very moment.
        if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
      }
    }
  }
}

interface Talk {
  /** Takes one message. @returns whether it wants an answer */
  hear(message: Buffer): boolean;
  fail(error: unknown): void;
  outcome(): Ending;
}

function converse(program: string, watcher: number, look: (thread: number) => void, child: Child): Talk {
  let status: number | null = null;
  let execs = -1; // the first is the command itself
  let failure: unknown = null;
  return {
    hear(message) {
      const [event, id, value] = [0, 4, 8].map((at) => message.readUInt32LE(at)) as [number, number, number];
      switch (event) {
        case Event.Started:
          if (value !== 0) throw new FileError(program, `cannot be traced: ${errorName(value)}`);
          child.is(id);
          return true;
        case Event.NotExecuted:
          failure = new FileError(program, `cannot be executed: ${errorName(value)}`);
          return false;
        case Event.Exit:
          look(id);
          return true;
        case Event.Exec:
          execs++;
          return true;
        default:
          child.ended();
          status = value;
          for (const left of tracedBy(watcher)) look(left);
          return true;
      }
    },
    fail(error) {
      failure = error;
    },
    outcome() {
      if (failure !== null) throw failure;
      if (status === null) throw new FileError(program, "the process that traces it was killed");
      const signal = status & 0x7f;
      return signal === 0
        ? { exitCode: (status >> 8) & 0xff, signal: null, execs: Math.max(execs, 0) }
        : { exitCode: null, signal: signalName(signal), execs: Math.max(execs, 0) };
    },
  };
}

/** The watcher blocks all signals: one that was sent to the whole group is pending there. */
function isPending(process: number, signal: NodeJS.Signals): boolean {
  const pending = BigInt(`0x${statusField(process, "ShdPnd") ?? "0"}`);
  return ((pending >> BigInt(constants.signals[signal] - 1)) & 1n) === 1n;
}

/** The processes that a tracer has. */
const tracedBy = (tracer: number): readonly number[] =>
  readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name) && statusField(Number(name), "TracerPid") === String(tracer))
    .map(Number);

function statusField(process: number | "self", field: string): string | undefined {
  try {
    const status = readFileSync(`/proc/${process}/status`, "latin1");
    return new RegExp(`^${field}:\\s*(\\S+)`, "m").exec(status)?.[1];
  } catch {
    return undefined; // it has ended meanwhile
  }
}

const signalName = (signal: number): NodeJS.Signals =>
  (Object.entries(constants.signals).find(([, number]) => number === signal)?.[0] ?? `SIG${signal}`) as NodeJS.Signals;

const errorName = (errno: number): string =>
  Object.entries(constants.errno).find(([, number]) => number === errno)?.[0] ?? `errno ${errno}`;
