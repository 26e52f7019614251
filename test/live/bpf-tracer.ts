/** A BPF program on one place of a file, by the bpf system call alone: programs/session.c has what kinds there are. */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { build, programSource } from "./rewriting.js";

export type TracerKind = "entry" | "return" | "session" | "change" | "skip";

/** struct pt_regs, in its order. */
const names = [
  ...["r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rsi", "rdi"],
  ...["orig_rax", "rip", "cs", "rflags", "rsp", "ss"],
];

export interface SeenByTracer {
  readonly entries: number;
  readonly returns: number;
  /** The sum of what entries of a session have handed over to their returns. */
  readonly handedOver: number;
  /** Of the last hit. */
  readonly registers: ReadonlyMap<string, bigint>;
}

let built: Promise<string> | undefined;

/** A process that is asked line by line. */
export class Asked {
  private readonly answers: AsyncIterator<string>;
  private readonly ended: Promise<string>;

  constructor(readonly process: ChildProcessWithoutNullStreams) {
    this.answers = createInterface(process.stdout)[Symbol.asyncIterator]();
    process.stdin.on("error", () => {});
    process.stderr.resume();
    const timer = setTimeout(() => process.kill("SIGKILL"), 60_000);
    this.ended = once(process, "close").then(([status, signal]: (number | string | null)[]) => {
      clearTimeout(timer);
      return signal === null ? `exit status ${status}` : String(signal);
    });
  }

  /** What it says next; how it ended, where it says no more. */
  async says(): Promise<string> {
    const { value, done } = await this.answers.next();
    return done === true ? this.ended : value;
  }

  ask(line: string): Promise<string> {
    this.process.stdin.write(line);
    return this.says();
  }

  /** Ends its input, and says how it ended. */
  end(): Promise<string> {
    this.process.stdin.end();
    return this.ended;
  }
}

export class BpfTracer {
  private constructor(private readonly asked: Asked) {}

  /** Attaches; the error number and the step where the kernel refuses. */
  static async start(kind: TracerKind, file: string, offset: number): Promise<BpfTracer | string> {
    built ??= build("gcc", programSource("session.c"), "-O2");
    const asked = new Asked(spawn(await built, [kind, file, String(offset)]));
    const answer = await asked.says();
    if (answer === "ready") return new BpfTracer(asked);
    await asked.end();
    return answer;
  }

  async seen(): Promise<SeenByTracer> {
    const words = (await this.asked.ask("\n")).split(" ").map(BigInt);
    const [entries, returns, handedOver] = words.slice(0, 3).map(Number) as [number, number, number];
    return { entries, returns, handedOver, registers: new Map(names.map((name, i) => [name, words[3 + i]!])) };
  }

  async stop(): Promise<void> {
    await this.asked.end();
  }
}
