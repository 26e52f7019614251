/**
 * What must be the same after a probe as without it: the next instruction, registers and flags, the stack from rsp up,
 * and of the 128 bytes below it (the System V red zone) what the program reads again (red-zone-use.ts). What is below
 * the red zone is nobody's by the ABI.
 */
import { hex } from "../address.js";
import { Gpr, IP } from "../emulate/state.js";
import type { Violation } from "../explore/system.js";
import { Property, violation } from "./change.js";
import { ipOf, type Snapshot, spOf, withoutBelow } from "./machine.js";
import { RED_ZONE } from "./red-zone-use.js";
import type { Setup } from "./setup.js";
import type { Thread } from "./state.js";

const registerNames = Object.keys(Gpr).map((name) => name.toLowerCase());

/** Compares a thread that has come out of a pass with how it would be without the probe. */
export function arrival(setup: Setup, thread: Thread): Violation | undefined {
  const { machine } = setup;
  const { stack } = setup.program;
  const is = machine.valueOf(thread.snapshot);
  const expectedNumber = expectedBehind(setup, thread);
  if (thread.snapshot === expectedNumber) return undefined;
  const expected = machine.valueOf(expectedNumber);
  if (ipOf(is) !== ipOf(expected))
    return violation(Property.Flow, `The program goes on at ${hex(ipOf(is))} instead of ${hex(ipOf(expected))}.`);
  const register = differentRegister(is, expected);
  if (register !== null) return violation(Property.Registers, `Behind the probe ${register} is another.`);
  const sp = spOf(expected);
  for (const address of new Set([...is.memory.keys(), ...expected.memory.keys()])) {
    if (machine.byteAt(is, address) === machine.byteAt(expected, address)) continue;
    const isOnStack = address >= stack.start && address < stack.end;
    if (isOnStack && address < sp - RED_ZONE) continue;
    if (isOnStack && address < sp) {
      if (!setup.redZone.readAgain(expectedNumber).has(address - sp)) continue;
      return violation(
        Property.RedZone,
        `The program keeps data at rsp-${hex(sp - address)}, and the probe has overwritten it.`,
      );
    }
    return violation(
      Property.Stack,
      isOnStack ? `The stack at rsp+${hex(address - sp)} is another.` : `The memory at ${hex(address)} is another.`,
    );
  }
  return undefined;
}

/** The snapshot in which the program must be after its pass. */
export function expectedBehind(setup: Setup, thread: Thread): number {
  const site = setup.sites[thread.pass.site];
  let number = thread.expected;
  while (site !== undefined) {
    const ip = ipOf(setup.machine.valueOf(number));
    if (ip < site.address || ip >= site.end) break;
    number = setup.machine.run(number).snapshot;
  }
  return number;
}

/** The first register that differs, as people call it. */
export function differentRegister(a: Snapshot, b: Snapshot): string | null {
  const at = a.words.findIndex((word, i) => word !== b.words[i] && i !== IP && i !== IP + 1);
  if (at < 0) return null;
  if (at < 2 * registerNames.length) return registerNames[at >> 1]!;
  return at < 48 ? "rflags" : `xmm${(at - 48) >> 2}`;
}

/** The snapshot without what stands below the red zone: any signal may overwrite it at any time. */
export function withoutDeadStack({ program }: Setup, snapshot: Snapshot): Snapshot {
  return withoutBelow(snapshot, program.stack.start, spOf(snapshot) - RED_ZONE);
}
