/**
 * Signals of the one thread: which are handled, blocked and pending, and what happens when one comes. A signal without
 * a handler ends the process, or is ignored where that is its default. With one, signal-frame.ts makes it run.
 *
 * A fault's signal comes at once: where it is blocked or ignored, it ends the process all the same, as Linux has it.
 */
import type { RuntimeAddress } from "../../address.js";
import type { Outcome } from "../fault.js";
import { NotImplemented, type Process, type ProgramEnd } from "./process.js";
import { enterHandler } from "./signal-frame.js";
import {
  ignoredByDefault,
  SIG_DFL,
  SIG_IGN,
  Signal,
  type SignalInfo,
  signalName,
  stopByDefault,
} from "./signal-state.js";

const endBy = (signal: number): ProgramEnd => ({ kind: "signal", signal, name: signalName(signal) });

/** A signal that a fault raises. */
export function force(process: Process, info: SignalInfo): void {
  const { signals } = process;
  const action = signals.actionOf(info.signal);
  const handled = action.handler !== SIG_DFL && action.handler !== SIG_IGN && !signals.isBlocked(info.signal);
  if (!handled || !enterHandler(process, info, action)) process.end = endBy(info.signal);
}

/** A signal that the process sends to itself: it comes when it is not blocked. */
export function send(process: Process, info: SignalInfo): void {
  const { signals } = process;
  if (signals.pending.some((waiting) => waiting.signal === info.signal)) return;
  signals.pending = [...signals.pending, info];
}

/**
 * Delivers the pending signals that are not blocked, by number: of two handlers the later one runs first, as on Linux.
 */
export function deliver(process: Process): void {
  const { signals } = process;
  while (process.end === null) {
    const next = signals.pending
      .filter(({ signal }) => signal === Signal.SIGKILL || !signals.isBlocked(signal))
      .sort((a, b) => a.signal - b.signal)[0];
    if (next === undefined) return;
    signals.pending = signals.pending.filter((waiting) => waiting !== next);
    const { signal } = next;
    const action = signals.actionOf(signal);
    if (action.handler === SIG_IGN || (action.handler === SIG_DFL && ignoredByDefault.has(signal))) continue;
    if (action.handler === SIG_DFL) {
      if (stopByDefault.has(signal)) throw new NotImplemented(`stopping by ${signalName(signal)}`);
      process.end = endBy(signal);
    } else if (!enterHandler(process, next, action)) process.end = endBy(Signal.SIGSEGV);
  }
}

type FaultOutcome = Extract<Outcome, { readonly kind: "fault" }>;

const SEGV_MAPERR = 1;
const SEGV_ACCERR = 2;
const SI_KERNEL = 0x80;
const FPE_INTDIV = 1;
const ILL_ILLOPN = 2;

/** The signal that the kernel makes of a fault or a breakpoint. */
export function signalOf(process: Process, outcome: FaultOutcome | { readonly kind: "breakpoint" }): SignalInfo {
  const common = { address: null, errorCode: 0, sender: null };
  if (outcome.kind === "breakpoint") return { ...common, signal: Signal.SIGTRAP, code: SI_KERNEL, trap: 3 };
  const at = process.cpu.ip as RuntimeAddress;
  switch (outcome.fault) {
    case "divide":
      return { ...common, signal: Signal.SIGFPE, code: FPE_INTDIV, address: at, trap: 0 };
    case "undefined":
      return { ...common, signal: Signal.SIGILL, code: ILL_ILLOPN, address: at, trap: 6 };
    case "general-protection":
      return { ...common, signal: Signal.SIGSEGV, code: SI_KERNEL, trap: 13 };
    case "page": {
      const address = (outcome.address ?? 0) as RuntimeAddress;
      const mapped = process.regions.at(address) !== undefined;
      const access = outcome.access === "write" ? 2 : outcome.access === "execute" ? 16 : 0;
      // User mode, and whether the page was there.
      const present = process.cpu.memory.permissionsAt(address) ? 1 : 0;
      return {
        ...common,
        signal: Signal.SIGSEGV,
        code: mapped ? SEGV_ACCERR : SEGV_MAPERR,
        address,
        trap: 14,
        errorCode: 4 | access | present,
      };
    }
  }
}
