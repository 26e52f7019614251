/** Searches in what is in ascending order. */

/** How many of `count` items come first of which something holds: it does for these, and for none after them. */
export function countWhile(count: number, holds: (index: number) => boolean): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (holds(middle)) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The index of the first number that is not below `value`. */
export const lowerBound = (sorted: ArrayLike<number>, value: number): number =>
  countWhile(sorted.length, (i) => sorted[i]! < value);

/** The index of the first number that is above `value`. */
export const upperBound = (sorted: ArrayLike<number>, value: number): number =>
  countWhile(sorted.length, (i) => sorted[i]! <= value);
