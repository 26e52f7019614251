/**
 * The argument string of a note: where a tracer finds a probe's values.
 *
 *     -4@$1                          a constant
 *     8@%rdi                         a register, of any width's name
 *     8@-20(%rbp)  1@-96(%rbp,%rax,8)  memory; also with a segment, %fs:0x28
 *     -4@NBuffers(%rip)              a symbol's own address: it does not depend on where the probe stands
 *     4@16(%rip)                     a distance from the probe: it does depend on that
 *     8f@%xmm0                       the f says floating point
 *
 * N@OP: N is the size in bytes, negative for a signed value; OP is an operand in AT&T syntax, printed by the compiler
 * into its assembly output and taken over as text. Arguments are separated by blanks. Compilers may print a
 * displacement as a sum (`-8+4(%rsp)`, `40+symbol(%rip)`).
 *
 * Every argument keeps its text, and text that is not understood becomes kind "unknown", never a guess: whoever moves a
 * probe must be able to say "this argument does not depend on it", and for an unknown one that cannot be said.
 */

/** What all arguments have: their own text, and what stands before the @. */
interface ArgumentBase {
  /** The argument as it stands in the note. */
  readonly text: string;
  /** Size in bytes. */
  readonly size: number;
  readonly signed: boolean;
  readonly float: boolean;
}

interface ConstantArgument extends ArgumentBase {
  readonly kind: "constant";
  readonly value: bigint;
}

interface RegisterArgument extends ArgumentBase {
  readonly kind: "register";
  /** The register's name as written, without the %. */
  readonly register: string;
}

/** A value in memory at [segment: symbol + displacement + base + index * scale]. */
export interface MemoryArgument extends ArgumentBase {
  readonly kind: "memory";
  readonly segment: "fs" | "gs" | null;
  readonly symbol: string | null;
  readonly displacement: number;
  /** General-purpose registers as written, 64 or 32 bits wide, without the %. */
  readonly base: string | null;
  readonly index: string | null;
  readonly scale: 1 | 2 | 4 | 8;
}

/** `symbol+displacement(%rip)`: a value at a fixed link-time address. */
interface SymbolicArgument extends ArgumentBase {
  readonly kind: "symbolic";
  readonly symbol: string;
  readonly displacement: number;
}

/** `displacement(%rip)`: a value at a distance in bytes from the probe. */
interface RipRelativeArgument extends ArgumentBase {
  readonly kind: "rip-relative";
  readonly displacement: number;
}

/**
 * A value that the linker left as text and that depends neither on the probe's place nor on a register: the address of
 * a symbol (`8@$.LC3`), or a thread's own variable by its symbol (`4@%fs:counter@tpoff`).
 */
interface NamedArgument extends ArgumentBase {
  readonly kind: "named";
}

interface UnknownArgument {
  readonly kind: "unknown";
  readonly text: string;
}

export type UsdtArgument =
  | ConstantArgument
  | RegisterArgument
  | MemoryArgument
  | SymbolicArgument
  | RipRelativeArgument
  | NamedArgument
  | UnknownArgument;

/** A whole argument string: the arguments, and the blanks before, between and after them (one more than arguments). */
interface ArgumentString {
  readonly arguments: readonly UsdtArgument[];
  readonly blanks: readonly string[];
}

/** Splits an argument string at its blanks, as `list` shows it. */
export const splitArguments = (text: string): string[] => text.match(/[^ \t]+/g) ?? [];

/**
 * Probes share argument strings, and each is asked some six questions: a string is parsed once, as long as no more than
 * this many others come between. What a string means depends on nothing else, so that nobody sees who asked before.
 */
const MOST_KEPT = 4096;
const kept = new Map<string, ArgumentString>();

/** Parses the argument string of a note. It never fails: what is not understood becomes kind "unknown". */
export function parseArguments(text: string): ArgumentString {
  const known = kept.get(text);
  if (known !== undefined) return known;
  const list = { arguments: splitArguments(text).map(parseArgument), blanks: text.split(/[^ \t]+/) };
  if (kept.size === MOST_KEPT) kept.clear();
  kept.set(text, list);
  return list;
}

/** The text of an argument string; for an unchanged one exactly what was parsed. */
export function printArguments(list: ArgumentString): string {
  return list.arguments.reduce((text, argument, i) => text + argument.text + list.blanks[i + 1]!, list.blanks[0]!);
}

/** The same argument string with every argument mapped, blanks kept. */
export const mapArguments = (
  list: ArgumentString,
  change: (argument: UsdtArgument) => UsdtArgument,
): ArgumentString => ({
  arguments: list.arguments.map(change),
  blanks: list.blanks,
});

/**
 * The same operand with another displacement in bytes. It is printed even where it is 0: libbpf before 1.1 reads
 * `0(%rsp)` and not `(%rsp)`.
 */
export function withDisplacement<A extends MemoryArgument | RipRelativeArgument>(argument: A, displacement: number): A {
  const at = argument.text.indexOf("@") + 1;
  const segment = argument.kind === "memory" && argument.segment !== null ? `%${argument.segment}:` : "";
  const symbol = argument.kind === "memory" ? argument.symbol : null;
  const open = argument.text.indexOf("(", at);
  const registers = open < 0 ? "" : argument.text.slice(open);
  const offset =
    symbol === null ? `${displacement}` : `${symbol}${displacement < 0 ? displacement : `+${displacement}`}`;
  return { ...argument, displacement, text: `${argument.text.slice(0, at)}${segment}${offset}${registers}` };
}

/**
 * The full 64-bit register that a name stands for (`eax` -> `rax`, `r9b` -> `r9`, `ah` -> `rax`), or null for a
 * register that is not general-purpose.
 */
export const fullRegister = (name: string): string | null => generalRegisters.get(name) ?? null;

