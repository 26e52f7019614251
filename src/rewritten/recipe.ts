/** How to make the original from a rewritten file: carry.ts writes it into the file, way-back.ts follows it. */
import type { CorrectedCopy } from "./corrected.js";

export interface Recipe {
  readonly originalSize: number;
  /** How many bytes at the end of the output are those at the end of the original. */
  readonly trailing: number;
  /** Stretches of the output, at `from`, that are stretches of the original, at `to`. */
  readonly copies: readonly { readonly from: number; readonly to: number; readonly size: number }[];
  /** Bytes of the original, at `to`. */
  readonly literals: readonly { readonly to: number; readonly bytes: Uint8Array }[];
  /** Stretches of the output whose words are others in the original. They come after all that is copied. */
  readonly corrected: readonly CorrectedCopy[];
  /** Old bytes to put back, at `to` in the original. */
  readonly edits: readonly { readonly to: number; readonly bytes: Uint8Array }[];
  /** Symbol tables of the original whose symbols get back their section numbers: from the output's to the input's. */
  readonly renumbered: readonly { readonly to: number; readonly size: number }[];
  readonly numbers: Uint16Array;
}
