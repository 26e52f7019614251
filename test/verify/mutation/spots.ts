/**
 * What rewriting made of each probe, found in the two files: the bytes that changed, the jumps that lead from there to new
 * code, the pieces of new code and their instructions. Of the report only names, places, tactics and guards are taken.
 */
import { vaddr } from "../../../src/address.js";
import * as elf from "../../../src/elf/constants.js";
import { type ElfImage, isCode, offsetOf, parseElf, sectionNamed } from "../../../src/elf/image.js";
import type { Layout, SiteReport } from "../../../src/rewritten/contract.js";
import { readUsdtNotes, type UsdtNote } from "../../../src/usdt/notes.js";
import { NOP5, NOP10 } from "../../../src/x86/bytes.js";
import { type Rewritten, rewriteFile } from "../planting.js";
import { decodePiece, decodePieces, type Piece } from "./semantics.js";

export type FixedLayout = Exclude<Layout, "auto">;

export interface Range {
  readonly start: number;
  readonly end: number;
}

/** A rewritten probe and what stands around it. Addresses are link-time addresses. */
export interface Spot {
  readonly site: SiteReport;
  /** The number of its note, in both files. */
  readonly note: number;
  /** How its faults are sorted: the tactic, and whether it has a guard. */
  readonly tactic: string;
  /** The changed bytes of the original around the probe's old place. */
  readonly window: Range;
  /** The jump or call that leads to new code; undefined where the probe stands in place. */
  readonly entry: Piece | undefined;
  /** What runs with the probe: its piece of new code, or in place what changed. */
  readonly pieces: readonly Piece[];
  /** Where that ends, and how many bytes behind it are int3 and free. */
  readonly end: number;
  readonly free: number;
  /** The address of the nop5 or nop10 itself. */
  readonly nop: number;
  readonly nopSize: 5 | 10;
}

/** A rewritten file, laid open. */
export class Subject {
  readonly image: ElfImage;
  readonly notes: readonly UsdtNote[];
  readonly originalNotes: readonly UsdtNote[];
  /** The bytes of code that changed, in addresses, ascending. */
  readonly changed: readonly Range[];
  readonly spots: readonly Spot[];
  /** The jumps and calls that lead to new code. */
  readonly entries: readonly Piece[];
  /** New code, [start, end). */
  readonly added: readonly Range[];

  private constructor(
    readonly name: string,
    readonly layout: FixedLayout,
    readonly rewritten: Rewritten,
  ) {
    this.image = parseElf(rewritten.bytes);
    this.notes = readUsdtNotes(this.image);
    this.originalNotes = readUsdtNotes(rewritten.original);
    this.changed = changedCode(rewritten.original, this.image);
    const section = sectionNamed(this.image, ".text.nop5");
    this.added = section === undefined ? [] : [{ start: section.sh_addr, end: section.sh_addr + section.sh_size }];
    this.entries = this.changed.flatMap((c) => this.entriesIn(c));
    this.spots = this.findSpots();
  }

  static of(name: string, path: string, layout: FixedLayout): Subject {
    return new Subject(name, layout, rewriteFile(path, layout));
  }

  /** The offset in the rewritten file of an address. */
  offset(address: number): number {
    const offset = offsetOf(this.image, vaddr(address));
    if (offset === undefined) throw new Error(`0x${address.toString(16)} is not in the file`);
    return offset;
  }

  bytes(start: number, end: number): Buffer {
    const offset = this.offset(start);
    return this.rewritten.bytes.subarray(offset, offset + end - start);
  }

  /** The instruction of the rewritten file at an address. */
  readonly read = (address: number): Piece | undefined => {
    const offset = offsetOf(this.image, vaddr(address));
    return offset === undefined ? undefined : decodePiece(this.rewritten.bytes.subarray(offset, offset + 15), address);
  };

  isNew(address: number | undefined): boolean {
    return address !== undefined && this.added.some((a) => address >= a.start && address < a.end);
  }

  private findSpots(): Spot[] {
    const { sites } = this.rewritten.report;
    const { entries } = this;
    const starts = this.startsOf(entries);
    const used = new Set<UsdtNote>();
    return sites.flatMap((site): Spot[] => {
      const found = this.notes.find(
        (n) => !used.has(n) && n.location === site.newLocation && n.name === site.name && n.provider === site.provider,
      );
      if (found === undefined) return [];
      used.add(found);
      const spot =
        site.status === "rewritten" ? this.spot(site, this.notes.indexOf(found), entries, starts) : undefined;
      return spot === undefined ? [] : [spot];
    });
  }

