/**
 * Stacks at the probes of a file, by gdb's own unwinder: the program runs once, with a breakpoint on each site, and says
 * at the first stop at each what frames there are (programs/stacks.py). And what of them must be the same in a rewritten file.
 *
 * From frame 1 on everything is compared: the function's name (gdb's, which takes .symtab or else .dynsym), the file, the address
 * in the file as linked, and how far its CFA is below that of the outermost frame. Frame 0, where the probe is, has another
 * address in new code, so of it the name, where the file has a symbol table, and the CFA. Where a stack goes through a call that moved,
 * the return address is in new code: then the name says which function it belongs to.
 */
import { spawnSync } from "node:child_process";
import { chmodSync, realpathSync, writeFileSync } from "node:fs";
import { readSections, readSegments } from "../judges/headers.js";
import { readNotes } from "../judges/notes.js";
import { type Outcome, run } from "../run.js";

export interface Frame {
  readonly name: string | null;
  readonly file: string;
  readonly address: number;
  /** Below that of the outermost frame. */
  readonly cfa: number | null;
  /** Whether the address is in new code. */
  readonly isNew: boolean;
}

export type Stack = readonly Frame[];

export interface Stop {
  /** The note at whose place the program stopped, by its number in the file. */
  readonly note: number;
  /** At the probe, and at instructions of new code behind it. */
  readonly stacks: readonly Stack[];
}

export interface Subject {
  /** The file with the probes. */
  readonly file: string;
  /** The program, where that is another. */
  readonly program?: string;
  /** For a shell: redirections too. */
  readonly arguments?: string;
  readonly environment?: Readonly<Record<string, string>>;
  /** More settings for gdb. */
  readonly settings?: readonly string[];
  /** Instructions of new code to look at behind each probe. */
  readonly steps?: number;
  /** Addresses to stop at instead of those of the notes. */
  readonly places?: readonly bigint[];
  readonly timeout?: number;
  /** A command that runs gdb as somebody else. */
  readonly as?: readonly string[];
}

const script = new URL("programs/stacks.py", import.meta.url).pathname;
const DEPTH = 60;

/** Why gdb cannot do it, or null. */
export function gdbStacksMissing(): string | null {
  const tried = spawnSync(
    "gdb",
    ["-nx", "-batch", "-ex", "starti", "-ex", "python print('script')", "-ex", "kill", "true"],
    {
      encoding: "utf8",
      timeout: 30_000,
    },
  );
  if (tried.error !== undefined) return "no gdb";
  if (!/Program stopped/.test(tried.stdout)) return `gdb does not work here: ${tried.stderr.trim().split("\n")[0]}`;
  return tried.stdout.includes("script") ? null : "gdb without Python";
}

type Told = [string | null, string, string, number | null][];

/** Runs the program and stops at the first hit of each place. */
export async function stacksAt(subject: Subject, task: string): Promise<readonly Stop[]> {
  const { file, program = file, steps = 0 } = subject;
  const [notes, segments, sections] = await Promise.all([readNotes(file), readSegments(file), readSections(file)]);
  const places = subject.places ?? notes.map((note) => note.location);
  const added = sections.find((s) => s.name === ".text.nop5");
  const isNew = (where: string, address: number): boolean =>
    where === "the file" &&
    added !== undefined &&
    address >= Number(added.address) &&
    // A return address may be where the code ends.
    address <= Number(added.address + added.size);
  const lowest = segments.find((s) => s.type === "LOAD")!.vaddr;
  const content = {
    file: realpathSync(file),
    places: [...new Set(places)].map((p) => p.toString(16)),
    lowest: lowest.toString(16),
    code: added === undefined ? ["0", "0"] : [added.address.toString(16), (added.address + added.size).toString(16)],
    depth: DEPTH,
    steps,
    arguments: subject.arguments ?? "> /dev/null",
    environment: subject.environment ?? {},
    settings: subject.settings ?? [],
  };
  writeFileSync(task, JSON.stringify(content));
  chmodSync(task, 0o644);
  const [command, ...first] = [...(subject.as ?? []), "gdb"];
  const outcome = await run(command!, [...first, "-nx", "-batch", "-x", script, program], {
    environment: { STACKS_TASK: task, SHELL: "/bin/sh", DEBUGINFOD_URLS: "" },
    timeout: subject.timeout ?? 60_000,
    cwd: "/",
  });
  const told = /^stacks: (.*)$/m.exec(outcome.stdout)?.[1];
  if (told === undefined) throw new Error(`gdb on ${file}:\n${said(outcome)}`);
  const answers = JSON.parse(told) as { unexpected?: string; place: string; stacks: Told[] }[];
  const wrong = answers.find((a) => a.unexpected !== undefined);
  if (wrong !== undefined) throw new Error(`gdb on ${file}: stopped at ${wrong.unexpected}\n${said(outcome)}`);
  return answers.map(({ place, stacks }) => ({
    note: places.indexOf(BigInt(place)),
    stacks: stacks.map((stack) =>
      stack.map(([name, where, address, cfa]) => ({
        name,
        file: where,
        address: Number(address),
        cfa,
        isNew: isNew(where, Number(address)),
      })),
    ),
  }));
}

const said = ({ stdout, stderr, signal }: Outcome): string => `${signal ?? ""}\n${stdout.slice(-2000)}\n${stderr}`;

/** New code is called like the function that it belongs to, with this behind; gdb says it in two ways. */
const NEW = /\.nop5(?:\.\d+)?$| \[clone \.nop5(?:\.\d+)?\]$/;

/** The function that code belongs to. gdb says main[cold] for main.cold and f.constprop for f.constprop.0, if nothing is behind. */
export const plainName = (name: string | null): string =>
  (name ?? "?")
    .replace(NEW, "")
    .replace("[cold]", ".cold")
    .replace(/\.(constprop|isra|part)\.\d+/g, ".$1");

/**
 * A stack as lines to compare with another.
 * @param names whether the file has a symbol table, so that new code has names
 */
export function comparable(stack: Stack, names: boolean, other: Stack = stack): readonly string[] {
  return stack.map(({ name, file, address, cfa, isNew }, i) => {
    if (i === 0 || isNew || other[i]?.isNew) return `${names ? plainName(name) : "here"} cfa ${cfa}`;
    return `${plainName(name)} ${file} ${address.toString(16)} cfa ${cfa}`;
  });
}

/** One line each: which note, and the stack there, to be compared with those of `others`. */
export const comparableStops = (
  stops: readonly Stop[],
  names: boolean,
  others: readonly Stop[],
): readonly (readonly string[])[] =>
  stops.map(({ note, stacks }, i) => [`note ${note}`, ...comparable(stacks[0]!, names, others[i]?.stacks[0])]);

export const framesIn = (stops: readonly Stop[]): number =>
  stops.reduce((sum, { stacks }) => sum + stacks.reduce((n, stack) => n + stack.length, 0), 0);
