/**
 * perf as a tracer of USDT probes: its cache learns a file's probes, `perf probe` makes a uprobe event of each, `perf stat`
 * counts them and `perf record` reads their arguments.
 *
 * Cache and data are in a folder of the test. The events are the machine's: they carry the provider's name, which is this
 * run's own, and are taken away again, also where perf fails or the run is stopped.
 */
import { spawnSync } from "node:child_process";
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { readNotes } from "../judges/notes.js";
import { must } from "../run.js";
import { uprobeLines } from "../uprobe-lines.js";
import { scratch } from "./rewriting.js";
import type { Seen, Target } from "./witness.js";

const EVENTS = "/sys/kernel/tracing/uprobe_events";

/** Why perf is of no use here, or null: it may be missing, or the kernel may not let it. */
export function perfMissing(): string | null {
  if (spawnSync("perf", ["--version"]).status !== 0) return "no perf (linux-perf)";
  const tried = spawnSync("perf", ["stat", "-e", "dummy", "true"], { encoding: "utf8", timeout: 20_000 });
  return tried.status === 0 ? null : `perf does not work here: ${tried.stderr.trim().split("\n")[0]}`;
}

/** What perf saw in a run of the program for each of its commands. */
export interface SeenByPerf {
  /** `name hits`, of `perf stat`. */
  readonly counts: readonly string[];
  /** What the program printed meanwhile. */
  readonly output: string;
  /** Of `perf record`, which takes its time: null where it was not asked for. */
  readonly recorded: Seen | null;
}

export async function seenByPerf(target: Target, recording: boolean): Promise<SeenByPerf> {
  const folder = scratch("perf");
  mkdirSync(folder);
  const group = `sdt_${target.provider}`;
  const perf = (...args: readonly string[]): Promise<string> =>
    must("perf", ["--buildid-dir", join(folder, "cache"), ...args], { environment: target.environment });
  const remove = (): void => removeEvents(target.provider);
  const record = async (): Promise<Seen> => {
    const data = join(folder, "perf.data");
    const printed = await perf("record", "--quiet", "--no-buildid", "-o", data, "-e", `${group}:*`, target.command);
    return {
      hits: hitsIn(await perf("script", "-i", data), group, await typesOf(target.file)),
      output: printed,
    };
  };
  process.on("exit", remove);
  try {
    await perf("buildid-cache", "--add", target.file);
    // Where the machine has other events, perf wants to be forced to give several sites of a name events of their own.
    await perf("probe", "--quiet", "--force", `${group}:*`);
    const csv = join(folder, "counts");
    const output = await perf("stat", "-x", ",", "-o", csv, "-e", `${group}:*`, target.command);
    const recorded = recording ? await record() : null;
    // The way to take events away, as their user would; what is left of it is an error below.
    await perf("probe", "--quiet", "--del", `${group}:*`);
    const left = eventsOf(target.provider);
    if (left.length > 0) throw new Error(`perf probe --del left ${left.join("; ")}`);
    return { counts: countsIn(readFileSync(csv, "latin1"), group), output, recorded };
  } finally {
    remove();
    process.off("exit", remove);
  }
}

/** The events that perf made for a provider. */
export const eventsOf = (provider: string): readonly string[] => uprobeLines(new RegExp(`:sdt_${provider}/`));

/** Takes them away without perf; none may be there. */
export function removeEvents(provider: string): void {
  const names = eventsOf(provider).map((line) => /:(\S+)/.exec(line)![1]!);
  for (const name of new Set(names)) appendFileSync(EVENTS, `-:${name}\n`);
}

/** The probe's name: of several sites of one name perf may make name, name_1, name_2. */
const probeOf = (event: string): string => event.replace(/_\d+$/, "");

/** Lines such as `12,,sdt_p:entered,1234,100.00,,`. */
function countsIn(csv: string, group: string): readonly string[] {
  const counts = new Map<string, number>();
  for (const [, hits, event] of csv.matchAll(new RegExp(`^(\\d+),[^,]*,${group}:(\\w+),`, "gm"))) {
    const name = probeOf(event!);
    counts.set(name, (counts.get(name) ?? 0) + Number(hits));
  }
  return [...counts].map(([name, hits]) => `${name} ${hits}`).sort();
}

/** By name, the size in bytes of each argument, negative for signed ones: the same at all sites of a name. */
async function typesOf(file: string): Promise<ReadonlyMap<string, readonly number[]>> {
  const notes = await readNotes(file);
  return new Map(notes.map((note) => [note.name, note.arguments.map((argument) => Number.parseInt(argument, 10))]));
}

/**
 * Lines such as `... sdt_p:entered: (55d0c9a4b18e) arg1=3 arg2=-9`. What is signed and shorter than an int perf prints as if it
 * had no sign.
 */
function hitsIn(script: string, group: string, types: ReadonlyMap<string, readonly number[]>): readonly string[] {
  return [...script.matchAll(new RegExp(`${group}:(\\w+): \\([0-9a-f]+\\)(.*)$`, "gm"))]
    .map(([, event, fields]) => {
      const name = probeOf(event!);
      const values = [...fields!.matchAll(/ arg(\d+)=(\S+)/g)].map(([, number, value]) => {
        const size = types.get(name)?.[Number(number) - 1] ?? 8;
        return BigInt.asIntN(size < 0 ? -size * 8 : 64, BigInt(value!));
      });
      return [name, ...values].join(" ");
    })
    .sort();
}
