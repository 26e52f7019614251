/**
 * Reading a file whole, and noticing when that went wrong.
 *
 * The size is taken from the open file, exactly so many bytes are read, and afterwards the file must still be what it
 * was: someone who links or installs it at the same moment would otherwise leave us with a mixture.
 */
import { type BigIntStats, closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
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

/**
 * Reads a regular file; a symbolic link is followed.
 * @throws InputError where it cannot be read, is no regular file, or changes meanwhile
 */
export function readInput(path: string): InputFile {
  return withOpenFile(path, (fd, stat) => {
    const size = Number(stat.size);
    const isSparse = Number(stat.blocks) * BLOCK_SIZE < size - MOST_HOLES;
    const bytes = isSparse ? Buffer.alloc(size) : Buffer.allocUnsafeSlow(size);
    if (!isSparse) load(fd, bytes, 0, size);
    return { path, bytes, stat, holes: isSparse ? loadData(fd, bytes) : [] };
  });
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
  try {
    const fd = open(path);
    try {
      const stat = fstatSync(fd, { bigint: true });
      if (stat.isDirectory()) throw new InputError("is a directory");
      if (!stat.isFile()) throw new InputError("not a regular file");
      if (stat.size > MAX_SIZE) throw new InputError("files of 2 GiB and more are not supported");
      const result = use(fd, stat);
      if (!isUnchanged(fstatSync(fd, { bigint: true }), stat)) throw new InputError("changed while it was read");
      return result;
    } finally {
      closeSync(fd);
    }
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
function open(path: string): number {
  const flags = constants.O_RDONLY | constants.O_NONBLOCK;
  try {
    return openSync(path, flags | constants.O_NOATIME);
  } catch (error) {
    if (isSystemError(error) && error.code === "EPERM") return openSync(path, flags);
    throw error;
  }
}
