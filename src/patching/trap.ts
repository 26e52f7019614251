/**
 * What the kernel does when a thread runs into int3 (handle_swbp): look for a probe, call its consumers, try to patch
 * the call in, and go on after the nop.
 *
 * Looking and patching take the address space's lock, so a thread waits while somebody patches. Steps that nobody can
 * tell apart are one step: taking a lock with what is done first under it, the last thing done under it with letting it
 * go, an IPI to all CPUs with the write after it. (A thread that acts between the IPI and the write sees old bytes; it
 * can see them just as well before the IPI, since the IPI only takes choices away. So that order of things is there
 * already.)
 */
import { type Change, judged, Property, type Situation, violation } from "./change.js";
import { ipOf, type Snapshot, withRegisters } from "./machine.js";
import { differentRegister } from "./properties.js";
import { INT3 } from "./protocol.js";
import { hijackReturn, returnTrap } from "./returns.js";
import { withHit } from "./round.js";
import type { PatchedSite, Setup } from "./setup.js";
import type { Registry, Space, Thread } from "./state.js";
import { behind } from "./user.js";
import { carryOut, groupsOf } from "./writes.js";

const isLocked = ({ space }: Situation): boolean => space.lock >= 0;

/** Steps of a thread that has run into int3. */
export function trapSteps(situation: Situation): Change[] {
  switch (situation.thread.mode) {
    case "trapped":
      return look(situation);
    case "handling":
      return handle(situation);
    case "wants-to-patch":
      return beginPatching(situation);
    case "patching":
      return patch(situation);
    default:
      return [];
  }
}

function siteOf({ setup, thread }: Situation): PatchedSite | undefined {
  const ip = ipOf(setup.machine.valueOf(thread.snapshot));
  return setup.sites.find((site) => site.address === ip);
}

function look(situation: Situation): Change[] {
  const { setup, thread, space, registry } = situation;
  if (setup.isInReturnTrampoline(ipOf(setup.machine.valueOf(thread.snapshot)))) return returnTrap(situation);
  if (isLocked(situation)) return [];
  const site = siteOf(situation);
  if (site === undefined) return [trapOfNobody()];
  const registered = registry.sites[site.index]!;
  if (registered.isKnown)
    return [
      {
        label: "kernel: finds the probe",
        thread: { ...thread, mode: "handling", picked: registered.hasConsumer ? registered.attachment : -1 },
      },
    ];
  if (setup.codeAt(space, site)[0] === INT3 || !setup.protocol.looksAgain) return [trapOfNobody()];
  return [{ label: "kernel: no probe, no int3: again", thread: { ...thread, mode: "user" }, refreshes: true }];
}

const trapOfNobody = (): Change => ({
  label: "kernel: no probe",
  violation: violation(Property.Killed, "int3 belongs to no probe: the thread dies of SIGTRAP."),
});

/** Calls the consumer, then goes on to patching or to the nop. */
function handle(situation: Situation): Change[] {
  const { setup, thread, registry } = situation;
  const site = siteOf(situation)!;
  const registers = setup.machine.valueOf(thread.snapshot);
  return consumed(situation, site, registers).map(({ change, thread: after, registers: changed }): Change => {
    if (change.violation !== undefined) return change;
    const snapshot = setup.machine.numberOf(changed);
    const next = { ...after, snapshot };
    const registered = registry.sites[site.index]!;
    const isGivenUp = registered.hasFailed && setup.protocol.failsForAll;
    if (site.canPatch && !isGivenUp) return { ...change, thread: { ...next, mode: "wants-to-patch" } };
    return { ...change, ...leave({ ...situation, thread: next }, site), refreshes: true };
  });
}

interface Consumed {
  readonly change: Change;
  readonly thread: Thread;
  /** What the consumers have left in the registers. */
  readonly registers: Snapshot;
}

/**
 * The consumer that was found is called, unless it has gone: then both can be, for the list of consumers may have been
 * read before or after.
 */
