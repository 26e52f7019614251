/**
 * Threads, kernel and patcher as a system that the explorer can search: the parts of a state are numbered, a state is a
 * handful of numbers, and each step of an actor is worked out once for all states that look the same to it.
 *
 *     [registry, patcher, address spaces..., thread 0, its CPU's view, thread 1, its CPU's view, ...]
 *
 * The actors are the threads, each on a CPU of its own, the spare slot for a forked child, and the patcher.
 */
import { Numbering } from "../explore/numbering.js";
import type { Step, System, Violation } from "../explore/system.js";
import type { Change, Situation } from "./change.js";
import { freshView, type View, viewAfterWrite, viewKey } from "./fetch.js";
import { patcherSteps, scriptFor } from "./patcher.js";
import { equal, type Setup } from "./setup.js";
import {
  aged,
  NO_PASS,
  type Patcher,
  patcherKey,
  type Registry,
  registryKey,
  type Space,
  spaceKey,
  type Thread,
  threadKey,
} from "./state.js";
import { threadSteps } from "./steps.js";
import { reads } from "./trap.js";

const REGISTRY = 0;
const PATCHER = 1;
const SPACES = 2;
const SAME = -1;

/** A step with the numbers of what it leaves; SAME where it leaves a part as it was. */
export interface ModelStep extends Step {
  readonly isPrivate: boolean;
  readonly violation: Violation | null;
  /** Bytes that were fetched or written. */
  readonly bytes: Uint8Array | null;
  readonly registry: number;
  readonly patcher: number;
  readonly thread: number;
  readonly spaceIndex: number;
  readonly space: number;
  readonly syncs: boolean;
  readonly syncsAfter: boolean;
  readonly refreshes: boolean;
  readonly ages: number;
  readonly spawned: { readonly thread: number; readonly space: number } | null;
  readonly wakes: boolean;
  readonly needs: Change["needs"];
}

export interface ModelOptions {
  readonly threads: number;
  /** How often the probes are attached and detached. */
  readonly toggles: number;
  /** How many signals may arrive, in the first thread: all are alike. */
  readonly signals?: number;
  /** In which of these another tracer comes to the same probes. */
  readonly joins?: readonly number[];
  /** How many of the writes that take calls back may fail. */
  readonly errors?: number;
}

export class Model implements System<ModelStep> {
  readonly width: number;
  readonly actors: number;
  /** The number of threads that there can be, a forked child included. */
  readonly slots: number;
  private readonly threads = new Numbering<Thread>(threadKey);
  private readonly spaces = new Numbering<Space>(spaceKey);
  private readonly registries = new Numbering<Registry>(registryKey);
  private readonly patchers = new Numbering<Patcher>(patcherKey);
  private readonly views = new Numbering<View>(viewKey);
  private readonly spaceCount: number;
  private readonly firstThread: number;
  private readonly script: ReturnType<typeof scriptFor>;
  /** Steps that depend on their thread alone, by its number. */
  private readonly privateSteps: (readonly ModelStep[] | undefined)[] = [];
  private readonly known: (Map<number, readonly ModelStep[]> | undefined)[] = [];
  private readonly patcherKnown = new Map<string, readonly ModelStep[]>();
  private readonly agedThreads = new Map<number, number>();
  private readonly writtenViews = new Map<string, number>();
  private readonly freshViews: (number | undefined)[] = [];
  private readonly resting: (boolean | undefined)[] = [];

  constructor(
    readonly setup: Setup,
    private readonly options: ModelOptions,
  ) {
    const { forks } = setup.program;
    this.slots = options.threads + (forks === null ? 0 : 1);
    this.spaceCount = forks === "fork" ? 2 : 1;
    this.firstThread = SPACES + this.spaceCount;
    this.width = this.firstThread + 2 * this.slots;
    this.actors = this.slots + 1;
    this.script = scriptFor(setup.sites, this.spaceCount, options.toggles, options.joins ?? []);
  }

