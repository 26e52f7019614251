/**
 * A thread in user mode: its own instructions, those at a probe, those of a trampoline.
 *
 * Instructions whose bytes nobody changes are the thread's own affair: private steps. At a probe the fetch is a choice
 * (fetch.ts). Instructions that read what others write (the program's own look at its code, a semaphore) are steps that
 * everybody sees.
 */
import { hex } from "../address.js";
import type { Outcome } from "../emulate/fault.js";
import { actSteps, mayAct } from "./acts.js";
import { type Change, isBare, judged, Property, type Situation, violation } from "./change.js";
import { fetchFrom } from "./fetch.js";
import { type Bytes, ipOf, type Ran, type Snapshot, withRegisters } from "./machine.js";
import { arrival, expectedBehind } from "./properties.js";
import { INT3 } from "./protocol.js";
import { begunRound, notOwed, roundVerdict } from "./round.js";
import { equal, type PatchedSite, type Setup } from "./setup.js";
import { afterInstruction } from "./shadow-stack.js";
import { deliver } from "./signals.js";
import { DONE, NO_PASS, type Thread } from "./state.js";

/** All steps of a thread in user mode. */
export function userSteps(situation: Situation): Change[] {
  const { setup, thread } = situation;
  const { machine, program } = setup;
  const ip = ipOf(machine.valueOf(thread.snapshot));
  const round = atBorder(situation, ip);
  if (round !== undefined) return [round];
  if (program.region !== null && thread.expected < 0 && !program.region.has(ip)) return [beginAgain(situation)];
  const site = setup.siteAt(ip);
  const others = actSteps(situation);
  if (thread.signals > 0 && program.handler !== null) others.push(deliver(situation));
  if (site !== undefined) return [...atSite(situation, site, ip), ...others];
  if (program.sharedReads.has(ip)) return [...sharedRead(situation, ip), ...others];
  const isSeen = others.length > 0 || mayAct(situation) || (unmaps(setup) && setup.trampolineAt(ip) !== null);
  const own = elsewhere(situation, ip);
  return [{ ...own, ...(isSeen ? {} : { isPrivate: true }) }, ...others];
}

/** A thread that comes to the code of a probe with two places, or has passed it: the step has no instruction. */
function atBorder({ setup, thread, registry }: Situation, ip: number): Change | undefined {
  const { twins } = setup.program;
  if (twins === null || thread.expected >= 0) return undefined;
  const { round } = thread;
  if (round === null)
    return ip === twins.start
      ? { label: "comes to the probe", thread: { ...thread, round: begunRound(setup, registry) } }
      : undefined;
  if (ip >= twins.start && ip < twins.end) return undefined;
  const wrong = roundVerdict(round);
  const change: Change = { label: "has passed the probe", isPrivate: true, thread: { ...thread, round: null } };
  return wrong === undefined ? change : { ...change, violation: wrong };
}

/** Whether a trampoline can go away while a thread is in it. */
const unmaps = ({ protocol, program }: Setup): boolean =>
  protocol.unmapsTrampoline || [...program.acts.own, ...program.acts.child].includes("unmap");

/** The part of the program that is looked at is left: the thread comes to it once more. */
function beginAgain({ setup, thread }: Situation): Change {
  const snapshot = setup.machine.numberOf(setup.firstSnapshot());
  return { label: "leaves, and comes again", isPrivate: true, thread: { ...thread, snapshot } };
}

/** An instruction that nobody patches. */
function elsewhere(situation: Situation, ip: number): Change {
  const { setup, thread, space } = situation;
  const missing = missingCode(setup, space, ip);
  if (missing !== null) return missing;
  const code = setup.machine.codeAt(ip);
  return proceed({ ...situation, code }, setup.machine.run(thread.snapshot), setup.textAt(ip), false);
}

/** Where an address is no code: the thread dies there. */
function missingCode(setup: Setup, space: Situation["space"], ip: number): Change | null {
  const trampoline = setup.trampolineAt(ip);
  const isThere =
    trampoline !== null
      ? space.trampolines.some((t) => t.address === trampoline && t.isMapped)
      : setup.isInReturnTrampoline(ip) || setup.isProgram(ip);
  if (isThere) return null;
  return {
    label: `fetches from ${hex(ip)}`,
    violation: violation(
      Property.Unmapped,
      trampoline === null
        ? `The thread runs at ${hex(ip)}, where nothing is mapped: SIGSEGV.`
        : "The thread runs where a trampoline is not mapped in its address space: SIGSEGV.",
    ),
  };
}

function sharedRead(situation: Situation, ip: number): Change[] {
  const { setup, thread, space } = situation;
  const shared: Bytes[] = setup.sites.map((site) => ({ address: site.address, bytes: setup.codeAt(space, site) }));
  if (setup.program.semaphore !== null)
    shared.push({ address: setup.program.semaphore, bytes: Uint8Array.of(space.semaphore & 0xff, 0) });
  const code = setup.machine.codeAt(ip);
  return [proceed({ ...situation, code }, setup.machine.run(thread.snapshot, shared), setup.textAt(ip), true)];
}

