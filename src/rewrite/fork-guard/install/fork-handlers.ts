/**
 * Code around forks finds other such code by these symbols; functions have symbols in the output too, of the same
 * names.
 */

import { type Vaddr, vaddr } from "../../../address.js";
import { type CfaRows, DWARF_RSP } from "../../../elf/cfa-rows.js";
import type { Assembler } from "../../../x86/assembler.js";
import type { FrameRow, LinkedUnit } from "../../../x86/link.js";
import type { NamedCode } from "../../new-code.js";
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

/** A function among new code. @param isUnwindable whether it is certain where the caller's frame is */
export function namedCode(
  { options }: Assembler,
  { start, codeEnd, rows }: LinkedUnit,
  isUnwindable = true,
): NamedCode {
  const [from, end] = [vaddr(start), vaddr(codeEnd)];
  return { name: options.name!, start: from, end, unwind: isUnwindable ? rowsByStack(rows) : undefined };
}

const rowsByStack = (rows: readonly FrameRow[]): CfaRows => ({
  starts: rows.map((row): Vaddr => vaddr(row.start)),
  registers: rows.map(() => DWARF_RSP),
  offsets: rows.map((row) => row.offset),
});