/** Whether the value of an argument is found through a general-purpose register, given by its 64-bit name. */
export function usesRegister(argument: UsdtArgument, register: string): boolean {
  if (argument.kind === "register") return fullRegister(argument.register) === register;
  if (argument.kind !== "memory") return false;
  return [argument.base, argument.index].some((name) => name !== null && fullRegister(name) === register);
}

const generalRegisters: ReadonlyMap<string, string> = new Map(
  [
    ..."abcd".split("").map((c) => [`r${c}x`, `e${c}x`, `${c}x`, `${c}l`, `${c}h`]),
    ...["si", "di", "bp", "sp"].map((r) => [`r${r}`, `e${r}`, r, `${r}l`]),
    ...[8, 9, 10, 11, 12, 13, 14, 15].map((n) => [`r${n}`, `r${n}d`, `r${n}w`, `r${n}b`, `r${n}l`]),
  ].flatMap((names) => names.map((name) => [name, names[0]!] as const)),
);

/** Registers that hold values but no addresses. */
const OTHER_REGISTER = /^(?:[xyz]mm(?:[12]?\d|3[01])|mm[0-7]|k[0-7]|st|st\([0-7]\))$/;

/** Registers that may stand in an address: 64 or 32 bits wide. */
const isAddressRegister = (name: string): boolean => generalRegisters.has(name) && /^(?:[re]..|r\d+d?)$/.test(name);

const NUMBER = String.raw`(?:0[xX][0-9a-fA-F]+|0|[1-9]\d*)`;
// Names from compilers hold dots and $, but a $ in front makes an immediate; names in quotes, or with a relocation
// after an @, stay unknown.
const SYMBOL = String.raw`[A-Za-z_.][\w.$]*`;
const ARGUMENT = /^(-?)([1-9]\d?)(f?)@(.+)$/;
const CONSTANT = new RegExp(String.raw`^\$(-?)(${NUMBER})$`);
/** `$symbol`, `$symbol+8`, `%fs:symbol@tpoff`. */
const NAMED = new RegExp(String.raw`^(?:\$${SYMBOL}|%[fg]s:${SYMBOL}@[a-zA-Z]+)(?:[+-]${NUMBER})*$`);
const REGISTER = /^%([a-z][a-z0-9]*(?:\([0-7]\))?)$/;
const MEMORY = /^(?:%([fg]s):)?([^()%]*)(?:\((?:%(\w+))?(?:,%(\w+)(?:,([1248]))?)?\))?$/;
const TERM = new RegExp(`([+-]?)(${NUMBER}|${SYMBOL})`, "y");

function parseArgument(text: string): UsdtArgument {
  const unknown: UnknownArgument = { kind: "unknown", text };
  const match = ARGUMENT.exec(text);
  if (match === null) return unknown;
  const [, minus, size, f, operand] = match as unknown as [string, string, string, string, string];
  const base: ArgumentBase = { text, size: Number(size), signed: minus === "-", float: f === "f" };

  const constant = CONSTANT.exec(operand);
  if (constant !== null) {
    const magnitude = BigInt(constant[2]!);
    return { ...base, kind: "constant", value: constant[1] === "-" ? -magnitude : magnitude };
  }
  const register = REGISTER.exec(operand)?.[1];
  if (register !== undefined)
    return generalRegisters.has(register) || OTHER_REGISTER.test(register)
      ? { ...base, kind: "register", register }
      : unknown;
  if (NAMED.test(operand)) return { ...base, kind: "named" };
  return parseMemory(base, operand) ?? unknown;
}

function parseMemory(base: ArgumentBase, operand: string): UsdtArgument | null {
  const match = MEMORY.exec(operand);
  if (match === null) return null;
  const [, segment, offset, baseRegister = null, index = null, scale = "1"] = match as (string | undefined)[];
  const sum = parseSum(offset!);
  if (sum === null) return null;
  const { symbol, displacement } = sum;

  if (baseRegister === "rip") {
    // %rip takes no index, needs something before it, and with a segment nobody writes it.
    if (index !== null || segment !== undefined || offset === "") return null;
    return symbol === null
      ? { ...base, kind: "rip-relative", displacement }
      : { ...base, kind: "symbolic", symbol, displacement };
  }
  for (const register of [baseRegister, index]) if (register !== null && !isAddressRegister(register)) return null;
  if (index === "rsp" || index === "esp") return null;
  // A bare number could be an address or a forgotten $; "()" is nothing. A bare symbol is an absolute address.
  if (baseRegister === null && index === null && (operand.endsWith(")") || (segment === undefined && symbol === null)))
    return null;
  if (baseRegister === null && index === null && offset === "") return null;
  return {
    ...base,
    kind: "memory",
    segment: (segment as "fs" | "gs" | undefined) ?? null,
    symbol,
    displacement,
    base: baseRegister,
    index,
    scale: Number(scale) as 1 | 2 | 4 | 8,
  };
}

/** A sum of numbers with at most one symbol, which is not subtracted; empty is 0. Null for anything else. */
function parseSum(text: string): { symbol: string | null; displacement: number } | null {
  let symbol: string | null = null;
  let displacement = 0;
  TERM.lastIndex = 0;
  while (TERM.lastIndex < text.length) {
    const first = TERM.lastIndex === 0;
    const match = TERM.exec(text);
    if (match === null) return null;
    const [, sign, term] = match as unknown as [string, string, string];
    if (!first && sign === "") return null;
    if (/^\d/.test(term)) {
      displacement += (sign === "-" ? -1 : 1) * Number(term);
    } else {
      if (symbol !== null || sign === "-") return null;
      symbol = term;
    }
  }
  return Number.isSafeInteger(displacement) ? { symbol, displacement } : null;
}
