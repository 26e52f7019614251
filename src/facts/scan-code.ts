/**
 * Every 32-bit word in code that, as a branch distance or as an address, leads to where a tactic might write.
 *
 * Sweeping through the program's instructions would have to trust that it knows where each begins. This asks less and
 * proves more: at every byte position of every executable section, were a rel32 here, would it lead there? A real
 * branch cannot escape that question. What it finds by chance is settled afterwards, by decoding the function around
 * it.
 *
 * Three readings of the word v at address p:
 *   relative       p + 4 + v   jmp, jcc, call, xbegin and `lea v(%rip)`
 *   self-relative  p + v       `.long target - .`, in a table that stands among the code
 *   absolute       v           `mov $target, %edi`, `jmp *table(,%rax,8)`; only in programs with fixed addresses
 */
import { type Vaddr, vaddr } from "../address.js";
import { type ElfImage, type Section, sectionBytes } from "../elf/image.js";
import type { Neighbourhoods } from "./neighbourhoods.js";
import { AddressFilter, sweepAddresses, sweepDistances } from "./sweep.js";

export interface CodeHit {
  /** Where the word stands. */
  readonly at: Vaddr;
  readonly target: Vaddr;
  readonly reading: "relative" | "self-relative" | "absolute";
}

/**
 * All hits, in the order in which they were found. Tens of thousands of a large library are chance: they are no
 * objects.
 */
export class CodeHits {
  private readonly places: number[] = [];
  private readonly targets: number[] = [];
  private readonly readings: CodeHit["reading"][] = [];

  add(at: number, target: number, reading: CodeHit["reading"]): void {
    this.places.push(at);
    this.targets.push(target);
    this.readings.push(reading);
  }

  /** Where the words lead, by the index of the hit. */
  get allTargets(): readonly number[] {
    return this.targets;
  }

  hit(index: number): CodeHit {
    return {
      at: vaddr(this.places[index]!),
      target: vaddr(this.targets[index]!),
      reading: this.readings[index]!,
    };
  }

  /** Those that lead into [start, end). */
  into(start: number, end: number): CodeHit[] {
    const { targets } = this;
    const found: CodeHit[] = [];
    for (let i = 0; i < targets.length; i++) if (targets[i]! >= start && targets[i]! < end) found.push(this.hit(i));
    return found;
  }
}

/** What looks like a jmp or jcc into a function of interest: it may be another part of the same function. */
export interface Link {
  readonly from: Vaddr;
  readonly to: Vaddr;
}

/**
 * @param fixed the program runs at its link-time addresses (ET_EXEC)
 * @param functionBlocks like near.blocks, for the functions that hold sites
 * @param asked one more address, of data, of which it is asked whether code makes it: one sweep answers for both
 */
export function scanCode(
  image: ElfImage,
  sections: readonly Section[],
  near: Neighbourhoods,
  functionBlocks: Uint8Array,
  fixed: boolean,
  asked: Vaddr | undefined,
): { hits: CodeHits; links: Link[]; makesAsked: boolean } {
  const hits = new CodeHits();
  const links: Link[] = [];
  let makesAsked = false;
  const blocks = new Uint8Array(near.blocks.length);
  for (let i = 0; i < blocks.length; i++) blocks[i] = (near.blocks[i]! ? 1 : 0) | (functionBlocks[i]! ? 2 : 0);
  // A self-relative word leads 4 bytes less far: its block may be the one before.
  for (let i = 0; i + 1 < blocks.length; i++) if (near.blocks[i]!) blocks[i + 1]! |= 1;

  const filter = new AddressFilter();
  for (let i = 0; i < blocks.length; i++) {
    if (blocks[i] === 0) continue;
    // A block here may touch two that begin at multiples of 64.
    filter.add(near.base + i * 64);
    filter.add(near.base + i * 64 + 63);
  }
  if (asked !== undefined) filter.add(asked);

  for (const section of sections) {
    const bytes = sectionBytes(image, section);
    const { sh_addr } = section;
    const visit = (p: number, v: number, block: number): void => {
      const at = sh_addr + p;
      const target = at + 4 + v;
      if (block & 1) {
        if (mayEndInDistance(bytes, p) && near.contains(target)) hits.add(at, target, "relative");
        if (near.contains(target - 4)) hits.add(at, target - 4, "self-relative");
        if (fixed && near.contains(v)) hits.add(at, v, "absolute");
      }
      const opcode = p > 0 ? bytes[p - 1]! : 0;
      const looksLikeJump = opcode === 0xe9 || (p > 1 && opcode >= 0x80 && opcode <= 0x8f && bytes[p - 2] === 0x0f);
      if (looksLikeJump && target >= near.base && target < near.base + near.span) {
        if (functionBlocks[(target - near.base) >>> 6]) links.push({ from: vaddr(at - 1), to: vaddr(target) });
      }
    };
    const blockAt = (address: number): number => {
      const at = address - near.base;
      return at >= 0 && at < near.span ? blocks[at >>> 6]! : 0;
    };
    sweepDistances(bytes, sh_addr, filter, (p, v) => {
      const target = sh_addr + p + 4 + v;
      const block = blockAt(target);
      if (block !== 0) visit(p, v, block);
      if (target === asked) makesAsked ||= isLea(bytes, p);
    });
    if (!fixed) continue;
    sweepAddresses(bytes, filter, (p, v) => {
      const block = blockAt(v >>> 0);
      if (block !== 0) visit(p, v, block);
      if (v >>> 0 === asked) makesAsked ||= isMove(bytes, p);
    });
  }
  return { hits, links, makesAsked };
}

const REX_W = 0x48;
const LEA = 0x8d;

/** Whether the word at index `p` looks like that of `lea v(%rip),%reg`. */
export const isLea = (bytes: Uint8Array, p: number): boolean =>
  p >= 3 && bytes[p - 2] === LEA && (bytes[p - 3]! & 0xfb) === REX_W && (bytes[p - 1]! & 0xc7) === 0x05;

/** Whether the word at index `p` looks like that of `mov $v,%reg`. */
export const isMove = (bytes: Uint8Array, p: number): boolean =>
  p > 0 && bytes[p - 1]! >= 0xb8 && bytes[p - 1]! <= 0xbf;

/**
 * Whether the word at index `p` can be the distance of a branch or the displacement of a %rip-relative operand: in
 * front of it stands the opcode of a call, jmp, jcc or xbegin, or a ModRM byte with mod 00 and rm 101.
 */
function mayEndInDistance(bytes: Uint8Array, p: number): boolean {
  const last = p > 0 ? bytes[p - 1]! : 0;
  const before = p > 1 ? bytes[p - 2]! : 0;
  return (
    (last & 0xfe) === 0xe8 ||
    (last & 0xc7) === 0x05 ||
    ((last & 0xf0) === 0x80 && before === 0x0f) ||
    (last === 0xf8 && before === 0xc7)
  );
}

/** Short branches in bytes that nobody can decode: every position at which one could stand, and where it would lead. */
export function possibleShortBranches(
  bytes: Uint8Array,
  start: Vaddr,
  visit: (at: Vaddr, target: Vaddr) => void,
): void {
  for (let p = 0; p + 1 < bytes.length; p++) {
    const opcode = bytes[p]!;
    if ((opcode >= 0x70 && opcode <= 0x7f) || opcode === 0xeb || (opcode >= 0xe0 && opcode <= 0xe3))
      visit(vaddr(start + p), vaddr(start + p + 2 + ((bytes[p + 1]! << 24) >> 24)));
  }
}
