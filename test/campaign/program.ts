/** Programs of several functions, and how they are built. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { Flavour, GeneratedFunction } from "./function.js";
import { type Build, builds, inC, inCpp } from "./generate-c.js";
import { control } from "./generate-control.js";
import { dispatch } from "./generate-dispatch.js";
import { special } from "./generate-special.js";
import { Random } from "./random.js";

export interface Program {
  readonly index: number;
  readonly flavour: Flavour;
  /** Null for assembly. */
  readonly build: Build | null;
  /** The driver runs each function in a child. */
  readonly forks: boolean;
  readonly optimize: string;
  readonly functions: readonly GeneratedFunction[];
}

export interface Built {
  /** What is rewritten. */
  readonly file: string;
  /** How it is run: what stands before the file's name. */
  readonly host: readonly string[];
  /** Functions that the compiler took, by their order in the driver's list. */
  readonly functions: readonly GeneratedFunction[];
}

/** The parts that are not generated; run.js says where they are, since it runs this from elsewhere. */
const here = process.env.CAMPAIGN_PROGRAMS ?? fileURLToPath(new URL("programs/", import.meta.url));

const cpp: Build = { compiler: "g++", options: ["-std=c++20"], unusual: "-", links: [] };

/** What one program is made of: by its number alone. */
export function generate(seed: number, index: number): Program {
  const random = Random.of(seed, index, 1);
  const language = random.next();
  if (language < 0.7) return assembly(index, random);
  const build = language < 0.97 ? random.pick(builds) : null;
  const flavour: Flavour = {
    link: build === null ? random.pick(["pie", "no-pie"] as const) : random.pick(build.links),
    cfi: build?.options.includes("-fno-asynchronous-unwind-tables") !== true,
    stripped: random.chance(0.2),
  };
  const count = random.between(8, 14);
  const functions = Array.from({ length: count }, (_, i) =>
    build === null
      ? inCpp(`fn${i}`, Random.of(seed, index, i + 2), cpp)
      : inC(`fn${i}`, Random.of(seed, index, i + 2), build),
  );
  const optimize = random.pick(["-O0", "-O1", "-O2", "-O2", "-O3", "-Os"]);
  return { index, flavour, build: build ?? cpp, forks: random.chance(0.15), optimize, functions };
}

/**
 * One program's functions share what an analysis of the whole file may find: so some programs are of controls alone, in some
 * one function is unusual, and in some each is what chance makes of it.
 */
function assembly(index: number, random: Random): Program {
  const link = random.next();
  const flavour: Flavour = {
    link: link < 0.6 ? "pie" : link < 0.85 ? "no-pie" : link < 0.98 ? "shared" : "static",
    cfi: random.chance(0.7),
    stripped: random.chance(0.25),
  };
  const mixture = random.next();
  const count = mixture < 0.35 ? random.between(3, 5) : random.between(8, 14);
  const functions = Array.from({ length: count }, (_, i) => {
    const name = `fn${i}`;
    const own = new Random(random.next() * 2 ** 32);
    const odd = mixture < 0.35 ? i === 1 : mixture < 0.45 ? false : own.chance(0.8);
    if (!odd) return control(name, own, flavour);
    if (own.chance(0.2)) return special(name, own, flavour);
    const unusual = own.next();
    return dispatch(name, own, flavour, unusual < 0.7 ? 1 : unusual < 0.9 ? 2 : 3);
  });
  return { index, flavour, build: null, forks: random.chance(0.15), optimize: "", functions };
}

/** Builds what all programs share. @returns the folder */
export function buildDriver(folder: string): string {
  const made = join(folder, "driver");
  if (existsSync(made)) return made;
  const partial = `${made}.${process.pid}`;
  mkdirSync(partial, { recursive: true });
  const driver = join(here, "driver.c");
  for (const [name, ...options] of [["once.o"], ["forks.o", "-DFORKS"]] as const)
    must("gcc", ["-O1", "-fPIC", "-w", "-c", ...options, driver, "-o", join(partial, name)]);
  must("gcc", ["-O1", "-fPIC", "-c", join(here, "main.c"), "-o", join(partial, "main.o")]);
  must("gcc", ["-O1", join(here, "host.c"), "-o", join(partial, "host"), "-ldl"]);
  try {
    renameSync(partial, made);
  } catch {
    // Another of the workers was quicker.
    if (!existsSync(made)) throw new Error(`${made} cannot be made`);
  }
  return made;
}

