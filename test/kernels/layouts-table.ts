/** Which programs are made in which forms, and what src/kernel says of each on a kernel: results, hits and children. */
import type { KernelFacts, LongNop } from "../../src/kernel/kernels.js";
import { build, rewriteWith } from "../live/rewriting.js";
import type { Ran, Toggled, Traced } from "./layouts.js";

interface Program {
  readonly name: string;
  /** Below test. */
  readonly source: string;
  readonly flags: readonly string[];
  /** How often each probe is passed. */
  readonly passes: Readonly<Record<string, number>>;
  readonly output: string;
  /** The same where no probe fires, and where it forks and the child dies. */
  readonly silent?: string;
  readonly bereft?: string;
  /** What it says of a nop5 in its source that writes below rsp. */
  readonly broken?: string;
}

const programs: readonly Program[] = [
  {
    name: "red zone",
    source: "live/programs/redzone.c",
    flags: [],
    passes: { mix: 500, weigh: 500 },
    output: "wrong 0 of 1000\n",
    broken: "wrong N of 1000\n",
  },
  {
    name: "threads",
    source: "fixtures/programs/threads.c",
    flags: ["-pthread"],
    passes: { thread: 4, round: 1000, add: 1000, thread_end: 4 },
    output: "threads 127060\n",
  },
  {
    name: "semaphores",
    source: "live/programs/gated.c",
    flags: [],
    passes: { open: 10, shut: 3 },
    output: "opened 7\n",
    // Who refuses to attach raises nothing.
    silent: "opened 0\n",
  },
  {
    name: "fork",
    source: "live/programs/fork.c",
    flags: [],
    passes: { pass: 40 },
    output: "child exit 0\nready\n",
    bereft: "child killed by signal 11\nready\n",
  },
];

interface Form {
  readonly name: string;
  /** Options of rewrite; null: as it was compiled. */
  readonly options: readonly string[] | null;
  readonly flags?: readonly string[];
  /** What is attached to: at the note's location, or after the one-byte nop there. */
  readonly places: readonly ("nop" | LongNop)[];
  /** A fork guard makes a child's probes whole again. */
  readonly isGuarded: boolean;
  /** The compiler's nop stands where the probe was, whatever is below rsp. */
  readonly isCareless?: boolean;
}

const isUniversal = ({ name }: Form): boolean => name.startsWith("universal");

const layout = (name: string, places: Form["places"], isGuarded: boolean): Form => ({
  name: `${name}${isGuarded ? "" : ", no guard"}`,
  options: ["--layout", name, ...(isGuarded ? [] : ["--no-fork-guard"])],
  places,
  isGuarded,
});

const forms: readonly Form[] = [
  { name: "as compiled", options: null, places: ["nop"], isGuarded: false },
  layout("universal", ["nop", "nop10"], true),
  layout("nop5", ["nop5"], true),
  layout("nop,nop5", ["nop", "nop5"], true),
  layout("nop,nop10", ["nop", "nop10"], true),
  layout("universal", ["nop"], false),
  layout("nop5", ["nop5"], false),
  layout("nop,nop5", ["nop5"], false),
];
/** What rewriting is for: the same without its care. */
const careless: Form = {
  name: "nop5 in the source",
  options: null,
  flags: ["-DREDZONE_NOP5"],
  places: ["nop5"],
  isGuarded: false,
  isCareless: true,
};

/** A program in a form, and a place to attach to. */
export interface LayoutCase extends Traced {
  readonly title: string;
  readonly program: Program;
  readonly form: Form;
  readonly place: "nop" | LongNop;
}

async function made(program: Program, form: Form): Promise<readonly LayoutCase[]> {
  const source = new URL(`../${program.source}`, import.meta.url).pathname;
  const compiled = await build("gcc", source, "-O2", ...program.flags, ...(form.flags ?? []));
  const rewritten = form.options === null ? null : await rewriteWith(compiled, ...form.options);
  if (rewritten !== null && rewritten.summary.rewritten !== rewritten.summary.sites)
    throw new Error(`${program.name}, ${form.name}: not all rewritten`);
  return form.places.map((place) => ({
    file: rewritten?.path ?? compiled,
    behind: place !== "nop" && place !== form.name.split(",")[0] ? place : null,
    title: `${program.name}, ${form.name}, at the ${place}`,
    program,
    form,
    place,
  }));
}

const TOGGLED: Program = { name: "toggled", source: "kernels/programs/toggled.c", flags: [], passes: {}, output: "" };

