/**
 * The name of a run's group of uprobe events, and what becomes of groups whose run is gone.
 *
 *     usdt_nop5_PIDNAMESPACE_PID_STARTTIME
 *
 * Runs at the same time have different names. A run that was killed outright leaves its group after it; the next run
 * sees by the name that it is dead: no process has that number, or one that was started at another time. A number means
 * nothing in another PID namespace, so groups of others than our own are left alone, as is every group that is not
 * named like this.
 */
import { appendFileSync, existsSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";

const PREFIX = "usdt_nop5";

/** When a process was started, in clock ticks since the machine was; null where there is none. */
function startTime(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The second field is the program's name in parentheses and may hold anything; starttime is the 22nd.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? null;
  } catch {
    return null;
  }
}

const pidNamespace = (): string => /\d+/.exec(readlinkSync("/proc/self/ns/pid"))?.[0] ?? "0";

/** The name of this process's group. */
export const ownGroup = (): string => `${PREFIX}_${pidNamespace()}_${process.pid}_${startTime(process.pid)}`;

/** Takes the event away again: first its uprobes, then itself. Nothing happens where it is gone already. */
export function removeEvent(tracefs: string, group: string, event: string): void {
  const enable = `${tracefs}/events/${group}/${event}/enable`;
  if (!existsSync(enable)) return;
  writeFileSync(enable, "0");
  appendFileSync(`${tracefs}/uprobe_events`, `-:${group}/${event}\n`);
}

/**
 * Removes the groups of runs that are gone.
 * @returns how many events were removed
 */
export function removeDeadGroups(tracefs: string): number {
  const named = new RegExp(`^p:(${PREFIX}_(\\d+)_(\\d+)_(\\d+))/(\\S+) `, "gm");
  const events = new Map<string, { group: string; event: string }>();
  const namespace = pidNamespace();
  for (const [, group, ns, pid, started, event] of readFileSync(`${tracefs}/uprobe_events`, "latin1").matchAll(named))
    if (ns === namespace && startTime(Number(pid)) !== started)
      events.set(`${group}/${event}`, { group: group!, event: event! });
  let removed = 0;
  for (const { group, event } of events.values()) {
    try {
      removeEvent(tracefs, group, event);
      removed++;
    } catch {
      // Another run was quicker, or somebody uses the event: then the next run will try again.
    }
  }
  return removed;
}
