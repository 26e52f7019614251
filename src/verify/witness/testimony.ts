/**
 * What the witness is asked, and what it says. All addresses are link-time addresses.
 */
import type { Interval } from "../../address.js";
import type { Certificate } from "../../rewritten/certificate.js";

export interface Arrival {
  readonly address: number;
  readonly kind: "next" | "branch" | "pointer" | "table" | "word";
  /** For a person, with a link-time address. */
  readonly why: string;
  /** It is an instruction or a relocation for certain, and no chance. */
  readonly certain: boolean;
  /** The instruction that branches or goes on. */
  readonly from: number | undefined;
}

/** A claim that does not hold, or is missing. */
export interface Failing {
  readonly verdict: "different" | "unproved";
  /** For a person, with a link-time address. */
  readonly why: string;
}

export interface Testimony {
  /** All that may arrive at an instruction that changed bytes touch, ascending, one for each address and source. */
  readonly arrivals: readonly Arrival[];
  /** Windows about which nothing can be said, by their index. */
  readonly unknown: ReadonlyMap<number, string>;
  /**
   * Windows of whose bytes, or of those that their jumps are made of besides, somebody overwrites some, by their index.
   */
  readonly patched: ReadonlyMap<number, string>;
  /** Instructions of the original that changed bytes overlap: what else moved nothing is said of. */
  readonly asked: ReadonlySet<number>;
  /** Those of them that must not move, and why. */
  readonly noticed: ReadonlyMap<number, string>;
  /** Addresses in the windows where rsp is a stack pointer. */
  readonly stack: ReadonlySet<number>;
  /** What is wrong with what is claimed of the functions that windows are in, by the windows' index. */
  readonly failing: ReadonlyMap<number, Failing>;
}

/** Link-time addresses of bytes that changed. */
export interface Changed extends Interval {
  /** Where the last jump ends that is made of them, if bytes after them are a part of it. */
  readonly jumpEnd?: number | undefined;
}

export interface Question {
  /** Bytes that changed, ascending. */
  readonly windows: readonly Changed[];
  /** What is claimed of the functions that they are in; undefined: nobody asks what is. */
  readonly certificates?: readonly Certificate[];
}
