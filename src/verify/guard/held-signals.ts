/**
 * The handlers before and after a fork in the parent, run in the emulator as the C library calls them.
 *
 *     before    nobody traces: it comes back with everything as it was, has asked the kernel for nothing, has touched no slot,
 *               and has looked at all five bytes of every nop5. Each site by itself, in each way in which a tracer leaves
 *               it: signals are blocked, and then what was blocked before is in a slot that was free, with the thread
 *               pointer for its key; where there is none, they are let in again. Where the thread has a slot: nothing
 *     after    what is in the slot of this thread is blocked again, and the slot is free before that. No slot: nothing
 *
 * Several threads may do so at once: the key is written by an instruction with a lock.
 */
import { hex, runtimeAddress } from "../../address.js";
import { Gpr, joinAddress } from "../../emulate/state.js";
import { NOP5 } from "../../x86/bytes.js";
import { iced } from "../../x86/iced.js";
import { BREAKPOINT, broken } from "./child.js";
import { HandlerRuns } from "./handler-runs.js";
import { BLOCKED, type Guarded } from "./kernel.js";
import { type Machine, THREAD } from "./machine.js";
import { sampled } from "./sampled.js";
import { isFree, isOwn, isSame, type Slot, type Slots } from "./slots.js";
import { beginsAsTarget } from "./stubs.js";

const SYS_rt_sigprocmask = 14;
const EPERM = -1;
const TURNS = 12;
const FEW_SITES = 64;
const ways = [BREAKPOINT, ...broken];

/** What is wrong with the handler before a fork, or undefined. */
export function judgePrepare(machine: Machine, start: number, guarded: Guarded, slots: Slots): string | undefined {
  if (!beginsAsTarget(machine, start)) return "it does not begin with endbr64";
  if (machine.selector !== undefined) {
    machine.select(0);
    const idle = guarded.runsUnselected
      ? prepares(machine, start, guarded, slots)
      : untraced(new HandlerRuns(machine, guarded, slots), machine, start, slots, false);
    if (idle !== undefined) return `with the selector 0, ${idle}`;
    machine.select(1);
  }
  return prepares(machine, start, guarded, slots);
}

/** @param looksAtAll whether it has to look at each site */
function untraced(
  runs: HandlerRuns,
  machine: Machine,
  start: number,
  slots: Slots,
  looksAtAll: boolean,
): string | undefined {
  const { scenes } = slots;
  for (let turn = 0; turn < TURNS; turn++) {
    const found = scenes[turn % scenes.length]!;
    const kernel = new MaskKernel(machine, slots, found, 0n, false);
    const problem = runs.run(start, turn, () => kernel.call()) ?? kernel.outcome(0n, found, 0);
    if (problem !== undefined) return `untraced: ${problem}`;
    if (turn > 0 || !looksAtAll) continue;
    const unread = runs.unread();
    if (unread !== undefined) return unread;
  }
  return undefined;
}

function prepares(machine: Machine, start: number, guarded: Guarded, slots: Slots): string | undefined {
  const runs = new HandlerRuns(machine, guarded, slots);
  const { scenes } = slots;
  const idle = untraced(runs, machine, start, slots, true);
  if (idle !== undefined) return idle;
  const { sites } = guarded;
  const each = sites.length > FEW_SITES ? 1 : ways.length;
  const tried = sampled(sites.length);
  // Where notes were taken away there may be no site: then nothing can be traced.
  const most = tried.length === 0 ? 0 : Math.max(tried.length * each, 2 * scenes.length);
  for (let i = 0; i < most; i++) {
    const site = sites[tried[i % tried.length]!]!.address;
    const bytes = ways[(i + Math.floor(i / tried.length)) % ways.length]!;
    const at = runtimeAddress(site + machine.bias);
    machine.memory.onWrite = null;
    machine.memory.poke(at, bytes);
    const problem = hold(runs, machine, start, slots, TURNS + i);
    machine.memory.onWrite = null;
    machine.memory.poke(at, NOP5);
    if (problem !== undefined) return `traced at ${hex(site)} (${Buffer.from(bytes).toString("hex")}): ${problem}`;
  }
  const writers = machine.instructions(start, start + MOST_BYTES).filter((i) => exchanges.has(i.mnemonic));
  return writers.every((i) => i.lock) ? undefined : "it claims a slot without a lock";
}

/** Longer than the handler is. */
const MOST_BYTES = 4096;
const exchanges = new Set<number>([iced.Mnemonic.Cmpxchg, iced.Mnemonic.Xchg, iced.Mnemonic.Xadd]);

