/** System calls about descriptors: 0 reads the given input, 1 and 2 are collected; all three are pipes. */
import { type RuntimeAddress, runtimeAddress } from "../../address.js";
import { CallError, Errno } from "./errno.js";
import {
  type Arguments,
  NotImplemented,
  type Process,
  readUntilZero,
  readUser,
  type SystemCall,
  type SystemCalls,
  writeUser,
} from "./process.js";

const S_IFIFO = 0o010000;
const AT_FDCWD = -100;
const AT_EMPTY_PATH = 0x1000;
const STAT_SIZE = 144;
const LONGEST_PATH = 4096;
const MOST_VECTORS = 1024;
/** poll's events: POLLIN, POLLOUT. */
const [POLLIN, POLLOUT, POLLNVAL] = [1, 4, 32];

function outputOf(process: Process, descriptor: number): Uint8Array[] {
  mustBeOpen(process, descriptor);
  if (descriptor === 1) return process.stdout;
  if (descriptor === 2) return process.stderr;
  throw new CallError(Errno.EBADF);
}

const write: SystemCall = (process, args) => {
  const output = outputOf(process, args.int(0));
  const bytes = readUser(process, args.address(1), args.size(2));
  output.push(bytes);
  return bytes.length;
};

/** The parts of an iovec array. */
function vectors(process: Process, args: Arguments): { address: RuntimeAddress; size: number }[] {
  const count = args.int(2);
  if (count < 0 || count > MOST_VECTORS) throw new CallError(Errno.EINVAL);
  const table = readUser(process, args.address(1), 16 * count);
  return Array.from({ length: count }, (_, i) => ({
    address: runtimeAddress(Number(table.readBigUInt64LE(16 * i))),
    size: Number(table.readBigUInt64LE(16 * i + 8)),
  }));
}

const writev: SystemCall = (process, args) => {
  const output = outputOf(process, args.int(0));
  const bytes = Buffer.concat(vectors(process, args).map(({ address, size }) => readUser(process, address, size)));
  output.push(bytes);
  return bytes.length;
};

function readInto(process: Process, address: RuntimeAddress, size: number): number {
  const bytes = process.input.subarray(process.inputRead, process.inputRead + size);
  writeUser(process, address, bytes);
  process.inputRead += bytes.length;
  return bytes.length;
}

const read: SystemCall = (process, args) => {
  mustBeReadable(process, args.int(0));
  return readInto(process, args.address(1), args.size(2));
};

const readv: SystemCall = (process, args) => {
  mustBeReadable(process, args.int(0));
  return vectors(process, args).reduce((sum, { address, size }) => sum + readInto(process, address, size), 0);
};

const isOpen = ({ closed }: Process, descriptor: number): boolean =>
  descriptor >= 0 && descriptor <= 2 && !closed.has(descriptor);

function mustBeOpen(process: Process, descriptor: number): void {
  if (!isOpen(process, descriptor)) throw new CallError(Errno.EBADF);
}

function mustBeReadable(process: Process, descriptor: number): void {
  if (descriptor !== 0 || !isOpen(process, descriptor)) throw new CallError(Errno.EBADF);
}

const close: SystemCall = (process, args) => {
  mustBeOpen(process, args.int(0));
  process.closed.add(args.int(0));
  return 0;
};

/** struct stat of a pipe. */
function putStat(process: Process, address: RuntimeAddress, descriptor: number): void {
  const stat = Buffer.alloc(STAT_SIZE);
  stat.writeBigUInt64LE(BigInt(descriptor + 1), 8); // st_ino
  stat.writeBigUInt64LE(1n, 16); // st_nlink
  stat.writeUInt32LE(S_IFIFO | 0o600, 24); // st_mode
  stat.writeBigUInt64LE(4096n, 56); // st_blksize
  writeUser(process, address, stat);
}

const fstat: SystemCall = (process, args) => {
  mustBeOpen(process, args.int(0));
  putStat(process, args.address(1), args.int(0));
  return 0;
};

