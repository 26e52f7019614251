/**
 * The lines of the kernel's list of uprobe events that are of interest to somebody.
 *
 * The kernel hands the list out in pieces, and where somebody else takes an event away between two of them, a line is left out: tests
 * that trace run side by side. So it is read until it says the same twice.
 */
import { existsSync, readFileSync } from "node:fs";

const EVENTS = "/sys/kernel/tracing/uprobe_events";
const MOST_READINGS = 100;

/** Lines that `pattern` matches, in the kernel's order; none where there is no list. */
export function uprobeLines(pattern: RegExp): readonly string[] {
  if (!existsSync(EVENTS)) return [];
  const read = (): readonly string[] =>
    readFileSync(EVENTS, "latin1")
      .split("\n")
      .filter((line) => pattern.test(line));
  let lines = read();
  for (let reading = 1; reading < MOST_READINGS; reading++) {
    const again = read();
    if (again.join("\n") === lines.join("\n")) return lines;
    lines = again;
  }
  throw new Error(`${EVENTS} does not say the same twice`);
}
