/**
 * Which sites of a file the kernel has made into calls, seen in the memory of living processes. What it makes of a probe stands in each
 * process's own copy of the page, and goes with it: so all processes of a load are looked at again and again while it runs.
 */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { addressToOffset, readelfSites } from "./readelf.js";

const CALL = 0xe8;

export class CallWatch {
  private readonly sites: readonly number[];
  private readonly seen: boolean[];
  private readonly offsets: ReadonlyMap<number, number>;
  private timer: NodeJS.Timeout | undefined;

  /** @param processes those that are looked at, asked each time */
  constructor(
    private readonly file: string,
    private readonly processes: () => readonly number[],
  ) {
    const toOffset = addressToOffset(file);
    this.sites = readelfSites(file).map((site) => site.location);
    this.offsets = new Map(this.sites.map((location) => [location, toOffset(location, true)!]));
    this.seen = this.sites.map(() => false);
  }

  start(milliseconds: number): void {
    this.timer = setInterval(() => this.look(), milliseconds);
  }

  stop(): void {
    clearInterval(this.timer);
  }

  /** Whether each note's site, in file order, was a call in some process at some time. */
  get calls(): readonly boolean[] {
    return this.seen;
  }

  look(): void {
    for (const pid of this.processes()) {
      try {
        this.lookInto(pid);
      } catch {
        // It has ended meanwhile.
      }
    }
  }

  private lookInto(pid: number): void {
    const mappings = this.mappings(pid);
    const memory = openSync(`/proc/${pid}/mem`, "r");
    const byte = Buffer.alloc(1);
    try {
      this.sites.forEach((location, i) => {
        if (this.seen[i]) return;
        const offset = this.offsets.get(location)!;
        const mapping = mappings.find((m) => offset >= m.offset && offset < m.offset + (m.end - m.start));
        if (mapping === undefined) return;
        readSync(memory, byte, 0, 1, mapping.start + (offset - mapping.offset));
        this.seen[i] = byte[0] === CALL;
      });
    } finally {
      closeSync(memory);
    }
  }

  /** Executable mappings of the file. */
  private mappings(pid: number): readonly { start: number; end: number; offset: number }[] {
    return readFileSync(`/proc/${pid}/maps`, "latin1")
      .split("\n")
      .filter((line) => line.endsWith(` ${this.file}`) && / r.xp /.test(line))
      .map((line) => {
        const [, start, end, offset] = /^([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+)/.exec(line)!;
        return {
          start: Number.parseInt(start!, 16),
          end: Number.parseInt(end!, 16),
          offset: Number.parseInt(offset!, 16),
        };
      });
  }
}