/** One run with a site that is traced. */
function hold(runs: HandlerRuns, machine: Machine, start: number, slots: Slots, turn: number): string | undefined {
  const { scenes } = slots;
  const found = scenes[turn % scenes.length]!;
  const mask = maskOf(turn);
  const isRefused = turn % 11 === 10;
  const kernel = new MaskKernel(machine, slots, found, mask, isRefused);
  const problem = runs.run(start, turn, () => kernel.call());
  if (problem !== undefined) return problem;
  if (found.some(isOwn)) return kernel.outcome(mask, found, 0);
  if (isRefused) return kernel.outcome(mask, found, 1);
  if (!found.some(isFree)) return kernel.outcome(mask, found, 2);
  const now = slots.get();
  const claimed = now.findIndex((slot, i) => isFree(found[i]!) && !isFree(slot));
  const wanted = found.map((slot, i) => (i === claimed ? { key: THREAD, mask } : slot));
  return claimed < 0 ? "it takes no slot" : kernel.outcome(mask | BLOCKED, wanted, 1);
}

/** What is wrong with the handler after a fork in the parent, or undefined. */
export function judgeParent(machine: Machine, start: number, guarded: Guarded, slots: Slots): string | undefined {
  if (!beginsAsTarget(machine, start)) return "it does not begin with endbr64";
  const runs = new HandlerRuns(machine, guarded, slots);
  for (const [turn, found] of slots.scenes.entries()) {
    const own = found.find(isOwn);
    const wanted = found.map((slot) => (isOwn(slot) ? { ...slot, key: 0 } : slot));
    const kernel = new MaskKernel(machine, slots, found, BLOCKED, false, wanted);
    const problem = runs.run(start, turn, () => kernel.call());
    if (problem !== undefined) return problem;
    const wrong = kernel.outcome(own?.mask ?? BLOCKED, wanted, own === undefined ? 0 : 1);
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

const SIGKILL_AND_SIGSTOP = (1n << 8n) | (1n << 18n);
/** Something that a program may have blocked. */
const maskOf = (turn: number): bigint =>
  turn % 3 === 0 ? 0n : BigInt.asUintN(64, 0x9e37_79b9_7f4a_7c15n * BigInt(turn)) & ~SIGKILL_AND_SIGSTOP;

/** As much of a kernel as these handlers may ask for. */
class MaskKernel {
  private readonly problems: string[] = [];
  private calls = 0;

  /** @param duringCalls what the table has to be whenever the kernel is asked for something */
  constructor(
    private readonly machine: Machine,
    private readonly slots: Slots,
    found: readonly Slot[],
    private mask: bigint,
    private readonly isRefused: boolean,
    private readonly duringCalls: readonly Slot[] = found,
  ) {
    slots.put(found);
  }

  private argument(register: number): number {
    const { w } = this.machine.cpu;
    return joinAddress(w[2 * register]!, w[2 * register + 1]!);
  }

  call(): void {
    const { machine } = this;
    this.calls++;
    const [number, how, set, old, size] = [Gpr.RAX, Gpr.RDI, Gpr.RSI, Gpr.RDX, Gpr.R10].map((r) =>
      this.argument(r),
    ) as [number, number, number, number, number];
    if (number !== SYS_rt_sigprocmask) this.problems.push(`system call ${number}`);
    if (size !== 8) this.problems.push(`rt_sigprocmask with a set of ${size} bytes`);
    if (!this.isAs(this.duringCalls)) this.problems.push("slots are not what they should be while it asks the kernel");
    machine.cpu.setGpr(Gpr.RAX, this.isRefused ? BigInt.asUintN(64, BigInt(EPERM)) : 0n);
    const value = machine.given(set, 8).readBigUInt64LE(0);
    if (how === 0 && value !== BLOCKED) this.problems.push(`it blocks the signals ${value.toString(16)}`);
    if (this.isRefused) return;
    if (old !== 0) {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64LE(this.mask);
      if (!machine.isOnStack(old, 8)) this.problems.push(`the kernel is to write to ${hex(old)}`);
      else machine.memory.poke(runtimeAddress(old), bytes);
    }
    if (how === 0) this.mask |= value;
    else if (how === 2) this.mask = value;
    else this.problems.push(`it changes the blocked signals in the way ${how}`);
  }

  private isAs(wanted: readonly Slot[]): boolean {
    return this.slots.get().every((slot, i) => isSame(slot, wanted[i]!));
  }

  /**
   * What is wrong at the end, by what should be blocked, what the table should be, and how often the kernel was asked.
   */
  outcome(mask: bigint, wanted: readonly Slot[], calls: number): string | undefined {
    if (this.problems.length > 0) return this.problems[0];
    if (this.calls !== calls) return `it makes ${this.calls} system calls, not ${calls}`;
    if (this.mask !== mask)
      return `the signals ${this.mask.toString(16)} are blocked at its end, not ${mask.toString(16)}`;
    return this.isAs(wanted) ? undefined : "its slots are not what they should be";
  }
}
