/**
 * What an observer from outside sees of a traced program: the same data from the live kernel and from the model, so that
 * the two can be compared field by field.
 */
import { actLabels } from "../../../src/patching/acts.js";
import type { Act } from "../../../src/patching/state.js";

/** One thing that is done. Threads are numbered; a child is the one that was forked last. */
export type Step =
  | { readonly do: "attach" | "detach" }
  /** Another tracer attaches to the same probes as well; it goes with the first. Its hits are not counted. */
  | { readonly do: "join" }
  /** The program, or its child, does something to what the kernel has put into it. */
  | { readonly do: "act"; readonly act: Act; readonly who: "program" | "child" }
  /** A thread runs its loop so many times. */
  | { readonly do: "pass"; readonly thread: number; readonly times: number }
  /** Thread 0 runs its loop once more, then forks; a vfork suspends it. */
  | { readonly do: "fork" }
  /** The child runs its loop so many times; that of a vfork exits behind the first. */
  | { readonly do: "child"; readonly times: number };

/** What became of the threads in a step. */
export type Outcome =
  /** Registers and flags behind each pass are what they are without a probe. */
  | "right"
  | "wrong"
  /** The name of the signal that a process died of, or what else is the matter. */
  | string;

/** What an address space shows: /proc/PID/mem and /proc/PID/maps. */
export interface SpaceSeen {
  /** Bytes at each site. */
  readonly sites: readonly string[];
  /** Addresses of the [uprobes-trampoline] mappings, ascending. */
  readonly trampolines: readonly string[];
  readonly semaphore: number | null;
}

export interface Observation {
  readonly step: string;
  readonly outcome: Outcome;
  /** Hits so far, in all processes. */
  readonly hits: number;
  readonly returns: number;
  /** The program, and its child; null where there is none, or it has died. */
  readonly spaces: readonly (SpaceSeen | null)[];
}

/** Someone who can carry steps out. */
export interface Performer {
  perform(step: Step): Promise<Outcome> | Outcome;
  observe(): Pick<Observation, "hits" | "returns" | "spaces">;
}

export const stepText = (step: Step): string => {
  if (step.do === "act") return `${step.who} ${actLabels[step.act]}`;
  if (step.do === "pass") return `thread ${step.thread} passes ${step.times}x`;
  return step.do === "child" ? `child passes ${step.times}x` : step.do;
};

/** Carries steps out until one does not go right. */
export async function record(performer: Performer, steps: readonly Step[]): Promise<readonly Observation[]> {
  const seen: Observation[] = [{ step: "begin", outcome: "right", ...performer.observe() }];
  for (const step of steps) {
    const outcome = await performer.perform(step);
    seen.push({ step: stepText(step), outcome, ...performer.observe() });
    if (outcome !== "right") break;
  }
  return seen;
}

export interface Difference {
  readonly step: string;
  readonly field: string;
  readonly live: string;
  readonly model: string;
}

const flat = (value: unknown, name = ""): [string, string][] =>
  typeof value === "object" && value !== null
    ? Object.entries(value).flatMap(([key, inner]) => flat(inner, name === "" ? key : `${name}.${key}`))
    : [[name, String(value)]];

/** Every field that is not the same. */
export function differences(live: readonly Observation[], model: readonly Observation[]): readonly Difference[] {
  const result: Difference[] = [];
  for (let i = 0; i < Math.max(live.length, model.length); i++) {
    const [a, b] = [new Map(flat(live[i] ?? {})), new Map(flat(model[i] ?? {}))];
    for (const field of new Set([...a.keys(), ...b.keys()]))
      if (a.get(field) !== b.get(field))
        result.push({
          step: `${i} ${(live[i] ?? model[i])!.step}`,
          field,
          live: a.get(field) ?? "-",
          model: b.get(field) ?? "-",
        });
  }
  return result;
}

/** Differences for people. */
export function table(rows: readonly Difference[]): string {
  const all = [{ step: "step", field: "field", live: "live", model: "model" }, ...rows];
  const keys = ["step", "field", "live", "model"] as const;
  const widths = keys.map((key) => Math.max(...all.map((row) => row[key].length)));
  return all
    .map((row) =>
      keys
        .map((key, i) => row[key].padEnd(widths[i]!))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
