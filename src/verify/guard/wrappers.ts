/**
 * New code that stands between a file and functions of the C library which fork without running child handlers: run in
 * the emulator, as the file calls it. It does what the function does, and in a child that has a copy of the memory the
 * handler runs before anything of the program's own.
 *
 *     _Fork, syscall     a call that makes a copy: the handler before a fork runs, if there is one, then the function is called with
 *                        what it was given, and its result comes back; the child's handler has run where that is 0, the
 *                        parent's elsewhere. Where the child gets another thread pointer, only the child's. Any other call: it goes on to the function as if it were not there
 *     clone              without CLONE_VM the function is to call new code in the child, which runs the handler and goes on to the
 *                        program's function, with its argument
 */
import { hex, runtimeAddress } from "../../address.js";
import { stateOf } from "../../emulate/machine-states.js";
import { Gpr, STATE_WORDS } from "../../emulate/state.js";
import { DATA, type Machine } from "./machine.js";
import { beginsAsTarget, type Handlers } from "./stubs.js";

const [SYS_getpid, SYS_clone, SYS_fork, SYS_vfork, SYS_clone3] = [39, 56, 57, 58, 435];
const CLONE_VM = 0x100;
const CLONE_SETTLS = 0x80000;
const SIGCHLD = 17;
const LIMIT = 200;
const ARGUMENTS = [Gpr.RDI, Gpr.RSI, Gpr.RDX, Gpr.RCX, Gpr.R8, Gpr.R9];
const KEPT = [Gpr.RBX, Gpr.RBP, Gpr.R12, Gpr.R13, Gpr.R14, Gpr.R15];
/** Where struct clone_args has the child's stack. */
const ARGS_STACK = 40;

interface Way {
  /** Arguments of the call, as far as they matter; others are random. */
  readonly args: readonly number[];
  /** Whether the call makes a copy of the memory, and the child comes back from it. */
  readonly copies: boolean;
  /** Whether the child has another thread pointer: what is held for this thread is not the child's. */
  readonly isAnother?: boolean;
}

/**
 * What is wrong with the code that stands for a function, or undefined.
 * @param start its link-time address
 * @param handlers those that are registered
 */
export function judgeWrapper(
  machine: Machine,
  name: string,
  start: number,
  filled: ReadonlySet<number>,
  handlers: Handlers,
): string | undefined {
  if (!beginsAsTarget(machine, start)) return "it does not begin with endbr64";
  const runs = new WrapperRuns(machine, name, start, filled, handlers);
  machine.stops = new Set([handlers.child, handlers.prepare ?? handlers.child, handlers.parent ?? handlers.child]);
  try {
    return name === "clone" || name === "__clone"
      ? runs.clone()
      : runs.calls(name === "syscall" ? systemCalls() : forks);
  } finally {
    machine.stops = new Set();
  }
}

/** What a resolver answers, as a link-time address; or what is wrong with it. */
export function resolved(machine: Machine, start: number): number | string {
  if (!beginsAsTarget(machine, start)) return "its resolver does not begin with endbr64";
  const { words } = stateOf(8101, []);
  machine.call(start, words, 0, () => false);
  const end = machine.run(LIMIT);
  if (machine.problems.length > 0) return machine.problems[0]!;
  if (end.kind !== "left" || !machine.hasReturned) return "its resolver does not return";
  if (KEPT.some((r) => machine.cpu.w[2 * r] !== words[2 * r])) return "its resolver changes a register";
  return Number(machine.cpu.gpr(Gpr.RAX)) - machine.bias;
}

const forks: readonly Way[] = [{ args: [], copies: true }];

