/**
 * Uprobe events that read arguments: what a tracer sees at each hit, in the order of the hits.
 *
 *     p:GROUP/EVENT PATH:0xOFFSET NAME=FETCH:TYPE ...       one event for each probe
 *     EVENT: (0xIP) NAME=VALUE ...                          a line of `trace` for each hit
 *
 * They are enabled in a trace instance of our own, with a buffer of its own: the machine's is left as it is. Definitions are
 * only appended, and our own taken away again, also where the test run is stopped in the middle.
 */
import { appendFileSync, existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { uprobeLines } from "../uprobe-lines.js";

const TRACEFS = "/sys/kernel/tracing";

export interface EventDefinition {
  readonly path: string;
  readonly offset: number;
  readonly refCtrOffset?: number | undefined;
  /** Fetch expressions with their types. */
  readonly fetches: readonly string[];
}

export interface Hit {
  /** Which of the definitions. */
  readonly event: number;
  /** What each fetch expression read, as printed. */
  readonly values: readonly string[];
}

export interface Recording {
  hits(): readonly Hit[];
  /** May be called again. */
  stop(): void;
}

let recordings = 0;

export function record(definitions: readonly EventDefinition[]): Recording {
  recordings += 1;
  const group = `nop5_live_${process.pid}_${recordings}`;
  const instance = `${TRACEFS}/instances/${group}`;
  let recording = true;

  const stop = (): void => {
    if (!recording) return;
    recording = false;
    process.off("exit", stop);
    if (existsSync(`${instance}/events/${group}/enable`)) writeFileSync(`${instance}/events/${group}/enable`, "0");
    rmdirSync(instance);
    for (const line of uprobeLines(new RegExp(`^p:${group}/`)))
      appendFileSync(`${TRACEFS}/uprobe_events`, `-:${/:(\S+)/.exec(line)![1]}\n`);
  };

  mkdirSync(instance);
  process.on("exit", stop);
  try {
    writeFileSync(`${instance}/buffer_size_kb`, "4096");
    definitions.forEach((d, i) => {
      const counter = d.refCtrOffset === undefined ? "" : `(0x${d.refCtrOffset.toString(16)})`;
      const fetches = d.fetches.map((fetch, n) => `a${n}=${fetch}`).join(" ");
      const line = `p:${group}/e${i} ${d.path}:0x${d.offset.toString(16)}${counter} ${fetches}\n`;
      try {
        appendFileSync(`${TRACEFS}/uprobe_events`, line);
      } catch (error) {
        throw new Error(`the kernel refuses ${line.trim()}`, { cause: error });
      }
    });
    writeFileSync(`${instance}/events/${group}/enable`, "1");
  } catch (error) {
    stop();
    throw error;
  }
  return { stop, hits: () => readHits(`${instance}/trace`) };
}

function readHits(file: string): readonly Hit[] {
  const text = readFileSync(file, "latin1");
  if (/LOST \d+ EVENTS/.test(text)) throw new Error("the trace buffer was too small");
  return [...text.matchAll(/: e(\d+): \(0x[0-9a-f]+\)(.*)$/gm)].map(([, event, values]) => ({
    event: Number(event),
    values: [...values!.matchAll(/ a\d+=(\S+)/g)].map(([, value]) => value!),
  }));
}
