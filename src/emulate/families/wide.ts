/**
 * Products and quotients that do not fit in JavaScript's integers: of two words, of two 64-bit values, of four words by
 * two.
 *
 * Words are multiplied in halves of 16 bits and divided in digits of 16 bits, in numbers that doubles hold exactly;
 * nothing is allocated. Results of more than a word are left in `wide`.
 */

const WORD = 0x1_0000_0000;

/** The upper word of the product of two words without a sign. */
export function multiplyHigh(a: number, b: number): number {
  const aLo = a & 0xffff;
  const aHi = a >>> 16;
  const bLo = b & 0xffff;
  const bHi = b >>> 16;
  const middle = aHi * bLo + ((aLo * bLo) >>> 16);
  const other = aLo * bHi + (middle & 0xffff);
  return (aHi * bHi + (middle >>> 16) + (other >>> 16)) | 0;
}

/** Four words, low first: the product, or the dividend and then quotient (two words) and remainder (two words). */
export const wide = new Int32Array(4);

/** The product of two 64-bit values without a sign, into `wide`. */
export function multiply64(a: number, aHi: number, b: number, bHi: number): void {
  const word1 = (multiplyHigh(a, b) >>> 0) + (Math.imul(a, bHi) >>> 0) + (Math.imul(aHi, b) >>> 0);
  const word2 =
    (multiplyHigh(a, bHi) >>> 0) +
    (multiplyHigh(aHi, b) >>> 0) +
    (Math.imul(aHi, bHi) >>> 0) +
    Math.floor(word1 / WORD);
  wide[0] = Math.imul(a, b);
  wide[1] = word1;
  wide[2] = word2;
  wide[3] = multiplyHigh(aHi, bHi) + Math.floor(word2 / WORD);
}

/** Takes (lo, hi) from the upper half of `wide`. */
function subtractHigh(lo: number, hi: number): void {
  const difference = (wide[2]! >>> 0) - (lo >>> 0);
  wide[2] = difference;
  wide[3] = wide[3]! - hi - (difference < 0 ? 1 : 0);
}

/** The product of two 64-bit values with a sign, into `wide`. */
export function multiplySigned64(a: number, aHi: number, b: number, bHi: number): void {
  multiply64(a, aHi, b, bHi);
  if (aHi < 0) subtractHigh(b, bHi);
  if (bHi < 0) subtractHigh(a, aHi);
}

/**
 * hi:lo by d, all without a sign, where hi is less than d: the quotient; the remainder is in the third word of `wide`.
 */
export function divide64by32(lo: number, hi: number, d: number): number {
  const divisor = d >>> 0;
  const first = (hi >>> 0) * 0x10000 + (lo >>> 16);
  const upper = Math.floor(first / divisor);
  const second = (first - upper * divisor) * 0x10000 + (lo & 0xffff);
  const lower = Math.floor(second / divisor);
  wide[2] = second - lower * divisor;
  return (upper * 0x10000 + lower) | 0;
}

/** Whether (a, aHi) < (b, bHi), without a sign. */
export const below64 = (a: number, aHi: number, b: number, bHi: number): boolean =>
  aHi === bHi ? a >>> 0 < b >>> 0 : aHi >>> 0 < bHi >>> 0;

/**
 * Divides the four words of `wide` by (d, dHi), without a sign; the upper half of `wide` is less than the divisor.
 * Leaves the quotient in the lower half, the remainder in the upper one.
 */
export function divide128by64(d: number, dHi: number): void {
  if ((wide[2]! | wide[3]!) !== 0) divideByBits(d, dHi);
  else if (dHi === 0) {
    const hi = wide[1]!;
    const upper = divide64by32(hi, 0, d);
    const lower = divide64by32(wide[0]!, wide[2]!, d);
    wide[0] = lower;
    wide[1] = upper;
    wide[3] = 0;
  } else divide64by64(d, dHi);
}

/** The lower half of `wide` by a divisor of more than 32 bits: the quotient has at most 32. */
function divide64by64(d: number, dHi: number): void {
  const lo = wide[0]!;
  const hi = wide[1]!;
  // Doubles give it to within one.
  const estimate = Math.floor(((hi >>> 0) * WORD + (lo >>> 0)) / ((dHi >>> 0) * WORD + (d >>> 0)));
  let quotient = Math.min(estimate, WORD - 1) | 0;
  let product = Math.imul(quotient, d);
  let upper = (multiplyHigh(quotient, d) >>> 0) + (Math.imul(quotient, dHi) >>> 0);
  const beyond = (multiplyHigh(quotient, dHi) >>> 0) + (upper >= WORD ? 1 : 0);
  upper |= 0;
  if (beyond !== 0 || below64(lo, hi, product, upper)) {
    quotient = (quotient - 1) | 0;
    const less = (product >>> 0) - (d >>> 0);
    upper = (upper - dHi - (less < 0 ? 1 : 0)) | 0;
    product = less | 0;
  }
  let rest = (lo - product) | 0;
  let restHi = (hi - upper - (lo >>> 0 < product >>> 0 ? 1 : 0)) | 0;
  if (!below64(rest, restHi, d, dHi)) {
    quotient = (quotient + 1) | 0;
    restHi = (restHi - dHi - (rest >>> 0 < d >>> 0 ? 1 : 0)) | 0;
    rest = (rest - d) | 0;
  }
  wide[0] = quotient;
  wide[1] = 0;
  wide[2] = rest;
  wide[3] = restHi;
}

/** Bit by bit: for dividends of more than 64 bits, which compilers do not write. */
function divideByBits(d: number, dHi: number): void {
  let q = wide[0]!;
  let qHi = wide[1]!;
  let r = wide[2]!;
  let rHi = wide[3]!;
  for (let i = 0; i < 64; i++) {
    const out = rHi < 0;
    rHi = (rHi << 1) | (r >>> 31);
    r = (r << 1) | (qHi >>> 31);
    qHi = (qHi << 1) | (q >>> 31);
    q <<= 1;
    if (out || !below64(r, rHi, d, dHi)) {
      rHi = (rHi - dHi - (r >>> 0 < d >>> 0 ? 1 : 0)) | 0;
      r = (r - d) | 0;
      q |= 1;
    }
  }
  wide[0] = q;
  wide[1] = qHi;
  wide[2] = r;
  wide[3] = rHi;
}

export function negateWide(from: 0 | 2, words: 2 | 4): void {
  let carry = 1;
  for (let i = from; i < from + words; i++) {
    const word = (~wide[i]! + carry) | 0;
    carry = carry === 1 && word === 0 ? 1 : 0;
    wide[i] = word;
  }
}
