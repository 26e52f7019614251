/**
 * Every place where a file may enter the kernel by itself, and with which numbers.
 *
 * The bytes of `syscall` are looked for at every position. In a function that decodes cleanly they count where an
 * instruction is one, and nowhere else. In code of which that cannot be said they count wherever they stand, and
 * nothing is known of the number. `int $0x80` and `sysenter`, which take the numbers of 32-bit programs, are looked for
 * alike.
 */
import { hex, type Vaddr, vaddr } from "../address.js";
import { type ElfImage, isCode, sectionBytes } from "../elf/image.js";
import { addressOf, type DecodedCode, decode, Flow, indexAt, indexOf, lengthOf } from "../x86/decode.js";
import { describeEntry } from "./entries.js";
import type { FileFacts } from "./file-facts.js";
import type { FunctionIndex } from "./functions.js";
import { REACH_BEHIND } from "./neighbourhoods.js";
import { gatherFacts, type ProgramFacts } from "./program.js";
import { RegisterConstants } from "./register-constants.js";

const RAX = 0;
const RDI = 7;

/** Numbers of system calls that make processes (arch/x86/entry/syscalls/syscall_64.tbl). vfork shares the memory. */
export const SYS_clone = 56;
export const SYS_fork = 57;
export const SYS_clone3 = 435;
/** The flag by which parent and child share their memory. */
export const CLONE_VM = 0x100;

export interface SystemCall {
  /** Where the `syscall` stands. */
  readonly at: Vaddr;
  /** The instructions around it, and its index among them. */
  readonly code: DecodedCode;
  readonly index: number;
  /** What eax and edi may hold; undefined where that is not known. */
  readonly numbers: readonly number[] | undefined;
  readonly firstArguments: readonly number[] | undefined;
}

export interface SystemCalls {
  /** Those whose instruction is known for certain. */
  readonly calls: readonly SystemCall[];
  /** What may be one and cannot be looked into, in words for people. */
  readonly unclear: readonly string[];
}

const SYSCALL = Buffer.from([0x0f, 0x05]);
const SYSENTER = Buffer.from([0x0f, 0x34]);
const INT80 = Buffer.from([0xcd, 0x80]);

/** System calls whose numbers nobody has looked at yet. */
interface FoundSystemCalls {
  readonly found: readonly { readonly at: Vaddr; readonly code: DecodedCode }[];
  readonly unclear: readonly string[];
  /** Places around which facts have to be gathered before more can be said. */
  readonly places: readonly Vaddr[];
}

/** @throws InputError where tables of the file are damaged */
export function findSystemCalls(file: FileFacts): FoundSystemCalls {
  const { image } = file;
  const candidates = [...positions(image, SYSCALL), ...positions(image, SYSENTER), ...positions(image, INT80)];
  if (candidates.length === 0) return { found: [], unclear: [], places: [] };
  const pieces = new Pieces(file.functions);
  const unclear: string[] = [];
  const found: { at: Vaddr; code: DecodedCode }[] = [];
  for (const at of candidates) {
    const code = pieces.around(at);
    const kind = code === undefined ? undefined : entersKernel(code, at);
    if (kind === "syscall") found.push({ at, code: code! });
    else if (kind !== undefined) unclear.push(`${kind} at ${hex(at)}`);
  }
  const places = found.flatMap(({ at, code }) => (pieces.isFunction(code) ? [at] : [at, ...placesIn(code)]));
  return { found, unclear, places };
}

/** What the system calls are. @param facts gathered around all of their places, and maybe others */
export function numbersOf({ found, unclear }: FoundSystemCalls, facts: ProgramFacts): SystemCalls {
  const constants = new RegisterConstants(facts);
  const calls: SystemCall[] = [];
  const all = [...unclear];
  for (const { at, code } of found) {
    if (isSignalReturn(facts, code, at)) continue;
    const obstacle = obstacleIn(facts, code, at);
    if (obstacle === undefined) calls.push(callAt(constants, code, at));
    else all.push(`the system call at ${hex(at)}: ${obstacle}`);
  }
  return { calls: withDistantNumbers(facts.file, calls), unclear: all };
}

