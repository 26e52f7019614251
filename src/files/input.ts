/**
 * Reading a file whole, and noticing when that went wrong. It is opened once: a name may lead elsewhere the next time.
 *
 * The size is taken from the open file, exactly so many bytes are read, and afterwards the file must still be what it
 * was: someone who links or installs it at the same moment would otherwise leave us with a mixture.
 */
import { constants as bufferLimits } from "node:buffer";
import { type BigIntStats, closeSync, constants, fstatSync, lstatSync, openSync, readSync } from "node:fs";
import { type Interval, PAGE_SIZE } from "../address.js";
import { describedEnd } from "../elf/extent.js";
import { InputError } from "../errors.js";
import { describe, isSystemError } from "./file-error.js";
import { pathBytes } from "./path-bytes.js";

export interface InputFile {
  /** The path as it was given. */
  readonly path: string;
  /** The file, but for `zeroTail`. */
  readonly bytes: Buffer;
  /** Where `bytes` has zeros that nothing was read into, in ascending order: to look at them takes time. */
  readonly holes: readonly Interval[];
  /** How many zeros follow at the file's end, where they are many and no header leads to them. */
  readonly zeroTail: number;
  /** What the open file was before its first byte was read. */
  readonly stat: BigIntStats;
}

/** All of a file is read once, holes as well. Nothing longer is written either: it could not be reverted. */
export const MAX_SIZE = 2 ** 36;
/** So much of a file can have a place in memory: 4 GiB with Node 20. What is a hole takes none. */
const MAX_PLACED = bufferLimits.MAX_LENGTH;

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

function whole(fd: number, { size, blocks }: BigIntStats): Pick<InputFile, "bytes" | "holes" | "zeroTail"> {
  const length = Number(size);
  if (Number(blocks) * BLOCK_SIZE < length - FEW_ZEROS) return sparse(fd, length);
  const bytes = placed(length, Buffer.allocUnsafeSlow);
  load(fd, bytes, 0, length);
  const zeroTail = tailOf(length, Math.max(endOf(fd, length), lastData(bytes)));
  return { bytes: bytes.subarray(0, length - zeroTail), holes: [], zeroTail };
}

/** A buffer for so much of a file. */
function placed(size: number, allocate: (size: number) => Buffer): Buffer {
  if (size > MAX_PLACED) throw new InputError(`larger than ${MAX_PLACED} bytes: not supported by this version of Node`);
  try {
    return allocate(size);
  } catch (error) {
    if (error instanceof RangeError) throw new InputError(`no memory for its ${size} bytes`);
    throw error;
  }
}

/** The end of what its headers describe. */
const endOf = (fd: number, length: number): number => describedEnd((offset, size) => part(fd, offset, size), length);

/** As many bytes of a range as the file has. */
function part(fd: number, offset: number, size: number): Buffer {
  const bytes = Buffer.alloc(size);
  let at = 0;
  while (at < size && offset + at < MAX_SIZE) {
    const read = readSync(fd, bytes, at, size - at, offset + at);
    if (read === 0) break;
    at += read;
  }
  return bytes.subarray(0, at);
}

/** How many zeros stand after what is described and after all that is not zero, where they are many. */
const tailOf = (length: number, end: number): number => (length - end >= FEW_ZEROS ? length - end : 0);

/** The end of the last byte that is not zero. */
function lastData(bytes: Buffer): number {
  let end = bytes.length;
  for (; end > 0; end -= CHUNK) {
    const start = Math.max(0, end - CHUNK);
    if (bytes.compare(zeros, 0, end - start, start, end) !== 0) break;
  }
  end = Math.max(0, end);
  while (end > 0 && bytes[end - 1] === 0) end--;
  return end;
}

/**
 * Reads only parts of a regular file, for whoever needs little of a large one. `use` gets a buffer that goes as far as
 * the file's headers do, and a function that loads a range of it, cut to the buffer and rounded to pages; everything else
 * in the buffer is zero, and costs no memory.
 * @throws InputError as `readInput`, and whatever `use` throws
 */
