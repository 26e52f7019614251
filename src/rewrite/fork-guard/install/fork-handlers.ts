/**
 * Code around forks finds other such code by these symbols; functions have symbols in the output too, of the same
 * names.
 */

import type { Assembler } from "../../../x86/assembler.js";
import type { SiteTable } from "../handler/signal-slots.js";

/** What a forked child runs first. */
export const FORK_GUARD = "usdt_nop5.fork_guard";

/** What runs in a child, under that name: a function without arguments that keeps all registers. */
export interface ChildCode {
  readonly code: Assembler;
  /** Where its table of sites stands. Undefined: nothing can be said before a fork, and no signals are held. */
  readonly sites?: SiteTable;
}

/** What runs before a fork and after it in the parent, where anything does: symbols. */
export interface ForkHandlers {
  readonly prepare: string | undefined;
  readonly parent: string | undefined;
}
