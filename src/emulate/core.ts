/**
 * What an instruction works on: state, memory, and what one instruction leaves for the next part of itself. cpu.ts runs
 * instructions on it.
 */
import { Memory } from "./memory.js";
import { State } from "./state.js";

/** What an instruction may ask for besides its effect on the state. */
export const Event = { None: 0, Syscall: 1, Breakpoint: 2 } as const;

export class Core extends State {
  /** High word of the value that a reader or an operation has just returned (operands.ts). */
  hi = 0;
  /** Runtime address of the last memory operand. */
  addressLo = 0;
  addressHi = 0;
  /** Set by an instruction that ends its block; one of Event. */
  event: number = Event.None;
  /** How many instructions have run. A string instruction with a repeat prefix is one. */
  instructions = 0;

  constructor(readonly memory = new Memory()) {
    super();
  }
}
