/**
 * Signals: one may arrive between any two instructions in user mode, in a trampoline too. The kernel leaves the red
 * zone alone, writes its frame below it and starts the handler; sigreturn brings the registers back, not the memory.
 */
import { Gpr } from "../emulate/state.js";
import type { Change, Situation } from "./change.js";
import { spOf, withRegisters } from "./machine.js";
import { withoutDeadStack } from "./properties.js";
import { NO_PASS, type Thread } from "./state.js";

const RED_ZONE = 128;
/** Larger than what any handler here needs to be kept apart by; the frame's contents are the kernel's own. */
const FRAME = 512;
const SIGUSR1 = 10;

/** The signal arrives now. */
export function deliver({ setup, thread }: Situation): Change {
  const { machine, program } = setup;
  const snapshot = machine.valueOf(thread.snapshot);
  // As at a function's entry: rsp + 8 is a multiple of 16.
  const sp = Math.floor((spOf(snapshot) - RED_ZONE - FRAME) / 16) * 16 - 8;
  const registers = new Map([
    [Gpr.RSP as number, sp],
    [Gpr.RDI as number, SIGUSR1],
    [Gpr.RAX as number, 0],
  ]);
  const inHandler = withRegisters(withoutDeadStack(setup, snapshot), registers, program.handler!);
  const next: Thread = {
    ...thread,
    snapshot: machine.numberOf(inHandler),
    expected: -1,
    pass: NO_PASS,
    signals: thread.signals - 1,
    frames: [...thread.frames, { snapshot: thread.snapshot, expected: thread.expected, pass: thread.pass }],
  };
  return { label: "signal arrives", thread: next };
}

/** rt_sigreturn. */
export function sigreturn({ setup, thread }: Situation): Change {
  const { machine } = setup;
  const frame = thread.frames.at(-1);
  if (frame === undefined) return { label: "kernel: sigreturn without a signal", thread: { ...thread, mode: "ended" } };
  const { words } = machine.valueOf(frame.snapshot);
  const { memory } = machine.valueOf(thread.snapshot);
  const snapshot = machine.numberOf(withoutDeadStack(setup, { words, memory }));
  return {
    label: "kernel: sigreturn",
    isPrivate: true,
    thread: {
      ...thread,
      mode: "user",
      snapshot,
      expected: frame.expected,
      pass: frame.pass,
      frames: thread.frames.slice(0, -1),
    },
  };
}
