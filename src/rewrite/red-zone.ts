/**
 * Whether the 128 bytes below rsp at a site are needed, by the program or by a tracer that reads an argument there: the
 * notes' arguments, put to the facts about the stack.
 */
import type { Vaddr } from "../address.js";
import type { ProgramFacts } from "../facts/program.js";
import { type StackRead, stackFacts } from "../facts/stack.js";
import { fullRegister, parseArguments, type UsdtArgument } from "../usdt/arguments.js";
import type { UsdtNote } from "../usdt/notes.js";
import { NONE, registerNumber } from "../x86/effects.js";
import type { RedZone } from "./contract.js";

/** @param notes all notes of the site */
export function redZoneOf(facts: ProgramFacts, site: Vaddr, notes: readonly UsdtNote[]): RedZone {
  const reads = notes.flatMap((note) => parseArguments(note.argumentText).arguments.flatMap(readOf));
  return stackFacts(facts, site, reads).redZone;
}

/** Where a tracer reads for an argument, as far as that may be the stack. */
function readOf(argument: UsdtArgument): StackRead[] {
  switch (argument.kind) {
    case "constant":
    case "symbolic":
    case "rip-relative":
      return [];
    case "register": {
      const register = numberOf(argument.register);
      return register === NONE ? [] : [{ kind: "register", register }];
    }
    case "memory": {
      // Thread-local storage and a symbol's address are not the stack.
      if (argument.segment !== null || argument.symbol !== null) return [];
      const { displacement, size } = argument;
      return [{ kind: "memory", base: numberOf(argument.base), index: numberOf(argument.index), displacement, size }];
    }
    case "unknown":
      return [{ kind: "unknown" }];
  }
}

function numberOf(register: string | null): number {
  const full = register === null ? null : fullRegister(register);
  return full === null ? NONE : registerNumber(full);
}
