/**
 * Writing the result so that at every moment either the old file or the complete new one is there.
 *
 *     choose the place  ->  temporary file beside it  ->  pieces, holes  ->  attributes  ->  fsync  ->  rename  ->  fsync of the directory
 *
 * A symbolic link is never replaced, the file it leads to is. Renaming gives a path a new file, so the other hard links
 * of the old file keep the old content: in place that is refused unless the user says so.
 */

import type { BigIntStats } from "node:fs";
import { type FileHandle, lstat, open, realpath, rename, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { InputError } from "../errors.js";
import type { SparseContent } from "../sparse-content.js";

import type { OptionalAttribute } from "./attribute-names.js";
import { copyAttributes } from "./attributes.js";
import { explained, FileError, isSystemError } from "./file-error.js";
import { type InputFile, isUnchanged } from "./input.js";
import { withTemporaryFile } from "./temporary.js";

/** Where the result of a command goes. */
export type Destination = { readonly inPlace: true } | { readonly inPlace: false; readonly path: string };

export interface WriteOptions {
  /** In place: replace a file that has several hard links; the others keep the old content. */
  readonly breakHardLinks: boolean;
  /** Attributes of the input that the output need not get. */
  readonly giveUp: readonly OptionalAttribute[];
}

/** A checked place for the output. */
interface OutputPlace {
  /** The path as the user would name it. */
  readonly path: string;
  /** The file that will be replaced or created: no symbolic link any more. */
  readonly target: string;
  readonly inPlace: boolean;
}

/**
 * Settles where the output will stand, before any work is done for it.
 * @throws InputError about the input, FileError about the output
 */
export async function choosePlace(
  input: InputFile,
  destination: Destination,
  options: WriteOptions,
): Promise<OutputPlace> {
  if (destination.inPlace) {
    if (input.stat.nlink > 1n && !options.breakHardLinks)
      throw new InputError(
        `has ${input.stat.nlink} hard links; --break-hard-links replaces this one and leaves the others as they are`,
      );
    const target = await explained(input.path, "be replaced", () => realpath(input.path));
    return { path: input.path, target, inPlace: true };
  }
  const { path } = destination;
  return explained(path, "be written", async () => {
    const existing = await statOf(path);
    if (existing === null) {
      if (await isLink(path)) throw new FileError(path, "is a symbolic link that leads nowhere");
      if (path.endsWith("/")) throw new FileError(path, "is not a file name");
      const directory = await realpath(dirname(resolve(path)));
      return { path, target: join(directory, basename(path)), inPlace: false };
    }
    if (existing.isDirectory()) throw new FileError(path, "is a directory");
    if (!existing.isFile()) throw new FileError(path, "not a regular file");
    if (existing.dev === input.stat.dev && existing.ino === input.stat.ino)
      throw new FileError(path, `is the same file as the input ${input.path}; --in-place rewrites a file where it is`);
    return { path, target: await realpath(path), inPlace: false };
  });
}

/**
 * Writes `content` to its place with the attributes of the input.
 * @throws InputError about the input, FileError about the output; then nothing has changed
 */
export async function writeOutput(
  input: InputFile,
  content: SparseContent,
  place: OutputPlace,
  options: WriteOptions,
): Promise<void> {
  const directory = dirname(place.target);
  await explained(place.path, "be written", () =>
    withTemporaryFile(directory, async (temporary) => {
      await writeSparse(temporary.handle, content);
      const source = await unchangedInput(input);
      // The content is on its way to the disk while another process copies the attributes; what is left then takes no
      // time.
      await Promise.all([
        temporary.handle.sync(),
        copyAttributes(source, input.stat, temporary, place.path, options.giveUp),
      ]);
      await temporary.handle.sync();
      if (place.inPlace) await unchangedInput(input);
      await rename(temporary.path, place.target);
      temporary.renamed();
    }),
  );
  await syncDirectory(directory);
}

/** A whole file as content: what a plain copy writes. */
export function wholeFile(bytes: Buffer, holes: InputFile["holes"] = []): SparseContent {
  const pieces: { offset: number; bytes: Buffer }[] = [];
  let from = 0;
  for (const { start, end } of [...holes, { start: bytes.length, end: bytes.length }]) {
    if (start > from) pieces.push({ offset: from, bytes: bytes.subarray(from, start) });
    from = end;
  }
  return { size: bytes.length, pieces };
}

/** The input's real path, if it is still the file that was read. */
async function unchangedInput(input: InputFile): Promise<string> {
  const now = await statOf(input.path);
  if (now === null) throw new FileError(input.path, "vanished while it was worked on");
  if (!isUnchanged(now, input.stat)) throw new FileError(input.path, "changed while it was worked on");
  return realpath(input.path);
}

/** Runs of zeros of this many bytes, aligned to it, are left as holes: pieces may be whole files that had holes. */
const HOLE = 65536;
const zeros = Buffer.alloc(HOLE);

async function writeSparse(handle: FileHandle, content: SparseContent): Promise<void> {
  for (const piece of content.pieces) {
    for (const { start, end } of runsOfData(piece.bytes, piece.offset)) {
      let at = start;
      while (at < end) at += (await handle.write(piece.bytes, at, end - at, piece.offset + at)).bytesWritten;
    }
  }
  await handle.truncate(content.size);
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
async function syncDirectory(directory: string): Promise<void> {
  try {
    const handle = await open(directory, "r");
    await handle.sync().finally(() => handle.close());
  } catch (error) {
    if (!isSystemError(error)) throw error;
  }
}

async function statOf(path: string): Promise<BigIntStats | null> {
  try {
    return await stat(path, { bigint: true });
  } catch (error) {
    if (isSystemError(error) && error.code === "ENOENT") return null;
    throw error;
  }
}

const isLink = async (path: string): Promise<boolean> => {
  try {
    return (await lstat(path)).isSymbolicLink();
  } catch {
    return false;
  }
};
