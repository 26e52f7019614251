/** One program, run by this machine and by the emulator, with the same arguments, environment and input. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { parseElf } from "../../src/elf/image.js";
import type { ProgramEnd } from "../../src/emulate/linux/process.js";
import { runProgram } from "../../src/emulate/linux/run.js";

export interface Seen {
  /** "exit 0" or "SIGSEGV"; of the emulator also what it does not implement. */
  readonly end: string;
  readonly stdout: string;
  readonly stderr: string;
}

export interface Surroundings {
  readonly arguments?: readonly string[];
  readonly environment?: readonly string[];
  readonly input?: string;
  /** In the emulator paths lead nowhere: for programs that look for files which are not there. */
  readonly emptyFileSystem?: boolean;
}

/** Many times what any of the programs needs. */
const LIMIT = 100_000_000;

export function runNatively(file: string, { arguments: given = [], environment = [], input = "" }: Surroundings): Seen {
  const env = Object.fromEntries(environment.map((one) => [one.replace(/=.*/, ""), one.replace(/^.*?=/, "")]));
  const { status, signal, stdout, stderr, error } = spawnSync(file, given, { env, input, timeout: 20_000 });
  // A program that ends before it has read its input has run all the same.
  if (error !== undefined && (error as NodeJS.ErrnoException).code !== "EPIPE") throw error;
  return { end: signal ?? `exit ${status}`, stdout: stdout.toString("latin1"), stderr: stderr.toString("latin1") };
}

export interface Emulated extends Seen {
  readonly instructions: number;
}

export function emulate(
  file: string,
  { arguments: given = [], environment = [], input = "", emptyFileSystem = false }: Surroundings,
): Emulated {
  const { end, stdout, stderr, instructions } = runProgram(parseElf(readFileSync(file)), {
    arguments: [file, ...given],
    environment,
    input: Buffer.from(input),
    emptyFileSystem,
    limit: LIMIT,
  });
  return { end: inWords(end), stdout: stdout.toString("latin1"), stderr: stderr.toString("latin1"), instructions };
}

function inWords(end: ProgramEnd): string {
  switch (end.kind) {
    case "exit":
      return `exit ${end.status}`;
    case "signal":
      return end.name;
    case "unimplemented":
      return `not implemented: ${end.what}`;
    case "limit":
      return "no end";
  }
}

/** What both have seen, without the count of instructions. */
export const seen = ({ end, stdout, stderr }: Seen): Seen => ({ end, stdout, stderr });
