/**
 * Whether the status flags (CF, PF, AF, ZF, SF, OF) are dead at a probe: whatever runs after it writes each of them
 * before anything reads it. Compilers take an asm statement as one that destroys the flags, so after their probes they
 * are; assembly and Rust's `options(preserves_flags)` may keep them.
 *
 * "Dead" is only said where it is proved; what cannot be shown is not dead. What is assumed (System V ABI, AMD64
 * supplement, section 3.2.1: of the flags only DF has a value that callers and callees agree on): functions of other
 * files, functions that are called by a pointer, and whoever calls by a pointer or from another file, go by no status
 * flag that they get. Direct calls of the file, to both sides, need no such trust: callees are followed, and so is what
 * comes after a call that may return with flags as they were.
 */
import { hex, type Vaddr } from "../address.js";
import { STATUS_FLAGS } from "../x86/flags.js";
import { Callers } from "./callers.js";
import { FlagWalk } from "./flag-walk.js";
import type { CodeRange } from "./functions.js";
import { knows } from "./knowledge.js";
import type { ProgramFacts } from "./program.js";

export interface FlagFact {
  /** No status flag is needed there. */
  readonly dead: boolean;
  /** For people: what reads one, or why nothing does. */
  readonly because: string;
}

/** A function that returns with flags as they were at the probe. */
interface Returning {
  readonly range: CodeRange;
  readonly flags: number;
}

/** What becomes of the status flags after probes: the code of a file is looked through when the first one is asked about. */
export class FlagFacts {
  readonly #walk: FlagWalk;
  readonly #callers: Callers;

  constructor(private readonly facts: ProgramFacts) {
    this.#walk = new FlagWalk(facts);
    this.#callers = new Callers(facts.functions);
  }

  /**
   * The status flags right in front of an instruction.
   * @param site link-time address of the instruction; a probe's nop, which changes nothing
   * @throws InputError where a table of the file is damaged
   */
  deadAt(site: Vaddr): FlagFact {
    if (!knows("status flags")) return { dead: true, because: "nothing is known of flags" };
    const range = this.facts.functions.containing(site);
    if (range === undefined) return alive("no function is known here (.eh_frame and symbols do not say)");
    this.#walk.start();
    const { returned, needed } = this.#walk.from(site, STATUS_FLAGS);
    if (needed !== undefined) return alive(needed);
    const after = returned === 0 ? undefined : this.#afterReturn({ range, flags: returned });
    if (after !== undefined) return alive(after);
    return { dead: true, because: "every way writes the status flags before anything reads them" };
  }

  /** Follows what comes after the calls of a function, and after those of its callers where they return in turn. */
  #afterReturn(first: Returning): string | undefined {
    const seen = new Map<number, number>();
    const open: Returning[] = [first];
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      const { flags } = next;
      const parts = this.#partsOf(next.range);
      if (typeof parts === "string") return parts;
      const known = seen.get(parts[0]!.index) ?? 0;
      if ((flags & ~known) === 0) continue;
      seen.set(parts[0]!.index, known | flags);
      for (const part of parts) {
        const problem = this.#afterCallsOf(part, flags, parts, open);
        if (problem !== undefined) return problem;
      }
    }
    return undefined;
  }

  /** @param open gets the callers that return with some of the flags */
  #afterCallsOf(part: CodeRange, flags: number, parts: readonly CodeRange[], open: Returning[]): string | undefined {
    const callers = this.#callers.of(part);
    if (typeof callers === "string") return `who calls the function at ${hex(part.start)} is not known: ${callers}`;
    for (const { at, end, isCall, range } of callers) {
      const { returned, needed } = isCall ? this.#walk.from(end, flags) : { returned: flags, needed: undefined };
      if (needed !== undefined) return `it returns to ${hex(end)}, and ${needed}`;
      if (returned === 0 || parts.some((p) => p.index === range?.index)) continue;
      if (range === undefined) return `it is entered at ${hex(at)}, in no known function`;
      open.push({ range, flags: returned });
    }
    return undefined;
  }

  /** All ranges that a return of a function may belong to. */
  #partsOf(range: CodeRange): readonly CodeRange[] | string {
    const { parts, unknown, flow } = this.facts.computed.groupOf(range);
    return flow === undefined && unknown !== undefined ? unknown : parts;
  }
}

const alive = (because: string): FlagFact => ({ dead: false, because });
