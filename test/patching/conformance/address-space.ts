/** What /proc/PID/maps says, and what is free near the probes. */
import { readFileSync } from "node:fs";
import { type Interval, PAGE_SIZE } from "../../../src/address.js";

export const TRAMPOLINE = "[uprobes-trampoline]";
const REACH = 2 ** 31;

interface Mapping extends Interval {
  readonly name: string;
}

/** The mappings of a process, ascending. */
export function mapsOf(pid: number): Mapping[] {
  const lines = readFileSync(`/proc/${pid}/maps`, "latin1").split("\n");
  return lines
    .filter((line) => line !== "")
    .map((line) => {
      const [range, , , , , name = ""] = line.split(/\s+/);
      const [start, end] = range!.split("-").map((word) => Number.parseInt(word, 16)) as [number, number];
      return { start, end, name };
    });
}

/** What is free within reach of a call at each of these addresses, and a page more. */
export function gaps(maps: readonly Interval[], addresses: readonly number[]): Interval[] {
  const low = Math.max(PAGE_SIZE, floor(Math.min(...addresses) - REACH) - PAGE_SIZE);
  const high = floor(Math.max(...addresses) + REACH) + 2 * PAGE_SIZE;
  const found: Interval[] = [];
  let at = low;
  for (const { start, end } of maps) {
    if (start >= high) break;
    if (start > at) found.push({ start: at, end: start });
    at = Math.max(at, end);
  }
  if (at < high) found.push({ start: at, end: high });
  return found;
}

const floor = (address: number): number => Math.floor(address / PAGE_SIZE) * PAGE_SIZE;
