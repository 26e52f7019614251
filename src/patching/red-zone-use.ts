/**
 * Which bytes of the red zone a program reads again, from a snapshot on.
 *
 * That is found by trying: the program goes on, without a probe, once as it is and once for each byte with that byte
 * changed. A byte whose change never shows in a register is nobody's: the rest of a dead frame, or what an earlier call
 * has left.
 */
import { type Machine, spOf } from "./machine.js";

/** The bytes below rsp that the System V ABI lets a function keep. */
export const RED_ZONE = 128;
/** How far the program is followed to see whether it reads a byte again. */
const FOLLOWED = 200;

export class RedZoneUse {
  private readonly known = new Map<number, ReadonlySet<number>>();

  constructor(private readonly machine: Machine) {}

  /**
   * Distances from rsp, negative, of the bytes that are read again after the snapshot of this number; found once for
   * each.
   */
  readAgain(number: number): ReadonlySet<number> {
    let result = this.known.get(number);
    if (result === undefined) {
      result = this.find(number);
      this.known.set(number, result);
    }
    return result;
  }

  private find(number: number): ReadonlySet<number> {
    const { machine } = this;
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
    return new Set(matter(all) ? all.filter((distance) => matter([distance])) : []);
  }
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
