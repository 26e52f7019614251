/**
 * NaNs of SSE (Intel SDM vol. 1, 4.8.3.5, table 4-7), by integer words: what becomes of a NaN's payload on its way
 * through a JavaScript number is not specified.
 *
 * A result that is a NaN is the first operand if that is one, else the second if that is one, made quiet; where neither
 * is (0/0, infinity - infinity, the root of a negative number) it is the default NaN, which is negative.
 */

const DOUBLE_QUIET = 0x80000;
const FLOAT_QUIET = 0x400000;
const DOUBLE_DEFAULT = 0xfff80000 | 0;
const FLOAT_DEFAULT = 0xffc00000 | 0;

const isNanDouble = (w: Int32Array, i: number): boolean => {
  const exponent = w[i + 1]! & 0x7fffffff;
  return exponent > 0x7ff00000 || (exponent === 0x7ff00000 && w[i] !== 0);
};

const isNanFloat = (w: Int32Array, i: number): boolean => (w[i]! & 0x7fffffff) > 0x7f800000;

/** The NaN that comes of the doubles at words `d` and `s`, to `d`. */
export function nanDouble(w: Int32Array, d: number, s: number): void {
  if (isNanDouble(w, d)) w[d + 1] = w[d + 1]! | DOUBLE_QUIET;
  else if (isNanDouble(w, s)) {
    w[d] = w[s]!;
    w[d + 1] = w[s + 1]! | DOUBLE_QUIET;
  } else {
    w[d] = 0;
    w[d + 1] = DOUBLE_DEFAULT;
  }
}

/** The NaN that comes of the floats at words `d` and `s`, to `d`. */
export function nanFloat(w: Int32Array, d: number, s: number): void {
  if (isNanFloat(w, d)) w[d] = w[d]! | FLOAT_QUIET;
  else w[d] = isNanFloat(w, s) ? w[s]! | FLOAT_QUIET : FLOAT_DEFAULT;
}

/** The NaN that is the float at word `s`, as a double to words `d`: the payload stays on top. */
export function widenNan(w: Int32Array, d: number, s: number): void {
  const nan = w[s]!;
  w[d] = nan << 29;
  w[d + 1] = (nan & 0x80000000) | 0x7ff00000 | DOUBLE_QUIET | ((nan & 0x7fffff) >>> 3);
}

/** The NaN that is the double at words `s`, as a float to word `d`: the payload's low bits are lost. */
export function narrowNan(w: Int32Array, d: number, s: number): void {
  const hi = w[s + 1]!;
  w[d] = (hi & 0x80000000) | 0x7f800000 | FLOAT_QUIET | ((hi & 0x7ffff) << 3) | (w[s]! >>> 29);
}