export function consumed(situation: Situation, site: PatchedSite, registers: Snapshot): Consumed[] {
  const { setup, thread, registry } = situation;
  const registered = registry.sites[site.index]!;
  const none: Consumed = {
    change: { label: "kernel: nobody to call" },
    thread: { ...thread, picked: -1 },
    registers,
  };
  if (thread.picked < 0) return [none];
  const called = call(situation, site, registers);
  const isStillThere = registered.hasConsumer && sameAttachment(thread.picked, registered.attachment);
  const isOver = !sameAttachment(thread.picked, registered.attachment);
  if (isOver)
    return [
      {
        ...called,
        change: {
          label: "kernel: calls the consumer",
          violation: violation(Property.Detached, "The consumer is called after detaching was complete."),
        },
      },
    ];
  const seen = seesOther(setup, thread, registers);
  if (seen !== null)
    return [
      {
        ...called,
        change: { label: "kernel: calls the consumer", violation: violation(Property.Consumer, seen) },
      },
    ];
  return isStillThere ? [called] : [called, none];
}

/** 4n + 1 to 4n + 3 belong together: being attached, attached, being detached. At 4n + 4 that is over. */
const sameAttachment = (a: number, b: number): boolean => Math.floor(a / 4) === Math.floor(b / 4);

function seesOther(setup: Setup, thread: Thread, registers: Snapshot): string | null {
  if (thread.expected < 0) return null;
  const expected = setup.machine.valueOf(thread.expected);
  if (ipOf(expected) !== ipOf(registers)) return "The consumer is given another rip than that of the probe.";
  const register = differentRegister(registers, expected);
  return register === null ? null : `The consumer is given another ${register} than the program has at the probe.`;
}

function call(situation: Situation, site: PatchedSite, registers: Snapshot): Consumed {
  const { setup, thread } = situation;
  const { consumer, machine } = setup;
  let after: Thread = { ...thread, picked: -1 };
  if (after.pass.site === site.index)
    after = { ...after, pass: { ...after.pass, hits: after.pass.hits + 1 }, round: withHit(after.round) };
  let changed = registers;
  if (consumer.kind !== "entry") {
    const hijacked = hijackReturn(setup, after, site, changed);
    after = hijacked.thread;
    changed = hijacked.registers;
  }
  if (consumer.changes.size > 0 || consumer.goTo !== null) {
    const to = consumer.goTo ?? ipOf(changed);
    changed = withRegisters(changed, consumer.changes, to);
    if (after.expected >= 0) {
      const expected = withRegisters(machine.valueOf(after.expected), consumer.changes, to);
      after = { ...after, expected: machine.numberOf(expected) };
    }
  }
  return { change: { label: "kernel: calls the consumer" }, thread: after, registers: changed };
}

/** Back to user mode: after the nop, which is emulated or stepped over, or where a consumer wants the thread. */
function leave(situation: Situation, site: PatchedSite): Pick<Change, "thread" | "violation"> {
  const { setup, registry } = situation;
  const counted = judged(situation.thread, registry);
  if (counted.violation !== undefined) return { violation: counted.violation };
  const thread: Thread = { ...counted.thread, mode: "user", group: 0, trampoline: 0, picked: -1 };
  const snapshot = setup.machine.valueOf(thread.snapshot);
  if (ipOf(snapshot) !== site.address) return behind({ ...situation, thread }, true);
  if (site.instruction > 1 && setup.protocol.longNops === "stepped") return { thread: { ...thread, mode: "stepping" } };
  const number = setup.machine.numberOf(withRegisters(snapshot, new Map(), site.address + site.instruction));
  return behind({ ...situation, thread: { ...thread, snapshot: number } }, true);
}

