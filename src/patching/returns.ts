/**
 * Return probes: the entry replaces the return address by that of a trampoline, which calls the kernel (system call
 * 335, or int3 on older kernels); the kernel calls the consumer and sends the thread to where the function was called.
 *
 * A session is one consumer for entry and return. Its entry says whether it wants the return, and what it hands over:
 * here the lowest bit of rdi, and rdi itself.
 */
import { hex } from "../address.js";
import { Gpr } from "../emulate/state.js";
import { type Change, Property, type Situation, violation } from "./change.js";
import { gprOf, ipOf, type Snapshot, spOf, withRegisters } from "./machine.js";
import type { PatchedSite, Setup } from "./setup.js";
import { replaceLast } from "./shadow-stack.js";
import type { ReturnInstance, Thread } from "./state.js";
import { isOn } from "./state.js";
import { behind } from "./user.js";
import { quadBytes, readQuad } from "./words.js";

/**
 * Puts the trampoline in place of the return address, which stands at rsp: the probe is a function's first instruction.
 */
export function hijackReturn(
  setup: Setup,
  thread: Thread,
  site: PatchedSite,
  registers: Snapshot,
): { thread: Thread; registers: Snapshot } {
  const { machine, consumer } = setup;
  const argument = gprOf(registers, Gpr.RDI);
  if (consumer.kind === "session" && argument % 2 === 0) return { thread, registers };
  const address = spOf(registers);
  const instance: ReturnInstance = {
    site: site.index,
    original: readQuad(machine, registers, address),
    cookie: consumer.kind === "session" ? argument : 0,
    start: thread.pass.start,
  };
  const replaced = { address, bytes: quadBytes(setup.returnTrampoline) };
  const expected =
    thread.expected < 0 ? thread.expected : machine.numberOf(machine.write(machine.valueOf(thread.expected), replaced));
  return {
    thread: replaceLast(setup, { ...thread, expected, returns: [...thread.returns, instance] }, setup.returnTrampoline),
    registers: machine.write(registers, replaced),
  };
}

/** Whether the consumer is called for a return: always, never, or one of both while somebody attaches or detaches. */
function callsFor({ registry }: Situation, instance: ReturnInstance): boolean[] {
  const { attachment, hasConsumer } = registry.sites[instance.site]!;
  if (instance.start === attachment && isOn(attachment)) return [true];
  return hasConsumer ? [true, false] : [false];
}

/** System call 335, from the return trampoline: registers are below rsp as it has pushed them. */
export function returnCall(situation: Situation): Change[] {
  const { setup, thread } = situation;
  const { machine } = setup;
  const snapshot = machine.valueOf(thread.snapshot);
  const instance = thread.returns.at(-1);
  if (instance === undefined || !setup.isInReturnTrampoline(ipOf(snapshot)))
    return [killedByKernel("SIGILL", "The uretprobe system call comes from elsewhere.")];
  const sp = spOf(snapshot);
  const [r11, rcx, rax] = [0, 8, 16].map((offset) => readQuad(machine, snapshot, sp + offset)) as [
    number,
    number,
    number,
  ];
  const seen = withRegisters(
    snapshot,
    new Map([
      [Gpr.R11, r11],
      [Gpr.RCX, rcx],
      [Gpr.RAX, rax],
      [Gpr.RSP, sp + 24],
    ]),
    instance.original,
  );
  return called(situation, instance, seen).map(({ label, wrong }): Change => {
    if (wrong !== null) return { label, violation: violation(Property.Return, wrong) };
    // Where there is a shadow stack nothing may return to where nothing was called: by iret.
    if (setup.program.shadowStack) return leaveFor({ ...situation, label, seen });
    // The place of rax on the stack takes the address that the trampoline's ret goes to.
    const filled = machine.write(snapshot, { address: sp + 16, bytes: quadBytes(instance.original) });
    const ip = ipOf(snapshot);
    const back = withRegisters(
      filled,
      new Map([
        [Gpr.RAX, rax],
        [Gpr.RCX, ip],
      ]),
    );
    const next: Thread = {
      ...thread,
      mode: "user",
      snapshot: machine.numberOf(back),
      returns: thread.returns.slice(0, -1),
    };
    return { label, thread: next };
  });
}

/** int3 in the return trampoline of older kernels. */
export function returnTrap(situation: Situation): Change[] {
  const { setup, thread } = situation;
  const { machine } = setup;
  const instance = thread.returns.at(-1);
  if (instance === undefined) return [killedByKernel("SIGILL", "A return trampoline without a return.")];
  const seen = withRegisters(machine.valueOf(thread.snapshot), new Map(), instance.original);
  return called(situation, instance, seen).map(({ label, wrong }): Change => {
    if (wrong !== null) return { label, violation: violation(Property.Return, wrong) };
    return leaveFor({ ...situation, label, seen });
  });
}

/** To where the function was called, by iret. */
function leaveFor(situation: Situation & { readonly label: string; readonly seen: Snapshot }): Change {
  const { setup, thread, label, seen } = situation;
  const snapshot = setup.machine.numberOf(seen);
  const next: Thread = { ...thread, mode: "user", snapshot, returns: thread.returns.slice(0, -1) };
  return { label, ...behind({ ...situation, thread: next }, true), refreshes: true };
}

function called(
  situation: Situation,
  instance: ReturnInstance,
  seen: Snapshot,
): { label: string; wrong: string | null }[] {
  const { setup, thread } = situation;
  return callsFor(situation, instance).map((calls) => {
    const label = calls ? "kernel: calls the consumer for the return" : "kernel: nobody to call for the return";
    if (!calls) return { label, wrong: null };
    const isOther = thread.expected >= 0 && setup.machine.numberOf(seen) !== thread.expected;
    if (isOther && ipOf(setup.machine.valueOf(thread.expected)) !== ipOf(seen))
      return { label, wrong: `The return goes to ${hex(ipOf(seen))}.` };
    const wants = setup.consumer.kind !== "session" || instance.cookie % 2 === 1;
    return { label, wrong: wants ? null : "The session did not want this return." };
  });
}

const killedByKernel = (signal: string, message: string): Change => ({
  label: `kernel: ${signal}`,
  violation: violation(Property.Killed, `${message} The thread dies of ${signal}.`),
});