function must(command: string, args: readonly string[]): void {
  const { status, stderr, error } = spawnSync(command, args, { encoding: "latin1" });
  if (status !== 0) throw new Error(`${command} ${args.join(" ")}: ${error?.message ?? stderr}`);
}

/** The source, and which function each of its lines belongs to. */
function source(program: Program, functions: readonly GeneratedFunction[]): { text: string; owner: (string | null)[] } {
  const { build } = program;
  const head =
    build === null
      ? readFileSync(join(here, "macros.inc"), "utf8")
      : readFileSync(join(here, "head.c.inc"), "utf8") +
        (build.compiler === "g++" ? readFileSync(join(here, "head.cc.inc"), "utf8") : "");
  const lines = head.split("\n");
  const owner: (string | null)[] = lines.map(() => null);
  for (const { name, text, selectors } of functions) {
    const own = (build === null ? text : `${text}FUNCTION(${name}, ${selectors})`).split("\n");
    lines.push(...own);
    owner.push(...own.map(() => name));
  }
  return { text: `${lines.join("\n")}\n`, owner };
}

const linkOptions = {
  pie: ["-pie"],
  "no-pie": ["-no-pie"],
  shared: ["-shared"],
  static: ["-static"],
} as const;
const codeOptions = { pie: ["-fPIE"], "no-pie": ["-fno-pie"], shared: ["-fPIC"], static: ["-fno-pie"] } as const;

/**
 * Compiles a program. Functions that the compiler refuses (a distance that does not fit its type, say) are left out.
 * @returns null where none is left
 */
export function buildProgram(program: Program, folder: string, driver: string): Built | null {
  const { build, flavour } = program;
  const shared = flavour.link === "shared";
  let functions = program.functions;
  for (let attempt = 0; attempt < 4 && functions.length > 0; attempt++) {
    const { text, owner } = source(program, functions);
    const input = join(folder, build === null ? "program.s" : build.compiler === "g++" ? "program.cc" : "program.c");
    const file = join(folder, "program");
    writeFileSync(input, text);
    const compile =
      build === null
        ? ["-Wa,--fatal-warnings"]
        : [
            "-w",
            program.optimize,
            "-fvisibility=hidden",
            "-Wa,--fatal-warnings",
            ...codeOptions[flavour.link],
            ...build.options,
          ];
    const objects = [join(driver, program.forks ? "forks.o" : "once.o"), ...(shared ? [] : [join(driver, "main.o")])];
    const strip = flavour.stripped ? ["-s"] : [];
    const { status, stderr } = spawnSync(
      build?.compiler ?? "gcc",
      [...compile, ...linkOptions[flavour.link], ...strip, input, ...objects, "-o", file],
      { encoding: "latin1" },
    );
    if (status === 0) return { file, host: shared ? [join(driver, "host")] : [], functions };
    const refused = refusals(stderr, owner);
    // Where no line is named, what is refused is not one function: the combination of options.
    if (refused.size === 0) {
      if (process.env.CAMPAIGN_SHOW === "1") console.error(`program ${program.index}: ${stderr.slice(0, 600)}`);
      return null;
    }
    functions = functions.filter(({ name }) => !refused.has(name));
  }
  return null;
}

/** Which functions the compiler's or assembler's messages are about. */
function refusals(messages: string, owner: readonly (string | null)[]): ReadonlySet<string> {
  const refused = new Set<string>();
  for (const [, line] of messages.matchAll(/program\.(?:s|c|cc):(\d+):/g)) {
    const name = owner[Number(line) - 1];
    if (name !== null && name !== undefined) refused.add(name);
  }
  // The assembler speaks of compilers' labels, the linker of functions.
  for (const [, name] of messages.matchAll(/in function `(fn\d+)/g)) refused.add(name!);
  return refused;
}
