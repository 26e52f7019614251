/** `usdt-nop5 emulate`: whether patching a probe is safe while threads run, on a model of kernel and CPUs. */
import { parseElf } from "../elf/image.js";
import { InputError } from "../errors.js";
import { readInput } from "../files/input.js";
import { faultNamed, faults } from "../patching/faults.js";
import { makeProgram, type ProgramName } from "../patching/programs.js";
import { probeOf } from "../patching/protocol.js";
import { realSites } from "../patching/real-site.js";
import { drawRuns, explore, type Scenario } from "../patching/scenario.js";
import { type EmulateRun, emulateDocument, emulateText, faultList, type Outcome } from "../report/emulate.js";
import { document, makeStyle } from "../report/text.js";
import type { ProbePattern } from "../usdt/pattern.js";
import { carriedOriginal } from "../verify/original.js";
import type { NamedKernel } from "./kernel-option.js";
import { complain, complainAbout, print, type Streams, wantsColours } from "./streams.js";

export interface EmulateOptions {
  readonly json?: boolean;
  readonly kernel?: NamedKernel;
  readonly threads?: number;
  readonly toggles?: number;
  readonly exhaustive?: boolean;
  /** The seed. */
  readonly random?: number;
  readonly steps?: number;
  readonly fault?: string;
  readonly scenario?: ProgramName;
  readonly guard?: boolean;
  readonly forkGuard?: boolean;
  readonly site?: ProbePattern;
}

const DEFAULT_KERNEL = "6.18";
const DEFAULT_THREADS = 2;
const DEFAULT_TOGGLES = 1;
const DEFAULT_STEPS = 1_000_000;

/**
 * Explores, and reports.
 * @returns the exit status: 3 where a property is violated
 */
export async function emulate(file: string | undefined, options: EmulateOptions, streams: Streams): Promise<number> {
  const wrong = wrongUse(file, options);
  if (wrong !== null) {
    await complain(streams, wrong);
    return 2;
  }
  if (options.fault === "list") {
    const list = faults.map(({ name, what, isHarmless }) => ({ name, what, isHarmless }));
    await print(streams, options.json ? document({ schemaVersion: 1, faults: list }) : faultList(faults));
    return 0;
  }
  try {
    const runs = await runAll(file, options, streams);
    const text = options.json
      ? document(emulateDocument(runs, options))
      : runs.map((run) => emulateText(run, makeStyle(wantsColours(streams.stdout)))).join("");
    await print(streams, text);
    return runs.some(({ result }) => result.found !== null) ? 3 : 0;
  } catch (error) {
    await complainAbout(streams, file ?? "emulate", error);
    return 1;
  }
}

function wrongUse(file: string | undefined, options: EmulateOptions): string | null {
  if ((file === undefined) !== (options.site === undefined)) return "FILE and --site PROVIDER:NAME go together";
  if (file !== undefined && options.scenario !== undefined)
    return "--scenario is for the built-in programs, not for FILE";
  if (file !== undefined && options.guard !== undefined)
    return "--guard is for the built-in programs: FILE has its own";
  if (options.exhaustive && options.random !== undefined) return "--exhaustive and --random exclude each other";
  if (options.steps !== undefined && options.random === undefined) return "--steps goes with --random SEED";
  if (options.fault !== undefined && options.fault !== "list" && faultNamed(options.fault) === undefined)
    return `no fault is called "${options.fault}": --fault list shows them`;
  return null;
}

async function runAll(
  file: string | undefined,
  options: EmulateOptions,
  streams: Streams,
): Promise<readonly EmulateRun[]> {
  if (file === undefined || options.site === undefined) {
    const scenario = scenarioFor(options);
    const title = String(scenario.program);
    if (scenario.program !== "universal" || scenario.fault?.shape !== undefined)
      return [{ title, scenario, result: run(scenario, options, streams) }];
    return ([0, 1] as const).map((selector) => {
      const shape = { probe: probeOf(scenario.kernel), universal: { selector, runs: "one" } } as const;
      const program = makeProgram("universal", shape);
      return { title, selector, scenario, result: run({ ...scenario, program }, options, streams) };
    });
  }
  const input = readInput(file);
  const image = parseElf(input.bytes, input);
  const original = carriedOriginal(image).image;
  if (original === undefined) throw new InputError("changed since it was rewritten: its original cannot be had");
  const kernel = options.kernel?.name ?? DEFAULT_KERNEL;
  const sites = realSites(image, original, kernel, (probe) => options.site!.matches(probe));
  if (sites.length === 0) throw new InputError(`no probe matches ${options.site.text}`);
  return sites.map(({ provider, name, location, twin, selector, program, because }) => {
    const title = `${provider}:${name}`;
    if (program === null) throw new InputError(`${title}: ${because}`, `address 0x${location.toString(16)}`);
    const scenario: Scenario = { ...scenarioFor(options), kernel, program };
    return { title, location, twin, selector, scenario, result: run(scenario, options, streams) };
  });
}

/** What was asked for; where a fault is, what is not said is where it shows best. */
function scenarioFor(options: EmulateOptions): Scenario {
  const fault = options.fault === undefined ? undefined : faultNamed(options.fault);
  const { guard, forkGuard } = options;
  return {
    kernel: options.kernel?.name ?? fault?.kernel ?? DEFAULT_KERNEL,
    program: options.scenario ?? fault?.scenario ?? "plain",
    threads: options.threads ?? fault?.threads ?? DEFAULT_THREADS,
    toggles: options.toggles ?? fault?.toggles ?? DEFAULT_TOGGLES,
    ...(options.kernel === undefined ? {} : { version: options.kernel.version }),
    ...(guard === undefined ? {} : { guard }),
    ...(forkGuard === undefined ? {} : { forkGuard }),
    fault: fault ?? null,
  };
}

function run(scenario: Scenario, options: EmulateOptions, streams: Streams): Outcome {
  const shows = streams.stderr.isTTY === true && process.env.CI !== "true";
  const progress = (count: number): void => {
    if (shows) streams.stderr.write(`\r${count.toLocaleString("en")} ...`, () => {});
  };
  const result =
    options.random === undefined
      ? explore(scenario, progress)
      : drawRuns(scenario, options.random, options.steps ?? DEFAULT_STEPS, progress);
  if (shows) streams.stderr.write("\r\x1b[K", () => {});
  if (options.random === undefined && !result.exhaustive)
    throw new InputError(`more than ${result.states} states: take fewer threads or toggles, or --random SEED`);
  const { setup: _, model, ...rest } = result;
  return { ...rest, slots: model.slots, peak: process.resourceUsage().maxRSS * 1024 };
}