export function readParts<T>(path: string, use: (bytes: Buffer, need: (offset: number, size: number) => void) => T): T {
  return withOpenFile(path, (fd, stat) => {
    const size = Number(stat.size);
    const bytes = placed(size <= FEW_ZEROS ? size : endOf(fd, size) || PAGE_SIZE, Buffer.alloc);
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
/** So many bytes of zeros are read and written as any others. */
const FEW_ZEROS = 1 << 20;
const CHUNK = 1 << 16;
const zeros = Buffer.alloc(CHUNK);
/** How much is read at a time. */
const READ = 1 << 18;

/** Reads a file with holes, which take no place in memory. */
function sparse(fd: number, length: number): Pick<InputFile, "bytes" | "holes" | "zeroTail"> {
  const pieces: { at: number; bytes: Buffer }[] = [];
  const holes: { start: number; end: number }[] = [];
  const buffer = Buffer.alloc(READ);
  for (let at = 0; at < length; ) {
    const read = readSync(fd, buffer, 0, Math.min(READ, length - at), at);
    if (read === 0) throw shorter(at);
    for (let from = 0; from < read; from += CHUNK) {
      const chunk = buffer.subarray(from, Math.min(from + CHUNK, read));
      const start = at + from;
      const end = start + chunk.length;
      const last = holes.at(-1);
      if (chunk[0] !== 0 || chunk.compare(zeros, 0, chunk.length) !== 0)
        pieces.push({ at: start, bytes: Buffer.from(chunk) });
      else if (last?.end === start) last.end = end;
      else holes.push({ start, end });
    }
    at += read;
  }
  const last = pieces.at(-1);
  const dataEnd = last === undefined ? 0 : last.at + lastData(last.bytes);
  const zeroTail = tailOf(length, Math.max(endOf(fd, length), dataEnd));
  const bytes = placed(length - zeroTail, Buffer.alloc);
  for (const piece of pieces) piece.bytes.copy(bytes, piece.at);
  const inside = holes.map(({ start, end }) => ({ start, end: Math.min(end, bytes.length) }));
  return { bytes, holes: inside.filter(({ start, end }) => start < end), zeroTail };
}

const shorter = (at: number): InputError =>
  new InputError("became shorter while it was read", `offset 0x${at.toString(16)}`);

/** Node reads less than 2 GiB in a call. */
const MOST_AT_ONCE = 1 << 30;

function load(fd: number, bytes: Buffer, offset: number, size: number): void {
  for (let at = offset; at < offset + size; ) {
    const read = readSync(fd, bytes, at, Math.min(offset + size - at, MOST_AT_ONCE), at);
    if (read === 0) throw shorter(at);
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
  if (stat.size > MAX_SIZE) throw new InputError("files of more than 64 GiB are not supported");
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

type State = Pick<BigIntStats, "dev" | "ino" | "size" | "mtimeNs" | "ctimeNs" | "nlink">;

/**
 * Whether two states of a path are the same file with the same content, as far as the system can tell. Nobody can set
 * ctime back; it also changes where somebody makes or takes away a name, which is no change of the file.
 */
export const isUnchanged = (now: State, before: State): boolean =>
  now.dev === before.dev &&
  now.ino === before.ino &&
  now.size === before.size &&
  now.mtimeNs === before.mtimeNs &&
  (now.ctimeNs === before.ctimeNs || now.nlink !== before.nlink);

/**
 * O_NONBLOCK: opening a FIFO must not wait for a writer. O_NOATIME: the access time is one of the times that are kept,
 * and reading should not change it; the system grants that to the file's owner only.
 */
function open(name: string, follow: boolean): number {
  const path = pathBytes(name);
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

const isLink = (path: Buffer): boolean => lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() ?? false;