function systemCalls(): readonly Way[] {
  const args = DATA + 256;
  return [
    { args: [SYS_fork], copies: true },
    { args: [SYS_vfork], copies: false },
    { args: [SYS_getpid, 1, 2, 3], copies: false },
    { args: [0, 3, DATA, 1], copies: false },
    { args: [SYS_clone, SIGCHLD, 0], copies: true },
    { args: [SYS_clone, 0x0120_0011, 0], copies: true },
    { args: [SYS_clone, CLONE_SETTLS | SIGCHLD, 0], copies: true, isAnother: true },
    { args: [SYS_clone, CLONE_VM | SIGCHLD, 0], copies: false },
    { args: [SYS_clone, CLONE_VM | CLONE_SETTLS | SIGCHLD, 0], copies: false },
    { args: [SYS_clone, 0x4100, 0], copies: false },
    // With a stack of its own the child does not come back.
    { args: [SYS_clone, SIGCHLD, DATA + 512], copies: false },
    { args: [SYS_clone3, 0, 64], copies: false },
    { args: [SYS_clone3, args, 88, 0, 0], copies: true },
    { args: [SYS_clone3, args, 88, CLONE_SETTLS, 0], copies: true, isAnother: true },
    { args: [SYS_clone3, args, 88, CLONE_VM, 0], copies: false },
    { args: [SYS_clone3, args, 88, 0, DATA + 512], copies: false },
    { args: [SYS_clone3, args, 88, CLONE_VM, DATA + 512], copies: false },
  ];
}

class WrapperRuns {
  private turn = 0;

  constructor(
    private readonly machine: Machine,
    private readonly name: string,
    private readonly start: number,
    private readonly filled: ReadonlySet<number>,
    private readonly handlers: Handlers,
  ) {}

  calls(ways: readonly Way[]): string | undefined {
    for (const way of ways)
      for (const result of [0, 4711, -1]) {
        const problem = this.call(way, result);
        if (problem !== undefined) return `${this.name}(${way.args.join(", ")}): ${problem}`;
      }
    return undefined;
  }

  /** Calls new code with arguments. The last two of clone3 are the flags and the stack in memory. */
  private prepare(start: number, args: readonly number[]): Int32Array {
    const { machine } = this;
    const { cpu } = machine;
    cpu.w.set(stateOf(8200 + this.turn++, []).words);
    args.forEach((value, i) => {
      cpu.setGpr(ARGUMENTS[i]!, BigInt(value));
    });
    if (args[0] === SYS_clone3 && args[1] !== 0) {
      const memory = Buffer.alloc(88);
      memory.writeBigUInt64LE(BigInt(args[3] ?? 0), 0);
      memory.writeBigUInt64LE(BigInt(args[4] ?? 0), ARGS_STACK);
      machine.memory.poke(runtimeAddress(args[1]!), memory);
    }
    const before = cpu.w.slice(0, STATE_WORDS);
    machine.call(start, before, 16 * (this.turn % 3), (at, size) => size === 8 && this.filled.has(at));
    return before;
  }

  private differs(before: Int32Array, registers: readonly number[]): boolean {
    const { w } = this.machine.cpu;
    return registers.some((r) => w[2 * r] !== before[2 * r] || w[2 * r + 1] !== before[2 * r + 1]);
  }

  /** Runs on to a handler, if there is one, and through it. */
  private handler(start: number | undefined, where: string): string | undefined {
    if (start === undefined) return undefined;
    const problem = this.run();
    if (problem !== undefined) return problem;
    if (this.machine.ip !== start) return `the handler does not run ${where}`;
    this.machine.returnFromHandler();
    return undefined;
  }

  /** Runs on until it is elsewhere. @returns what is wrong, or undefined */
  private run(): string | undefined {
    const end = this.machine.run(LIMIT);
    if (this.machine.problems.length > 0) return this.machine.problems[0];
    return end.kind === "left" ? undefined : `it ends with "${end.kind}${end.detail && `: ${end.detail}`}"`;
  }

  /** Whether the function itself is what comes next, with the arguments that it was given. */
  private isAtFunction(before: Int32Array): string | undefined {
    const { machine } = this;
    if (machine.nameElsewhere(machine.cpu.ip) !== this.name) return `it goes on at ${hex(machine.ip)}`;
    return this.differs(before, [...ARGUMENTS, ...KEPT])
      ? "it changes the arguments, or registers to be kept"
      : undefined;
  }

