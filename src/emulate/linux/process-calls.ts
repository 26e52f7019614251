/** System calls about the process itself: its end, its thread, its identity, its limits. */
import { runtimeAddress } from "../../address.js";
import { FS_BASE, GS_BASE, highWord, lowWord } from "../state.js";
import { CallError, Errno } from "./errno.js";
import {
  NAME_SIZE,
  NotImplemented,
  readUntilZero,
  readUser,
  type SystemCall,
  type SystemCalls,
  writeUser,
} from "./process.js";
import { USER_ID } from "./start.js";

export const PROCESS_ID = 1000;
const PARENT_ID = 1;
const ARCH_SET_GS = 0x1001;
const ARCH_SET_FS = 0x1002;
const ARCH_GET_FS = 0x1003;
const ARCH_GET_GS = 0x1004;
const PR_SET_NAME = 15;
const PR_GET_NAME = 16;
const RLIM_INFINITY = 0xffff_ffff_ffff_ffffn;
const RLIMIT_STACK = 3;
const RLIMIT_NOFILE = 7;
const FUTEX_WAIT = 0;
const FUTEX_WAKE = 1;
const FUTEX_WAIT_BITSET = 9;
const FUTEX_WAKE_BITSET = 10;
const FUTEX_PRIVATE = 128;
const FUTEX_CLOCK_REALTIME = 256;

const exit: SystemCall = (process, args) => {
  process.end = { kind: "exit", status: args.int(0) & 0xff };
  return 0;
};

const archPrctl: SystemCall = (process, args) => {
  const { w } = process.cpu;
  const code = args.int(0);
  const word = code === ARCH_SET_FS || code === ARCH_GET_FS ? FS_BASE : GS_BASE;
  if (code === ARCH_SET_FS || code === ARCH_SET_GS) {
    w[word] = lowWord(args.size(1));
    w[word + 1] = highWord(args.size(1));
    return 0;
  }
  if (code === ARCH_GET_FS || code === ARCH_GET_GS) {
    const value = Buffer.alloc(8);
    value.writeInt32LE(w[word]!, 0);
    value.writeInt32LE(w[word + 1]!, 4);
    writeUser(process, args.address(1), value);
    return 0;
  }
  // ARCH_CET_STATUS and the like, which this kernel does not have.
  throw new CallError(Errno.EINVAL);
};

/** A thread's name: 15 bytes and a zero. */
const prctl: SystemCall = (process, args) => {
  const option = args.int(0);
  if (option === PR_SET_NAME) {
    const wanted = readUntilZero(process, args.address(1), NAME_SIZE - 1);
    process.name.fill(0).set(wanted);
  } else if (option === PR_GET_NAME) writeUser(process, args.address(1), process.name);
  else throw new NotImplemented(`prctl ${option}`);
  return 0;
};

/** Limits: 8 MiB of stack, 1024 descriptors, nothing else is limited. Setting one is not done. */
const prlimit: SystemCall = (process, args) => {
  if (args.size(2) !== 0) throw new NotImplemented("prlimit64 that sets a limit");
  if (args.size(3) === 0) return 0;
  const limit = Buffer.alloc(16);
  const soft = args.int(1) === RLIMIT_STACK ? 8n << 20n : args.int(1) === RLIMIT_NOFILE ? 1024n : RLIM_INFINITY;
  limit.writeBigUInt64LE(soft, 0);
  limit.writeBigUInt64LE(args.int(1) === RLIMIT_NOFILE ? 4096n : RLIM_INFINITY, 8);
  writeUser(process, args.address(3), limit);
  return 0;
};

/** With one thread nobody waits and nobody wakes. */
const futex: SystemCall = (process, args) => {
  const operation = args.int(1) & ~(FUTEX_PRIVATE | FUTEX_CLOCK_REALTIME);
  if (operation === FUTEX_WAKE || operation === FUTEX_WAKE_BITSET) return 0;
  if (operation !== FUTEX_WAIT && operation !== FUTEX_WAIT_BITSET) throw new NotImplemented(`futex ${operation}`);
  const value = readUser(process, args.address(0), 4).readInt32LE(0);
  if (value !== args.int(2)) throw new CallError(Errno.EAGAIN);
  throw new NotImplemented("futex wait that nothing ends");
};

const uname: SystemCall = (process, args) => {
  const fields = ["Linux", "localhost", "6.18.0", "#1", "x86_64", "(none)"];
  const name = Buffer.alloc(65 * fields.length);
  for (const [i, field] of fields.entries()) name.write(field, 65 * i);
  writeUser(process, args.address(0), name);
  return 0;
};

/** As many bytes as are wanted, the same in every run. */
const getrandom: SystemCall = (process, args) => {
  const bytes = Uint8Array.from({ length: Math.min(args.size(1), 1 << 20) }, (_, i) => (i * 151 + 43) & 0xff);
  writeUser(process, args.address(0), bytes);
  return bytes.length;
};

const schedGetaffinity: SystemCall = (process, args) => {
  if (args.size(1) < 8) throw new CallError(Errno.EINVAL);
  writeUser(process, args.address(2), Uint8Array.of(1, 0, 0, 0, 0, 0, 0, 0));
  return 8;
};

const getcwd: SystemCall = (process, args) => {
  if (args.size(1) < 2) throw new CallError(Errno.ERANGE);
  writeUser(process, runtimeAddress(args.size(0)), Buffer.from("/\0"));
  return 2;
};

/** 8 GiB of memory, half of it free (struct sysinfo: totalram at 32, freeram at 40, procs at 80, mem_unit at 104). */
const sysinfo: SystemCall = (process, args) => {
  const info = Buffer.alloc(112);
  info.writeBigUInt64LE(8n << 30n, 32);
  info.writeBigUInt64LE(4n << 30n, 40);
  info.writeUInt16LE(1, 80);
  info.writeUInt32LE(1, 104);
  writeUser(process, args.address(0), info);
  return 0;
};

/** An ordinary user may become only who it is. */
const becomeUser: SystemCall = (_process, args) => {
  if (args.int(0) !== USER_ID) throw new CallError(Errno.EPERM);
  return 0;
};

const constant =
  (value: number): SystemCall =>
  () =>
    value;

const noSuchCall: SystemCall = () => {
  throw new CallError(Errno.ENOSYS);
};

export const processCalls: SystemCalls = new Map<number, SystemCall>([
  [24, constant(0)], // sched_yield
  [39, constant(PROCESS_ID)], // getpid
  [60, exit],
  [63, uname],
  [79, getcwd],
  [95, constant(0o022)], // umask: no file is made
  [99, sysinfo],
  [102, constant(USER_ID)], // getuid
  [104, constant(USER_ID)], // getgid
  [105, becomeUser], // setuid
  [106, becomeUser], // setgid
  [107, constant(USER_ID)], // geteuid
  [108, constant(USER_ID)], // getegid
  [110, constant(PARENT_ID)], // getppid
  [157, prctl],
  [158, archPrctl],
  [186, constant(PROCESS_ID)], // gettid
  [202, futex],
  [204, schedGetaffinity],
  [218, constant(PROCESS_ID)], // set_tid_address
  [231, exit], // exit_group
  [273, constant(0)], // set_robust_list
  [302, prlimit],
  [318, getrandom],
  [334, noSuchCall], // rseq: a kernel without it is what C libraries are prepared for
]);
