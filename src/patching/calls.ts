/**
 * System calls: that of the trampoline, and the few that programs here make themselves.
 *
 * The uprobe system call finds what the trampoline has pushed (rax, r11, rcx, and the return address that the call at
 * the probe has left), shows consumers the registers as they are at the probe, and writes back what they have changed.
 * It returns by sysret: rcx and r11 are lost, which is why the trampoline has pushed them.
 */
import { Gpr } from "../emulate/state.js";
import { type Change, judged, Property, type Situation, violation, withCode } from "./change.js";
import { gprOf, ipOf, type Snapshot, spOf, withRegisters } from "./machine.js";
import { FORK, VFORK } from "./programs.js";
import { CALL_SIZE, INT3, UPROBE_CALL, URETPROBE_CALL } from "./protocol.js";
import { returnCall } from "./returns.js";
import type { PatchedSite } from "./setup.js";
import { putBack, takeOff } from "./shadow-stack.js";
import { sigreturn } from "./signals.js";
import type { Space, Thread } from "./state.js";
import { consumed } from "./trap.js";
import { behind } from "./user.js";
import { quadBytes, readQuad } from "./words.js";
import { install } from "./writes.js";

const PWRITE = 18;
const SIGRETURN = 15;
const MADVISE = 28;
const EXIT = 60;
const MADV_DONTNEED = 4;
const ENOSYS = 38;
const EAGAIN = 11;
/** The label of a fork that fails. */
export const NO_CHILD = "kernel: no more children";
const CHILD_PID = 2;
/** rax, r11, rcx and the return address. */
const ARGUMENTS = 32;

/** Steps of a thread that has executed syscall. */
export function callSteps(situation: Situation): Change[] {
  const { setup, thread } = situation;
  if (thread.mode === "handling-call") return handle(situation);
  const number = gprOf(setup.machine.valueOf(thread.snapshot), Gpr.RAX);
  const isProbeCall = number === UPROBE_CALL || number === URETPROBE_CALL;
  if (setup.program.filter && !(isProbeCall && setup.protocol.seccompException))
    return [
      {
        label: "kernel: the filter says no",
        violation: violation(Property.Killed, `A seccomp filter forbids system call ${number}: SIGSYS.`),
      },
    ];
  switch (number) {
    case UPROBE_CALL:
      return uprobeCall(situation);
    case URETPROBE_CALL:
      return returnCall(situation);
    case SIGRETURN:
      return [sigreturn(situation)];
    case FORK:
    case VFORK:
      return fork(situation, number);
    case EXIT:
      return [{ label: "exits", thread: { ...thread, mode: "ended" }, wakes: true }];
    case MADVISE:
      return advise(situation);
    case PWRITE:
      return writeInt3(situation);
    default:
      return [returning(situation, -ENOSYS)];
  }
}

/** Back to user mode with a result. */
function returning({ setup, thread }: Situation, result: number, label = "kernel: returns"): Change {
  const snapshot = withRegisters(setup.machine.valueOf(thread.snapshot), new Map([[Gpr.RAX, result]]));
  return { label, thread: { ...thread, mode: "user", snapshot: setup.machine.numberOf(snapshot) } };
}

/** Looks where the call comes from and which probe it is. */
function uprobeCall(situation: Situation): Change[] {
  const { setup, thread, space, registry } = situation;
  const { protocol, machine } = setup;
  if (space.lock >= 0) return [];
  const snapshot = machine.valueOf(thread.snapshot);
  const trampoline = setup.trampolineAt(ipOf(snapshot));
  const isOurs = trampoline !== null && space.trampolines.some((t) => t.address === trampoline && t.isMapped);
  if (protocol.patched === 0 || (!isOurs && protocol.checksCaller))
    return [returning(situation, -protocol.refusal, "kernel: not from a trampoline")];
  const site = siteOfCall(situation, snapshot);
  const registered = site === undefined ? undefined : registry.sites[site.index]!;
  if (site === undefined || registered === undefined || !registered.isKnown) {
    const { thread: counted, violation: wrong } = judged(thread, registry);
    if (wrong !== undefined) return [{ label: "kernel: no probe there", violation: wrong }];
    const label = "kernel: no probe there any more";
    const taken = takeOff(setup, counted, returnAddress(situation, snapshot));
    if ("property" in taken) return [{ label, violation: taken }];
    return [leave({ ...situation, thread: taken }, atProbe(situation, snapshot), label)];
  }
  return [
    {
      label: "kernel: finds the probe",
      thread: { ...thread, mode: "handling-call", picked: registered.hasConsumer ? registered.attachment : -1 },
    },
  ];
}