  private spot(site: SiteReport, note: number, entries: readonly Piece[], starts: readonly number[]): Spot | undefined {
    const to = site.newLocation;
    const window = this.windowOf(site.location);
    if (window === undefined) return undefined;
    const nopSize = this.layout === "nop,nop10" ? 10 : 5;
    const nop = this.layout === "nop5" ? to : to + 1;
    const nops = this.bytes(nop, nop + nopSize);
    if (!nops.equals(nopSize === 5 ? NOP5 : NOP10)) throw new Error(`no probe at 0x${to.toString(16)}`);
    const common = { site, note, window, nop, nopSize, tactic: `${site.tactic}${site.guard ? "+guard" : ""}` } as const;
    if (!this.isNew(to)) {
      const start = to - (site.guard ? LOWER_SIZE : 0);
      // Whole instructions: the last one may have its last bytes in common with the original.
      const pieces = decodePieces(this.bytes(start, window.end + 15), start).filter((p) => p.address < window.end);
      return { ...common, entry: undefined, pieces, end: window.end, free: 0 };
    }
    const start = starts.findLast((s) => s <= to);
    const entry = entries.find((e) => e.facts.target === start);
    if (start === undefined || entry === undefined) return undefined;
    return { ...common, entry, ...this.newCodeAt(start, starts) };
  }

  /** The piece of new code that begins at an address. */
  private newCodeAt(start: number, starts: readonly number[]): Pick<Spot, "pieces" | "end" | "free"> {
    const limit = starts.find((s) => s > start) ?? this.added.at(-1)!.end;
    const all = decodePieces(this.bytes(start, limit), start);
    const fill = all.findIndex((p) => p.facts.isInt3);
    const pieces = fill < 0 ? all : all.slice(0, fill);
    const end = pieces.at(-1)!.address + pieces.at(-1)!.bytes.length;
    return { pieces, end, free: limit - end };
  }

  /** Pieces of new code without a probe, as if they were the probe's that is nearest: branches and code that made room moved there. */
  get helpers(): Spot[] {
    const starts = this.startsOf(this.entries);
    return starts.flatMap((start): Spot[] => {
      if (this.spots.some((s) => s.entry?.facts.target === start)) return [];
      const entry = this.entries.find((e) => e.facts.target === start)!;
      const distance = (s: Spot): number => Math.abs(s.site.location - entry.address);
      const owner = [...this.spots].sort((a, b) => distance(a) - distance(b))[0];
      const window = this.changed.find((c) => entry.address < c.end && entry.address + JUMP_SIZE > c.start);
      if (owner === undefined || window === undefined) return [];
      return [{ ...owner, window, entry, ...this.newCodeAt(start, starts) }];
    });
  }

  /** Where pieces of new code begin: what leads there from elsewhere may lead to their middle as well. */
  private startsOf(entries: readonly Piece[]): number[] {
    const before = new Set(
      this.added.flatMap(({ start, end }) => {
        const pieces = decodePieces(this.bytes(start, end), start);
        return pieces.flatMap((p) => (p.facts.ends || p.facts.isInt3 ? [p.address + p.bytes.length] : []));
      }),
    );
    const targets = new Set(entries.map((e) => e.facts.target!));
    return [...targets].filter((t) => before.has(t) || this.added.some((a) => a.start === t)).sort((a, b) => a - b);
  }

  /** The changed bytes at a probe's old place, or nearby where its first nop stays. */
  private windowOf(location: number): Range | undefined {
    return (
      this.changed.find((c) => location >= c.start && location < c.end) ??
      this.changed.find((c) => c.start > location - NEAR && c.start < location + NEAR)
    );
  }

  /** Jumps and calls to new code among changed bytes. A jump's own bytes may be equal by chance where it begins. */
  private entriesIn({ start, end }: Range): Piece[] {
    const found: Piece[] = [];
    for (let at = start - 1; at < end; at++) {
      const piece = this.read(at);
      const opcode = piece?.bytes[0];
      if (piece?.bytes.length === 5 && (opcode === 0xe9 || opcode === 0xe8) && this.isNew(piece.facts.target))
        found.push(piece);
    }
    return found;
  }
}

const JUMP_SIZE = 5;

/** lea -0x80(%rsp),%rsp */
const LOWER_SIZE = 5;

/** A call that leads to new code stands at most so far from its probe. */
const NEAR = 16;

/** Bytes closer than this belong to one window: a jump may have bytes that the original had as well. */
const CLOSE = 4;

function changedCode(original: ElfImage, rewritten: ElfImage): Range[] {
  const runs: { start: number; end: number }[] = [];
  for (const section of original.sections.filter(isCode)) {
    if ((section.sh_flags & elf.SHF_ALLOC) === 0) continue;
    const offset = offsetOf(rewritten, section.sh_addr);
    if (offset === undefined) continue;
    const [a, b] = [original.bytes, rewritten.bytes];
    for (let block = 0; block < section.sh_size; block += 4096) {
      const size = Math.min(4096, section.sh_size - block);
      const [x, y] = [section.sh_offset + block, offset + block];
      if (a.compare(b, y, y + size, x, x + size) === 0) continue;
      for (let i = 0; i < size; i++) {
        if (a[x + i] === b[y + i]) continue;
        const at = section.sh_addr + block + i;
        const last = runs.at(-1);
        if (last !== undefined && at - last.end < CLOSE) last.end = at + 1;
        else runs.push({ start: at, end: at + 1 });
      }
    }
  }
  return runs;
}