function callAt(constants: RegisterConstants, code: DecodedCode, at: Vaddr): SystemCall {
  const index = indexAt(code, at);
  const numbers = constants.valuesBefore(code, index, RAX);
  return { at, code, index, numbers, firstArguments: constants.valuesBefore(code, index, RDI) };
}

/**
 * Numbers that are given far away from the call, at the start of a function: what is known of its surroundings alone
 * does not tell. So everything is gathered about those functions as a whole, unless they are too many or the program is
 * huge: the tables of all of its functions would have to be kept in memory.
 */
function withDistantNumbers(file: FileFacts, calls: readonly SystemCall[]): readonly SystemCall[] {
  const places = new Set(calls.filter((call) => call.numbers === undefined).flatMap(({ code }) => placesIn(code)));
  const size = file.image.sections.filter(isCode).reduce((sum, s) => sum + s.sh_size, 0);
  if (places.size === 0 || places.size > MOST_PLACES || size > MOST_CODE) return calls;
  const constants = new RegisterConstants(gatherFacts(file, [...places]));
  return calls.map((call) => (call.numbers === undefined ? callAt(constants, call.code, call.at) : call));
}

const MOST_PLACES = 1000;
const MOST_CODE = 1 << 24;

/** Whether a call may make a process with a copy of the memory. The bit of the x32 ABI makes no difference. */
export function mayCopyMemory({ numbers, firstArguments }: Pick<SystemCall, "numbers" | "firstArguments">): boolean {
  if (numbers === undefined) return true;
  return numbers.some((number) => {
    const call = number & ~0x40000000;
    if (call === SYS_fork || call === SYS_clone3) return true;
    return call === SYS_clone && (firstArguments === undefined || firstArguments.some((flags) => !(flags & CLONE_VM)));
  });
}

function positions(image: ElfImage, pattern: Buffer): Vaddr[] {
  const found: Vaddr[] = [];
  for (const section of image.sections.filter(isCode)) {
    const bytes = sectionBytes(image, section);
    for (let at = bytes.indexOf(pattern); at >= 0; at = bytes.indexOf(pattern, at + 1))
      found.push(vaddr(section.sh_addr + at));
  }
  return found;
}

/**
 * Stretches of code that are decoded as one: a function, or a gap together with the function that it directly
 * continues. (Unwind information of the C library's own assembly ends at a system call that switches stacks.)
 */
class Pieces {
  readonly #joined = new Map<Vaddr, DecodedCode>();

  constructor(private readonly functions: FunctionIndex) {}

  isFunction(code: DecodedCode): boolean {
    const range = this.functions.containing(code.start);
    return range !== undefined && range.end === code.end;
  }

  /** The piece that contains an address; undefined in no section of code. */
  around(at: Vaddr): DecodedCode | undefined {
    const { functions } = this;
    const range = functions.containing(at);
    if (range !== undefined) return functions.code(range);
    const gap = functions.gapCode(at);
    const before = gap && functions.containing(gap.start - 1);
    if (gap === undefined || before === undefined || before.end !== gap.start) return gap;
    if (gap.end - before.start > LARGEST_PIECE) return gap;
    const first = functions.code(before);
    if (first.unclean !== undefined || gap.unclean !== undefined) return gap;
    let joined = this.#joined.get(gap.start);
    if (joined === undefined) {
      joined = decode(Uint8Array.from(Buffer.concat([first.bytes, gap.bytes])), first.start);
      this.#joined.set(gap.start, joined);
    }
    return joined;
  }
}

