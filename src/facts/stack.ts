/**
 * Whether the 128 bytes below rsp at a probe hold something that is still needed.
 *
 * On Linux 6.18 to 7.1 a traced nop5 is a call: it writes to [rsp - 8] and the kernel's trampoline pushes three
 * registers more. The System V ABI lets a function that calls nothing keep values there (the red zone), and so a probe
 * may destroy them. What is needed by the program, and what the probe's notes let a tracer read, counts alike.
 *
 * From bottom to top: x86/effects.ts (what an instruction does), stack-state.ts (where registers point), stack-flow.ts
 * (at every instruction of a function), red-zone.ts (what is read after the probe).
 *
 * "Unused" is only said where it is proved; what is "unknown" has to be treated as live. What is assumed: a function
 * that makes calls and names no address below rsp keeps nothing there (red-zone.ts says which compilers keep to that);
 * nothing below rsp survives a return or is passed to another function (System V ABI); another thread or a signal
 * handler is not given an address below rsp by a function that never lets one go.
 */
import { hex, type Vaddr } from "../address.js";
import { indexOf } from "../x86/decode.js";
import { REGISTER_COUNT, RSP } from "../x86/effects.js";
import type { StackRead } from "../x86/stack-read.js";
import type { CodeRange } from "./functions.js";
import type { ProgramFacts } from "./program.js";
import { FrameUse, redZoneAt, type Verdict } from "./red-zone.js";
import { baseOf, ENTRY, offsetOf } from "./stack-state.js";

export type { Verdict as StackFact } from "./red-zone.js";

/** A register that holds an address of the stack, and how far that is from the stack pointer, in bytes. */
export interface StackAddress {
  readonly register: number;
  readonly distance: number;
}

/** A register that holds an address of the stack, and how far that is from the stack pointer, in bytes. */
export interface StackAddress {
  readonly register: number;
  readonly distance: number;
}

/** What functions do with the stack: each is looked into once, when the first of its sites is asked about. */
export class StackFacts {
  readonly #uses = new Map<number, FrameUse | undefined>();

  constructor(private readonly facts: ProgramFacts) {}

  /**
   * What is below rsp at one site.
   * @param site link-time address of the probe's nop; one of the sites that the facts were gathered for
   * @param reads where the arguments of all notes of the site lie
   * @throws InputError where .eh_frame or an exception table is damaged
   */
  redZone(site: Vaddr, reads: readonly StackRead[]): Verdict {
    const around = this.facts.siteCode(site);
    if (typeof around === "string") return { redZone: "unknown", because: around };
    const index = indexOf(around.code, site);
    if (index < 0) return { redZone: "unknown", because: `no instruction of its function begins at ${hex(site)}` };
    const useOf = (range: CodeRange): FrameUse | undefined => this.#useOf(range);
    return redZoneAt(useOf(around.range)!, index, reads, useOf);
  }

  /**
   * The registers, other than rsp, whose distance from rsp is known at an address, which must be in one of the sites'
   * functions.
   */
  addressesAt(address: Vaddr): readonly StackAddress[] {
    const around = this.facts.siteCode(address);
    if (typeof around === "string") return [];
    const index = indexOf(around.code, address);
    const use = this.#useOf(around.range);
    if (index < 0 || use === undefined) return [];
    const { flow } = use;
    flow.ensureVisited(flow.root, index);
    const state = flow.stateAt(flow.root, index);
    const found: StackAddress[] = [];
    for (let register = 0; register < REGISTER_COUNT; register++) {
      const isKnown = baseOf(state, register) >= ENTRY && baseOf(state, register) === baseOf(state, RSP);
      if (register !== RSP && isKnown)
        found.push({ register, distance: offsetOf(state, register) - offsetOf(state, RSP) });
    }
    return found;
  }

  #useOf(range: CodeRange): FrameUse | undefined {
    const { index } = range;
    if (!this.#uses.has(index)) {
      const isClean = this.facts.functions.code(range).unclean === undefined;
      this.#uses.set(index, isClean ? new FrameUse(this.facts, range) : undefined);
    }
    return this.#uses.get(index);
  }
}
