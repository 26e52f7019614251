/**
 * Writing the result so that at every moment either the old file or the complete new one is there.
 *
 *     choose the place  ->  temporary file beside it  ->  pieces, holes  ->  attributes  ->  fsync  ->  rename  ->  fsync of the directory
 *
 * The place is an open directory and a name in it. A new file belongs to the caller and has the input's rights to read,
 * write and run as far as the umask lets; in place all attributes are kept, or nothing is written. What had the name of
 * a new file is replaced and not written to: where it was a symbolic link, the link. In place, where the path is a link
 * the file that it led to is replaced. The other hard links of a replaced file keep the old content: in place that is
 * refused unless the user says so.
 */

import { type BigIntStats, closeSync, fstatSync, fsync, ftruncate, lstatSync, write } from "node:fs";
import { open } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { promisify } from "node:util";
import { InputError } from "../errors.js";
import type { SparseContent } from "../sparse-content.js";

import type { OptionalAttribute } from "./attribute-names.js";
import { copyAttributes } from "./attributes.js";
import { inside, openDirectory, pathOf, placeOf } from "./descriptors.js";
import { explained, FileError, isSystemError } from "./file-error.js";
import { isUnchanged, MAX_SIZE, type OpenInput } from "./input.js";
import { pathBytes } from "./path-bytes.js";
import { withTemporaryFile } from "./temporary.js";

/** Where the result of a command goes. */
export type Destination = { readonly inPlace: true } | { readonly inPlace: false; readonly path: string };

export interface WriteOptions {
  /** In place: replace a file that has several hard links; the others keep the old content. */
  readonly breakHardLinks: boolean;
  /** In place: attributes of the input that the output need not get. */
  readonly giveUp: readonly OptionalAttribute[];
}

/** A checked place for the output. */
export interface OutputPlace {
  /** The path as the user would name it. */
  readonly path: string;
  readonly directory: number;
  readonly name: Buffer;
  readonly inPlace: boolean;
}

/**
 * Settles where the output will stand, before any work is done for it, and keeps its directory open until `use` is
 * done.
 * @throws InputError about the input, FileError about the output, and whatever `use` throws
 */
export async function withPlace<T>(
  input: OpenInput,
  destination: Destination,
  options: WriteOptions,
  use: (place: OutputPlace) => Promise<T>,
): Promise<T> {
  const place = destination.inPlace
    ? await placeOfInput(input, options)
    : await explained(destination.path, "be written", () => placeNamed(destination.path, input));
  try {
    return await use(place);
  } finally {
    closeSync(place.directory);
  }
}

async function placeOfInput(input: OpenInput, options: WriteOptions): Promise<OutputPlace> {
  if (input.stat.nlink > 1n && !options.breakHardLinks)
    throw new InputError(
      `has ${input.stat.nlink} hard links; --break-hard-links replaces this one and leaves the others as they are`,
    );
  return explained(input.path, "be replaced", () => {
    const real = placeOf(input.fd);
    const slash = real.lastIndexOf("/");
    const directory = openDirectory(slash === 0 ? "/" : real.subarray(0, slash), false);
    const place = { path: input.path, directory, name: real.subarray(slash + 1), inPlace: true };
    return checked(place, () => checkInput(input, place));
  });
}

function placeNamed(path: string, input: OpenInput): OutputPlace {
  const name = basename(path);
  const directory = openDirectory(pathBytes(dirname(path)), true);
  const place = { path, directory, name: pathBytes(name), inPlace: false };
  return checked(place, () => {
    const existing = lookUp(place);
    if (name === "" || name === "." || name === ".." || existing?.isDirectory())
      throw new FileError(path, "is a directory");
    if (path.endsWith("/")) throw new FileError(path, "is not a file name");
    if (existing !== undefined && !existing.isFile() && !existing.isSymbolicLink())
      throw new FileError(path, "not a regular file");
    if (existing?.dev === input.stat.dev && existing.ino === input.stat.ino)
      throw new FileError(path, `is the same file as the input ${input.path}; --in-place rewrites a file where it is`);
    // /dev/stdout and its like are links that programs count on.
    if (/^\/(?:proc|sys|dev(?!\/shm))(?:\/|$)/.test(placeOf(directory).toString()))
      throw new FileError(path, "is in a directory of the system's, where files cannot be replaced");
  });
}

