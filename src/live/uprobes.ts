/**
 * Uprobes on places in files, through tracefs, and how often each was hit.
 *
 *     p:GROUP/EVENT PATH:0xOFFSET(0xREFERENCE_COUNTER)     a line appended to uprobe_events, and read back there
 *     PATH EVENT HITS                                      the line of the same place in uprobe_profile
 *
 * OFFSET is a file offset. REFERENCE_COUNTER is that of a semaphore: the kernel raises it in every process that maps
 * the file. Uprobes are on files, not on processes: whoever runs the file is counted.
 *
 * All places are one event, not an event each: taking an event away makes the kernel wait for all its CPUs (measured
 * with 531 places: 40 seconds as events, 60 milliseconds as one). The profile does not say which place a line is about,
 * but both files list the kernel's one list, in the same order. An event's name is in both, its group is not: so events
 * are named like their group.
 *
 * The kernel takes or refuses an event as a whole. One that it refuses is cut in two until the places that are to blame
 * stand alone.
 */

import { appendFileSync, closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { InputError } from "../errors.js";
import { describe, isSystemError } from "../files/file-error.js";
import { addTo } from "../grouped.js";
import { ownGroup, removeDeadGroups, removeEvent } from "./groups.js";

/** A place in a file. No two of a call may be the same. */
export interface UprobePoint {
  readonly path: string;
  /** File offset, in bytes. */
  readonly offset: number;
  /** File offset of the semaphore, where the probe has one. */
  readonly semaphoreOffset: number | null;
}

export interface Uprobes {
  /** Hits so far, one number for each point in their order; null where the kernel refused the point. */
  hits(): readonly (number | null)[];
  /** Why points were refused, by their index. */
  readonly refused: ReadonlyMap<number, string>;
  /** Takes all of them away. May be called again. @throws InputError where somebody else uses them */
  detach(): void;
}

interface Event {
  readonly name: string;
  /** Which of the points. */
  readonly points: readonly number[];
}

let events = 0;

/**
 * Puts a uprobe on each point, and removes what runs that are gone have left behind.
 * @throws InputError where no uprobe can be had at all
 */
export function attachUprobes(tracefs: string, points: readonly UprobePoint[]): Uprobes {
  removeDeadGroups(tracefs);
  const group = ownGroup();
  const attached: Event[] = [];
  const refused = new Map<number, string>();
  const names = openNames(points);

  const detach = (): void => {
    process.off("exit", detach);
    let kept: string | undefined;
    for (const { name } of attached.splice(0)) {
      try {
        removeEvent(tracefs, group, name);
      } catch (error) {
        if (!isSystemError(error)) throw error;
        kept = `the uprobes of ${name} cannot be removed: ${describe(error)}`;
      }
    }
    names.close();
    if (kept !== undefined) throw new InputError(kept);
  };
  const add = (indices: readonly number[]): void => {
    const name = `${group}_${events++}`;
    const lines = indices.map((i) => definition(group, name, points[i]!, names.of(points[i]!.path)));
    try {
      attached.push({ name, points: indices });
      appendFileSync(`${tracefs}/uprobe_events`, lines.join(""));
      writeFileSync(`${tracefs}/events/${group}/${name}/enable`, "1");
    } catch (error) {
      attached.pop();
      removeEvent(tracefs, group, name);
      if (!isSystemError(error)) throw error;
      if (indices.length === 1) {
        refused.set(indices[0]!, describe(error));
        return;
      }
      const middle = indices.length >> 1;
      add(indices.slice(0, middle));
      add(indices.slice(middle));
    }
  };

  process.on("exit", detach);
  try {
    if (points.length > 0) add(points.map((_, i) => i));
  } catch (error) {
    detach();
    throw error;
  }
  if (refused.size === points.length && points.length > 0) {
    detach();
    const [first] = refused.values();
    throw new InputError(`the kernel takes no uprobe: ${first}`);
  }
  return { refused, detach, hits: () => readHits(tracefs, attached, points, names.of) };
}

function definition(group: string, event: string, point: UprobePoint, path: string): string {
  const counter = point.semaphoreOffset === null ? "" : `(0x${point.semaphoreOffset.toString(16)})`;
  return `p:${group}/${event} ${path}:0x${point.offset.toString(16)}${counter}\n`;
}

/**
 * Paths as a definition can name them: blanks would end them there, and # would begin a comment. A file with such a
 * path is opened, and named by its descriptor while the definition is written.
 */
function openNames(points: readonly UprobePoint[]): { of(path: string): string; close(): void } {
  const descriptors = new Map<string, number>();
  for (const { path } of points)
    if (/[\s#]/.test(path) && !descriptors.has(path)) descriptors.set(path, openSync(path, "r"));
  return {
    of: (path) => (descriptors.has(path) ? `/proc/self/fd/${descriptors.get(path)}` : path),
    close: () => {
      for (const fd of descriptors.values()) closeSync(fd);
      descriptors.clear();
    },
  };
}

/** Hits of each point, by the kernel's two lists. */
function readHits(
  tracefs: string,
  attached: readonly Event[],
  points: readonly UprobePoint[],
  nameOf: (path: string) => string,
): readonly (number | null)[] {
  const { places, counts } = readLists(tracefs, attached);
  const result = new Array<number | null>(points.length).fill(null);
  for (const { name, points: indices } of attached) {
    const [listed, counted] = [places.get(name)!, counts.get(name)!];
    const hits = new Map(listed.map((place, i) => [place.replace(/0x0+(?=[^0]|0$)/, "0x"), Number(counted[i])]));
    for (const i of indices) {
      const { path, offset } = points[i]!;
      const place = `${Buffer.from(nameOf(path)).toString("latin1")}:0x${offset.toString(16)}`;
      result[i] = hits.get(place) ?? unlisted(name, place);
    }
  }
  return result;
}

type Lists = ReturnType<typeof collect>;

const MOST_READINGS = 100;

/**
 * The kernel hands out each list in pieces. Where somebody else removes an event between two of them, the next piece
 * begins a line too far on, and one is missing: then both are read again.
 */
function readLists(tracefs: string, attached: readonly Event[]): { places: Lists; counts: Lists } {
  for (let reading = 1; ; reading++) {
    const events = readFileSync(`${tracefs}/uprobe_events`, "latin1");
    const places = collect(events, /^p:[^/\s]+\/(\S+) (.+:0x[0-9a-f]+)/gm);
    const counts = collect(readFileSync(`${tracefs}/uprobe_profile`, "latin1"), / (\S+) +(\d+)(?: +\d+)?$/gm);
    const lengths = ({ name }: Event) => [places.get(name)?.length ?? 0, counts.get(name)?.length ?? 0] as const;
    const odd = attached.find((e) => lengths(e).some((length) => length !== e.points.length));
    if (odd === undefined) return { places, counts };
    if (reading < MOST_READINGS) continue;
    const [listed, counted] = lengths(odd);
    throw new InputError(
      `of the ${odd.points.length} uprobes of ${odd.name} the kernel lists ${listed} and counts ${counted}`,
    );
  }
}

/** All that the second group of a pattern finds, in order, by what the first finds. */
function collect(text: string, pattern: RegExp): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  for (const [, name, value] of text.matchAll(pattern)) {
    addTo(found, name!, value!);
  }
  return found;
}

const unlisted = (name: string, place: string): never => {
  throw new InputError(`${name}: the kernel does not list ${place}`);
};