const newfstatat: SystemCall = (process, args) => {
  const path = readPath(process, args.address(1));
  if (path !== "" || (args.int(3) & AT_EMPTY_PATH) === 0) noFile(process, "newfstatat", path);
  mustBeOpen(process, args.int(0));
  putStat(process, args.address(2), args.int(0));
  return 0;
};

const ioctl: SystemCall = (process, args) => {
  mustBeOpen(process, args.int(0));
  // A pipe is no terminal, and knows none of its requests (TCGETS, TIOCGWINSZ).
  if ((args.int(1) & 0xff00) === 0x5400) throw new CallError(Errno.ENOTTY);
  throw new NotImplemented(`ioctl 0x${(args.int(1) >>> 0).toString(16)}`);
};

const lseek: SystemCall = (process, args) => {
  mustBeOpen(process, args.int(0));
  throw new CallError(Errno.ESPIPE);
};

const fcntl: SystemCall = (process, args) => {
  const descriptor = args.int(0);
  mustBeOpen(process, descriptor);
  // F_GETFD, F_GETFL: the pipes' own ends.
  if (args.int(1) === 1) return 0;
  if (args.int(1) === 3) return descriptor === 0 ? 0 : 1;
  throw new NotImplemented(`fcntl ${args.int(1)}`);
};

/** Nothing is ever waited for: input is there, or at its end, and output is taken. */
const poll: SystemCall = (process, args) => {
  const table = readUser(process, args.address(0), 8 * args.int(1));
  let ready = 0;
  for (let at = 0; at < table.length; at += 8) {
    const descriptor = table.readInt32LE(at);
    const able = descriptor === 0 ? POLLIN : POLLOUT;
    const events = descriptor < 0 ? 0 : isOpen(process, descriptor) ? table.readInt16LE(at + 4) & able : POLLNVAL;
    table.writeInt16LE(events, at + 6);
    if (events !== 0) ready++;
  }
  if (ready === 0 && args.int(2) < 0) throw new NotImplemented("poll that nothing ends");
  writeUser(process, args.address(0), table);
  return ready;
};

/** A path where there are no files: the program is told so only if its user has said that there are none. */
function noFile(process: Process, call: string, path: string): never {
  if (process.emptyFileSystem) throw new CallError(Errno.ENOENT);
  throw new NotImplemented(`${call} of "${path}"`);
}

/** A call that is about a path alone. */
const ofPath =
  (call: string, at: number): SystemCall =>
  (process, args) =>
    noFile(process, call, readPath(process, args.address(at)));

function readPath(process: Process, address: RuntimeAddress): string {
  const bytes = readUntilZero(process, address, LONGEST_PATH);
  if (bytes.length === LONGEST_PATH) throw new CallError(Errno.ENAMETOOLONG);
  return Buffer.from(bytes).toString();
}

function readLink(process: Process, path: string, to: RuntimeAddress, size: number): number {
  if (path !== "/proc/self/exe") noFile(process, "readlink", path);
  const target = Buffer.from(process.path).subarray(0, size);
  writeUser(process, to, target);
  return target.length;
}

const readlink: SystemCall = (process, args) =>
  readLink(process, readPath(process, args.address(0)), args.address(1), args.size(2));

const readlinkat: SystemCall = (process, args) => {
  const path = readPath(process, args.address(1));
  if (args.int(0) !== AT_FDCWD && !path.startsWith("/")) throw new NotImplemented("readlinkat in a directory");
  return readLink(process, path, args.address(2), args.size(3));
};

export const fileCalls: SystemCalls = new Map<number, SystemCall>([
  [0, read],
  [1, write],
  [2, ofPath("open", 0)],
  [3, close],
  [4, ofPath("stat", 0)],
  [5, fstat],
  [6, ofPath("lstat", 0)],
  [7, poll],
  [8, lseek],
  [16, ioctl],
  [19, readv],
  [20, writev],
  [21, ofPath("access", 0)],
  [72, fcntl],
  [89, readlink],
  [257, ofPath("openat", 1)],
  [262, newfstatat],
  [267, readlinkat],
  [269, ofPath("faccessat", 1)],
]);