  initial(): Int32Array {
    const { setup } = this;
    const state = new Int32Array(this.width);
    state[REGISTRY] = this.registries.numberOf({
      walks: false,
      errors: this.options.errors ?? 0,
      sites: setup.sites.map(() => ({ isKnown: false, hasConsumer: false, hasFailed: false, attachment: 0 })),
    });
    state[PATCHER] = this.patchers.numberOf({ at: 0, group: 0, hasFailed: false });
    const space = setup.firstSpace();
    for (let i = 0; i < this.spaceCount; i++)
      state[SPACES + i] = this.spaces.numberOf(i === 0 ? space : { ...space, isAlive: false });
    const begun: Thread = {
      mode: "user",
      snapshot: setup.machine.numberOf(setup.firstSnapshot()),
      expected: -1,
      pass: NO_PASS,
      round: null,
      group: 0,
      trampoline: 0,
      picked: -1,
      returns: [],
      frames: [],
      signals: this.options.signals ?? 0,
      acts: setup.program.acts.own,
      shadow: [],
    };
    for (let slot = 0; slot < this.slots; slot++) {
      const first = slot === 0 ? {} : { signals: 0, acts: [] };
      const thread: Thread = { ...begun, ...first, mode: slot < this.options.threads ? "user" : "unborn" };
      state[this.firstThread + 2 * slot] = this.threads.numberOf(thread);
      state[this.firstThread + 2 * slot + 1] = this.freshViewOf(state[SPACES + this.spaceIndexOf(slot)]!);
    }
    return state;
  }

  steps(state: Int32Array, actor: number): readonly ModelStep[] {
    const steps = actor < this.slots ? this.threadSteps(state, actor) : this.patcherStepsIn(state);
    return steps.some(({ needs }) => needs !== undefined)
      ? steps.filter(({ needs }) => this.isPossible(state, needs))
      : steps;
  }

  apply(state: Int32Array, actor: number, step: ModelStep, into: Int32Array): void {
    into.set(state);
    if (step.registry !== SAME) into[REGISTRY] = step.registry;
    if (step.patcher !== SAME) into[PATCHER] = step.patcher;
    if (step.thread !== SAME) into[this.firstThread + 2 * actor] = step.thread;
    if (step.syncs) this.serializeAll(into);
    if (step.space !== SAME) this.changeSpace(into, step.spaceIndex, step.space);
    if (step.syncsAfter) this.serializeAll(into);
    if (step.ages >= 0) this.age(into, step.ages);
    if (step.refreshes) {
      const view = this.firstThread + 2 * actor + 1;
      into[view] = this.freshViewOf(into[SPACES + this.spaceIndexOf(actor)]!);
    }
    if (step.spawned !== null) this.spawn(into, step.spawned);
    if (step.wakes) this.wake(into);
  }

  /** A run may end where the patcher is done and every thread is between two passes, in no signal handler. */
  isEnd(state: Int32Array): boolean {
    if (this.patchers.valueOf(state[PATCHER]!).at < this.script.length) return false;
    for (let slot = 0; slot < this.slots; slot++)
      if (!this.isResting(state[this.firstThread + 2 * slot]!)) return false;
    return true;
  }

  // The parts of a state, for reports and checks.

  threadIn(state: Int32Array, slot: number): Thread {
    return this.threads.valueOf(state[this.firstThread + 2 * slot]!);
  }

  viewIn(state: Int32Array, slot: number): View {
    return this.views.valueOf(state[this.firstThread + 2 * slot + 1]!);
  }

  spaceIn(state: Int32Array, index: number): Space {
    return this.spaces.valueOf(state[SPACES + index]!);
  }

  registryIn(state: Int32Array): Registry {
    return this.registries.valueOf(state[REGISTRY]!);
  }

  patcherIsDone(state: Int32Array): boolean {
    return this.patchers.valueOf(state[PATCHER]!).at >= this.script.length;
  }

