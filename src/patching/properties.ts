/**
 * What must be the same behind a probe as without it: the next instruction, registers and flags, the stack from rsp up,
 * and of the 128 bytes below it (the System V red zone) what the program reads again.
 *
 * Which bytes those are is found by trying: the program goes on, without a probe, once as it is and once for each byte with
 * that byte changed. A byte whose change never shows in a register is nobody's: the rest of a dead frame, or what an
 * earlier call has left. What is below the red zone is nobody's by the ABI.
 */
import { hex } from "../address.js";
import { Gpr, IP } from "../emulate/state.js";
import type { Violation } from "../explore/system.js";
import { Property, violation } from "./change.js";
import { ipOf, type Machine, type Snapshot, spOf, withoutBelow } from "./machine.js";
import type { Setup } from "./setup.js";
import type { Thread } from "./state.js";

const RED_ZONE = 128;
/** How far the program is followed to see whether it reads a byte again. */
const FOLLOWED = 200;

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
      if (!redZoneInUse(setup, expectedNumber).has(address - sp)) continue;
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

/** The snapshot in which the program must be behind its pass. */
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

const known = new WeakMap<Machine, Map<number, ReadonlySet<number>>>();

/** Distances from rsp, negative, of the bytes in the red zone that the program reads again. */
function redZoneInUse(setup: Setup, number: number): ReadonlySet<number> {
  const { machine } = setup;
  let results = known.get(machine);
  if (results === undefined) {
    results = new Map();
    known.set(machine, results);
  }
  let result = results.get(number);
  if (result === undefined) {
    const path = follow(machine, number);
    const sp = spOf(machine.valueOf(number));
    const all = Array.from({ length: RED_ZONE }, (_, i) => i - RED_ZONE);
    const matter = (distances: readonly number[]): boolean =>
      matters(
        machine,
        number,
        distances.map((d) => sp + d),
        path,
      );
    // Mostly nothing there is read again, and one try shows it.
    result = new Set(matter(all) ? all.filter((distance) => matter([distance])) : []);
    results.set(number, result);
  }
  return result;
}

/** The snapshots that follow one, without a probe. */
function follow(machine: Machine, number: number): number[] {
  const path = [number];
  for (let i = 0; i < FOLLOWED; i++) {
    const ran = machine.run(path.at(-1)!);
    if (ran.outcome.kind !== "limit" || path.includes(ran.snapshot)) break;
    path.push(ran.snapshot);
  }
  return path;
}

/** Whether changing some bytes changes a register on the way. */
function matters(machine: Machine, number: number, addresses: readonly number[], path: readonly number[]): boolean {
  let changed = machine.valueOf(number);
  for (const address of addresses) {
    const byte = machine.byteAt(changed, address);
    if (byte !== undefined) changed = machine.write(changed, { address, bytes: Uint8Array.of(byte ^ 0xff) });
  }
  let at = machine.numberOf(changed);
  for (const next of path.slice(1)) {
    const ran = machine.run(at);
    if (ran.outcome.kind !== "limit") return true;
    at = ran.snapshot;
    if (at === next) return false;
    const a = machine.valueOf(at).words;
    const b = machine.valueOf(next).words;
    if (a.some((word, i) => word !== b[i])) return true;
  }
  return false;
}

/** The snapshot without what stands below the red zone: any signal may overwrite it at any time. */
export function withoutDeadStack({ program }: Setup, snapshot: Snapshot): Snapshot {
  return withoutBelow(snapshot, program.stack.start, spOf(snapshot) - RED_ZONE);
}
