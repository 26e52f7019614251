/**
 * A tracer of our own on tracefs that is switched on and off: one event with a place for each site.
 *
 * Its group and event bear our pid; definitions are only appended and our own removed again.
 */
import { appendFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";

const TRACEFS = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

let tracers = 0;

export class Tracer {
  readonly #trace: string;
  readonly #name = `nop5_guard_${process.pid}_${tracers++}`;
  readonly #places: number;
  readonly #remove = (): void => this.remove();

  /**
   * @param offsets file offsets of the places
   * @param semaphore file offset of the semaphore of all of them, which the kernel then raises
   */
  constructor(path: string, offsets: readonly number[], semaphore?: number) {
    this.#trace = TRACEFS.find((folder) => existsSync(`${folder}/uprobe_events`))!;
    this.#places = offsets.length;
    process.on("exit", this.#remove);
    const counter = semaphore === undefined ? "" : `(0x${semaphore.toString(16)})`;
    const places = offsets.map((offset) => `p:${this.event} ${path}:0x${offset.toString(16)}${counter}\n`);
    for (const line of places) appendFileSync(`${this.#trace}/uprobe_events`, line);
  }

  /** Group and event, as tracefs names them. */
  get event(): string {
    return `${this.#name}/${this.#name}`;
  }

  /** By which perf_event_open knows it. */
  get id(): number {
    return Number(readFileSync(`${this.#trace}/events/${this.event}/id`, "latin1"));
  }

  on(): void {
    writeFileSync(`${this.#trace}/events/${this.event}/enable`, "1");
  }

  off(): void {
    writeFileSync(`${this.#trace}/events/${this.event}/enable`, "0");
  }

  /** How often all the places together were hit. */
  hits(): number {
    const profile = new RegExp(` ${this.#name} +(\\d+)`, "g");
    // The list comes in pieces, and lacks a line where somebody else takes an event away between two of them.
    for (let reading = 0; reading < 100; reading++) {
      const lines = [...readFileSync(`${this.#trace}/uprobe_profile`, "latin1").matchAll(profile)];
      if (lines.length === this.#places) return lines.reduce((sum, [, hits]) => sum + Number(hits), 0);
    }
    throw new Error(`${this.#name}: the kernel does not count all of its ${this.#places} places`);
  }

  /** May be called again. */
  remove(): void {
    process.off("exit", this.#remove);
    if (!existsSync(`${this.#trace}/events/${this.event}/enable`)) return;
    this.off();
    appendFileSync(`${this.#trace}/uprobe_events`, `-:${this.event}\n`);
  }
}