  /** The index of the address space that a thread lives in. */
  spaceIndexOf(slot: number): number {
    return slot >= this.options.threads ? this.spaceCount - 1 : 0;
  }

  /** Every step that was worked out so far, in no order. */
  *allSteps(): Iterable<ModelStep> {
    for (const byThread of this.known) for (const steps of byThread?.values() ?? []) yield* steps;
    for (const steps of this.patcherKnown.values()) yield* steps;
  }

  /** How many different values each part of the state has had. */
  get sizes(): Readonly<Record<string, number>> {
    return {
      threads: this.threads.size,
      spaces: this.spaces.size,
      registries: this.registries.size,
      views: this.views.size,
      snapshots: this.setup.machine.size,
    };
  }

  private threadSteps(state: Int32Array, slot: number): readonly ModelStep[] {
    const thread = state[this.firstThread + 2 * slot]!;
    const own = this.privateSteps[thread];
    if (own !== undefined) return own;
    const view = state[this.firstThread + 2 * slot + 1]!;
    const spaceIndex = this.spaceIndexOf(slot);
    const space = state[SPACES + spaceIndex]!;
    const registry = state[REGISTRY]!;
    // The lock's holder is known by its slot; nothing else depends on it.
    const at = thread * this.slots + slot;
    let byThread = this.known[at];
    if (byThread === undefined) {
      byThread = new Map();
      this.known[at] = byThread;
    }
    const key = (view * 0x100000 + space) * 0x1000 + registry;
    let steps = byThread.get(key);
    if (steps === undefined) {
      const situation: Situation = {
        setup: this.setup,
        actor: slot,
        thread: this.threads.valueOf(thread),
        view: this.views.valueOf(view),
        space: this.spaces.valueOf(space),
        registry: this.registries.valueOf(registry),
      };
      steps = threadSteps(situation).map((change) => this.compile(change, spaceIndex, space));
      byThread.set(key, steps);
      const isPrivate = steps.length === 1 && steps[0]!.isPrivate;
      if (isPrivate && this.setup.program.forks === null) this.privateSteps[thread] = steps;
    }
    return steps;
  }

  private patcherStepsIn(state: Int32Array): readonly ModelStep[] {
    const spaces = state.subarray(SPACES, SPACES + this.spaceCount);
    const key = `${state[REGISTRY]} ${state[PATCHER]} ${spaces.join(" ")}`;
    let steps = this.patcherKnown.get(key);
    if (steps === undefined) {
      const changes = patcherSteps({
        setup: this.setup,
        script: this.script,
        actor: this.slots,
        patcher: this.patchers.valueOf(state[PATCHER]!),
        registry: this.registries.valueOf(state[REGISTRY]!),
        spaces: [...spaces].map((space) => this.spaces.valueOf(space)),
      });
      steps = changes.map((change) => this.compile(change, change.spaceIndex ?? 0, spaces[change.spaceIndex ?? 0]!));
      this.patcherKnown.set(key, steps);
    }
    return steps;
  }

  private compile(change: Change, spaceIndex: number, space: number): ModelStep {
    const { spawns } = change;
    const left = numbered(this.spaces, change.space);
    return {
      label: change.label,
      isPrivate: change.isPrivate ?? false,
      violation: change.violation ?? null,
      bytes: change.bytes ?? null,
      registry: numbered(this.registries, change.registry),
      patcher: numbered(this.patchers, change.patcher),
      thread: numbered(this.threads, change.thread),
      spaceIndex,
      space: left === space ? SAME : left,
      syncs: change.syncs ?? false,
      syncsAfter: change.syncsAfter ?? false,
      refreshes: change.refreshes ?? false,
      ages: change.ages ?? -1,
      spawned:
        spawns === undefined
          ? null
          : {
              thread: this.threads.numberOf(spawns.thread),
              space: spawns.space === null ? SAME : this.spaces.numberOf(spawns.space),
            },
      wakes: change.wakes ?? false,
      needs: change.needs,
    };
  }

