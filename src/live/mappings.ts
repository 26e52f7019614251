/**
 * /proc/PID/maps: what a process has mapped where.
 *
 *     START-END rwxp OFFSET MAJOR:MINOR INODE    PATH
 *
 * " (deleted)" follows the path of a file that this name does not lead to any more. A line end in a path is written as
 * \012, everything else as it is.
 */

export interface Mapping {
  /** Runtime addresses; `end` is no part of it. */
  readonly start: number;
  readonly end: number;
  readonly isCode: boolean;
  /** File offset of its beginning. */
  readonly offset: number;
  /** "fe:01 1234": the file's device and inode. */
  readonly identity: string;
  readonly inode: string;
  /** As it stands there: a path, a name in brackets, or nothing. */
  readonly path: string;
  /** As a file of /proc/PID/map_files is named. */
  readonly range: string;
}

const MAPPING = /^([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) (\S+) (\d+) *(.*)$/;

/** Here addresses have eight digits at least, there as many as they need. */
const ZEROS = /^0+(?=.)/;

/** @param lines those of the file, in any part; what is no mapping is left out */
export function parseMappings(lines: readonly string[]): readonly Mapping[] {
  return lines.flatMap((line) => {
    const [, from, to, flags, offset, device, inode, path] = MAPPING.exec(line) ?? [];
    if (from === undefined) return [];
    return [
      {
        start: Number.parseInt(from, 16),
        end: Number.parseInt(to!, 16),
        isCode: flags![2] === "x",
        offset: Number.parseInt(offset!, 16),
        identity: `${device} ${inode}`,
        inode: inode!,
        path: path!,
        range: `${from.replace(ZEROS, "")}-${to!.replace(ZEROS, "")}`,
      },
    ];
  });
}
