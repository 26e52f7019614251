/**
 * What a tracer reads from the stack for a probe's arguments: the arguments of arguments.ts in the terms of
 * x86/stack-read.ts, which facts/stack.ts works with and which know no USDT.
 */

import { NONE, registerNumber } from "../x86/effects.js";
import type { StackRead } from "../x86/stack-read.js";
import { fullRegister, type UsdtArgument } from "./arguments.js";

/** The reads of one argument; none for what lies in no memory that the stack could be, such as a constant. */
export function stackReads(argument: UsdtArgument): readonly StackRead[] {
  switch (argument.kind) {
    case "constant":
    case "symbolic":
    case "rip-relative":
    case "named":
      return [];
    case "unknown":
      return [{ kind: "unknown" }];
    case "register": {
      const register = number(argument.register);
      return register === NONE ? [] : [{ kind: "register", register }];
    }
    case "memory": {
      // Thread-local storage, or an address that no register takes part in.
      if (argument.segment !== null || (argument.base === null && argument.index === null)) return [];
      const { displacement, size } = argument;
      return [{ kind: "memory", base: number(argument.base), index: number(argument.index), displacement, size }];
    }
  }
}

function number(name: string | null): number {
  const full = name === null ? null : fullRegister(name);
  return full === null ? NONE : registerNumber(full);
}
