/**
 * A file that a process has mapped: opened as the very file, whatever its name leads to by now, and whether that is still
 * this one.
 *
 *     /proc/PID/map_files/RANGE    the mapped file itself, deleted ones as well, from any mount namespace; root may follow it
 *     PATH, /proc/PID/root/PATH    for everybody else: the file there, if it is the one that maps tells of
 *
 * Devices are never opened: that alone may do something.
 */
import { type BigIntStats, closeSync, openSync, readlinkSync, statSync } from "node:fs";
import { describe, isSystemError } from "../files/file-error.js";
import { pathBytes } from "../files/path-bytes.js";
import type { Mapping } from "./mappings.js";
import { identityOf } from "./traced-file.js";

export interface MappedFile {
  /** Its path, where the reader of maps sees it. */
  readonly path: string;
  /** Whether the path leads to another file by now, or to none: the process runs what was there before. */
  readonly stale: boolean;
  /** Why it cannot be opened, for a person to read; null where `use` was called. */
  readonly reason: string | null;
}

const DELETED = " (deleted)";

/**
 * Finds the file of a mapping.
 * @param use gets a descriptor of it, which is closed afterwards; not called where the file cannot be opened, or is none
 *   that could hold code
 */
export function findMappedFile(
  pid: number,
  mapping: Mapping,
  use: (fd: number, stat: BigIntStats) => void,
): MappedFile {
  const told = mapping.path.replaceAll("\\012", "\n");
  const isDeleted = told.endsWith(DELETED);
  const isElsewhere = !isInOurMounts(pid);
  const root = isElsewhere ? `/proc/${pid}/root` : "";
  const itself = `/proc/${pid}/map_files/${mapping.range}`;
  const direct = look(itself);
  const now = look(root + told);

  const isIt = ({ stat }: Look): boolean =>
    stat !== undefined &&
    (direct.stat !== undefined ? isSame(stat, direct.stat) : identityOf(stat.dev, stat.ino) === mapping.identity);
  if (direct.stat === undefined && !isIt(now)) {
    const rights = `/proc/${pid}/map_files ${describeLook(direct)}`;
    const why = isDeleted
      ? "the file is deleted"
      : isElsewhere
        ? "it is in another mount namespace"
        : "its path does not lead to it";
    return { ...named(told, isDeleted, now, isElsewhere, false), reason: `${why}, and ${rights}` };
  }
  const opened = direct.stat === undefined ? root + told : itself;
  const result = named(told, isDeleted, now, isElsewhere, isIt(now));
  const stat = (direct.stat ?? now.stat)!;
  if (!stat.isFile()) return { ...result, reason: null };
  let fd: number;
  try {
    fd = openSync(pathBytes(opened), "r");
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return { ...result, reason: `it cannot be opened: ${describe(error)}` };
  }
  try {
    use(fd, stat);
  } finally {
    closeSync(fd);
  }
  return { ...result, reason: null };
}

/**
 * The file's path, and whether it leads elsewhere. A file may be called "x (deleted)". Where a path of another mount
 * namespace leads nowhere, the process may see it from another root, and nothing is known.
 */
function named(
  told: string,
  isDeleted: boolean,
  now: Look,
  isElsewhere: boolean,
  isIt: boolean,
): Pick<MappedFile, "path" | "stale"> {
  if (isIt) return { path: told, stale: false };
  if (isDeleted) return { path: told.slice(0, -DELETED.length), stale: true };
  const isGone = now.code === "ENOENT" || now.code === "ENOTDIR";
  return { path: told, stale: now.stat !== undefined || (isGone && !isElsewhere) };
}

interface Look {
  readonly stat?: BigIntStats;
  /** The system's error where there is none. */
  readonly code?: string;
  readonly words?: string;
}

function look(path: string): Look {
  try {
    return { stat: statSync(pathBytes(path), { bigint: true }) };
  } catch (error) {
    if (!isSystemError(error)) throw error;
    return { code: error.code!, words: describe(error) };
  }
}

const describeLook = ({ words }: Look): string => `cannot be followed: ${words ?? "no reason given"}`;

/** Some file systems say another device number by one way than by another. */
const isSame = (a: BigIntStats, b: BigIntStats): boolean =>
  a.ino === b.ino && (a.dev === b.dev || (a.size === b.size && a.mtimeNs === b.mtimeNs));

/** Whether a process sees the same file systems as we do. */
function isInOurMounts(pid: number): boolean {
  try {
    return readlinkSync(`/proc/${pid}/ns/mnt`) === readlinkSync("/proc/self/ns/mnt");
  } catch {
    return false;
  }
}
