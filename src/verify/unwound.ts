/**
 * Code that runs behind where its function ended, since its block moved up into the padding there: the function's FDE must
 * have grown with it, or nobody can unwind from there, neither for an exception or a profiler nor for a debugger.
 *
 * A jump to new code needs none: it stands in padding of its own, and nothing happens there.
 */
import type { Vaddr } from "../address.js";
import { type EhFrame, readEhFrame } from "../elf/eh-frame.js";
import type { ElfImage } from "../elf/image.js";
import { InputError } from "../errors.js";
import type { ProgramFacts } from "../facts/program.js";
import { Flow } from "../x86/decode.js";
import type { Proof } from "./same-code.js";
import type { Subject } from "./subject.js";
import type { OriginalLayout } from "./windows.js";

export class Unwinding {
  private known: EhFrame | undefined;

  constructor(
    private readonly rewritten: ElfImage,
    private readonly facts: ProgramFacts,
    private readonly layout: OriginalLayout,
  ) {}

  /** Addresses of instructions that run in place and that the unwind information of their function does not cover. */
  uncovered(subject: Subject, { ranInPlace }: Proof): readonly Vaddr[] {
    return ranInPlace
      .filter(({ start, end }) => {
        if (this.layout.part(end - 1) !== undefined) return false;
        const instruction = subject.rewritten.code.at(start);
        if (instruction === null || (instruction.flow & Flow.Nop) !== 0) return false;
        return !(instruction.flow & Flow.Jump && subject.isNew(instruction.target)) && this.isUncovered(end - 1);
      })
      .map(({ start }) => start);
  }

  private isUncovered(address: number): boolean {
    const { functions } = this.facts;
    const gap = functions.gapAt(address);
    const before = gap && fdeAt(functions.ehFrame, gap.start - 1);
    if (before === undefined) return false;
    const now = this.frames();
    return now !== undefined && fdeAt(now, address)?.start !== before.start;
  }

  /** Undefined where they are damaged: somebody else says that. */
  private frames(): EhFrame | undefined {
    if (this.known !== undefined) return this.known;
    try {
      this.known = readEhFrame(this.rewritten);
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
    }
    return this.known;
  }
}

/** The FDE that covers an address. */
function fdeAt({ count, starts, ends }: EhFrame, address: number): { readonly start: number } | undefined {
  let [low, high] = [0, count];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (starts[middle]! <= address) low = middle + 1;
    else high = middle;
  }
  return low > 0 && ends[low - 1]! > address ? { start: starts[low - 1]! } : undefined;
}
