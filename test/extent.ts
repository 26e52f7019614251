/**
 * How much of a test is run. `npm run smoke` (SMOKE=1) takes a part of those that have hundreds of programs: for a look, in a few
 * minutes, whether a change broke anything at all. LONG=1 takes more than `npm test` does.
 */
export const SMOKE = process.env.SMOKE === "1";

/** Of things in groups the first of each. */
export function firstOfEach<T>(all: readonly T[], group: (one: T) => string): readonly T[] {
  const seen = new Set<string>();
  return all.filter((one) => !seen.has(group(one)) && seen.add(group(one)));
}