  private call({ args, copies, isAnother }: Way, result: number): string | undefined {
    const { machine } = this;
    const { cpu } = machine;
    const { prepare, parent, child } = isAnother
      ? { ...this.handlers, prepare: undefined, parent: undefined }
      : this.handlers;
    const before = this.prepare(this.start, args);
    const first = copies ? this.handler(prepare, "before the fork") : undefined;
    const problem = first ?? this.run() ?? this.isAtFunction(before);
    if (problem !== undefined) return problem;
    if (!copies)
      return machine.rspIs(0) && machine.callersStackIsWhole ? undefined : "it is called, and not gone on to";
    if ((cpu.gpr(Gpr.RSP) + 8n) % 16n !== 0n) return "rsp is no multiple of 16";
    machine.returnFrom(0);
    cpu.setGpr(Gpr.RAX, BigInt.asUintN(64, BigInt(result)));
    const behind =
      (result === 0 ? this.handler(child, "in the child") : this.handler(parent, "in the parent")) ?? this.run();
    if (behind !== undefined) return behind;
    if (!machine.hasReturned || !machine.callersStackIsWhole) return `it goes on at ${hex(machine.ip)}`;
    if (cpu.gpr(Gpr.RAX) !== BigInt.asUintN(64, BigInt(result))) return "its result is another";
    return this.differs(before, KEPT) ? "it changes registers to be kept" : undefined;
  }

  /** clone(function, stack, flags, argument, ...) */
  clone(): string | undefined {
    const [code, argument, stack] = [DATA + 16, DATA + 32, DATA + 2048];
    for (const args of [
      [code, stack, CLONE_VM | SIGCHLD, argument],
      [0, stack, SIGCHLD, argument],
      [code, 0, SIGCHLD, argument],
    ]) {
      const before = this.prepare(this.start, args);
      const problem = this.run() ?? this.isAtFunction(before);
      if (problem !== undefined) return problem;
      if (!this.machine.rspIs(0)) return "it is called, and not gone on to";
    }
    for (const low of [0, 8, 5]) {
      const problem = this.cloneCopies(code, stack + low, argument);
      if (problem !== undefined) return `without CLONE_VM: ${problem}`;
    }
    return undefined;
  }

  private cloneCopies(code: number, stack: number, argument: number): string | undefined {
    const { machine } = this;
    const { cpu, memory } = machine;
    memory.poke(runtimeAddress(stack - 128), new Uint8Array(256).fill(0x3c));
    const before = this.prepare(this.start, [code, stack, SIGCHLD, argument]);
    const problem = this.run();
    if (problem !== undefined) return problem;
    if (machine.nameElsewhere(cpu.ip) !== this.name || !machine.rspIs(0)) return `it goes on at ${hex(machine.ip)}`;
    if (this.differs(before, [Gpr.RDX, Gpr.R8, Gpr.R9, ...KEPT])) return "it changes other arguments";
    const [start, below, handed] = [Gpr.RDI, Gpr.RSI, Gpr.RCX].map((r) => Number(cpu.gpr(r))) as [
      number,
      number,
      number,
    ];
    if (below > stack || below < stack - 64) return "the child's stack is another";
    const around = memory.peek(runtimeAddress(stack - 128), 256);
    const isOthers = (i: number): boolean => stack - 128 + i < below || stack - 128 + i >= stack;
    if (around.some((byte, i) => byte !== 0x3c && isOthers(i))) return "it writes to what is not the child's stack";
    // The C library calls it in the child, with what was handed on.
    if (!beginsAsTarget(machine, start - machine.bias)) return "the child's code does not begin with endbr64";
    this.prepare(start - machine.bias, [handed]);
    const behind = this.handler(this.handlers.child, "in the child") ?? this.run();
    if (behind !== undefined) return behind;
    if (cpu.ip !== code || !machine.rspIs(0) || !machine.callersStackIsWhole)
      return `the child goes on at ${hex(cpu.ip)}`;
    return cpu.gpr(Gpr.RDI) === BigInt(argument) ? undefined : "the child's function has another argument";
  }
}
