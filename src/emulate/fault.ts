/**
 * What ends a run: data for whoever runs the CPU. A fault leaves the CPU as it was before the instruction, rip on it,
 * as the hardware does; a trap (int3, syscall) leaves rip after the instruction.
 */
import { hex } from "../address.js";

export type FaultKind =
  /** Not mapped, or not with this permission: #PF, SIGSEGV. */
  | "page"
  /** An address that is not canonical, a misaligned SSE operand, a privileged instruction: #GP, SIGSEGV. */
  | "general-protection"
  /** Division by zero or a quotient that does not fit: #DE, SIGFPE. */
  | "divide"
  /** Bytes that are no instruction, ud2: #UD, SIGILL. */
  | "undefined";

export type Access = "read" | "write" | "execute";

/** Thrown by an instruction, caught by the CPU's run loop. */
export class Fault extends Error {
  constructor(
    readonly kind: FaultKind,
    /** The runtime address that was accessed, for page faults. */
    readonly address: number | null = null,
    readonly access: Access | null = null,
  ) {
    super(address === null ? kind : `${kind} fault, ${access} at ${hex(address)}`);
  }
}

/** Thrown by an instruction that is not implemented: an outcome of its own, never a guess. */
export class Unimplemented extends Error {
  constructor(readonly instruction: string) {
    super(`not implemented: ${instruction}`);
  }
}

export type Outcome =
  /** As many instructions as were asked for have run. */
  | { readonly kind: "limit" }
  /** `syscall` has run: rcx and r11 hold rip and rflags, rip is after it. */
  | { readonly kind: "syscall" }
  /** `int3` has run. */
  | { readonly kind: "breakpoint" }
  | {
      readonly kind: "fault";
      readonly fault: FaultKind;
      readonly address: number | null;
      readonly access: Access | null;
    }
  /** Disassembly of the instruction, or what else is not implemented about it. */
  | { readonly kind: "unimplemented"; readonly instruction: string };

export const LIMIT: Outcome = { kind: "limit" };
export const SYSCALL: Outcome = { kind: "syscall" };
export const BREAKPOINT: Outcome = { kind: "breakpoint" };
