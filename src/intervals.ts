/** What intervals have in common, and what of one is in none of the others. */
import type { Interval } from "./address.js";
import { countWhile } from "./sorted.js";

/** Intervals in ascending order that do not touch: the union of those given, which may come in any order. */
export function union<A extends number>(intervals: Iterable<Interval<A>>): readonly Interval<A>[] {
  const result: { start: A; end: A }[] = [];
  for (const { start, end } of [...intervals].sort((x, y) => x.start - y.start)) {
    const last = result.at(-1);
    if (end <= start) continue;
    if (last === undefined || start > last.end) result.push({ start, end });
    else if (end > last.end) last.end = end;
  }
  return result;
}

/** What of one interval lies in none of the others, which are ascending and disjoint. */
export function outside<A extends number>(
  intervals: readonly Interval<A>[],
  { start, end }: Interval<NoInfer<A>>,
): Interval<A>[] {
  const result: Interval<A>[] = [];
  const low = countWhile(intervals.length, (i) => intervals[i]!.end <= start);
  let at = start;
  for (let i = low; i < intervals.length && intervals[i]!.start < end; i++) {
    const next = intervals[i]!;
    if (next.start > at) result.push({ start: at, end: next.start });
    if (next.end > at) at = next.end;
  }
  if (at < end) result.push({ start: at, end });
  return result;
}

/** What of one interval lies in the others, which are ascending and disjoint. */
export function within<A extends number>(
  intervals: readonly Interval<A>[],
  { start, end }: Interval<NoInfer<A>>,
): Interval<A>[] {
  const result: Interval<A>[] = [];
  const low = countWhile(intervals.length, (i) => intervals[i]!.end <= start);
  for (let i = low; i < intervals.length && intervals[i]!.start < end; i++) {
    const next = intervals[i]!;
    result.push({ start: next.start > start ? next.start : start, end: next.end < end ? next.end : end });
  }
  return result;
}

/** What is left of `whole` without `parts`, both ascending and disjoint. */
export const without = <A extends number>(
  whole: readonly Interval<A>[],
  parts: readonly Interval<A>[],
): readonly Interval<A>[] => whole.flatMap((one) => outside(parts, one));

/** Whether [start, end) and any of the intervals, which are ascending and disjoint, have a byte in common. */
export function touches<A extends number>(intervals: readonly Interval<A>[], start: A, end: number): boolean {
  const low = countWhile(intervals.length, (i) => intervals[i]!.end <= start);
  const found = intervals[low];
  return found !== undefined && found.start < end;
}
