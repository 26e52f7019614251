/**
 * What the facts are gathered from, kind by kind, so that tests can leave one out: a rewriter that does not know of
 * jump tables, say, writes broken files, and what verify says of those shows what verify is worth. Outside of tests all
 * of it is known.
 */

export const KINDS_OF_KNOWLEDGE = [
  "near branches",
  "short branches",
  "relocations",
  "symbols",
  "entry points",
  "landing pads",
  "patch tables",
  "absolute words",
  "self-relative words",
  "tables",
  "addresses in code",
  "sums of code",
  "unknown jumps",
  "data in code",
  "faulting addresses",
  "return addresses",
  "reads below rsp",
  "stack pointer",
  "status flags",
] as const;

export type KnowledgeKind = (typeof KINDS_OF_KNOWLEDGE)[number];

let leftOut: ReadonlySet<KnowledgeKind> = new Set();

/** Whether the facts of this kind are to be gathered. */
export const knows = (kind: KnowledgeKind): boolean => !leftOut.has(kind);

/** For tests: runs something that knows nothing of some kinds. */
export function without<T>(kinds: readonly KnowledgeKind[], run: () => T): T {
  const before = leftOut;
  leftOut = new Set(kinds);
  try {
    return run();
  } finally {
    leftOut = before;
  }
}
