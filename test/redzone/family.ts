/** The generated family, compiled: each compiler and level of optimization, once and kept. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "../fixtures/build.js";
import { type GeneratedFunction, type GeneratedProgram, generate } from "./generate.js";

export const compilers = ["gcc", "clang"] as const;
export const levels = ["-O0", "-O2", "-O3"] as const;

export const SEED = 20_260_722;
/** Eleven of each way: well over the 200 that are asked for. */
export const COUNT = 231;

export interface FamilyMember {
  readonly path: string;
  readonly functions: readonly GeneratedFunction[];
}

const sources = new Map<string, { readonly file: string; readonly program: GeneratedProgram }>();

function sourceOf(rounds: number): { readonly file: string; readonly program: GeneratedProgram } {
  const name = `family-${SEED}-${COUNT}-${rounds}.c`;
  let known = sources.get(name);
  if (known === undefined) {
    const folder = fileURLToPath(new URL("../../.cache/redzone", import.meta.url));
    mkdirSync(folder, { recursive: true });
    known = { file: join(folder, name), program: generate(SEED, COUNT, rounds) };
    writeFileSync(known.file, known.program.source);
    sources.set(name, known);
  }
  return known;
}

/** Further ways to build it, in which frames look different. */
export const variations = [
  "-O1",
  "-Os",
  "-O0 -fomit-frame-pointer",
  "-O2 -fno-omit-frame-pointer",
  "-O2 -pg",
  "-O0 -pg",
  "-O2 -fstack-clash-protection",
  "-O2 -fstack-protector-all",
  "-O2 -fsanitize=undefined",
  "-O1 -static",
] as const;

/**
 * Compiles the family.
 * @param flags options in one string, such as one of `levels` or `variations`
 * @param rounds how often the program calls each function
 * @param nop5 probes are five-byte nops in the source: the control, which tracing has to break
 */
export async function compileFamily(
  compiler: (typeof compilers)[number],
  flags: string,
  { rounds = 8, nop5 = false } = {},
): Promise<FamilyMember> {
  const { file, program } = sourceOf(rounds);
  const built = await build({
    output: "family",
    compiler,
    sources: [file],
    // Sums may overflow, with and without the probe alike.
    flags: [...flags.split(" "), "-w", "-fwrapv", ...(nop5 ? ["-DREDZONE_NOP5"] : [])],
  });
  if (!built.ok) throw new Error(`${built.command}: ${built.because}`);
  return { path: built.path, functions: program.functions };
}
