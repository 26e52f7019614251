/** What `emulate` says: the JSON document of the command contract, and for people a table with a column a CPU. */
import { hex, type Vaddr } from "../address.js";
import type { Taken } from "../explore/system.js";
import { kernelNamed } from "../kernel/kernels.js";
import type { Fault } from "../patching/faults.js";
import type { ModelStep } from "../patching/model.js";
import type { Result, Scenario } from "../patching/scenario.js";
import { columns, count, forPeople, type Style } from "./text.js";

/** What is left of a run when its states are forgotten. */
export type Outcome = Omit<Result, "setup" | "model"> & {
  /** The most memory that this process had until then, in bytes. */
  readonly peak: number;
  /** The number of threads that there can be, a forked child included. */
  readonly slots: number;
};

export interface EmulateRun {
  /** The built-in program, or the probe. */
  readonly title: string;
  /** Of a probe: the link-time address of its note. */
  readonly location?: Vaddr;
  /** Of a universal probe: its other place, and what the selector holds in this run. */
  readonly twin?: Vaddr | null;
  readonly selector?: 0 | 1 | null;
  readonly scenario: Scenario;
  readonly result: Outcome;
}

const hexBytes = (bytes: Uint8Array | null): string =>
  bytes === null ? "" : [...bytes].map((b) => b.toString(16).padStart(2, "0")).join(" ");

/** The actors by name: threads, the child, the patcher. */
function actorNames({ scenario, result }: EmulateRun): string[] {
  const { slots } = result;
  const names = Array.from({ length: slots }, (_, i) => (i < scenario.threads ? `CPU ${i}` : `CPU ${i} (child)`));
  return [...names, "patcher"];
}

/** One document, for one run or for several probes of a name. */
export function emulateDocument(runs: readonly EmulateRun[], options: { readonly random?: number }): object {
  const [first] = runs;
  const { scenario } = first!;
  const sum = (value: (result: Outcome) => number): number =>
    runs.reduce((total, { result }) => total + value(result), 0);
  return {
    schemaVersion: 1,
    kernel: scenario.kernel,
    threads: scenario.threads,
    toggles: scenario.toggles,
    fault: scenario.fault?.name ?? null,
    sites: runs.flatMap(({ title, location, twin, selector }) =>
      location === undefined
        ? []
        : [
            {
              name: title,
              location: hex(location),
              twin: twin === undefined || twin === null ? null : hex(twin),
              selector: selector ?? null,
            },
          ],
    ),
    states: sum((r) => r.states),
    steps: sum((r) => r.transitions),
    exhaustive: options.random === undefined && runs.every(({ result }) => result.exhaustive),
    seconds: Number(sum((r) => r.seconds).toFixed(3)),
    bytes: Math.max(...runs.map(({ result }) => result.bytes)),
    peak: Math.max(...runs.map(({ result }) => result.peak)),
    violations: runs.flatMap((run) => {
      const { found } = run.result;
      if (found === null) return [];
      const names = actorNames(run);
      const trace = found.schedule.map(({ actor, step }) => ({
        cpu: actor,
        actor: names[actor],
        step: step.label,
        bytes: hexBytes(step.bytes),
      }));
      return [{ ...found.violation, trace }];
    }),
  };
}

/** The same for people. */
export const emulateText = forPeople((run: EmulateRun, style: Style): string => {
  const { scenario, result, title, location, twin, selector } = run;
  const both = twin === undefined || twin === null ? "" : ` and ${hex(twin)}`;
  const at = location === undefined ? "" : ` at ${hex(location)}${both}`;
  const held = selector === undefined || selector === null ? "" : `, selector ${selector}`;
  const head = [
    `${title}${at}${held}, Linux ${kernelNamed(scenario.kernel).range}`,
    count(scenario.threads, "thread"),
    `attached and detached ${scenario.toggles === 1 ? "once" : `${scenario.toggles} times`}`,
    ...(scenario.fault ? [`fault: ${scenario.fault.name}`] : []),
  ].join(", ");
  const lines = [style.heading(head), `  ${figures(result)}`];
  if (result.found === null) {
    const all = result.exhaustive
      ? "No order of steps violates a property."
      : "None of these runs violates a property.";
    lines.push(`  ${style.good(all)}`);
  } else {
    const { property, message } = result.found.violation;
    lines.push(`  ${style.warning(`${property}: ${message}`)}`, "", ...table(run, result.found.schedule));
  }
  return `${lines.join("\n")}\n`;
});

function figures({ states, transitions, depth, seconds, bytes, peak, exhaustive }: Outcome): string {
  const n = (value: number): string => value.toLocaleString("en");
  const time = `${seconds.toFixed(2)} s`;
  const process = `${n(Math.ceil(peak / 2 ** 20))} MiB`;
  if (!exhaustive) return `${n(transitions)} steps at random, in ${time} and ${process}`;
  const graph = `${n(Math.ceil(bytes / 1024))} KiB`;
  return `${n(states)} states, ${n(transitions)} transitions, depth ${depth}, in ${time} and ${process} (the states: ${graph})`;
}

/** The steps, one a line, each in the column of its CPU. */
function table(run: EmulateRun, schedule: readonly Taken<ModelStep>[]): string[] {
  const names = actorNames(run);
  const acting = names.map((_, actor) => schedule.some((taken) => taken.actor === actor));
  const row = (cells: readonly string[]): string[] => cells.filter((_, actor) => acting[actor]);
  const rows = schedule.map(({ actor, step }) => {
    const bytes = hexBytes(step.bytes);
    const text = step.label + (bytes === "" ? "" : `  [${bytes}]`);
    return row(names.map((_, i) => (i === actor ? text : "")));
  });
  return columns([row(names), ...rows], "  ");
}

/** `--fault list`: name, tab, what it does, and at its end whether it is harmless. */
export const faultList = (faults: readonly Fault[]): string =>
  faults.map(({ name, what, isHarmless }) => `${name}\t${what}${isHarmless ? "; harmless" : ""}\n`).join("");
