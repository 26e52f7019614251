/**
 * Which sites are tried by themselves. Each of them, as far as that can be waited for: a handler looks at all sites in
 * each run, so that trying n of them costs n times n looks. Beyond that as many as keep the looks within a bound,
 * evenly spread, with the first and the last one; every site is tried then beside others in other pages, see child.ts.
 */
const MOST_LOOKS = 1 << 20;

/** Indices into `count` sites, ascending. */
export function sampled(count: number): readonly number[] {
  const most = Math.max(2, Math.floor(MOST_LOOKS / Math.max(count, 1)));
  if (count <= most) return Array.from({ length: count }, (_, i) => i);
  const step = (count - 1) / (most - 1);
  return Array.from({ length: most }, (_, i) => Math.round(i * step));
}
