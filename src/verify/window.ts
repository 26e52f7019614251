/** A stretch of the original around code that changed, and where both sides arrive in it. windows.ts finds them. */
import type { Interval, Vaddr } from "../address.js";

/** Where both sides arrive from code that did not change. */
export interface Arrival {
  readonly address: Vaddr;
  /** Why execution may arrive here, for people. */
  readonly reason: string;
  /** It could not be ruled out; nothing shows that it happens. */
  readonly doubtful: boolean;
}

/** Its borders are borders of instructions of the original. */
export interface Window extends Interval<Vaddr> {
  readonly arrivals: readonly Arrival[];
  /** Where calls that stand in the window return to it. */
  readonly returns: readonly Vaddr[];
  /** Why some of its changed bytes must not change, whatever they do: somebody patches them at run time. */
  readonly frozen: string | undefined;
  /** Why the original's code cannot be told here, or undefined. */
  readonly unknown: string | undefined;
  /** Nothing has to be known of who enters the bytes after it. */
  readonly isPun?: boolean;
}
