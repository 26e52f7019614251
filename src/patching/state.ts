/**
 * What a state of the model consists of: values that are never changed, numbered by model.ts.
 */

/** Where a thread is, if it is not running its own code. */
export type Mode =
  | "user"
  /** int3 has trapped: the kernel has not looked for a probe yet. */
  | "trapped"
  /** In the handlers of a trap: between looking and returning. */
  | "handling"
  /** Wants to patch the call in, and waits for the lock. */
  | "wants-to-patch"
  | "patching"
  /** Single-steps a copy of its nop. */
  | "stepping"
  /** In a system call: not begun yet; `uprobe` found and its handlers about to run. */
  | "called"
  | "handling-call"
  /** Waits for its vfork child. */
  | "suspended"
  | "unborn"
  | "ended";

/** A pass of a probe: from the first fetch at it to the instruction after it. */
export interface Pass {
  /** Index of the site, or -1: no pass. */
  readonly site: number;
  /** The site's attachment (Registry) when the pass began; -1 once it has changed since, or the verdict is known. */
  readonly start: number;
  /** How often the consumer was called; DONE once the kernel has let the thread go and the count was right. */
  readonly hits: number;
}

export const NO_PASS: Pass = { site: -1, start: -1, hits: 0 };
export const DONE = 9;

/** A way through the code of a probe with two places: round.ts. */
export interface Round {
  /** Both places have been attached since it began. */
  readonly isOwed: boolean;
  /** How often the consumer was called, at either. */
  readonly hits: number;
}

/** A return address that was replaced. */
export interface ReturnInstance {
  readonly site: number;
  /** Where the function returns to. */
  readonly original: number;
  /** What the consumer keeps from entry to return. */
  readonly cookie: number;
  /** The site's attachment at entry, -1 once it has changed. */
  readonly start: number;
}

/** What a signal handler interrupted. */
export interface Frame {
  readonly snapshot: number;
  readonly expected: number;
  readonly pass: Pass;
}

export interface Thread {
  readonly mode: Mode;
  /** Number of the thread's own snapshot (machine.ts). */
  readonly snapshot: number;
  /**
   * In a pass: the snapshot as it would be without a probe, at the probe; once a consumer has moved rip, there. Or -1.
   */
  readonly expected: number;
  readonly pass: Pass;
  /** Null outside of such code. */
  readonly round: Round | null;
  /** While it patches: the group of phases that comes next, and the trampoline. */
  readonly group: number;
  readonly trampoline: number;
  /** The attachment whose consumer was found, or -1. */
  readonly picked: number;
  readonly returns: readonly ReturnInstance[];
  readonly frames: readonly Frame[];
  /** How many signals may still arrive. */
  readonly signals: number;
  /** What it may still do to what the kernel has put into its program. */
  readonly acts: readonly Act[];
  /** Return addresses once more, where the program has a shadow stack: shadow-stack.ts. */
  readonly shadow: readonly number[];
}

/** What programs do that know nothing of the kernel's patching: acts.ts. */
export type Act = "unmap" | "clear" | "overwrite" | "crowd";

export interface Trampoline {
  readonly address: number;
  readonly isMapped: boolean;
  /** The kernel lets calls lead there: by a list of its own, or because it is mapped. */
  readonly isKnown: boolean;
}

/** An address space. */
export interface Space {
  readonly isAlive: boolean;
  /** The bytes at all sites, one after the other. */
  readonly code: Uint8Array;
  /** Who holds the lock that writers of the address space take: an actor, or -1. */
  readonly lock: number;
  /** In the order in which they were mapped. */
  readonly trampolines: readonly Trampoline[];
  readonly semaphore: number;
  /** No page within reach of the probes is free any more. */
  readonly isCrowded: boolean;
  /** The program has overwritten what the kernel wrote: passes are not owed to the tracer any more. */
  readonly isOverwritten: boolean;
}

/** What the kernel knows of a site, for all processes. */
export interface Registered {
  /** Found when somebody looks for a probe there. */
  readonly isKnown: boolean;
  readonly hasConsumer: boolean;
  /** Some process could not have a call there: it is not tried again in any. */
  readonly hasFailed: boolean;
  /**
   * The attachment, counted: 4n detached, 4n + 1 being attached, 4n + 2 attached, 4n + 3 being detached.
   */
  readonly attachment: number;
}

export const isOff = (attachment: number): boolean => attachment % 4 === 0;
export const isOn = (attachment: number): boolean => attachment % 4 === 2;

export interface Registry {
  readonly sites: readonly Registered[];
  /** Somebody attaches or detaches in all address spaces: nobody forks. */
  readonly walks: boolean;
  /** How many of the writes that take a call back may still fail, for want of memory or of a tracer that lives. */
  readonly errors: number;
}

/** The actor that attaches and detaches. */
export interface Patcher {
  /** Index into its script. */
  readonly at: number;
  /** While it takes a call back: the group of phases that comes next. */
  readonly group: number;
  /** In some address space the probe could not be taken away. */
  readonly hasFailed: boolean;
}

const passKey = ({ site, start, hits }: Pass): string => `${site}/${start}/${hits}`;

export const threadKey = (t: Thread): string =>
  [
    t.mode,
    t.snapshot,
    t.expected,
    passKey(t.pass),
    t.round === null ? "-" : `${t.round.isOwed}/${t.round.hits}`,
    t.group,
    t.trampoline,
    t.picked,
    t.signals,
    t.acts.join("+"),
    t.shadow.join("+"),
    t.returns.map((r) => `${r.site}/${r.original}/${r.cookie}/${r.start}`).join("+"),
    t.frames.map((f) => `${f.snapshot}/${f.expected}/${passKey(f.pass)}`).join("+"),
  ].join(" ");

export const spaceKey = (s: Space): string =>
  [
    s.isAlive,
    s.code.join("."),
    s.lock,
    s.trampolines.map((t) => `${t.address}${t.isMapped ? "" : "-"}${t.isKnown ? "" : "?"}`).join("+"),
    s.semaphore,
    s.isCrowded,
    s.isOverwritten,
  ].join(" ");

export const registryKey = (r: Registry): string =>
  `${r.walks} ${r.errors} ${r.sites.map((s) => `${s.isKnown}${s.hasConsumer}${s.hasFailed}${s.attachment}`).join(" ")}`;

export const patcherKey = (p: Patcher): string => `${p.at} ${p.group} ${p.hasFailed}`;

/** The thread once a site's attachment has changed: none of its passes there knows it throughout any more. */
export function aged(thread: Thread, site: number): Thread {
  const age = (pass: Pass): Pass => (pass.site === site && pass.start >= 0 ? { ...pass, start: -1 } : pass);
  return {
    ...thread,
    pass: age(thread.pass),
    round: thread.round && { ...thread.round, isOwed: false },
    returns: thread.returns.map((r) => (r.site === site ? { ...r, start: -1 } : r)),
    frames: thread.frames.map((f) => ({ ...f, pass: age(f.pass) })),
  };
}
