/**
 * Universal probes: two notes of one probe, one after the other in the file, of whose places a pass runs exactly one. A
 * byte of memory, the selector, says which.
 *
 *     cmpb $0, selector(%rip)                    where no flag is needed
 *     jne five
 *     nop; nop10                                 <- the first note
 *     jmp join
 *     five: [lea -0x80(%rsp),%rsp] nop5 [lea 0x80(%rsp),%rsp]
 *     join:                      ^ the twin's note
 *
 *     lea -0x88(%rsp),%rsp; mov %rcx,(%rsp)      where one is, or may be
 *     movzbl selector(%rip),%ecx
 *     jrcxz zero
 *     mov (%rsp),%rcx; nop5; jmp raise           <- the twin's note
 *     zero: mov (%rsp),%rcx; nop; nop10          <- the first note
 *     raise: lea 0x88(%rsp),%rsp
 *
 * Notes and code alone say so, whoever wrote them. What looks only nearly like this is no pair: whoever adds up the hits
 * of both places, or counts them as one probe, has to know that a pass runs one of them and never both.
 */
import { type Interval, interval, type Vaddr, vaddr } from "../address.js";
import { type ElfImage, segmentAt } from "../elf/image.js";
import { forms, startsWith } from "./forms.js";
import type { UsdtNote } from "./notes.js";
import { codeFrom } from "./sites.js";

/** The places of one probe. Link-time addresses. */
export interface TwinPair {
  /** Indices of the notes. */
  readonly first: number;
  readonly twin: number;
  /** From the question on to where both ways meet. */
  readonly code: Interval<Vaddr>;
  /** The byte that says which place runs: the first where it is 0. */
  readonly selector: Vaddr;
  /** By how much rsp is lower at each place than around the probe, in bytes. */
  readonly firstShift: number;
  readonly twinShift: number;
}

/** nop; nop10, and nop5. */
const FIRST = forms["nop,nop10"].bytes;
const SECOND = forms.nop5.bytes;

const GUARD = 0x80;
const LOWER = Uint8Array.of(0x48, 0x8d, 0x64, 0x24, 0x80);
const RAISE = Uint8Array.of(0x48, 0x8d, 0xa4, 0x24, 0x80, 0, 0, 0);

const FRAME = 0x88;
const LOAD_RCX = Uint8Array.of(0x48, 0x8b, 0x0c, 0x24);
/** lea -0x88(%rsp),%rsp; mov %rcx,(%rsp); and the first bytes of movzbl. */
const ASK = Uint8Array.of(0x48, 0x8d, 0xa4, 0x24, 0x78, 0xff, 0xff, 0xff, 0x48, 0x89, 0x0c, 0x24, 0x0f, 0xb6, 0x0d);
const RAISE_FRAME = Uint8Array.of(0x48, 0x8d, 0xa4, 0x24, 0x88, 0, 0, 0);

const DISTANCE = 4;
const SHORT_JUMP = 2;
/** cmpb $0, selector(%rip) and jne; lea to jrcxz, and the load of rcx after it. */
const COMPARE_SIZE = 7;
const ASK_SIZE = ASK.length + DISTANCE + SHORT_JUMP + LOAD_RCX.length;

/** No instruction of a pair is further from one of its places. */
const REACH = 64;

/**
 * The pairs of a file, in the order of its notes.
 * @param notes all of the file's
 * @param need gets the parts of the file that are looked at, before they are: for an image that is not read whole
 */
export function findTwins(
  image: ElfImage,
  notes: readonly UsdtNote[],
  need: (offset: number, size: number) => void = () => {},
): readonly TwinPair[] {
  const pairs: TwinPair[] = [];
  for (let i = 0; i + 1 < notes.length; i++) {
    const [first, twin] = [notes[i]!, notes[i + 1]!];
    if (!isOneProbe(first, twin)) continue;
    const code = new Surroundings(image, first.location, need);
    const found = losingFlags(code, first.location, twin.location) ?? keepingFlags(code, first.location, twin.location);
    if (found === undefined) continue;
    pairs.push({ first: i, twin: i + 1, ...found });
    // Its twin is the first of no other.
    i++;
  }
  return pairs;
}

/** By each note's index where the other place of its probe is, or null. */
export function twinPlaces(notes: readonly UsdtNote[], pairs: readonly TwinPair[]): readonly (Vaddr | null)[] {
  const places: (Vaddr | null)[] = notes.map(() => null);
  for (const { first, twin } of pairs) {
    places[first] = notes[twin]!.location;
    places[twin] = notes[first]!.location;
  }
  return places;
}

