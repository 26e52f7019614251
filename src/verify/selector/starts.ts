/**
 * How a selector's code is called: what registers hold, and what is in memory. All that processes are seen to do to it,
 * and what no process does, where a code that trusts too much would be found.
 *
 * Addresses are runtime addresses. What is not among the blocks is not there: who reads it is seen.
 */
import { PAGE_SIZE } from "../../address.js";
import { Gpr } from "../../emulate/state.js";
import { SELECTED } from "./vdso.js";

export interface Block {
  readonly address: number;
  readonly bytes: Buffer;
}

export interface Start {
  readonly name: string;
  readonly rsp: number;
  /** By register number; the others hold anything. */
  readonly registers: ReadonlyMap<number, bigint>;
  readonly blocks: readonly Block[];
  /**
   * Whether what the kernel wrote is there to be found, and so the vDSO. "maybe": it is there, with something before it
   * that nobody can tell from it.
   */
  readonly isKnown: boolean | "maybe";
}

/** Where the kernel has put the vDSO. */
export const VDSO = 0x7ffd_5000_0000;
/** What the kernel wrote stands here. */
const WRITTEN = 0x7ffc_8000_0000;
const STACK = 0x7ffc_7000_0800;
const HEAP = 0x6000_1000_0000;
/** Nothing is here. */
const NOWHERE = 0x1234_5000;
const STRING = WRITTEN + 0x8000;
/** Where a called function returns to. */
export const RETURN = 0x7f10_0000_0000;

const words = (values: readonly (number | bigint)[]): Buffer => {
  const bytes = Buffer.alloc(8 * values.length);
  for (const [i, value] of values.entries()) bytes.writeBigUInt64LE(BigInt.asUintN(64, BigInt(value)), 8 * i);
  return bytes;
};

const AT_SYSINFO_EHDR = 33;

/** Pairs as Linux writes them; user 33, whom Debian's web servers run as, is a value that is a type as well. */
const others: readonly (readonly [number, number])[] = [
  [51, 0xd30],
  [16, 0x178bfbff],
  [6, 4096],
  [17, 100],
  [3, 0x5555_4000_0040],
  [4, 56],
  [5, 13],
  [7, 0x7f00_0000_0000],
  [8, 0],
  [9, 0x5555_4000_1060],
  [11, 33],
  [12, 33],
  [13, 33],
  [14, 33],
  [23, 0],
  [25, STRING],
  [31, STRING],
  [15, STRING],
];

type Pairs = readonly (readonly [number, number])[];

const pairs = (vdso: number | undefined, isLate = false): Pairs => {
  const own: Pairs = vdso === undefined ? [] : [[AT_SYSINFO_EHDR, vdso]];
  return [...(isLate ? [] : own), ...others, ...(isLate ? own : []), [0, 0]];
};

const strings = (count: number): number[] => Array.from({ length: count }, (_, i) => STRING + 16 * i);

/** argv with its NULL, what stands there of the environment, the pairs. */
const written = (argc: number, environment: readonly number[], auxv: Pairs): Buffer =>
  words([...strings(argc), 0, ...environment, ...auxv.flat()]);

const AUXV = pairs(VDSO);

function entry(
  name: string,
  argc: number,
  environment: number | readonly number[],
  auxv: Pairs,
  isKnown: boolean | "maybe",
  more: readonly Block[] = [],
): Start {
  const variables = typeof environment === "number" ? [...strings(environment), 0] : environment;
  const block = Buffer.concat([words([argc]), written(argc, variables, auxv)]);
  return { name, rsp: WRITTEN, registers: new Map(), blocks: [{ address: WRITTEN, bytes: block }, ...more], isKnown };
}

/** What looks like a vDSO of a kernel that selects, and begins so many bytes after a page does: it is none. */
const askew = Array.from({ length: Math.log2(PAGE_SIZE) }, (_, bit) => 2 ** bit).map((by) => ({
  name: `a vDSO ${by} bytes into a page`,
  auxv: pairs(HEAP + by),
  block: { address: HEAP + by, bytes: SELECTED.bytes },
}));

