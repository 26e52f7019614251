/**
 * Where new code comes from: for each stretch of it the place whose frame it runs in.
 */
import type { Interval, Vaddr } from "../../address.js";

/** A stretch of new code in which the frame is that of one place of the input. */
export interface OriginStretch extends Interval<Vaddr> {
  /** The instruction of the input at which the frame looks the same. */
  readonly origin: Vaddr;
  /** By how much rsp is lower than it was there. */
  readonly lower: number;
  /**
   * Bytes from `origin` to the last byte of a displaced call: what an unwinder asks for is in front of the return
   * address.
   */
  readonly lastByte: number;
}
