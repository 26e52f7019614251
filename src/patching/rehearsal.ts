/**
 * One run in a given order, with what an observer from outside sees of it: bytes at a probe, trampolines, hits, and how
 * a process ends. For comparing the model with a kernel that runs.
 *
 * Where a fetch has a choice, the CPU sees what the memory has: runs on real hardware that are not raced look like
 * that.
 */
import type { Violation } from "../explore/system.js";
import { actLabels } from "./acts.js";
import { NO_CHILD } from "./calls.js";
import { Model, type ModelOptions, type ModelStep } from "./model.js";
import { HAS_JOINED } from "./patcher.js";
import type { Setup } from "./setup.js";
import { type Act, isOff, isOn } from "./state.js";

const isAct = (label: string): boolean => Object.values<string>(actLabels).includes(label);
const MOST_STEPS = 100_000;

interface Rehearsed {
  readonly actor: number;
  readonly label: string;
  /** Bytes that were fetched or written. */
  readonly bytes: Uint8Array | null;
}

export class Rehearsal {
  private readonly model: Model;
  private state: Int32Array;
  /** What has gone wrong: a process has died, or a program computes something else than without the probe. */
  violation: Violation | null = null;
  /** How often the consumer was called at an entry. */
  hits = 0;
  /** Whether a fork succeeds; one child at a time. */
  mayFork = false;
  /** The act that a thread is to take as soon as it can. */
  private wanted: string | null = null;
  /** The labels of all steps so far, with their actors. */
  readonly steps: Rehearsed[] = [];

  constructor(
    private readonly setup: Setup,
    options: Partial<ModelOptions> = {},
  ) {
    this.model = new Model(setup, { threads: 1, toggles: 1, ...options });
    this.state = this.model.initial();
  }

  /** The probes are attached, everywhere, but for those that the kernel refuses. */
  attach(): void {
    const isTaken = (i: number): boolean => !this.setup.sites[i]!.isRefused;
    this.runUntil(this.model.slots, () => this.registry.sites.every((s, i) => isOn(s.attachment) || !isTaken(i)));
  }

  /** The probes are detached, and that is complete. */
  detach(): void {
    this.runUntil(this.model.slots, () => this.registry.sites.every((s) => isOff(s.attachment)));
  }

  /** Another tracer comes to the same probes: what the model was asked for at this attachment. */
  join(): void {
    this.runTo(this.model.slots, HAS_JOINED);
  }

  /** A thread does what programs may do, once it is where it can. */
  act(thread: number, act: Act): void {
    this.wanted = actLabels[act];
    this.runTo(thread, this.wanted);
    this.wanted = null;
  }

  /** A thread passes probes so many times; every site of the program counts. */
  pass(thread: number, times = 1): void {
    for (let i = 0; i < times && this.violation === null; i++) {
      const isInPass = (): boolean => this.model.threadIn(this.state, thread).pass.site >= 0;
      const before = this.passes(thread);
      this.runUntil(thread, () => !isInPass() && this.passes(thread) > before);
    }
  }

  /** A thread runs until a step with this label has been taken. */
  runTo(thread: number, label: string): void {
    const from = this.steps.length;
    this.runUntil(thread, () => this.steps.slice(from).some((s) => s.actor === thread && s.label === label));
  }

  /** The bytes at a site, as /proc/PID/mem shows them. */
  bytes(site = 0, space = 0): Uint8Array {
    return this.setup.codeAt(this.model.spaceIn(this.state, space), this.setup.sites[site]!).slice();
  }

  /** Addresses of the trampolines, as /proc/PID/maps shows them. */
  trampolines(space = 0): number[] {
    const { trampolines } = this.model.spaceIn(this.state, space);
    return trampolines.filter(({ isMapped }) => isMapped).map(({ address }) => address);
  }

  semaphore(space = 0): number {
    return this.model.spaceIn(this.state, space).semaphore;
  }

  private readonly begun = new Map<number, number>();

  private passes(thread: number): number {
    return this.begun.get(thread) ?? 0;
  }

  private get registry() {
    return this.model.registryIn(this.state);
  }

  private runUntil(actor: number, isDone: () => boolean): void {
    for (let i = 0; !isDone(); i++) {
      if (this.violation !== null) return;
      if (i > MOST_STEPS) throw new Error("the run does not get there");
      this.take(actor);
    }
  }

  private take(actor: number): void {
    const possible = this.chosen(this.model.steps(this.state, actor));
    const isFork = possible.length > 1 && possible.some((s) => s.label === NO_CHILD);
    const steps = isFork ? possible.filter((s) => (s.label === NO_CHILD) !== this.mayFork) : possible;
    const step = steps.find((s) => this.isWhatMemoryHas(s)) ?? steps[0];
    if (step === undefined) throw new Error(`actor ${actor} has to wait`);
    this.steps.push({ actor, label: step.label, bytes: step.bytes });
    if (step.label.includes("calls the consumer") && !step.label.includes("return")) this.hits++;
    if (step.violation !== null) {
      this.violation = step.violation;
      return;
    }
    const wasInPass = actor < this.model.slots && this.model.threadIn(this.state, actor).pass.site >= 0;
    const next = new Int32Array(this.model.width);
    this.model.apply(this.state, actor, step, next);
    this.state = next;
    const isInPass = actor < this.model.slots && this.model.threadIn(next, actor).pass.site >= 0;
    // A nop is passed in one step; everything else is a pass that ends.
    if ((wasInPass && !isInPass) || (!wasInPass && !isInPass && step.label === "nop"))
      this.begun.set(actor, this.passes(actor) + 1);
  }

  /** The act that is wanted, or all steps but acts. */
  private chosen(steps: readonly ModelStep[]): readonly ModelStep[] {
    const wanted = steps.filter(({ label }) => label === this.wanted);
    return wanted.length > 0 ? wanted : steps.filter(({ label }) => !isAct(label));
  }

  private isWhatMemoryHas({ bytes, violation }: ModelStep): boolean {
    if (bytes === null || violation !== null) return false;
    return this.setup.sites.some((_, site) => {
      const memory = this.bytes(site);
      return bytes.every((byte, i) => byte === memory[i]);
    });
  }
}
