/** What a process has set of its signals, and their numbers. signals.ts says what happens when one comes. */
import type { RuntimeAddress } from "../../address.js";

/** Numbers of signals (signal.h of Linux on x86-64). */
export const Signal = { SIGILL: 4, SIGTRAP: 5, SIGFPE: 8, SIGKILL: 9, SIGSEGV: 11, SIGSTOP: 19 } as const;

const names = (
  "SIGHUP SIGINT SIGQUIT SIGILL SIGTRAP SIGABRT SIGBUS SIGFPE SIGKILL SIGUSR1 SIGSEGV SIGUSR2 SIGPIPE SIGALRM SIGTERM " +
  "SIGSTKFLT SIGCHLD SIGCONT SIGSTOP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGXCPU SIGXFSZ SIGVTALRM SIGPROF SIGWINCH SIGIO " +
  "SIGPWR SIGSYS"
).split(" ");

export const LAST_SIGNAL = 64;
export const SIG_DFL = 0n;
export const SIG_IGN = 1n;
/** SIGCHLD, SIGCONT, SIGURG, SIGWINCH. */
export const ignoredByDefault = new Set([17, 18, 23, 28]);
/** SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU. */
export const stopByDefault = new Set([19, 20, 21, 22]);
export const SA_NODEFER = 0x4000_0000n;
export const SA_RESETHAND = 0x8000_0000n;

/** As rt_sigaction has it. */
export interface Action {
  readonly handler: bigint;
  readonly flags: bigint;
  readonly restorer: bigint;
  /** Signals that are blocked while the handler runs: signal n is bit n - 1. */
  readonly mask: bigint;
}

const byDefault: Action = { handler: SIG_DFL, flags: 0n, restorer: 0n, mask: 0n };

/** What comes with a signal. */
export interface SignalInfo {
  readonly signal: number;
  readonly code: number;
  /** si_addr of a fault. */
  readonly address: RuntimeAddress | null;
  /** The exception that it comes from, with its error code: what the frame says in trapno, err and cr2. */
  readonly trap: number;
  readonly errorCode: number;
  /** si_pid and si_uid of a signal that a process sent. */
  readonly sender: { readonly pid: number; readonly uid: number } | null;
}

export class SignalState {
  readonly actions = new Map<number, Action>();
  blocked = 0n;
  /** A frame holds exception flags of MXCSR that nobody knows (state.ts, MXCSR_STALE). */
  staleFrame = false;
  pending: readonly SignalInfo[] = [];
  /** As sigaltstack has it. */
  alternate: { readonly at: bigint; readonly size: bigint; readonly disabled: boolean } = {
    at: 0n,
    size: 0n,
    disabled: true,
  };

  actionOf(signal: number): Action {
    return this.actions.get(signal) ?? byDefault;
  }

  isBlocked(signal: number): boolean {
    return (this.blocked & bitOf(signal)) !== 0n;
  }
}

export const bitOf = (signal: number): bigint => 1n << BigInt(signal - 1);

export const signalName = (signal: number): string => names[signal - 1] ?? `signal ${signal}`;
