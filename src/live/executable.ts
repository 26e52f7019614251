/**
 * Which file a command runs, by the rules of execvp and of the kernel.
 *
 *     a name without a slash     is looked for in PATH
 *     "#!INTERPRETER ARGUMENT"   the interpreter is the program that runs; after env, the one that env looks for
 *     neither ELF nor "#!"       /bin/sh runs it (execvp's own rule)
 */
import { accessSync, closeSync, constants, openSync, readSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import { FileError } from "../files/file-error.js";

export interface Executable {
  /** What to execute. */
  readonly program: string;
  readonly argv: readonly string[];
  /** The ELF file whose code runs in the end. */
  readonly binary: string;
}

/** So much of a script's first line the kernel looks at, in bytes. */
const HEAD = 256;
/** And so deep may an interpreter be a script itself. */
const MAX_DEPTH = 5;
const SHELL = "/bin/sh";
const ELF_MAGIC = "\x7fELF";

/** Finds what a command runs. @throws FileError where there is no such program */
export function findExecutable(command: string, args: readonly string[]): Executable {
  const program = findInPath(command);
  const head = headOf(program);
  if (!head.startsWith("#!") && !head.startsWith(ELF_MAGIC))
    return { program: SHELL, argv: [SHELL, program, ...args], binary: binaryOf(SHELL, 0) };
  return { program, argv: [command, ...args], binary: binaryOf(program, 0) };
}

function binaryOf(program: string, depth: number): string {
  const head = headOf(program);
  if (!head.startsWith("#!")) return program;
  if (depth === MAX_DEPTH) throw new FileError(program, "too many interpreters, one of the other");
  const words = head.slice(2).split("\n", 1)[0]!.trim().split(/\s+/);
  const interpreter = words[0] ?? "";
  if (interpreter === "") throw new FileError(program, "names no interpreter after #!");
  const named = words.slice(1).find((word) => !word.startsWith("-") && !word.includes("="));
  if (basename(interpreter) === "env" && named !== undefined) return binaryOf(findInPath(named), depth + 1);
  return binaryOf(interpreter, depth + 1);
}

function findInPath(command: string): string {
  if (command.includes("/")) {
    const reason = whyNot(command);
    if (reason !== null) throw new FileError(command, reason);
    return command;
  }
  const folders = (process.env.PATH ?? "/bin:/usr/bin").split(":");
  const found = folders.map((folder) => join(folder || ".", command)).find((path) => whyNot(path) === null);
  if (found === undefined) throw new FileError(command, "no such command in PATH");
  return found.includes("/") ? found : `./${found}`;
}

/** Why a file cannot be executed, or null where it can. */
function whyNot(path: string): string | null {
  try {
    if (!statSync(path).isFile()) return "is no program";
    accessSync(path, constants.X_OK);
    return null;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EACCES" ? "may not be executed" : "no such file";
  }
}

function headOf(path: string): string {
  const bytes = Buffer.alloc(HEAD);
  let fd: number | undefined;
  try {
    fd = openSync(path, "r");
    return bytes.toString("latin1", 0, readSync(fd, bytes, 0, HEAD, 0));
  } catch {
    throw new FileError(path, "cannot be read");
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
