/**
 * After all tests nothing of theirs may be left in tracefs: no uprobe event, no trace instance. Everything that the tests and the
 * tool under test put there has the process in its name (`nop5_packages_PID_...`, `usdt_nop5_NAMESPACE_PID_...`,
 * `sdt_witness_PID_...`): it is a leftover when that process has ended, or is one of this run's that should have. What was there before,
 * and what belongs to other test runs that are under way, is theirs.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

const TRACEFS = "/sys/kernel/tracing";

const OURS = /(?:\b(?:nop5_[a-z]+|sdt_witness)|usdt_nop5_\d+)_(\d+)_/;

/** Events and instances of tests whose process has ended or is a child of this one. */
function leftovers(): readonly string[] {
  let lines: readonly string[];
  try {
    const instances = existsSync(`${TRACEFS}/instances`) ? readdirSync(`${TRACEFS}/instances`) : [];
    lines = [...readFileSync(`${TRACEFS}/uprobe_events`, "latin1").split("\n"), ...instances];
  } catch {
    return []; // no root or no tracefs: then nothing was put there
  }
  return lines.filter((line) => {
    const pid = OURS.exec(line)?.[1];
    return pid !== undefined && endedOrOurs(Number(pid));
  });
}

function endedOrOurs(pid: number): boolean {
  try {
    const parent = / \w (\d+) /.exec(readFileSync(`/proc/${pid}/stat`, "latin1").replace(/^.*\)/, ""))?.[1];
    return Number(parent) === process.pid;
  } catch {
    return true;
  }
}

export function setup(): () => Promise<void> {
  const before = new Set(leftovers());
  return async () => {
    const left = (): readonly string[] => leftovers().filter((line) => !before.has(line));
    // Tests that kill the tool, in another run as well, clean up with the next run of the tool.
    for (let i = 0; i < 50 && left().length > 0; i++) await sleep(100);
    if (left().length === 0) return;
    process.exitCode = 1; // what is thrown here is printed, and not counted
    throw new Error(`left behind in tracefs:\n${left().join("\n")}`);
  };
}