/** The instruction at a probe: each version that may be fetched, and what is torn. */
function atSite(situation: Situation, site: PatchedSite, ip: number): Change[] {
  const { setup, thread, view, space, registry } = situation;
  const at = ip - site.address;
  const begun: Thread =
    thread.pass.site < 0 && at === 0
      ? {
          ...thread,
          expected: thread.snapshot,
          pass: { site: site.index, start: registry.sites[site.index]!.attachment, hits: 0 },
        }
      : thread;
  const { whole, torn } = fetchFrom(view, site.at + at, setup.versionsAt(space, site, ip));
  const changes = whole.map((bytes): Change => {
    if (bytes[0] === INT3) return { label: "int3", bytes, thread: { ...begun, mode: "trapped" } };
    const ran = setup.machine.run(thread.snapshot, [{ address: ip, bytes }]);
    const isNop = equal(bytes.subarray(0, 1), site.original.subarray(at, at + 1));
    const label = isNop ? "nop" : at === 0 && setup.protocol.lead.length > 0 ? "lea" : "call trampoline";
    const passing = isNop && at === 0 ? passedBy(situation, begun, site) : begun;
    return { ...proceed({ ...situation, thread: passing, code: bytes }, ran, label, true), bytes };
  });
  if (torn !== null)
    changes.push({
      label: "fetches a mixture",
      bytes: torn,
      violation: violation(Property.Torn, `The CPU runs bytes that nobody wrote there together: ${hexBytes(torn)}.`),
    });
  return changes;
}

/**
 * The thread runs the nop as if no probe were there. That is wrong if the probe has been attached since before the pass
 * began and the memory does not show it. Where the memory shows it, this CPU has not serialized since the byte was
 * written: it sees the time before, and the pass belongs to that. A program that has overwritten the probe is owed
 * nothing.
 */
function passedBy(situation: Situation, thread: Thread, site: PatchedSite): Thread {
  const { setup, space } = situation;
  return isBare(setup, space, site) && !space.isOverwritten
    ? thread
    : { ...thread, pass: { ...thread.pass, start: -1 }, round: notOwed(thread.round) };
}

/** With the bytes of the instruction that is run. */
type Running = Situation & { readonly code: Uint8Array };

/**
 * The change that an instruction makes, with the checks after it.
 * @param isSeen the step is not private: it may look at what others write
 */
function proceed(situation: Running, ran: Ran, label: string, isSeen: boolean): Change {
  const { setup } = situation;
  const { outcome } = ran;
  switch (outcome.kind) {
    case "limit": {
      const after = afterInstruction(setup, situation.thread, situation.code, ran);
      if ("property" in after) return { label, violation: after };
      const thread = { ...after, snapshot: ran.snapshot };
      return { label, ...behind({ ...situation, thread }, isSeen) };
    }
    case "syscall":
      return { label, thread: { ...situation.thread, snapshot: ran.snapshot, mode: "called" } };
    case "breakpoint": {
      // Its address is what the kernel goes by.
      const after = setup.machine.valueOf(ran.snapshot);
      const snapshot = setup.machine.numberOf(withRegisters(after, new Map(), ipOf(after) - 1));
      return { label: "int3", thread: { ...situation.thread, snapshot, mode: "trapped" } };
    }
    default:
      return { label, violation: violation(Property.Killed, dead(outcome)) };
  }
}

function dead(outcome: Outcome): string {
  if (outcome.kind === "unimplemented") return `An instruction that is not implemented: ${outcome.instruction}.`;
  if (outcome.kind !== "fault") return outcome.kind;
  const signal = { page: "SIGSEGV", "general-protection": "SIGSEGV", divide: "SIGFPE", undefined: "SIGILL" };
  const where = outcome.address === null ? "" : ` (${outcome.access} at ${hex(outcome.address)})`;
  return `The thread dies of ${signal[outcome.fault]}${where}.`;
}

/**
 * Looks at where a thread has arrived in user mode: inside a pass nothing is checked; after it everything is, and the
 * thread goes on as if there had been no probe.
 * @param isSeen whether the step may look at the attachment; one that may not comes from a trampoline, and whoever
 * comes
 *   from there has been counted
 */
export function behind(situation: Situation, isSeen: boolean): Pick<Change, "thread" | "violation"> {
  const { setup, thread, registry } = situation;
  const snapshot: Snapshot = setup.machine.valueOf(thread.snapshot);
  const ip = ipOf(snapshot);
  const returning = thread.returns.at(-1);
  if (ip === setup.returnTrampoline && returning !== undefined && thread.expected < 0) {
    // The function returns into the trampoline: without a probe it would return to where it was called.
    const expected = setup.machine.numberOf(withRegisters(snapshot, new Map(), returning.original));
    return { thread: { ...thread, expected } };
  }
  if (thread.expected < 0) return { thread };
  const isInside =
    setup.trampolineAt(ip) !== null ||
    setup.isInReturnTrampoline(ip) ||
    (thread.pass.site >= 0 && isInsideSite(setup, thread, ip));
  if (isInside || !setup.isProgram(ip)) return { thread };
  if (!isSeen && thread.pass.site >= 0 && thread.pass.hits !== DONE)
    return { thread, violation: violation(Property.Hits, "A pass went by without the kernel.") };
  const { thread: known, violation: uncounted } = judged(thread, registry);
  const wrong = uncounted ?? arrival(setup, known);
  if (wrong !== undefined) return { thread, violation: wrong };
  return { thread: { ...known, snapshot: expectedBehind(setup, known), expected: -1, pass: NO_PASS } };
}

const isInsideSite = (setup: Setup, { pass }: Thread, ip: number): boolean => {
  const site = setup.sites[pass.site]!;
  return ip >= site.address && ip < site.end;
};

export const hexBytes = (bytes: Uint8Array): string => [...bytes].map((b) => b.toString(16).padStart(2, "0")).join(" ");