/** Where the call at the probe wants to return to. */
const returnAddress = ({ setup }: Pick<Situation, "setup">, snapshot: Snapshot): number =>
  readQuad(setup.machine, snapshot, spOf(snapshot) + 24);

/** The probe that the return address on the stack belongs to. */
function siteOfCall({ setup }: Situation, snapshot: Snapshot): PatchedSite | undefined {
  const back = returnAddress({ setup }, snapshot);
  const { lead, looksBack } = setup.protocol;
  return setup.sites.find((site) => site.address + (looksBack ?? lead.length + CALL_SIZE) === back);
}

/** The registers as they are at the probe. */
function atProbe({ setup }: Situation, snapshot: Snapshot): Snapshot {
  const { machine, protocol } = setup;
  const sp = spOf(snapshot);
  const word = (index: number): number => readQuad(machine, snapshot, sp + 8 * index);
  const size = protocol.lead.length + CALL_SIZE;
  return withQuads(
    snapshot,
    machine,
    [
      [Gpr.RAX, sp],
      [Gpr.R11, sp + 8],
      [Gpr.RCX, sp + 16],
    ],
    protocol.fixesSp ? sp + ARGUMENTS + protocol.released : sp,
    protocol.fixesIp ? word(3) - size : ipOf(snapshot),
  );
}

/** The snapshot with registers taken from its memory: all 64 bits of them. */
function withQuads(
  snapshot: Snapshot,
  machine: Situation["setup"]["machine"],
  sources: readonly (readonly [register: number, address: number])[],
  sp: number,
  ip: number,
): Snapshot {
  const { words, memory } = withRegisters(snapshot, new Map([[Gpr.RSP as number, sp]]), ip);
  const bytes = new Uint8Array(words.buffer, words.byteOffset);
  for (const [register, address] of sources)
    for (let i = 0; i < 8; i++) bytes[8 * register + i] = machine.byteAt(snapshot, address + i) ?? 0;
  return { words, memory };
}

/** Calls the consumer and returns to the trampoline. */
function handle(situation: Situation): Change[] {
  const { setup, thread, registry } = situation;
  const snapshot = setup.machine.valueOf(thread.snapshot);
  const site = siteOfCall(situation, snapshot)!;
  const taken = takeOff(setup, thread, returnAddress(situation, snapshot));
  if ("property" in taken) return [{ label: "kernel: looks at the shadow stack", violation: taken }];
  return consumed({ ...situation, thread: taken }, site, atProbe(situation, snapshot)).map(
    ({ change, thread: after, registers }): Change => {
      if (change.violation !== undefined) return change;
      const { thread: counted, violation: wrong } = judged(after, registry);
      if (wrong !== undefined) return { ...change, violation: wrong };
      return { ...leave({ ...situation, thread: counted }, registers, change.label) };
    },
  );
}