/** What stands at an address that has the bytes for it; undefined where they are part of something else. */
function entersKernel(code: DecodedCode, at: Vaddr): string | undefined {
  if (code.unclean !== undefined && !skipsLocksOnly(code))
    return "what may be a system call, in code that cannot be decoded,";
  const index = indexAt(code, at);
  const offset = code.offsets[index]!;
  // After prefixes, the instruction's last two bytes say what it is.
  const isWhole = offset + lengthOf(code, index) === at - code.start + 2;
  if (!isWhole || (code.flow[index]! & Flow.Trap) === 0) return undefined;
  const [first, second] = [code.bytes[at - code.start]!, code.bytes[at - code.start + 1]!];
  if (first === 0x0f && second === 0x05) return offset === at - code.start ? "syscall" : "a system call after prefixes";
  return first === 0x0f ? "sysenter" : "int 0x80";
}

/**
 * Whether all that is wrong with a function is branches over `lock` prefixes, as the C library has them for processes
 * with one thread: after the prefix stands the same instruction.
 */
function skipsLocksOnly(code: DecodedCode): boolean {
  if (code.unclean?.startsWith("a branch into the middle") !== true) return false;
  for (let i = 0; i < code.count; i++) {
    const target = code.targets[i]!;
    if (!(target > code.start && target < code.end) || indexOf(code, target) >= 0) continue;
    const around = addressOf(code, indexAt(code, target));
    if (target !== around + 1 || code.bytes[around - code.start] !== LOCK) return false;
  }
  return code.offsets[code.count] === code.bytes.length;
}

const LOCK = 0xf0;

/** Addresses whose neighbourhoods cover a piece; none where it is too large to be looked through. */
function placesIn({ start, end }: DecodedCode): Vaddr[] {
  const places: Vaddr[] = [];
  if (end - start > LARGEST_PIECE) return places;
  for (let place: number = start; place < end; place += REACH_BEHIND) places.push(vaddr(place));
  return places;
}

const LARGEST_PIECE = 1 << 15;

/**
 * Why nothing can be said of the piece around a call: a jump in it is not understood, or something arrives between its
 * instructions. In a function that counts close to the call alone, and only if it is certain: among constants and bytes
 * of other code some look like addresses.
 */
function obstacleIn(facts: ProgramFacts, code: DecodedCode, at: Vaddr): string | undefined {
  const { functions, entries } = facts;
  const around = functions.containing(code.start) === undefined ? undefined : facts.siteCode(code.start);
  if (typeof around === "string") return around;
  const isFunction = around?.range.end === code.end;
  const start = isFunction ? Math.max(code.start, at - CLOSE_BEFORE) : code.start;
  const end = isFunction ? Math.min(code.end, at + CLOSE_BEHIND) : code.end;
  if (!facts.covers(vaddr(start), vaddr(end))) return "there is too much code around it that is in no known function";
  const isClose = (address: Vaddr): boolean => address >= at - CLOSE_BEFORE && address < at + CLOSE_BEHIND;
  const stray = entries.within(start, end).find(({ address, isCertain }) => {
    if (indexOf(code, address) >= 0) return false;
    return functions.containing(address) === undefined || (isCertain && isClose(address));
  });
  return stray && `${describeEntry(stray)}, between the instructions there`;
}

const CLOSE_BEFORE = 64;
const CLOSE_BEHIND = 16;

/**
 * `mov $15, %rax; syscall`, byte for byte: what signal handlers return to, by which unwinders know their frames. The
 * unwind information of the C library begins one byte before it, so that the function there decodes as something else.
 */
function isSignalReturn({ entries }: ProgramFacts, code: DecodedCode, at: Vaddr): boolean {
  const start = at - SIGNAL_RETURN.length;
  const bytes = code.bytes.subarray(Math.max(0, start - code.start), at - code.start);
  return SIGNAL_RETURN.equals(bytes) && entries.within(start + 1, at + 2).every((entry) => !entry.isCertain);
}

const SIGNAL_RETURN = Buffer.from([0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0]);