/** The place, which is let go where it is not as it has to be. */
function checked(place: OutputPlace, check: () => void): OutputPlace {
  try {
    check();
    return place;
  } catch (error) {
    closeSync(place.directory);
    throw error;
  }
}

/**
 * Writes `content` to its place.
 * @throws InputError about the input, FileError about the output; then nothing has changed
 */
export async function writeOutput(
  input: OpenInput,
  content: SparseContent,
  place: OutputPlace,
  options: WriteOptions,
): Promise<void> {
  if (content.size > MAX_SIZE) throw new InputError("the output would have more than 64 GiB, which are not supported");
  // Of a new file the system makes the mode what the umask leaves of it.
  const mode = place.inPlace ? PRIVATE : Number(input.stat.mode) & 0o777;
  await explained(place.path, "be written", () =>
    withTemporaryFile(place.directory, mode, async (temporary) => {
      const { fd } = temporary;
      await writeSparse(fd, content);
      checkInput(input, place);
      // The content is on its way to the disk while another process copies the attributes; what is left then takes no
      // time.
      if (place.inPlace) await Promise.all([synced(fd), copyAttributes(input.fd, fd, place.path, options.giveUp)]);
      await synced(fd);
      checkInput(input, place);
      temporary.rename(place.name);
    }),
  );
  await syncDirectory(place.directory);
}

const PRIVATE = 0o600;
const [synced, truncated, written] = [promisify(fsync), promisify(ftruncate), promisify(write)];

/** The input is what was read, and stands where it is to be replaced. */
function checkInput(input: OpenInput, place: OutputPlace): void {
  const now = fstatSync(input.fd, { bigint: true });
  if (!place.inPlace) {
    // What was opened may go away, or get another name: that is no change of what was read.
    if (!isUnchanged({ ...now, ctimeNs: input.stat.ctimeNs }, input.stat)) throw new FileError(input.path, CHANGED);
    return;
  }
  const named = lookUp(place);
  if (named === undefined) throw new FileError(input.path, "vanished while it was worked on");
  if (!isUnchanged(named, input.stat) || !isUnchanged(now, input.stat)) throw new FileError(input.path, CHANGED);
}

const CHANGED = "changed while it was worked on";

/** What has the place's name now; a link is what it is, not where it leads. */
const lookUp = ({ directory, name }: OutputPlace): BigIntStats | undefined =>
  lstatSync(inside(directory, name), { bigint: true, throwIfNoEntry: false });

/** Runs of zeros of this many bytes, aligned to it, are left as holes: pieces may be whole files that had holes. */
const HOLE = 4096;
/** Node writes less than 2 GiB in a call. */
const MOST_AT_ONCE = 1 << 30;
const zeros = Buffer.alloc(HOLE);

async function writeSparse(fd: number, content: SparseContent): Promise<void> {
  for (const piece of content.pieces) {
    for (const { start, end } of runsOfData(piece.bytes, piece.offset)) {
      let at = start;
      while (at < end) {
        const size = Math.min(end - at, MOST_AT_ONCE);
        at += (await written(fd, piece.bytes, at, size, piece.offset + at)).bytesWritten;
      }
    }
  }
  await truncated(fd, content.size);
}

/** The parts of a piece that must be written, in indexes of `bytes`. */
function* runsOfData(bytes: Uint8Array, offset: number): Generator<{ start: number; end: number }> {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let start = 0;
  // The first index whose offset in the file is a multiple of HOLE.
  for (let at = (HOLE - (offset % HOLE)) % HOLE; at + HOLE <= buffer.length; at += HOLE) {
    if (buffer[at] !== 0 || buffer.compare(zeros, 0, HOLE, at, at + HOLE) !== 0) continue;
    if (at > start) yield { start, end: at };
    start = at + HOLE;
  }
  if (start < buffer.length) yield { start, end: buffer.length };
}

/** Makes the new name itself durable. The output exists whether or not the file system offers that. */
async function syncDirectory(directory: number): Promise<void> {
  try {
    // The descriptor stands for the place alone.
    const handle = await open(pathOf(directory), "r");
    await handle.sync().finally(() => handle.close());
  } catch (error) {
    if (!isSystemError(error)) throw error;
  }
}
