/**
 * Gaps: stretches of code that no function covers. Most are padding; some hold code without unwind information (start
 * files, assembly), and data may stand among it.
 *
 * Decoding such a stretch from its start proves something only where nothing contradicts it. So whatever leads into a
 * gap near a site is collected like what leads to the site itself; where any of it arrives in the middle of an
 * instruction, decoding went astray, and every byte of the gap counts as possible code.
 */
import type { Vaddr } from "../address.js";
import { type DecodedCode, indexOf } from "../x86/decode.js";
import type { Entries } from "./entries.js";
import type { FunctionIndex } from "./functions.js";
import type { CodeHits } from "./scan-code.js";

/** Larger gaps are not looked into: they are no start files. */
const LARGEST_GAP = 4096;

interface Gap {
  readonly start: Vaddr;
  readonly end: Vaddr;
}

/** The gaps that hold more than padding and touch [site - reach, site + reach) of any site. */
export function gapsNear(functions: FunctionIndex, sites: readonly Vaddr[], reach: number): readonly Gap[] {
  const found = new Map<Vaddr, Gap>();
  for (const site of sites) {
    let at: number = site - reach;
    while (at < site + reach) {
      const gap = functions.gapAt(at);
      if (gap !== undefined && gap.end - gap.start <= LARGEST_GAP && !functions.isPadding(gap))
        found.set(gap.start, gap);
      const next = functions.lastAtOrBelow(at) + 1;
      const covered = functions.containing(at);
      at = gap?.end ?? covered?.end ?? (next < functions.count ? functions.range(next).start : site + reach);
    }
  }
  return [...found.values()];
}

export class TrustedGaps {
  private readonly decoded = new Map<Vaddr, DecodedCode | undefined>();

  /**
   * @param gaps those into which everything that leads there has been collected
   * @param hits what the scan of the code found
   * @param entries pointers and symbols that lead there
   */
  constructor(
    private readonly functions: FunctionIndex,
    private readonly gaps: readonly Gap[],
    private readonly hits: CodeHits,
    private readonly entries: Entries,
  ) {}

  /** The instructions of the gap around an address, or undefined where they cannot be relied upon. */
  code(address: number): DecodedCode | undefined {
    const gap = this.gaps.find((g) => address >= g.start && address < g.end);
    if (gap === undefined) return undefined;
    if (!this.decoded.has(gap.start)) this.decoded.set(gap.start, this.decode(gap));
    return this.decoded.get(gap.start);
  }

  private decode(gap: Gap): DecodedCode | undefined {
    const code = this.functions.gapCode(gap.start);
    if (code === undefined || code.unclean !== undefined) return undefined;
    const splits = (target: Vaddr): boolean => indexOf(code, target) < 0;
    // Words that stand for themselves are the question here, not a witness.
    const { start, end } = gap;
    if (this.hits.into(start, end).some((hit) => hit.reading !== "self-relative" && splits(hit.target)))
      return undefined;
    if (this.entries.addressesWithin(start, end).some(splits)) return undefined;
    return code;
  }
}
