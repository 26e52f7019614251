/**
 * New code that stacks cannot be walked from although they could be from where it stood: what the user is to be told.
 */
import type { Vaddr } from "../../address.js";
import type { EhFrame } from "../../elf/eh-frame.js";
import type { Chunk } from "../new-code.js";
import type { UnwindLayout } from "./layout.js";
import { NO_SEGMENT } from "./plan.js";

export interface MissingFrames {
  /** The sites of the probes whose new code it is. */
  readonly sites: readonly Vaddr[];
  readonly reason: string;
  /** Another reason holds for some of them. */
  readonly hasOthers: boolean;
  /** What was missing is a new segment. */
  readonly wantsSegment: boolean;
}

/** @param frames the input's: where it has no frame itself nothing is missing */
export function missingFrames(
  laid: UnwindLayout | string | undefined,
  chunks: readonly Chunk[],
  frames: EhFrame | undefined,
): MissingFrames | undefined {
  if (laid === undefined || frames === undefined) return undefined;
  const hadFrame = ({ origins }: Chunk): boolean => origins.some(({ origin }) => frames.indexAt(origin) >= 0);
  const missing =
    typeof laid === "string"
      ? chunks.filter(hadFrame).map((chunk) => ({ chunk, reason: laid }))
      : laid.without.flatMap(({ start, reason }) =>
          chunks.filter((c) => isPartOf(c, start)).map((chunk) => ({ chunk, reason })),
        );
  const [first] = missing;
  if (first === undefined) return undefined;
  const sites = missing.flatMap(({ chunk }) =>
    chunk.probes.length > 0 ? chunk.probes.map(({ site }) => site) : [chunk.proposal.site],
  );
  return {
    sites: [...new Set(sites)],
    reason: first.reason,
    hasOthers: missing.some(({ reason }) => reason !== first.reason),
    wantsSegment: first.reason === NO_SEGMENT,
  };
}

const isPartOf = ({ origins, relays }: Chunk, at: Vaddr): boolean =>
  [...origins, ...relays].some(({ start }) => start === at);