  private isPossible(state: Int32Array, needs: Change["needs"]): boolean {
    if (needs === undefined) return true;
    if (needs.spareSlot !== undefined) {
      const { mode } = this.threadIn(state, this.slots - 1);
      if ((mode === "unborn" || mode === "ended") !== needs.spareSlot) return false;
    }
    if (needs.noReaderOf !== undefined)
      for (let slot = 0; slot < this.slots; slot++)
        if (reads(this.threadIn(state, slot), needs.noReaderOf)) return false;
    return true;
  }

  private serializeAll(state: Int32Array): void {
    for (let slot = 0; slot < this.slots; slot++)
      state[this.firstThread + 2 * slot + 1] = this.freshViewOf(state[SPACES + this.spaceIndexOf(slot)]!);
  }

  private changeSpace(state: Int32Array, index: number, space: number): void {
    const before = state[SPACES + index]!;
    state[SPACES + index] = space;
    const from = this.spaces.valueOf(before).code;
    const to = this.spaces.valueOf(space).code;
    if (equal(from, to)) return;
    for (let slot = 0; slot < this.slots; slot++) {
      if (this.spaceIndexOf(slot) !== index) continue;
      const at = this.firstThread + 2 * slot + 1;
      state[at] = this.viewBehind(state[at]!, before, space, from, to);
    }
  }

  private viewBehind(view: number, before: number, after: number, from: Uint8Array, to: Uint8Array): number {
    const key = `${view} ${before} ${after}`;
    let result = this.writtenViews.get(key);
    if (result === undefined) {
      let next = this.views.valueOf(view);
      for (const [i, byte] of to.entries()) if (byte !== from[i]) next = viewAfterWrite(next, i, Uint8Array.of(byte));
      result = this.views.numberOf(next);
      this.writtenViews.set(key, result);
    }
    return result;
  }

  private age(state: Int32Array, site: number): void {
    for (let slot = 0; slot < this.slots; slot++) {
      const at = this.firstThread + 2 * slot;
      const key = state[at]! * 0x100 + site;
      let result = this.agedThreads.get(key);
      if (result === undefined) {
        result = this.threads.numberOf(aged(this.threads.valueOf(state[at]!), site));
        this.agedThreads.set(key, result);
      }
      state[at] = result;
    }
  }

  private spawn(state: Int32Array, { thread, space }: { thread: number; space: number }): void {
    const slot = this.slots - 1;
    const spaceIndex = this.spaceIndexOf(slot);
    if (space !== SAME) state[SPACES + spaceIndex] = space;
    state[this.firstThread + 2 * slot] = thread;
    state[this.firstThread + 2 * slot + 1] = this.freshViewOf(state[SPACES + spaceIndex]!);
  }

  private wake(state: Int32Array): void {
    for (let slot = 0; slot < this.slots; slot++) {
      const thread = this.threadIn(state, slot);
      if (thread.mode === "suspended")
        state[this.firstThread + 2 * slot] = this.threads.numberOf({ ...thread, mode: "user" });
    }
  }

  private freshViewOf(space: number): number {
    let view = this.freshViews[space];
    if (view === undefined) {
      view = this.views.numberOf(freshView(this.spaces.valueOf(space).code));
      this.freshViews[space] = view;
    }
    return view;
  }

  private isResting(thread: number): boolean {
    const known = this.resting[thread];
    if (known !== undefined) return known;
    const { mode, pass, frames, expected } = this.threads.valueOf(thread);
    const isBetween = mode === "user" && pass.site < 0 && expected < 0 && frames.length === 0;
    const rests = isBetween || mode === "ended" || mode === "unborn";
    this.resting[thread] = rests;
    return rests;
  }
}

/** The number of a part that a change has, SAME where it leaves that as it was. */
const numbered = <T>(numbering: Numbering<T>, value: T | undefined): number =>
  value === undefined ? SAME : numbering.numberOf(value);
