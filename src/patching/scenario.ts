/** What can be asked for: a program on a kernel, with so many threads, attached and detached so often, with a fault. */

import { sample } from "../explore/sample.js";
import { search } from "../explore/search.js";
import type { Found } from "../explore/system.js";
import { type KernelName, kernelNamed, type Version } from "../kernel/kernels.js";
import { type Fault, faultNamed } from "./faults.js";
import { Model, type ModelStep } from "./model.js";
import { makeProgram, type Program, type ProgramName } from "./programs.js";
import { probeOf, protocolOf } from "./protocol.js";
import { type Consumer, PLAIN_CONSUMER, Setup } from "./setup.js";

export interface Scenario {
  readonly kernel: KernelName;
  /** Which kernel of that range; the first one where nothing is said. */
  readonly version?: Version;
  readonly program: ProgramName | Program;
  readonly threads: number;
  readonly toggles: number;
  /** Put lea around the probe; by default where the program needs it, as rewriting does. */
  readonly guard?: boolean;
  /** A forked child repairs what it has inherited. */
  readonly forkGuard?: boolean;
  readonly fault?: Fault | null;
  readonly consumer?: Consumer;
  /** Signals for the first thread; by default one where the program has a handler. */
  readonly signals?: number;
  readonly joins?: readonly number[];
  readonly errors?: number;
  /** Each phase of patching is a step of its own, as if an IPI and the write after it could be told apart. */
  readonly fine?: boolean;
}

/** A scenario with nothing left to decide. */
export function prepare(scenario: Scenario): { setup: Setup; model: Model } {
  const { kernel, fault = null, program: wanted } = scenario;
  const normal = protocolOf(kernel, scenario.version ?? kernelNamed(kernel).since);
  const protocol = { ...normal, ...fault?.change(normal), stepsApart: scenario.fine ?? false };
  const program =
    typeof wanted === "string"
      ? makeProgram(wanted, {
          probe: probeOf(kernel),
          guard: scenario.guard ?? (wanted === "redzone" && kernelNamed(kernel).writesRedZone),
          forkGuard: scenario.forkGuard === true ? "repair" : "none",
          ...fault?.shape,
        })
      : wanted;
  const setup = new Setup(
    program,
    protocol,
    scenario.consumer ?? fault?.consumer ?? { ...PLAIN_CONSUMER, kind: program.tracer },
  );
  const model = new Model(setup, {
    threads: scenario.threads,
    toggles: scenario.toggles,
    joins: scenario.joins ?? fault?.joins ?? [],
    errors: scenario.errors ?? fault?.errors ?? 0,
    signals: scenario.signals ?? (program.handler === null ? 0 : 1),
  });
  return { setup, model };
}

export interface Result {
  /** How many different ones there are; of random runs, how many were passed. */
  readonly states: number;
  readonly transitions: number;
  readonly depth: number;
  /** Every state was visited, or one that violates a property was found. */
  readonly exhaustive: boolean;
  readonly found: Found<ModelStep> | null;
  readonly seconds: number;
  /** Bytes of the stored states and transitions. */
  readonly bytes: number;
  readonly setup: Setup;
  readonly model: Model;
}

/** Searches everything that can happen. */
export function explore(scenario: Scenario, progress?: (states: number) => void): Result {
  const { setup, model } = prepare(scenario);
  const report = search(model, { ...(progress === undefined ? {} : { progress }), mostStates: 20_000_000 });
  return { ...report, exhaustive: report.complete, setup, model };
}

/** Runs at random, so many steps in all. */
export function drawRuns(scenario: Scenario, seed: number, steps: number, progress?: (steps: number) => void): Result {
  const { setup, model } = prepare(scenario);
  const report = sample(model, { seed, steps, ...(progress === undefined ? {} : { progress }) });
  return {
    states: report.steps,
    transitions: report.steps,
    depth: 0,
    exhaustive: false,
    found: report.found,
    seconds: report.seconds,
    bytes: 0,
    setup,
    model,
  };
}

/** Where a fault shows best, as a scenario. */
export function scenarioOf(name: string): Scenario | undefined {
  const fault = faultNamed(name);
  if (fault === undefined) return undefined;
  const { kernel, scenario, threads, toggles } = fault;
  return { kernel, program: scenario, threads, toggles, fault };
}
