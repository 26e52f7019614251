/** What one step of an actor does to the state, as a value: model.ts makes the next state of it. */
import type { Violation } from "../explore/system.js";
import type { View } from "./fetch.js";
import { equal, type PatchedSite, type Setup } from "./setup.js";
import { DONE, isOff, isOn, type Patcher, type Registry, type Space, type Thread } from "./state.js";

export interface Change {
  readonly label: string;
  /** The bytes that were fetched or written, for people. */
  readonly bytes?: Uint8Array;
  readonly isPrivate?: boolean;
  readonly violation?: Violation;
  readonly thread?: Thread;
  readonly patcher?: Patcher;
  readonly registry?: Registry;
  /** The address space that changes: its index, the actor's own if it is a thread's. */
  readonly spaceIndex?: number;
  readonly space?: Space;
  /** All CPUs serialize, before anything is written. */
  readonly syncs?: boolean;
  /** All CPUs serialize, after it. */
  readonly syncsAfter?: boolean;
  /** The actor's own CPU serializes at the end: iret. */
  readonly refreshes?: boolean;
  /** An attachment of this site changes: passes that are under way do not know it throughout. */
  readonly ages?: number;
  /** A child begins, in the spare slot: a thread, and its address space if it has one of its own. */
  readonly spawns?: { readonly thread: Thread; readonly space: Space | null };
  /** The vfork parent goes on. */
  readonly wakes?: boolean;
  /** Only possible while the spare slot is free, or nobody handles a hit of this site. */
  readonly needs?: { readonly spareSlot?: boolean; readonly noReaderOf?: number };
}

/** What a thread sees when it acts. */
export interface Situation {
  readonly setup: Setup;
  /** The actor's number: who holds a lock. */
  readonly actor: number;
  readonly thread: Thread;
  readonly view: View;
  readonly space: Space;
  readonly registry: Registry;
}

export const violation = (property: string, message: string): Violation => ({ property, message });

export const Property = {
  Torn: "torn-instruction",
  Hits: "hit-exactly-once",
  Detached: "no-hit-after-detach",
  Registers: "registers",
  Stack: "stack",
  RedZone: "red-zone",
  Flow: "next-instruction",
  Unmapped: "unmapped-code",
  Killed: "killed",
  Consumer: "consumer-sees-the-probe",
  Return: "return-exactly-once",
  Semaphore: "semaphore",
} as const;

/**
 * Whether a pass was counted right, as far as the kernel has to do with it: exactly once when the probe was attached
 * all the time, never when it was detached all the time, and otherwise at most once.
 */
export function verdict(pass: Pass, registry: Registry): Violation | undefined {
  const { attachment } = registry.sites[pass.site]!;
  if (pass.hits > 1) return violation(Property.Hits, "One pass called the consumer twice.");
  if (pass.start !== attachment) return undefined;
  if (isOn(attachment) && pass.hits === 0)
    return violation(Property.Hits, "A pass of the attached probe did not reach the consumer.");
  if (isOff(attachment) && pass.hits > 0)
    return violation(Property.Detached, "A pass that began after detaching reached the consumer.");
  return undefined;
}

type Pass = Thread["pass"];

/** The thread with its pass judged and, if it was right, done. */
export function judged(thread: Thread, registry: Registry): { thread: Thread; violation?: Violation } {
  if (thread.pass.site < 0 || thread.pass.hits === DONE) return { thread };
  const wrong = verdict(thread.pass, registry);
  if (wrong !== undefined) return { thread, violation: wrong };
  return { thread: { ...thread, pass: { ...thread.pass, start: -1, hits: DONE } } };
}

/** The address space with other bytes at a site. */
export function withCode(space: Space, site: PatchedSite, from: number, bytes: Uint8Array): Space {
  const code = space.code.slice();
  code.set(bytes, site.at + from);
  return { ...space, code };
}

/** Whether the memory shows no sign of the probe at a site. */
export const isBare = (setup: Setup, space: Space, site: PatchedSite): boolean =>
  equal(setup.codeAt(space, site).subarray(0, 1), site.original.subarray(0, 1));