/** In the short form: what a wrong table would kill or break. */
const isVital = ({ broken, bereft }: Program): boolean => broken !== undefined || bereft !== undefined;

/**
 * Forms without a guard only where somebody forks.
 * @param isShort those alone in which something breaks without care
 */
export async function layoutCases(
  isShort: boolean,
): Promise<{ run: readonly LayoutCase[]; toggle: readonly LayoutCase[] }> {
  const run: LayoutCase[] = [];
  for (const program of programs.filter((one) => !isShort || isVital(one))) {
    const all = program.broken === undefined ? forms : [...forms, careless];
    const fitting = all.filter((f) => f.isGuarded || f.options === null || program.bereft !== undefined);
    for (const form of fitting) run.push(...(await made(program, form)));
  }
  const toggle: LayoutCase[] = [];
  const toggled = forms.slice(1).filter(({ places }) => !isShort || places[0] === "nop5");
  // These tracers attach to one place of a probe: of a universal one that may be the one that is not passed.
  for (const form of toggled.filter((f) => !isUniversal(f))) toggle.push(...(await made(TOGGLED, form)));
  return { run, toggle };
}

/** What becomes of children, and of what is below rsp, by the table. */
function fateOf({ form, place }: LayoutCase, facts: KernelFacts) {
  // Of a universal probe it is the nop5 that runs where that becomes a call, wherever else somebody attaches.
  const isTwin = isUniversal(form) && facts.optimizes === "nop5";
  const treatment = facts.treats[isTwin ? "nop5" : place];
  const isCall = treatment === "optimized";
  return {
    fires: treatment !== "refused",
    isCall,
    killsChildren: isCall && facts.killsForkedChildren && !form.isGuarded,
    breaks: isCall && facts.writesRedZone && form.isCareless === true,
  };
}

/** What a program should do on a kernel, in words that `shown` has as well. */
export function expected(one: LayoutCase, facts: KernelFacts): readonly string[] {
  const { fires, isCall, killsChildren, breaks } = fateOf(one, facts);
  const { passes, output, silent = output, bereft = output, broken = output } = one.program;
  const dies = killsChildren && bereft !== output;
  // Where one place is refused, the other one raises the semaphore all the same.
  const said = !fires && !isUniversal(one.form) ? silent : dies ? bereft : breaks ? broken : output;
  const hits = Object.entries(passes).map(([name, n]) => {
    const counted = !fires ? 0 : dies ? n / 2 : n;
    return `${name} ${counted}${isCall ? " as a call" : ""}`;
  });
  return [said, breaks ? "exit status 1" : "exit status 0", ...hits.sort()];
}

/** What it did. */
export function shown({ output, end, sites }: Ran): readonly string[] {
  const hits = new Map<string, number>();
  for (const site of sites) hits.set(site.name, (hits.get(site.name) ?? 0) + site.hits);
  const rows = [...hits].map(([name, n]) => {
    // Of two places of a probe one is never passed.
    const passed = sites.filter((site) => site.name === name && site.hits > 0);
    const isCall = passed.length > 0 && passed.every((site) => site.optimized);
    return `${name} ${n}${isCall ? " as a call" : ""}`;
  });
  return [output.replace(/^wrong [1-9]\d* of/, "wrong N of"), end, ...rows.sort()];
}

/** What a program under tracers that come and go should do. */
export function expectedToggled(one: LayoutCase, facts: KernelFacts): readonly string[] {
  const { fires, killsChildren } = fateOf(one, facts);
  return [
    killsChildren ? "children die" : "no child dies",
    "no result is wrong",
    killsChildren ? "counted or lost" : fires ? "each pass counted" : "none counted",
    fires ? "attached" : "refused",
    "exit status 0",
  ];
}

export function shownToggled(one: LayoutCase, { killed, wrong, counts, refusal, end }: Toggled, facts: KernelFacts) {
  const isExact = counts.length > 0 && counts.every(({ hits, passes }) => hits === passes && passes > 0);
  const none = counts.every(({ hits }) => hits === 0);
  const uncounted = none ? "none counted" : "miscounted";
  return [
    killed > 0 ? "children die" : "no child dies",
    wrong === 0 ? "no result is wrong" : `${wrong} results are wrong`,
    fateOf(one, facts).killsChildren ? "counted or lost" : isExact ? "each pass counted" : uncounted,
    refusal === null ? "attached" : "refused",
    end,
  ];
}
