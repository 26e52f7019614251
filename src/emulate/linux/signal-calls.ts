/** System calls about signals. */
import { CallError, Errno } from "./errno.js";
import {
  type Arguments,
  NotImplemented,
  type Process,
  readUser,
  type SystemCall,
  type SystemCalls,
  writeUser,
} from "./process.js";
import { PROCESS_ID } from "./process-calls.js";
import { leaveHandler } from "./signal-frame.js";
import { bitOf, LAST_SIGNAL, Signal } from "./signal-state.js";
import { send } from "./signals.js";
import { USER_ID } from "./start.js";

const SET_SIZE = 8;
/** si_code of kill and of tgkill. */
const SI_USER = 0;
const SI_TKILL = -6;
const SS_DISABLE = 2;
const SMALLEST_STACK = 2048n;
/** Never blocked. */
const alwaysOpen = bitOf(Signal.SIGKILL) | bitOf(Signal.SIGSTOP);

const sigaction: SystemCall = (process, args) => {
  const signal = args.int(0);
  const { actions } = process.signals;
  if (args.size(3) !== SET_SIZE || signal < 1 || signal > LAST_SIGNAL) throw new CallError(Errno.EINVAL);
  if (args.size(1) !== 0 && (signal === Signal.SIGKILL || signal === Signal.SIGSTOP)) throw new CallError(Errno.EINVAL);
  const before = process.signals.actionOf(signal);
  if (args.size(1) !== 0) {
    const wanted = readUser(process, args.address(1), 32);
    actions.set(signal, {
      handler: wanted.readBigUInt64LE(0),
      flags: wanted.readBigUInt64LE(8),
      restorer: wanted.readBigUInt64LE(16),
      mask: wanted.readBigUInt64LE(24) & ~alwaysOpen,
    });
  }
  if (args.size(2) !== 0) {
    const old = Buffer.alloc(32);
    for (const [i, word] of [before.handler, before.flags, before.restorer, before.mask].entries())
      old.writeBigUInt64LE(word, 8 * i);
    writeUser(process, args.address(2), old);
  }
  return 0;
};

const sigprocmask: SystemCall = (process, args) => {
  const { signals } = process;
  if (args.size(3) !== SET_SIZE) throw new CallError(Errno.EINVAL);
  const before = signals.blocked;
  if (args.size(1) !== 0) {
    const set = readUser(process, args.address(1), SET_SIZE).readBigUInt64LE(0) & ~alwaysOpen;
    const how = args.int(0);
    if (how === 0) signals.blocked |= set;
    else if (how === 1) signals.blocked &= ~set;
    else if (how === 2) signals.blocked = set;
    else throw new CallError(Errno.EINVAL);
  }
  if (args.size(2) !== 0) putSet(process, args, 2, before);
  return 0;
};

const sigpending: SystemCall = (process, args) => {
  const { signals } = process;
  putSet(
    process,
    args,
    0,
    signals.pending.map(({ signal }) => bitOf(signal)).reduce((a, b) => a | b, 0n),
  );
  return 0;
};

function putSet(process: Process, args: Arguments, i: number, set: bigint): void {
  const bytes = Buffer.alloc(SET_SIZE);
  bytes.writeBigUInt64LE(set);
  writeUser(process, args.address(i), bytes);
}

const sigaltstack: SystemCall = (process, args) => {
  const { signals } = process;
  const { at, size, disabled } = signals.alternate;
  const before = Buffer.alloc(24);
  before.writeBigUInt64LE(at, 0);
  before.writeInt32LE(disabled ? SS_DISABLE : 0, 8);
  before.writeBigUInt64LE(size, 16);
  if (args.size(0) !== 0) {
    const wanted = readUser(process, args.address(0), 24);
    const flags = wanted.readInt32LE(8);
    if ((flags & ~SS_DISABLE) !== 0) throw new NotImplemented(`sigaltstack with flags 0x${flags.toString(16)}`);
    const next = { at: wanted.readBigUInt64LE(0), size: wanted.readBigUInt64LE(16), disabled: flags === SS_DISABLE };
    if (!next.disabled && next.size < SMALLEST_STACK) throw new CallError(Errno.ENOMEM);
    signals.alternate = next.disabled ? { at: 0n, size: 0n, disabled: true } : next;
  }
  if (args.size(1) !== 0) writeUser(process, args.address(1), before);
  return 0;
};

const sendTo =
  (idAt: number, signalAt: number, code: number): SystemCall =>
  (process, args) => {
    const [id, signal] = [args.int(idAt), args.int(signalAt)];
    if (signal < 0 || signal > LAST_SIGNAL) throw new CallError(Errno.EINVAL);
    // Another process, or a group of them.
    if (id <= 0) throw new NotImplemented(`kill of process group ${-id}`);
    if (id !== PROCESS_ID) throw new CallError(Errno.ESRCH);
    if (signal === 0) return 0;
    const sender = { pid: PROCESS_ID, uid: USER_ID };
    send(process, { signal, code, address: null, trap: 0, errorCode: 0, sender });
    return 0;
  };

/** All registers come from the frame, rax too. */
const sigreturn: SystemCall = (process) => {
  leaveHandler(process);
  return null;
};

export const signalCalls: SystemCalls = new Map<number, SystemCall>([
  [13, sigaction],
  [14, sigprocmask],
  [15, sigreturn],
  [62, sendTo(0, 1, SI_USER)],
  [127, sigpending],
  [131, sigaltstack],
  [200, sendTo(0, 1, SI_TKILL)],
  [234, sendTo(1, 2, SI_TKILL)],
]);