/** A program's: the kernel, or the loader, has written what rsp leads to. */
export const entries: readonly Start[] = [
  entry("a program", 2, 20, AUXV, true),
  entry("no environment", 1, 0, AUXV, true),
  entry("no arguments", 0, 3, AUXV, true),
  entry("no arguments, no environment", 0, 0, AUXV, true),
  entry("many", 700, 900, AUXV, true),
  entry("the vDSO told of last", 1, 4, pairs(VDSO, true), true),
  entry("no vDSO", 1, 4, pairs(undefined), false),
  entry("a vDSO at 0", 1, 4, pairs(0), false),
  entry("nothing told", 1, 4, [[0, 0]], false),
  entry("variables that the loader has taken away: several NULLs", 1, [...strings(3), 0, 0, 0], AUXV, "maybe"),
  ...askew.map(({ name, auxv, block }) => entry(name, 1, 4, auxv, false, [block])),
];

interface Call {
  readonly argc?: bigint;
  readonly argv?: number;
  readonly envp?: number;
  readonly more?: readonly Block[];
}

function call(
  name: string,
  block: Buffer,
  isKnown: boolean | "maybe",
  { argc = 2n, argv = WRITTEN, envp = argv + 8 * (Number(argc) + 1), more = [] }: Call = {},
): Start {
  const registers = new Map([
    [Gpr.RDI, argc],
    [Gpr.RSI, BigInt(argv)],
    [Gpr.RDX, BigInt(envp)],
  ]);
  const stack = { address: STACK, bytes: Buffer.concat([words([RETURN]), Buffer.alloc(256, 0xa5)]) };
  return { name, rsp: STACK, registers, blocks: [stack, { address: WRITTEN, bytes: block }, ...more], isKnown };
}

/** An environment elsewhere, with what looks like pairs after it. */
const moved: Block = {
  address: HEAP,
  bytes: words([...strings(3), 0, AT_SYSINFO_EHDR, NOWHERE, AT_SYSINFO_EHDR, STRING, 0, 0]),
};
const plain = written(2, [...strings(5), 0], AUXV);
/** A word in the place of a string that would be taken for a vDSO. */
const FOOBARX = STRING + 5;

/** A library's: argc, argv, envp, as glibc calls it, after all that programs do; and what glibc never hands over. */
export const calls: readonly Start[] = [
  call("a library", plain, true),
  call("no environment", written(2, [0], AUXV), true),
  call("no arguments", written(0, [...strings(3), 0], AUXV), true, { argc: 0n }),
  call("many", written(700, [...strings(900), 0], AUXV), true, { argc: 700n }),
  call("the vDSO told of last", written(2, [...strings(2), 0], pairs(VDSO, true)), true),
  call("setenv: an environment elsewhere", plain, true, { envp: HEAP, more: [moved] }),
  call("environ = NULL", plain, true, { envp: 0 }),
  call("an environment that is gone", plain, true, { envp: NOWHERE }),
  call("unsetenv: several NULLs", written(2, [...strings(2), 0, 0, 0, 0], AUXV), true),
  call("unsetenv of all", written(2, [0, 0, 0, 0, 0, 0], AUXV), true),
  call("cleared at its first variable", written(2, [0, ...strings(3), 0], AUXV), "maybe"),
  call("the same, of an even number", written(2, [0, ...strings(4), 0], AUXV), "maybe"),
  call("cleared, and pairs after it", written(2, [0, AT_SYSINFO_EHDR, FOOBARX, STRING, 0], AUXV), "maybe"),
  call("no vDSO", written(2, [...strings(2), 0], pairs(undefined)), false),
  call("a vDSO at 0", written(2, [...strings(2), 0], pairs(0)), false),
  ...askew.map(({ name, auxv, block }) => call(name, written(2, [...strings(2), 0], auxv), false, { more: [block] })),
  call("2^24 arguments", plain, false, { argc: 2n ** 24n, argv: NOWHERE }),
  call("a negative number of arguments", plain, false, { argc: 0xffffffffn, argv: NOWHERE }),
  call("a negative number, of 64 bits", plain, false, { argc: -1n, argv: NOWHERE }),
  call("argv = NULL", plain, false, { argv: 0 }),
  call("an odd argv", plain, false, { argv: NOWHERE + 1 }),
  call("argv a multiple of four", plain, false, { argv: NOWHERE + 4 }),
  call("as musl calls it", plain, false, { argc: BigInt(HEAP), argv: NOWHERE, envp: NOWHERE }),
];
