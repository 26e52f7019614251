/**
 * Uprobes on the live kernel through tracefs, to count how often a program passes each of its sites.
 *
 *     p:GROUP/NAME PATH:0xOFFSET(0xREFERENCE_COUNTER)     a line appended to uprobe_events
 *     PATH NAME HITS MISSES                               a line of uprobe_profile
 *
 * OFFSET is a file offset. With the offset of a semaphore as reference counter the kernel increments it in every process
 * that maps the file: that is what opens the sites of postgres, PHP and Python. Counting starts when the group is enabled.
 *
 * Manners: one group a call, with our pid in its name; definitions are only ever appended, and those of our own group
 * removed again; no other group, filter or setting of the machine's tracing is touched.
 */
import { spawnSync } from "node:child_process";
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";

const TRACEFS = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

export interface ProbePoint {
  /** Unique in its group: letters, digits and _. */
  readonly name: string;
  readonly path: string;
  readonly offset: number;
  /** File offset of the semaphore, where the probe has one. */
  readonly refCtrOffset?: number | undefined;
}

export interface AttachedProbes {
  /** Hits so far, by probe name; every attached probe has an entry. */
  hits(): ReadonlyMap<string, number>;
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

let groups = 0;

export function attach(points: readonly ProbePoint[]): AttachedProbes {
  const missing = uprobesMissing();
  if (missing !== null) throw new Error(missing);
  const trace = tracefs()!;
  groups += 1;
  const group = `nop5_packages_${process.pid}_${groups}`;
  let attached = false;

  const detach = (): void => {
    if (!attached) return;
    attached = false;
    process.off("exit", detach);
    const enable = `${trace}/events/${group}/enable`;
    if (existsSync(enable)) writeFileSync(enable, "0");
    const left = readFileSync(`${trace}/uprobe_events`, "utf8").matchAll(new RegExp(`^p:(${group}/\\S+)`, "gm"));
    const removals = [...left].map((m) => `-:${m[1]}\n`);
    if (removals.length > 0) appendInPieces(`${trace}/uprobe_events`, removals);
  };

  attached = true;
  // A test run that is stopped in the middle must not leave breakpoints in files behind.
  process.on("exit", detach);
  try {
    const definitions = points.map((p) => {
      const counter = p.refCtrOffset === undefined ? "" : `(0x${p.refCtrOffset.toString(16)})`;
      return `p:${group}/${p.name} ${p.path}:0x${p.offset.toString(16)}${counter}\n`;
    });
    appendInPieces(`${trace}/uprobe_events`, definitions);
    writeFileSync(`${trace}/events/${group}/enable`, "1");
  } catch (error) {
    detach();
    throw error;
  }

  return {
    detach,
    hits: () => {
      const ours = new Map(points.map((p) => [p.name, 0]));
      // The profile's name column is the event name alone, which other groups may use too; the path is this run's own.
      const paths = new Set(points.map((p) => p.path));
      for (const line of readFileSync(`${trace}/uprobe_profile`, "utf8").split("\n")) {
        const m = /^\s*(\S+)\s+(\S+)\s+(\d+)/.exec(line);
        if (m !== null && paths.has(m[1]!) && ours.has(m[2]!)) ours.set(m[2]!, ours.get(m[2]!)! + Number(m[3]));
      }
      return ours;
    },
  };
}

/** The kernel takes whole lines, and at most a page of them in one write. */
function appendInPieces(file: string, lines: readonly string[]): void {
  for (const line of lines) appendFileSync(file, line);
}
