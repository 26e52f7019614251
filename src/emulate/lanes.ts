/**
 * Arithmetic on the small integers within one 32-bit word, all at once: four bytes or two halves.
 *
 * A carry must not pass from one lane into the next. So sums and differences are made of the lanes without their top
 * bits, where a carry ends in the top bit of its own lane, and the true top bits are put in by exclusive or. `top` is
 * the mask of the lanes' top bits. A comparison gives its answers as such top bits, and `spread` makes each fill its
 * lane.
 */

/** One word of lanes from two. */
export type LaneOperation = (a: number, b: number) => number;

interface Lanes {
  readonly add: LaneOperation;
  readonly sub: LaneOperation;
  /** Sums and differences that stay at the end of the signed, or unsigned, range where they would leave it. */
  readonly addSigned: LaneOperation;
  readonly addUnsigned: LaneOperation;
  readonly subSigned: LaneOperation;
  readonly subUnsigned: LaneOperation;
  /** All ones in lanes where it holds, else zero. */
  readonly equal: LaneOperation;
  readonly greaterSigned: LaneOperation;
  readonly minSigned: LaneOperation;
  readonly maxSigned: LaneOperation;
  readonly minUnsigned: LaneOperation;
  readonly maxUnsigned: LaneOperation;
  /**
   * (a + b + 1) / 2 without signs, rounded down: a | b is what both have at least, and half of where they differ too
   * much.
   */
  readonly average: LaneOperation;
}

/** The operations for lanes of 8 or 16 bits. */
export function lanesOf(bits: 8 | 16): Lanes {
  const top = (bits === 8 ? 0x80808080 : 0x80008000) | 0;
  const rest = ~top;
  const toLowest = bits - 1;

  /** Each top bit to all bits of its lane: as many ones as twice the bit less its value as a lane's lowest bit. */
  const spread = (tops: number): number => ((tops << 1) - (tops >>> toLowest)) | 0;
  const select = (mask: number, a: number, b: number): number => (a & mask) | (b & ~mask);

  const add: LaneOperation = (a, b) => ((a & rest) + (b & rest)) ^ ((a ^ b) & top);
  const sub: LaneOperation = (a, b) => ((a | top) - (b & rest)) ^ ((a ^ ~b) & top);

  /** Top bits where a < b without signs: the borrow of a - b. */
  const lessTops = (a: number, b: number): number => ((~a & b) | (~(a ^ b) & sub(a, b))) & top;
  const lessUnsigned: LaneOperation = (a, b) => spread(lessTops(a, b));
  /** Flipping the sign bits maps the signed order to the unsigned one. */
  const greaterSigned: LaneOperation = (a, b) => spread(lessTops(b ^ top, a ^ top));

  /** Where a sum overflows, its operand's sign says to which end: all bits but the top one, plus one if negative. */
  const saturate = (overflow: number, a: number, result: number): number =>
    select(spread(overflow & top), add(rest, (a & top) >>> toLowest), result);

  return {
    add,
    sub,
    addSigned: (a, b) => {
      const sum = add(a, b);
      return saturate((a ^ sum) & (b ^ sum), a, sum);
    },
    addUnsigned: (a, b) => {
      const sum = add(a, b);
      return sum | spread(((a & b) | ((a | b) & ~sum)) & top);
    },
    subSigned: (a, b) => {
      const difference = sub(a, b);
      return saturate((a ^ b) & (a ^ difference), a, difference);
    },
    subUnsigned: (a, b) => sub(a, b) & ~lessUnsigned(a, b),
    equal: (a, b) => {
      const x = a ^ b;
      // A lane that is not zero has its top bit set, or gets it by a carry from the bits below.
      return spread(~(((x & rest) + rest) | x) & top);
    },
    greaterSigned,
    minSigned: (a, b) => select(greaterSigned(a, b), b, a),
    maxSigned: (a, b) => select(greaterSigned(a, b), a, b),
    minUnsigned: (a, b) => select(lessUnsigned(a, b), a, b),
    maxUnsigned: (a, b) => select(lessUnsigned(a, b), b, a),
    average: (a, b) => ((a | b) - (((a ^ b) >>> 1) & rest)) | 0,
  };
}
