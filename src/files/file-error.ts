/**
 * Errors about a file that is not the one a command was given: the output, its directory. They carry their own path for
 * the error line, and say in the system's words what went wrong.
 */
import { InputError } from "../errors.js";

export class FileError extends InputError {
  /**
   * @param file the path as the user would name it
   * @param what what is wrong with it, as for InputError
   */
  constructor(
    readonly file: string,
    what: string,
  ) {
    super(what);
  }
}

/** Whether a thrown value is an error of a system call. */
export const isSystemError = (error: unknown): error is NodeJS.ErrnoException =>
  error instanceof Error && typeof (error as NodeJS.ErrnoException).code === "string" && "syscall" in error;

/** Names a few errors better than the system does; everything else keeps its words. */
const words: Readonly<Record<string, string>> = {
  ENOSPC: "no space left on the device",
  EDQUOT: "the disk quota is used up",
  EROFS: "the file system is read-only",
};

/** A system error's own description: "no such file or directory". Node puts it between its code and the call's name. */
export function describe(error: NodeJS.ErrnoException): string {
  return words[error.code ?? ""] ?? /^\w+: (.*?), \w+/.exec(error.message)?.[1] ?? error.message;
}

/** Runs `action`; a system error in it becomes a FileError about `file`: "cannot WHAT: no space left on the device". */
export async function explained<T>(file: string, what: string, action: () => Promise<T>): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (isSystemError(error)) throw new FileError(file, `cannot ${what}: ${describe(error)}`);
    throw error;
  }
}
