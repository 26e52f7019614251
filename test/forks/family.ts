/**
 * Families of processes (programs/family.c) under real uprobes: attached before the program starts, so that the parent is
 * the first to pass the sites, and what is copied to its children is what the kernel has made of them.
 *
 * A program is played in up to four forms: as compiled; rewritten, with the fork guard; rewritten to nop5 without it; and that
 * one with a guard that is wrong, which writes int3. The last two show what would have become of the children.
 */
import { spawn } from "node:child_process";
import { fileURLToPath } from "node:url";
import { places } from "../live/places.js";
import { build, type Rewritten, rewriteWith } from "../live/rewriting.js";
import { attach, type ProbePoint } from "../packages/uprobes.js";

/** For the kernels on which children die: with one place a probe, which is what these tests attach to. */
export const rewritten = (input: string, ...options: readonly string[]): Promise<Rewritten> =>
  rewriteWith(input, "--kernel", "6.18", ...options);

export const program = (name: string): string => fileURLToPath(new URL(`programs/${name}`, import.meta.url));

let reaper: Promise<string> | undefined;

/** A file with probes, and what rewriting it may make of it. */
export interface Forms {
  readonly compiled: string;
  /** By `auto` for 6.18: nop5, with the fork guard. */
  readonly guarded: string;
  /** `--layout nop5 --no-fork-guard` */
  readonly bare: string;
}

/** @throws where `auto` does not mean nop5 with a guard, or leaves all sites as they were: then the tests would show nothing */
export async function forms(source: string, ...flags: readonly string[]): Promise<Forms> {
  const compiled = await build("gcc", program(source), "-O2", "-pthread", ...flags);
  const guarded = await rewritten(compiled);
  if (guarded.layout !== "nop5" || guarded.forkGuard?.installed !== true)
    throw new Error(`${source}: ${guarded.layout}, ${JSON.stringify(guarded.forkGuard)}`);
  const bare = await rewritten(compiled, "--layout", "nop5", "--no-fork-guard");
  for (const { summary } of [guarded, bare])
    if (summary.rewritten === 0) throw new Error(`${source}: ${JSON.stringify(summary)}`);
  return { compiled, guarded: guarded.path, bare: bare.path };
}

export interface Staging {
  /** Files whose sites all get a uprobe, before the program starts. */
  readonly traced?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** What to do at each `wait` of the program; the number is that of the process that waits. */
  readonly steps?: readonly ((pid: number) => unknown)[];
  readonly arguments?: readonly string[];
  /** A command that runs the program, such as strace with its options. */
  readonly wrapper?: readonly string[];
}

export interface Played {
  /** Of all the program's sites, each once. */
  readonly passes: number;
  readonly libraryPasses: number;
  /** Processes that have neither come to their end nor been killed by a signal are missing. */
  readonly begun: number;
  readonly ended: number;
  /** Results that are not what they should be, and processes with another exit status than 0. */
  readonly wrong: number;
  /** The signal of each process that was killed. */
  readonly killed: readonly number[];
  /** How often each site was hit, of the traced files one after the other. */
  readonly hits: readonly number[];
}

const LINE = /^passes (\d+) library (\d+) begun (\d+) ended (\d+) wrong (\d+) killed((?: \d+)*)$/m;

export async function play(path: string, scene: string, staging: Staging = {}): Promise<Played> {
  reaper ??= build("gcc", program("reaper.c"), "-O2");
  const points: ProbePoint[] = [];
  for (const file of staging.traced ?? []) points.push(...(await places(file)).map((place) => place.point));
  const probes = points.length === 0 ? undefined : attach(points);
  try {
    const output = await run(
      await reaper,
      [...(staging.wrapper ?? []), path, scene, ...(staging.arguments ?? [])],
      staging,
    );
    const line = LINE.exec(output);
    if (line === null) throw new Error(`${path} ${scene}: ${output}`);
    const [passes, libraryPasses, begun, ended, wrong] = line.slice(1, 6).map(Number) as [
      number,
      number,
      number,
      number,
      number,
    ];
    const killed = line[6]!.split(" ").filter(Boolean).map(Number);
    return { passes, libraryPasses, begun, ended, wrong, killed, hits: probes?.hits() ?? [] };
  } finally {
    probes?.detach();
  }
}

/** Its output. At each line `wait PID` the next step is taken, and the program goes on. */
function run(command: string, args: readonly string[], { environment, steps = [] }: Staging): Promise<string> {
  const child = spawn(command, args, {
    env: { ...process.env, ...environment },
    stdio: ["pipe", "pipe", "inherit"],
  });
  let [output, seen, step] = ["", 0, 0];
  return new Promise((resolve, reject) => {
    const answer = async (pid: number): Promise<void> => {
      await steps[step++]?.(pid);
      child.stdin.write("\n");
    };
    child.stdin.on("error", () => {}); // a process that was killed does not read
    child.stdout.on("data", (chunk: Buffer) => {
      output += chunk.toString("latin1");
      for (let end = output.indexOf("\n", seen); end >= 0; end = output.indexOf("\n", seen)) {
        const waits = /^wait (\d+)$/.exec(output.slice(seen, end));
        seen = end + 1;
        if (waits === null) continue;
        answer(Number(waits[1])).catch((error) => {
          child.stdin.end(); // nobody waits for what does not come
          reject(error);
        });
      }
    });
    child.once("error", reject);
    child.once("close", () => resolve(output));
  });
}

/** All that can be said of a family of which nobody died: each pass was a hit of each site. */
export function flawless(played: Played, sites: number, librarySites = 0): Played {
  const { passes, libraryPasses, begun } = played;
  const hits = [...Array(sites).fill(passes), ...Array(librarySites).fill(libraryPasses)];
  return { passes, libraryPasses, begun, ended: begun, wrong: 0, killed: [], hits };
}
