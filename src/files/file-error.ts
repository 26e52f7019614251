/**
 * Errors about a file that is not the one a command was given: the output, its directory. They carry their own path for
 * the error line, and say in the system's words what went wrong.
 */
import { constants } from "node:os";
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

/** Errors that Node does not know, or that can be named better than the system does; the others keep its words. */
const words: Readonly<Record<string, string>> = {
  EBADMSG: "the file system is damaged",
  EDQUOT: "the disk quota is used up",
  EFBIG: "larger than a file may be",
  EKEYEXPIRED: "the key of the file system has expired",
  EMEDIUMTYPE: "the medium is of another type",
  ENOKEY: "the key of the file system is missing",
  ENOLCK: "no locks available",
  ENOMEDIUM: "no medium in the device",
  ENOSPC: "no space left on the device",
  EROFS: "the file system is read-only",
  ESTALE: "the file server no longer knows the file",
  EUCLEAN: "the file system is damaged",
};

/** What Linux has and Node has no name for. */
const unnamed: Readonly<Record<number, string>> = {
  117: "EUCLEAN",
  123: "ENOMEDIUM",
  124: "EMEDIUMTYPE",
  126: "ENOKEY",
  127: "EKEYEXPIRED",
};

const names = new Map<number, string>(Object.entries(constants.errno).map(([name, number]) => [number, name]));

/** A system error's own description: "no such file or directory". Node puts it between its code and the call's name. */
export function describe(error: NodeJS.ErrnoException): string {
  const number = Math.abs(error.errno ?? 0);
  const name = unnamed[number] ?? names.get(number) ?? error.code ?? "";
  const known = words[name];
  if (known !== undefined) return known;
  if (error.code?.startsWith("Unknown system error")) return name === error.code ? `error ${number}` : name;
  return /^\w+: (.*?), \w+/.exec(error.message)?.[1] ?? error.message;
}

/** Runs `action`; a system error in it becomes a FileError about `file`: "cannot WHAT: no space left on the device". */
export async function explained<T>(file: string, what: string, action: () => Promise<T> | T): Promise<T> {
  try {
    return await action();
  } catch (error) {
    if (isSystemError(error)) throw new FileError(file, `cannot ${what}: ${describe(error)}`);
    throw error;
  }
}
