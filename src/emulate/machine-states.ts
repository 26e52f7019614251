/**
 * The states from which both sides are run: registers, flags, and memory that comes into being where it is touched.
 *
 * Most registers hold addresses, so that instructions that follow them have something to read; the others hold the
 * values at which arithmetic changes its mind: 0, 1, -1, the borders of signs and of widths, powers of two. Everything
 * follows from one number, so that a state can be made again.
 */
import { PAGE_SIZE } from "../address.js";
import { FS_BASE, Gpr, GS_BASE, STATE_WORDS, State, XMM } from "./state.js";

/** A register, by number, that holds an address of the stack, and how far that is from the stack pointer, in bytes. */
export interface StackAddress {
  readonly register: number;
  readonly distance: number;
}

/** What stands in memory before the run, over what the seed puts there: 8 bytes at a runtime address. */
export interface Patch {
  readonly address: number;
  readonly lo: number;
  readonly hi: number;
}

export interface MachineState {
  /** What memory holds follows from it. */
  readonly seed: number;
  /** The first STATE_WORDS words of a CPU's state; rip is for whoever runs it. */
  readonly words: Int32Array;
  readonly patches: readonly Patch[];
}

/** A stream of 32-bit numbers (Marsaglia, "Xorshift RNGs", 2003). */
export class Random {
  private x: number;

  constructor(seed: number) {
    this.x = (Math.imul(seed, 0x9e3779b1) ^ 0x2545f491) | 0 || 1;
    for (let i = 0; i < 4; i++) this.next();
  }

  next(): number {
    let { x } = this;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.x = x;
    return x;
  }

  below(n: number): number {
    return (this.next() >>> 0) % n;
  }
}

/** Values, low and high word, at whose borders instructions behave differently. */
export const BOUNDARIES: readonly (readonly [number, number])[] = [
  [0, 0],
  [1, 0],
  [-1, -1],
  [2, 0],
  [-2, -1],
  [0x7f, 0],
  [0x80, 0],
  [0xff, 0],
  [0x7fff, 0],
  [0x8000, 0],
  [0xffff, 0],
  [0x7fffffff, 0],
  [0x80000000 | 0, 0],
  [-1, 0],
  [0, 1],
  [-1, 0x7fffffff],
  [0, 0x80000000 | 0],
  [1, 0x80000000 | 0],
];

/** High words of addresses: a heap and a stack, apart from each other and from where files are loaded. */
const HEAP = 0x6100;
const STACK = 0x7ffc;

function put(words: Int32Array, register: number, lo: number, hi: number): void {
  words[2 * register] = lo;
  words[2 * register + 1] = hi;
}

function registerValue(random: Random): readonly [number, number] {
  const kind = random.below(16);
  // An object's address; few enough that two registers may point to the same one.
  if (kind < 9) return [0x1000_0000 + random.below(64) * 0x40 * (kind < 4 ? 1 : 67), HEAP];
  if (kind < 13) return BOUNDARIES[random.below(BOUNDARIES.length)]!;
  if (kind === 13) return [1 << random.below(32), 0];
  if (kind === 14) return [random.below(256), 0];
  return [random.next(), random.next()];
}

/**
 * The state of a seed.
 * @param addresses registers that hold addresses of the stack, as the facts say: a frame pointer, mostly. What they say
 * of the bytes below rsp holds for such states only
 */
export function stateOf(seed: number, addresses: readonly StackAddress[]): MachineState {
  const random = new Random(seed);
  const state = new State();
  const words = state.w;
  for (let register = 0; register < 16; register++) put(words, register, ...registerValue(random));
  const rsp = 0x2000_0000 + random.below(8) * 0x1000 + 0x800 + random.below(32) * 8;
  put(words, Gpr.RSP, rsp, STACK);
  // Where its distance is not known, a frame pointer is far above, or none.
  if (random.below(4) > 0) put(words, Gpr.RBP, rsp + 0x4000 + 8 * random.below(64), STACK);
  for (const { register, distance } of addresses) put(words, register, rsp + distance, STACK);
  for (let i = 0; i < 16; i++) {
    const special = random.below(3) > 0;
    for (let k = 0; k < 4; k++) words[XMM + 4 * i + k] = special && random.below(2) ? 0 : random.next();
    if (special) state.f64[(XMM + 4 * i) / 2] = FLOATS[random.below(FLOATS.length)]!;
  }
  state.rflags = random.next() & 0x8d5;
  words[FS_BASE + 1] = 0x6300;
  words[FS_BASE] = 0x1000_0000;
  words[GS_BASE + 1] = 0;
  return { seed, words: words.slice(0, STATE_WORDS), patches: [] };
}

const FLOATS = [0, -0, 1, -1, 0.5, 1e308, -1e-308, 5e-324, Number.POSITIVE_INFINITY, Number.NaN, 2 ** 31, -(2 ** 63)];

const POOL_SIZE = 16;
/** Constants, made when they are first needed: 64 KiB. */
let pool: readonly Uint8Array[] | undefined;

/** What a page holds that no file has: numbers of all kinds, and addresses of other such pages. */
export function pageContent(seed: number, page: number): Uint8Array {
  pool ??= Array.from({ length: POOL_SIZE }, (_, i) => makePage(new Random(1000 + i)));
  const number = page / PAGE_SIZE;
  const hash = Math.imul(number | 0, 0x85ebca6b) ^ Math.imul(seed, 0xc2b2ae35);
  return pool[((hash >>> 16) ^ hash) & (POOL_SIZE - 1)]!;
}

function makePage(random: Random): Uint8Array {
  const words = new Int32Array(PAGE_SIZE / 4);
  // Pages differ in what most of them is, so that flags and lengths come in all kinds.
  const mostly = random.below(4);
  for (let i = 0; i < words.length; i += 2) {
    const [lo, hi] =
      mostly === 0 ? [0, 0] : mostly === 1 && random.below(2) ? [random.below(4), 0] : registerValue(random);
    words[i] = lo;
    words[i + 1] = hi;
  }
  return new Uint8Array(words.buffer);
}
