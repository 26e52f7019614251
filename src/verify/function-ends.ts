/**
 * Code that runs after where its function ended, since its block moved up into the padding there: the function's FDE
 * and its symbols must have grown with it, or nobody can unwind from there, neither for an exception or a profiler nor
 * for a debugger, and the code belongs to nothing.
 *
 * A jump to new code needs none of that, nor does one to such a jump: it stands in padding of its own, and nothing
 * happens there.
 */

import { type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type EhFrame, readEhFrame } from "../elf/eh-frame.js";
import type { ElfImage } from "../elf/image.js";
import { dynsym, forEachSymbol, symtab } from "../elf/symbols.js";
import { InputError } from "../errors.js";
import type { ProgramFacts } from "../facts/program.js";
import { countWhile } from "../sorted.js";
import { Flow } from "../x86/decode.js";
import type { Proof } from "./same-code.js";
import type { Subject } from "./subject.js";
import type { OriginalLayout } from "./windows.js";

export class FunctionEnds {
  private frames: EhFrame | null | undefined;
  private symbolEnds: ReadonlySet<number> | undefined;

  constructor(
    private readonly rewritten: ElfImage,
    private readonly facts: ProgramFacts,
    private readonly layout: OriginalLayout,
  ) {}

  /** Addresses of instructions that run in place, and that their function does not cover. */
  uncovered(subject: Subject, { ranInPlace }: Proof): readonly Vaddr[] {
    return ranInPlace
      .filter((run) => {
        const { start, end } = run;
        if (this.layout.part(vaddr(end - 1)) !== undefined) return false;
        // What stands there as it stood has moved from nowhere.
        if (!subject.isChanged(run)) return false;
        const instruction = subject.rewritten.code.at(start);
        if (instruction === null || (instruction.flow & Flow.Nop) !== 0) return false;
        return !(instruction.flow & Flow.Jump && subject.leadsToNew(instruction)) && this.isUncovered(end - 1);
      })
      .map(({ start }) => start);
  }

  /** @param address in a gap of the original, after a function part */
  private isUncovered(address: number): boolean {
    const { functions } = this.facts;
    const end = functions.gapAt(address)?.start;
    if (end === undefined) return false;
    this.symbolEnds ??= endsOfSymbols(this.rewritten);
    if (this.symbolEnds.has(end)) return true;
    const before = fdeAt(functions.ehFrame, end - 1);
    if (before === undefined) return false;
    this.frames ??= readable(() => readEhFrame(this.rewritten)) ?? null;
    return this.frames !== null && fdeAt(this.frames, address)?.start !== before.start;
  }
}

/** What is read, or undefined where it is damaged: somebody else says that. */
function readable<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof InputError)) throw error;
    return undefined;
  }
}

/** Where the functions end of which symbols tell. */
function endsOfSymbols(image: ElfImage): ReadonlySet<number> {
  const ends = new Set<number>();
  for (const table of [symtab, dynsym])
    readable(() => {
      const symbols = table(image);
      if (symbols === null) return;
      forEachSymbol(symbols, (value, size, info, shndx) => {
        const kind = info & 0xf;
        if ((kind === elf.STT_FUNC || kind === elf.STT_GNU_IFUNC) && size > 0 && shndx !== elf.SHN_UNDEF)
          ends.add(value + size);
      });
    });
  return ends;
}

/** The FDE that covers an address. */
function fdeAt({ count, starts, ends }: EhFrame, address: number): { readonly start: number } | undefined {
  const low = countWhile(count, (i) => starts[i]! <= address);
  return low > 0 && ends[low - 1]! > address ? { start: starts[low - 1]! } : undefined;
}
