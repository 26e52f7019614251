/**
 * What is looked up of one input more than once: by several tactics, by one plan after the other, and by what follows
 * them. A Program has one.
 */
import type { Vaddr } from "../address.js";
import type { ProgramFacts } from "../facts/program.js";
import { addressOf, type DecodedCode, instructionBytes } from "../x86/decode.js";
import { type InstructionTraits, traitsOf } from "../x86/relocate.js";
import { OriginFrames } from "./unwind/origin-frames.js";
import { readUnwindTables, type Unwindable } from "./unwind/tables.js";

export class InputTables {
  readonly frames: OriginFrames;
  readonly #traits = new Map<Vaddr, InstructionTraits>();
  #unwind: { readonly tables: Unwindable } | undefined;

  constructor(readonly facts: ProgramFacts) {
    this.frames = new OriginFrames(facts.image, facts.functions.ehFrame);
  }

  /** What there is to know of an instruction before it moves. */
  traits(code: DecodedCode, index: number): InstructionTraits {
    const at = addressOf(code, index);
    const traits = this.#traits.get(at) ?? traitsOf(instructionBytes(code, index), at);
    this.#traits.set(at, traits);
    return traits;
  }

  /** The tables that new records are added to. */
  get unwind(): Unwindable {
    this.#unwind ??= { tables: readUnwindTables(this.facts, this.frames) };
    return this.#unwind.tables;
  }
}
