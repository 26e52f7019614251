/**
 * Uprobes on the live kernel through tracefs, to count how often a program passes each of its sites.
 *
 *     p:GROUP/EVENT PATH:0xOFFSET(0xREFERENCE_COUNTER)     a line appended to uprobe_events, and read back there
 *     PATH EVENT HITS MISSES                               the line of the same probe in uprobe_profile
 *
 * OFFSET is a file offset. With the offset of a semaphore as reference counter the kernel increments it in every process
 * that maps the file: that is what opens the sites of postgres, PHP and Python. Counting starts when the event is enabled.
 *
 * All probes of a call are one event with many places, not an event each: taking events away makes the kernel wait
 * for all its CPUs every time (531 events: 40 seconds; one event with 531 places: 60 milliseconds). The profile does not
 * say which place a line is about, but both files list the kernel's one list, in the same order.
 *
 * Manners: a group and an event with our pid in their names; definitions are only ever appended, and our own removed
 * again; no other group, filter or setting of the machine's tracing is touched.
 */
import { spawnSync } from "node:child_process";
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";

const TRACEFS = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

export interface ProbePoint {
  readonly path: string;
  readonly offset: number;
  /** File offset of the semaphore, where the probe has one. */
  readonly refCtrOffset?: number | undefined;
  /** Counts where the function that begins here returns. */
  readonly atReturn?: boolean;
}

export interface AttachedProbes {
  /** Hits so far, one number for each of the points, in their order. */
  hits(): readonly number[];
  /** Takes the probes out of all processes, or puts them back; hits go on from where they were. */
  enable(on: boolean): void;
  /** May be called again. */
  detach(): void;
}

function tracefs(): string | undefined {
  const mounted = TRACEFS.find((d) => existsSync(`${d}/uprobe_events`));
  if (mounted !== undefined || process.getuid?.() !== 0 || !existsSync(TRACEFS[0]!)) return mounted;
  // Every tracer mounts it where it is not yet; it stays, since others may have begun to use it.
  spawnSync("mount", ["-t", "tracefs", "tracefs", TRACEFS[0]!]);
  return TRACEFS.find((d) => existsSync(`${d}/uprobe_events`));
}

/** Why uprobes cannot be used here, or null where they can. */
export function uprobesMissing(): string | null {
  if (process.getuid?.() !== 0) return "uprobes need root";
  return tracefs() === undefined
    ? "no tracefs with uprobe_events (mount -t tracefs tracefs /sys/kernel/tracing)"
    : null;
}

let calls = 0;

export function attach(points: readonly ProbePoint[]): AttachedProbes {
  const missing = uprobesMissing();
  if (missing !== null) throw new Error(missing);
  const trace = tracefs()!;
  calls += 1;
  const event = `nop5_packages_${process.pid}_${calls}`;
  const name = `${event}/${event}`;
  const enable = `${trace}/events/${name}/enable`;
  let attached = true;

  const detach = (): void => {
    if (!attached) return;
    attached = false;
    process.off("exit", detach);
    // Not there when the first definition was refused.
    if (!existsSync(enable)) return;
    writeFileSync(enable, "0");
    appendFileSync(`${trace}/uprobe_events`, `-:${name}\n`);
  };

  // A test run that is stopped in the middle must not leave breakpoints in files behind.
  process.on("exit", detach);
  try {
    for (const p of points) {
      const counter = p.refCtrOffset === undefined ? "" : `(0x${p.refCtrOffset.toString(16)})`;
      appendFileSync(
        `${trace}/uprobe_events`,
        `${p.atReturn ? "r" : "p"}:${name} ${p.path}:0x${p.offset.toString(16)}${counter}\n`,
      );
    }
    writeFileSync(enable, "1");
  } catch (error) {
    detach();
    throw error;
  }
  return {
    detach,
    enable: (on) => writeFileSync(enable, on ? "1" : "0"),
    hits: () => readHits(trace, event, points),
  };
}

const MOST_READINGS = 100;

/**
 * Both lists come in pieces, and where somebody else takes an event away between two pieces a line is left out: then they are read
 * again.
 */
function readLists(
  trace: string,
  event: string,
  many: number,
): { places: RegExpMatchArray[]; counts: RegExpMatchArray[] } {
  const definition = new RegExp(`^[pr]:${event}/${event} (.+):0x([0-9a-f]+)`, "gm");
  const profile = new RegExp(`^ *(\\S+) +${event} +(\\d+)`, "gm");
  for (let reading = 1; ; reading++) {
    const places = [...readFileSync(`${trace}/uprobe_events`, "utf8").matchAll(definition)];
    const counts = [...readFileSync(`${trace}/uprobe_profile`, "utf8").matchAll(profile)];
    if (places.length === many && counts.length === many) return { places, counts };
    if (reading < MOST_READINGS) continue;
    throw new Error(`${event}: ${many} probes, the kernel lists ${places.length} and counts ${counts.length}`);
  }
}

function readHits(trace: string, event: string, points: readonly ProbePoint[]): readonly number[] {
  const { places, counts } = readLists(trace, event, points.length);
  const byPlace = new Map(places.map((p, i) => [`${p[1]}:${Number.parseInt(p[2]!, 16)}`, Number(counts[i]![2])]));
  return points.map((p) => {
    const hits = byPlace.get(`${p.path}:${p.offset}`);
    if (hits === undefined) throw new Error(`${event}: the kernel does not list ${p.path}:0x${p.offset.toString(16)}`);
    return hits;
  });
}
