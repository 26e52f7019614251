/**
 * Reading a file whole, and noticing when that went wrong. It is opened once: a name may lead elsewhere the next time.
 *
 * The size is taken from the open file, exactly so many bytes are read, and afterwards the file must still be what it
 * was: someone who links or installs it at the same moment would otherwise leave us with a mixture.
 */
import { type BigIntStats, closeSync, constants, fstatSync, lstatSync, openSync, readSync } from "node:fs";
import { type Interval, PAGE_SIZE } from "../address.js";
import { InputError } from "../errors.js";
import { describe, isSystemError } from "./file-error.js";

export interface InputFile {
  /** The path as it was given. */
  readonly path: string;
  readonly bytes: Buffer;
  /** Where `bytes` has zeros that nothing was read into, in ascending order: to look at them takes memory and time. */
  readonly holes: readonly Interval[];
  /** What the open file was before its first byte was read. */
  readonly stat: BigIntStats;
}

/** Larger files are no binaries, and one read or one Buffer of Node could not hold them. */
const MAX_SIZE = 2 ** 31 - 1;

/** A file that stays open while it is worked on: what is asked of it later is asked of what was read. */
export interface OpenInput extends InputFile {
  readonly fd: number;
}

/**
 * Reads a regular file; a symbolic link is followed.
 * @throws InputError where it cannot be read, is no regular file, or changes meanwhile
 */
export function readInput(path: string): InputFile {
  return withOpenFile(path, (fd, stat) => ({ path, stat, ...whole(fd, stat) }));
}

/**
 * Reads a regular file, and keeps it open until `use` is done.
 * @param follow whether it may be a symbolic link
 * @throws InputError as `readInput`, and whatever `use` throws
 */
export async function withInput<T>(path: string, follow: boolean, use: (input: OpenInput) => Promise<T>): Promise<T> {
  const fd = readable(() => open(path, follow));
  try {
    return await use({ path, fd, ...readable(() => unchanged(fd, (stat) => ({ stat, ...whole(fd, stat) }))) });
  } finally {
    closeSync(fd);
  }
}

function whole(fd: number, { size, blocks }: BigIntStats): Pick<InputFile, "bytes" | "holes"> {
  const length = Number(size);
  const isSparse = Number(blocks) * BLOCK_SIZE < length - MOST_HOLES;
  const bytes = isSparse ? Buffer.alloc(length) : Buffer.allocUnsafeSlow(length);
  if (!isSparse) load(fd, bytes, 0, length);
  return { bytes, holes: isSparse ? loadData(fd, bytes) : [] };
}

/**
 * Reads only parts of a regular file, for whoever needs little of a large one. `use` gets a buffer of the file's size
 * and a function that loads a range of it, cut to the file and rounded to pages; everything else in the buffer is zero,
 * and costs no memory.
 * @throws InputError as `readInput`, and whatever `use` throws
 */
export function readParts<T>(path: string, use: (bytes: Buffer, need: (offset: number, size: number) => void) => T): T {
  return withOpenFile(path, (fd, stat) => {
    const bytes = Buffer.alloc(Number(stat.size));
    // Probes stand close together: what was read once, a page at a time, need not be read again.
    const loaded = new Uint8Array(Math.ceil(bytes.length / PAGE_SIZE));
    return use(bytes, (offset, size) => {
      const end = Math.min(offset + size, bytes.length);
      let page = Math.floor(offset / PAGE_SIZE);
      while (page * PAGE_SIZE < end) {
        const first = page;
        while (page * PAGE_SIZE < end && loaded[page] === 0) loaded[page++] = 1;
        const start = first * PAGE_SIZE;
        if (page > first) load(fd, bytes, start, Math.min(page * PAGE_SIZE, bytes.length) - start);
        else page++;
      }
    });
  });
}

/** What st_blocks counts in. */
const BLOCK_SIZE = 512;
/** So many bytes of holes are read as any others. */
const MOST_HOLES = 1 << 20;
const CHUNK = 1 << 16;

/** Loads a file with holes into zeros, and says where it left them alone. */
function loadData(fd: number, bytes: Buffer): { start: number; end: number }[] {
  const holes: { start: number; end: number }[] = [];
  const chunk = Buffer.alloc(CHUNK);
  const zeros = Buffer.alloc(CHUNK);
  for (let at = 0; at < bytes.length; ) {
    const read = readSync(fd, chunk, 0, Math.min(CHUNK, bytes.length - at), at);
    if (read === 0) throw new InputError("became shorter while it was read", `offset 0x${at.toString(16)}`);
    const last = holes.at(-1);
    if (chunk.compare(zeros, 0, read, 0, read) !== 0) chunk.copy(bytes, at, 0, read);
    else if (last?.end === at) last.end += read;
    else holes.push({ start: at, end: at + read });
    at += read;
  }
  return holes;
}

function load(fd: number, bytes: Buffer, offset: number, size: number): void {
  for (let at = offset; at < offset + size; ) {
    const read = readSync(fd, bytes, at, offset + size - at, at);
    if (read === 0) throw new InputError("became shorter while it was read", `offset 0x${at.toString(16)}`);
    at += read;
  }
}

function withOpenFile<T>(path: string, use: (fd: number, stat: BigIntStats) => T): T {
  return readable(() => {
    const fd = open(path, true);
    try {
      return unchanged(fd, (stat) => use(fd, stat));
    } finally {
      closeSync(fd);
    }
  });
}

/** Runs `use` on a regular file and sees to it that it did not change meanwhile. */
function unchanged<T>(fd: number, use: (stat: BigIntStats) => T): T {
  const stat = fstatSync(fd, { bigint: true });
  if (stat.isDirectory()) throw new InputError("is a directory");
  if (!stat.isFile()) throw new InputError("not a regular file");
  if (stat.size > MAX_SIZE) throw new InputError("files of 2 GiB and more are not supported");
  const result = use(stat);
  if (!isUnchanged(fstatSync(fd, { bigint: true }), stat)) throw new InputError("changed while it was read");
  return result;
}

/** Says errors of the system in words. */
function readable<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (isSystemError(error)) throw new InputError(`cannot be read: ${describe(error)}`);
    throw error;
  }
}

/** Whether two states of a path are the same file with the same content, as far as the system can tell. */
export const isUnchanged = (now: BigIntStats, before: BigIntStats): boolean =>
  now.dev === before.dev && now.ino === before.ino && now.size === before.size && now.mtimeNs === before.mtimeNs;

/**
 * O_NONBLOCK: opening a FIFO must not wait for a writer. O_NOATIME: the access time is one of the times that are kept,
 * and reading should not change it; the system grants that to the file's owner only.
 */
function open(path: string, follow: boolean): number {
  const flags = constants.O_RDONLY | constants.O_NONBLOCK | (follow ? 0 : constants.O_NOFOLLOW);
  try {
    return openSync(path, flags | constants.O_NOATIME);
  } catch (error) {
    if (!isSystemError(error)) throw error;
    if (error.code === "EPERM") return openSync(path, flags);
    if (error.code === "ELOOP" && !follow && isLink(path)) throw new InputError("is a symbolic link");
    throw error;
  }
}

const isLink = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
