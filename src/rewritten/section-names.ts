/** The names of the sections that a rewritten file has and its original had not. */

/** Holds new code. */
export const CODE_SECTION = ".text.nop5";
/** Holds far jumps. */
export const FAR_SECTION = ".text.nop5.far";
/** Holds what revert needs; not loaded. */
export const CARRY_SECTION = ".usdt_nop5";
/** Holds words that new code writes. */
export const WORDS_SECTION = ".bss.nop5";
/** Holds the word whose first byte says which twin of a probe runs. */
export const SELECTOR_SECTION = ".selector.nop5";
/** Covers the place of a table that has moved (rewrite/old-places.ts says why). */
export const OLD_PLACE_SECTION = ".tables.old";
/** Holds exception tables for new code. */
export const EXCEPTIONS_SECTION = ".gcc_except_table.nop5";
/** What the name of an unwind table gets that stays in its old place, beside the new one. */
export const KEPT_SUFFIX = ".old";
