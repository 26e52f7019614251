/**
 * What stands at probes in a living process: its own copy of the page, where the kernel writes its breakpoints and
 * calls.
 *
 *     cc 1f 44 00 00                    an int3 over a nop's first byte
 *     e8 xx xx xx xx                    a nop5 that was optimized
 *     48 8d 64 24 80 e8 xx xx xx xx     a nop10 that was: lea -0x80(%rsp),%rsp; call
 */

import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { PAGE_SIZE } from "../address.js";
import { addTo } from "../grouped.js";
import { parseMappings } from "./mappings.js";
import type { TracedFile } from "./traced-file.js";

/** How many bytes of a site are looked at: a nop10 has so many. */
const SITE_SIZE = 10;
const SHOWN = 5;
/** The first byte of a call by a 32-bit distance. */
export const CALL = 0xe8;
/** What a nop10 becomes, up to the distance of the call. */
export const LOWER_AND_CALL = [0x48, 0x8d, 0x64, 0x24, 0x80, CALL];

/** Whether a kernel has turned what stood here into a call. */
export const isOptimized = (bytes: Uint8Array): boolean =>
  bytes[0] === CALL || LOWER_AND_CALL.every((byte, i) => bytes[i] === byte);

/** What was seen at one place. */
interface Sight {
  readonly optimized: boolean;
  /** The bytes there, in hexadecimal; null where no process was seen that maps the file. */
  readonly bytes: string | null;
}

/** A stretch of the file that is read at once, with the places in it. */
interface Stretch {
  readonly offset: number;
  readonly size: number;
  readonly places: readonly number[];
}

/** Collects what processes show at the places of one file. A place that was optimized in one of them is. */
export class Witness {
  readonly #file: TracedFile;
  readonly #stretches: readonly Stretch[];
  readonly #seen: (Sight | undefined)[] = [];

  constructor(file: TracedFile) {
    this.#file = file;
    this.#stretches = stretchesOf(file.places.map((place) => place.offset));
  }

  at(place: number): Sight {
    return this.#seen[place] ?? { optimized: false, bytes: null };
  }

  /**
   * Looks at a process.
   * @param maps the lines of its /proc/PID/maps
   * @param memory reads its memory at a runtime address; how much it got, in bytes
   */
  look(maps: readonly string[], memory: (address: number, into: Uint8Array) => number): void {
    for (const { start, end, isCode, offset, identity, inode, path } of parseMappings(maps)) {
      // Some file systems say another device number here than elsewhere; the path tells those.
      const same = identity === this.#file.identity || (inode === this.#file.inode && path === this.#file.realPath);
      if (same && isCode) this.#mapping(start, offset, end - start, memory);
    }
  }

  #mapping(
    start: number,
    fileOffset: number,
    size: number,
    memory: (address: number, into: Uint8Array) => number,
  ): void {
    for (const stretch of this.#stretches) {
      if (stretch.offset < fileOffset || stretch.offset >= fileOffset + size) continue;
      if (stretch.places.every((place) => this.at(place).optimized)) continue;
      const bytes = new Uint8Array(Math.min(stretch.size, fileOffset + size - stretch.offset));
      const got = bytes.subarray(0, memory(start + stretch.offset - fileOffset, bytes));
      for (const place of stretch.places) {
        const at = this.#file.places[place]!.offset - stretch.offset;
        const site = got.subarray(at, at + SITE_SIZE);
        if (site.length === 0 || this.at(place).optimized) continue;
        const shown = isOptimized(site) && site[0] !== CALL ? SITE_SIZE : SHOWN;
        this.#seen[place] = {
          optimized: isOptimized(site),
          bytes: Buffer.from(site.subarray(0, shown)).toString("hex"),
        };
      }
    }
  }
}

/** Places close to each other are read at once, but not over the border of a page: mappings may end there. */
function stretchesOf(offsets: readonly number[]): readonly Stretch[] {
  const pages = new Map<number, number[]>();
  for (const [place, offset] of offsets.entries()) {
    const page = Math.floor(offset / PAGE_SIZE);
    addTo(pages, page, place);
  }
  return [...pages.values()].map((places) => {
    const here = places.map((place) => offsets[place]!);
    const offset = Math.min(...here);
    return { offset, size: Math.max(...here) + SITE_SIZE - offset, places };
  });
}

/** Shows a process to witnesses. One that is gone shows nothing. */
export function lookAt(thread: number, witnesses: readonly Witness[]): void {
  if (witnesses.length === 0) return;
  let fd: number | undefined;
  try {
    const maps = readFileSync(`/proc/${thread}/maps`, "utf8").split("\n");
    fd = openSync(`/proc/${thread}/mem`, "r");
    const memory = fd;
    for (const witness of witnesses)
      witness.look(maps, (address, into) => {
        try {
          return readSync(memory, into, 0, into.length, address);
        } catch {
          return 0;
        }
      });
  } catch {
    // Its end has gone too far, or it has no memory of its own any more.
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