/** The copy of the nop has been run: its own affair. */
export function stepSteps(situation: Situation): Change[] {
  const { setup, thread } = situation;
  const site = siteOf(situation)!;
  const snapshot = withRegisters(setup.machine.valueOf(thread.snapshot), new Map(), site.address + site.instruction);
  const next: Thread = { ...thread, mode: "user", snapshot: setup.machine.numberOf(snapshot) };
  return [
    {
      label: "kernel: single-steps a copy of the nop",
      isPrivate: true,
      ...behind({ ...situation, thread: next }, false),
    },
  ];
}

/** Takes the lock, looks whether int3 is still there, finds or maps a trampoline, and begins. */
function beginPatching(situation: Situation): Change[] {
  const { setup, thread, space, registry, actor } = situation;
  const { protocol } = setup;
  if (protocol.locks && isLocked(situation)) return [];
  const site = siteOfPass(situation);
  const code = setup.codeAt(space, site);
  const go = (label: string, change: Partial<Change> = {}): Change => ({
    label,
    ...leave(situation, site),
    refreshes: true,
    ...change,
  });
  if (protocol.rechecks && code[0] !== INT3) return [go("kernel: int3 is gone, nothing to patch")];
  if (!protocol.rechecks && setup.isOptimized(space, site)) return [go("kernel: patched already")];
  const trampoline = setup.trampolineFor(space, site);
  if (trampoline === null) return [go("kernel: no trampoline in reach", { registry: failed(registry, site) })];
  setup.loadTrampoline(trampoline.address);
  const trampolines = trampoline.isNew
    ? [
        ...space.trampolines.filter((t) => t.address !== trampoline.address),
        { address: trampoline.address, isMapped: true, isKnown: true },
      ]
    : space.trampolines;
  const held: Space = { ...space, lock: protocol.locks ? actor : space.lock, trampolines };
  const begun: Thread = { ...thread, mode: "patching", group: 0, trampoline: trampoline.address };
  const [first] = patch({ ...situation, thread: begun, space: held });
  const label = trampoline.isNew ? "kernel: maps a trampoline, " : "kernel: takes the trampoline, ";
  return [{ ...first!, label: label + first!.label.replace("kernel: ", "") }];
}

/** The probe is not optimized any more, for anybody. */
const failed = (registry: Registry, site: PatchedSite): Registry => ({
  ...registry,
  sites: registry.sites.map((s, i) => (i === site.index ? { ...s, hasFailed: true } : s)),
});

/** The site that a thread patches: rip may be elsewhere already, if a consumer has moved it. */
function siteOfPass({ setup, thread }: Situation): PatchedSite {
  return setup.sites[thread.pass.site]!;
}

/** The next group of phases, and after the last one the way out. */
function patch(situation: Situation): Change[] {
  const { setup, thread, space, registry } = situation;
  const site = siteOfPass(situation);
  const groups = groupsOf(setup.protocol.optimize, setup.protocol.stepsApart);
  const done = carryOut(setup, space, site, groups[thread.group]!, thread.trampoline);
  const isLast = done.isRefused || thread.group === groups.length - 1;
  const base: Change = {
    label: `kernel: ${done.label}`,
    space: isLast && setup.protocol.locks ? { ...done.space, lock: -1 } : done.space,
    syncs: done.syncs,
    ...(done.bytes === undefined ? {} : { bytes: done.bytes }),
    ...(done.isRefused ? { registry: failed(registry, site) } : {}),
  };
  if (!isLast) return [{ ...base, thread: { ...thread, group: thread.group + 1 } }];
  if (!setup.protocol.skipsAfterPatching && !done.isRefused)
    return [{ ...base, thread: { ...thread, mode: "user" }, refreshes: true }];
  return [{ ...base, ...leave(situation, site), refreshes: true }];
}

/** Whether a thread is in a handler of a site's probe: what detaching waits for. */
export const reads = (thread: Thread, site: number): boolean =>
  ["handling", "wants-to-patch", "patching", "handling-call"].includes(thread.mode) && thread.pass.site === site;
