/**
 * Files by their descriptors. Whoever owns a directory can put something else under a name at any moment, between two
 * calls as well; what a descriptor leads to stays what it is. Where the system wants a path, or Node has no call that
 * takes a descriptor, /proc/self/fd has a path for each, in a child process for those that were handed over to it.
 */
import { constants, lstatSync, openSync, readlinkSync } from "node:fs";
import { FileError, isSystemError } from "./file-error.js";

/** open(2): the descriptor stands for the place and neither reads nor writes. Node does not name it. */
const O_PATH = 0o10000000;

/** The path that leads to what a descriptor of the process that uses it stands for. */
export const pathOf = (fd: number): string => `/proc/self/fd/${fd}`;

/** The path of a name in an open directory. */
export const inside = (directory: number, name: Buffer | string): Buffer =>
  Buffer.concat([Buffer.from(`${pathOf(directory)}/`), Buffer.from(name)]);

/** Where an open file or directory is now, as the kernel says. */
export const placeOf = (fd: number): Buffer => readlinkSync(pathOf(fd), { encoding: "buffer" });

/**
 * Opens a directory to look names up in it.
 * @param follow whether its last component may be a symbolic link
 * @throws the system's errors; FileError where nothing could be looked up
 */
export function openDirectory(path: Buffer | string, follow: boolean): number {
  requireProc();
  return openSync(path, O_PATH | constants.O_DIRECTORY | (follow ? 0 : constants.O_NOFOLLOW));
}

function requireProc(): void {
  try {
    lstatSync("/proc/self/fd");
  } catch (error) {
    if (!isSystemError(error)) throw error;
    throw new FileError("/proc", "is not mounted; files are written by what it knows of them");
  }
}
