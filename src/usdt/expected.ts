/**
 * Which probes a file should have, and which of these it has not.
 *
 *     PROVIDER:NAME          one at least, * as wildcard; and each that matches stands in code
 *     PROVIDER:NAME=COUNT    so many at least that stand in code
 *
 * A universal probe counts once. A note that leads to no code is no probe that anybody can hit: it counts for none.
 */
import { InputError } from "../errors.js";
import { type ProbePattern, parsePattern } from "./pattern.js";
import type { Probe } from "./probes.js";

export interface Expectation {
  readonly pattern: ProbePattern;
  /** So many at least. */
  readonly count: number;
  /** Whether a match in removed code fails even where there are enough others. */
  readonly allInCode: boolean;
}

/** An expectation that a file does not meet. */
export interface Shortage {
  readonly probe: string;
  readonly expected: number;
  readonly found: number;
}

export interface Held {
  /** Probes of which there is none in code. */
  readonly missing: readonly Shortage[];
  /** Probes of which there are some, and not enough. */
  readonly fewer: readonly Shortage[];
  /** Probes that lead to removed code and would be wanted. */
  readonly removed: readonly Probe[];
  /** The probes in code that were asked for. */
  readonly present: readonly Probe[];
}

/** Whether all that was expected is there. */
export const isComplete = ({ missing, fewer, removed }: Held): boolean =>
  missing.length + fewer.length + removed.length === 0;

/**
 * Reads PROVIDER:NAME or PROVIDER:NAME=COUNT; a name may hold a "=" that no number follows.
 * @throws InputError where it is neither
 */
export function parseExpectation(text: string): Expectation {
  const [, name = text, digits] = /^(.*)=(\d{1,9})$/.exec(text) ?? [];
  if (digits === undefined) return { pattern: parsePattern(text), count: 1, allInCode: true };
  if (Number(digits) === 0) throw new InputError("a count is 1 or more");
  return { pattern: parsePattern(name), count: Number(digits), allInCode: false };
}

/** Exactly so many of one probe: what a file had before. Its name is no pattern, whatever it holds. */
export const expectationOf = (provider: string, name: string, count: number): Expectation => ({
  pattern: {
    text: `${provider}:${name}`,
    matches: (probe) => probe.provider === provider && probe.name === name,
  },
  count,
  allInCode: false,
});

/** Holds the probes of a file against what is expected of it. */
export function hold(probes: readonly Probe[], expectations: readonly Expectation[]): Held {
  const missing: Shortage[] = [];
  const fewer: Shortage[] = [];
  const removed = new Set<Probe>();
  const present = new Set<Probe>();
  for (const { pattern, count, allInCode } of expectations) {
    const matching = probes.filter(pattern.matches);
    const inCode = matching.filter(({ code }) => code !== null);
    for (const probe of inCode) present.add(probe);
    const isShort = inCode.length < count;
    if (isShort)
      (inCode.length === 0 ? missing : fewer).push({ probe: pattern.text, expected: count, found: inCode.length });
    if (isShort || allInCode) for (const probe of matching) if (probe.code === null) removed.add(probe);
  }
  const inOrder = (chosen: ReadonlySet<Probe>): readonly Probe[] => probes.filter((probe) => chosen.has(probe));
  return { missing, fewer, removed: inOrder(removed), present: inOrder(present) };
}
