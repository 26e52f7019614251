/**
 * A note's argument in the words of tracefs (Documentation/trace/uprobetracer.rst): what a tracer that goes by the note reads.
 *
 *     -4@$-5              \-5:s32
 *     -4@%esi  1@%ah      %si:s32  %ax:b8@8/64
 *     8@-20(%rbp)         -20(%bp):u64
 *     4@40+sym(%rip)      @+OFFSET:u32        OFFSET so that it is where the kernel, which goes by the probe's own mapping, looks
 *
 * tracefs adds no index to a base: such an operand is read as the bytes from its displacement on, and the index beside it;
 * `values` puts them together. Floating-point registers and thread-local storage no uprobe event can read.
 */
import type { Segment } from "../judges/headers.js";
import { fileOffset } from "../judges/headers.js";

/** What the program's symbols and segments say: for operands that name an address. */
export interface Addresses {
  readonly symbols: ReadonlyMap<string, bigint>;
  readonly segments: readonly Segment[];
}

export interface Fetched {
  /** Definitions for an event: as many as `value` takes. */
  readonly definitions: readonly string[];
  value(printed: readonly string[]): string;
}

/** Bytes that are read from an indexed operand's displacement on: the kernel's limit of an array is 64. */
const REACH = 64;

const OPERAND = /^(-?)(\d+)(f?)@(.+)$/;
const MEMORY = /^([^()]*)\((?:%(\w+))?(?:,%(\w+)(?:,(\d))?)?\)$/;

/** How to read an argument of a probe at `location`; null where tracefs cannot. */
export function fetchOf(argument: string, location: bigint, addresses: Addresses): Fetched | null {
  const [, minus, bytes, , operand] = OPERAND.exec(argument)!;
  const size = Number(bytes);
  const type = `${minus === "-" ? "s" : "u"}${size * 8}`;
  const one = (fetch: string): Fetched => ({ definitions: [`${fetch}:${type}`], value: (printed) => printed[0]! });
  // A symbol as a constant: the address of something, which only a program that reads the symbols knows.
  if (operand!.startsWith("$")) return /^\$-?\d/.test(operand!) ? one(`\\${operand!.slice(1)}`) : null;
  if (operand!.startsWith("%")) return register(operand!.slice(1), type);
  const memory = MEMORY.exec(operand!);
  if (memory === null) return null;
  const [, text, base, index, scale] = memory;
  const sum = addUp(text!, addresses);
  if (base === "rip") {
    return one(`@+0x${offsetFrom(location, sum.symbolic ? sum.value : location + sum.value, addresses).toString(16)}`);
  }
  const from =
    base === undefined
      ? `@+0x${offsetFrom(location, sum.value, addresses).toString(16)}`
      : `${sum.value < 0n ? sum.value : `+${sum.value}`}(%${base.slice(1)})`;
  if (index === undefined) return one(from);
  return {
    definitions: [`${from}:x8[${REACH}]`, `%${index.slice(1)}:u64`],
    value: (printed) => indexed(printed[0]!, Number(printed[1]) * Number(scale ?? 1), size, minus === "-"),
  };
}

const HIGH_BYTE = /^[abcd]h$/;

function register(name: string, type: string): Fetched | null {
  if (HIGH_BYTE.test(name)) {
    const signed = type.startsWith("s");
    const value = (printed: readonly string[]): string =>
      signed ? BigInt.asIntN(8, BigInt(printed[0]!)).toString() : BigInt(printed[0]!).toString();
    return { definitions: [`%${name[0]}x:b8@8/64`], value };
  }
  const full = generalRegister(name);
  return full === null ? null : { definitions: [`%${full}:${type}`], value: (printed) => printed[0]! };
}

/** The kernel's name of the register that a part of it names: ax for eax, al and rax, r8 for r8d. */
function generalRegister(name: string): string | null {
  const numbered = /^(r(?:8|9|1[0-5]))[bwdl]?$/.exec(name);
  if (numbered !== null) return numbered[1]!;
  const lettered = /^[re]?([abcd]x|[sd]i|[sb]p)$/.exec(name) ?? /^([sd]i|[sb]p)l$/.exec(name);
  if (lettered !== null) return lettered[1]!;
  return /^[abcd]l$/.test(name) ? `${name[0]}x` : null;
}

/** A displacement such as -20, -8+4, table+16 or 40+statistics. */
function addUp(text: string, { symbols }: Addresses): { value: bigint; symbolic: boolean } {
  let symbolic = false;
  const value = [...text.matchAll(/([+-]?)([\w.$]+)/g)].reduce((sum, [, sign, term]) => {
    const isNumber = /^\d/.test(term!);
    const amount = isNumber ? BigInt(term!) : symbols.get(term!);
    if (amount === undefined) throw new Error(`no symbol ${term} for the argument ${text}`);
    if (!isNumber) symbolic = true;
    return sign === "-" ? sum - amount : sum + amount;
  }, 0n);
  return { value, symbolic };
}

/**
 * The kernel takes an "offset in the file" for a distance in memory from the start of the probe's own mapping: right for what
 * lies in the same mapping, and for other segments if one says how far away they are instead.
 */
function offsetFrom(location: bigint, address: bigint, { segments }: Addresses): bigint {
  const offset = fileOffset(segments, location, "E");
  if (offset === null) throw new Error(`0x${location.toString(16)} is in no executable segment`);
  return BigInt.asUintN(64, address - location + offset);
}

/** `{0x1,0xff,...}`, as the kernel prints an array of bytes, read at a distance. */
function indexed(printed: string, at: number, size: number, signed: boolean): string {
  const bytes = [...printed.matchAll(/0x([0-9a-f]+)/g)].map(([, digits]) => Number.parseInt(digits!, 16));
  if (bytes.length !== REACH || at + size > REACH) return `out of reach: ${printed} at ${at}`;
  const value = bytes.slice(at, at + size).reduceRight((sum, byte) => (sum << 8n) | BigInt(byte), 0n);
  return (signed ? BigInt.asIntN(size * 8, value) : value).toString();
}