const isOneProbe = (a: UsdtNote, b: UsdtNote): boolean =>
  a.provider === b.provider &&
  a.name === b.name &&
  a.semaphore === b.semaphore &&
  Math.abs(a.location - b.location) <= REACH;

/** The code around a place. */
class Surroundings {
  private readonly range: Interval<Vaddr>;
  private readonly bytes: Uint8Array;

  constructor(image: ElfImage, place: Vaddr, need: (offset: number, size: number) => void) {
    const start = vaddr(Math.max(segmentAt(image, place)?.p_vaddr ?? place, place - 2 * REACH));
    const code = codeFrom(image, start)?.subarray(0, place - start + 2 * REACH) ?? Buffer.alloc(0);
    need(code.byteOffset - image.bytes.byteOffset, code.length);
    this.bytes = code;
    this.range = interval(start, code.length);
  }

  /** The bytes from an address on; none where they are not at hand. */
  from(address: number): Uint8Array {
    const { start, end } = this.range;
    return address < start || address > end ? new Uint8Array(0) : this.bytes.subarray(address - start);
  }

  has(address: number, bytes: Uint8Array): boolean {
    return startsWith(this.from(address), bytes);
  }

  /** Where the distance of 4 bytes at an address leads, `after` bytes further on. */
  distant(address: number, after = 0): Vaddr | undefined {
    const bytes = this.from(address);
    if (bytes.length < DISTANCE) return undefined;
    const distance = new DataView(bytes.buffer, bytes.byteOffset).getInt32(0, true);
    return vaddr(address + DISTANCE + after + distance);
  }

  /** Where the branch of two bytes at an address leads that begins with `opcode`. */
  short(address: number, opcode: number): number | undefined {
    const [first, distance] = this.from(address);
    return first !== opcode || distance === undefined ? undefined : address + SHORT_JUMP + ((distance << 24) >> 24);
  }
}

const [JNE, JMP, JRCXZ] = [0x75, 0xeb, 0xe3];

type Places = Omit<TwinPair, "first" | "twin">;

function losingFlags(code: Surroundings, first: Vaddr, twin: Vaddr): Places | undefined {
  const branch = first - SHORT_JUMP;
  const compare = branch - COMPARE_SIZE;
  const isAsked = code.has(compare, Uint8Array.of(0x80, 0x3d)) && code.has(branch - 1, Uint8Array.of(0));
  const selector = isAsked ? code.distant(compare + 2, 1) : undefined;
  if (selector === undefined || !code.has(first, FIRST) || !code.has(twin, SECOND)) return undefined;
  const jump = first + FIRST.length;
  const five = jump + SHORT_JUMP;
  if (code.short(branch, JNE) !== five) return undefined;
  const twinShift = twin === five ? 0 : GUARD;
  const after = twin + SECOND.length;
  if (twinShift !== 0) {
    const isGuarded = twin === five + LOWER.length && code.has(five, LOWER) && code.has(after, RAISE);
    if (!isGuarded) return undefined;
  }
  const join = after + (twinShift === 0 ? 0 : RAISE.length);
  if (code.short(jump, JMP) !== join) return undefined;
  return { code: { start: vaddr(compare), end: vaddr(join) }, selector, firstShift: 0, twinShift };
}

function keepingFlags(code: Surroundings, first: Vaddr, twin: Vaddr): Places | undefined {
  const begin = twin - ASK_SIZE;
  if (!code.has(begin, ASK) || !code.has(twin, SECOND) || !code.has(first, FIRST)) return undefined;
  const selector = code.distant(begin + ASK.length);
  const zero = first - LOAD_RCX.length;
  const raise = first + FIRST.length;
  const isWhole =
    code.short(twin - LOAD_RCX.length - SHORT_JUMP, JRCXZ) === zero &&
    code.has(twin - LOAD_RCX.length, LOAD_RCX) &&
    code.has(zero, LOAD_RCX) &&
    code.short(twin + SECOND.length, JMP) === raise &&
    code.has(raise, RAISE_FRAME);
  if (!isWhole || selector === undefined) return undefined;
  const block = { start: vaddr(begin), end: vaddr(raise + RAISE_FRAME.length) };
  return { code: block, selector, firstShift: FRAME, twinShift: FRAME };
}
