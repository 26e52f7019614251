/** System calls about time: a clock on which an instruction takes a nanosecond, so that it is the same in every run. */
import { CallError, Errno } from "./errno.js";
import { type Process, type SystemCall, type SystemCalls, writeUser } from "./process.js";

/** CLOCK_REALTIME at the start: 2026-01-01 00:00:00 UTC, in seconds. */
const START_OF_TIME = 1_767_225_600;
const CLOCK_REALTIME = 0;
const CLOCK_REALTIME_COARSE = 5;
const LAST_CLOCK = 7;

function now(process: Process, real: boolean): { seconds: number; nanoseconds: number } {
  const ran = process.cpu.instructions;
  return {
    seconds: (real ? START_OF_TIME : 0) + Math.floor(ran / 1e9),
    nanoseconds: ran % 1e9,
  };
}

function pair(seconds: number, part: number): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeBigInt64LE(BigInt(seconds), 0);
  bytes.writeBigInt64LE(BigInt(part), 8);
  return bytes;
}

const clockGettime: SystemCall = (process, args) => {
  const clock = args.int(0);
  if (clock < 0 || clock > LAST_CLOCK) throw new CallError(Errno.EINVAL);
  const { seconds, nanoseconds } = now(process, clock === CLOCK_REALTIME || clock === CLOCK_REALTIME_COARSE);
  writeUser(process, args.address(1), pair(seconds, nanoseconds));
  return 0;
};

const gettimeofday: SystemCall = (process, args) => {
  const { seconds, nanoseconds } = now(process, true);
  if (args.size(0) !== 0) writeUser(process, args.address(0), pair(seconds, Math.floor(nanoseconds / 1000)));
  return 0;
};

const time: SystemCall = (process, args) => {
  const { seconds } = now(process, true);
  if (args.size(0) !== 0) writeUser(process, args.address(0), pair(seconds, 0).subarray(0, 8));
  return seconds;
};

/** Sleeping takes no time. */
const nanosleep: SystemCall = () => 0;

export const timeCalls: SystemCalls = new Map([
  [35, nanosleep],
  [96, gettimeofday],
  [201, time],
  [228, clockGettime],
  [230, nanosleep], // clock_nanosleep
]);