/** Writes what consumers have changed to where the trampoline pops it from. */
function leave(situation: Situation, registers: Snapshot, label: string): Change {
  const { setup, thread } = situation;
  const { machine, protocol } = setup;
  const before = machine.valueOf(thread.snapshot);
  const shown = atProbe(situation, before);
  const sp = spOf(before);
  const back: Thread = { ...thread, mode: "user", picked: -1 };
  if (spOf(registers) !== spOf(shown)) {
    // A consumer has moved rsp: the trampoline is left out, by iret.
    const size = protocol.lead.length + CALL_SIZE;
    const ip = ipOf(registers) === ipOf(shown) ? ipOf(registers) + size : ipOf(registers);
    const snapshot = machine.numberOf(withRegisters(registers, new Map(), ip));
    return { label, ...behind({ ...situation, thread: { ...back, snapshot } }, true), refreshes: true };
  }
  // Besides what it pops from, the stack may have changed: a return address that was replaced.
  let memory: Snapshot = { words: before.words, memory: registers.memory };
  if (protocol.writesBack) {
    const bytes = new Uint8Array(registers.words.buffer, registers.words.byteOffset);
    for (const [index, register] of [Gpr.RAX, Gpr.R11, Gpr.RCX].entries())
      memory = machine.write(memory, { address: sp + 8 * index, bytes: bytes.slice(8 * register, 8 * register + 8) });
    if (ipOf(registers) !== ipOf(shown))
      memory = machine.write(memory, { address: sp + 24, bytes: quadBytes(ipOf(registers)) });
  }
  const address = ipOf(registers) === ipOf(shown) ? returnAddress(situation, before) : ipOf(registers);
  const words = registers.words.slice();
  const own = withRegisters(
    { words, memory: memory.memory },
    new Map([
      [Gpr.RSP as number, sp],
      [Gpr.RAX as number, 0],
      [Gpr.RCX as number, ipOf(before)],
      [Gpr.R11 as number, gprOf(before, Gpr.R11)],
    ]),
    ipOf(before),
  );
  return { label, thread: putBack(setup, { ...back, snapshot: machine.numberOf(own) }, address) };
}

/** fork and vfork: the spare slot gets a child, if it is free; it may also fail, for a kernel has other limits. */
function fork(situation: Situation, number: number): Change[] {
  const { setup, thread, space, registry } = situation;
  const { machine, protocol } = setup;
  if (space.lock >= 0 || registry.walks) return [];
  const back = returning(situation, CHILD_PID).thread!;
  const child: Thread = {
    ...back,
    acts: setup.program.acts.child,
    snapshot: machine.numberOf(withRegisters(machine.valueOf(thread.snapshot), new Map([[Gpr.RAX, 0]]))),
  };
  const copy: Space = {
    ...space,
    trampolines: protocol.forkCopiesTrampoline
      ? space.trampolines
      : space.trampolines.map((t) => ({ ...t, isMapped: false, isKnown: false })),
  };
  const label = number === FORK ? "kernel: forks" : "kernel: vforks";
  const parent: Thread = number === VFORK ? { ...back, mode: "suspended" } : back;
  const isFree: Change = {
    label,
    thread: parent,
    spawns: { thread: child, space: number === FORK ? copy : null },
    needs: { spareSlot: true },
  };
  return [isFree, returning(situation, -EAGAIN, NO_CHILD)];
}

// A thread that has its own code changed by a system call goes on with the new one: the kernel flushes the page from
// this CPU's TLB by invlpg, which serializes.

/** madvise on the page of the probes. */
function advise(situation: Situation): Change[] {
  const { setup, thread, space, registry } = situation;
  if (space.lock >= 0 || registry.walks) return [];
  const advice = gprOf(setup.machine.valueOf(thread.snapshot), Gpr.RDX);
  const back = returning(situation, 0);
  if (advice === MADV_DONTNEED) {
    const code = setup.firstSpace().code;
    const label = "kernel: the file's bytes are back";
    return [{ ...back, label, bytes: code, space: { ...space, code }, refreshes: true }];
  }
  // The mapping is split or joined, which makes the kernel install what is registered.
  let next = space;
  for (const site of setup.sites)
    if (registry.sites[site.index]!.hasConsumer) next = install(setup, registry, next, site).space;
  return [
    { ...back, label: "kernel: splits the mapping, installs int3 where probes are", space: next, refreshes: true },
  ];
}

/**
 * pwrite to /proc/self/mem: int3 over the first probe. It takes the lock that patching holds (mm/memory.c,
 * __access_remote_vm).
 */
function writeInt3(situation: Situation): Change[] {
  const { setup, space } = situation;
  if (space.lock >= 0) return [];
  const bytes = Uint8Array.of(INT3);
  return [
    {
      ...returning(situation, 1, "writes int3 itself"),
      bytes,
      space: withCode(space, setup.sites[0]!, 0, bytes),
      refreshes: true,
    },
  ];
}
