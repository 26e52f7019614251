/**
 * The output as pieces: views of the input's bytes, of the copy of them that has all edits, and of what is new. What is a
 * hole gets none, and of large sections that nothing changes no copy is made: debug information is most of a large file,
 * and need not be in memory twice.
 */
import { type FileOffset, type Interval, PAGE_SIZE } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, Section } from "../elf/image.js";
import { outside, touches, union, within, without } from "../intervals.js";
import type { Piece } from "../sparse-content.js";
import type { Edit } from "./edits.js";
import type { Source } from "./undo.js";

/** The output as far as it is there: pieces in the order in which they stand, and which bytes of the input they are. */
export class Output {
  readonly pieces: Piece[] = [];
  readonly sources: Source[] = [];
  /** Where the next piece goes. */
  at = 0;

  /**
   * @param holes of the input with its edits
   * @param shared what stands in the input alone, and not in its copy with edits
   */
  constructor(
    private readonly input: Buffer,
    private readonly holes: readonly Interval[],
    private readonly shared: readonly Interval[],
  ) {}

  /** @param origin where these bytes stand in the input, if they do */
  put(bytes: Uint8Array, origin?: number): void {
    if (origin !== undefined) this.sources.push({ from: this.at, to: origin, size: bytes.length });
    this.putPieces(bytes, origin);
  }

  /** Puts bytes that `sources` does not name: they come of themselves, or from elsewhere as well. */
  putPieces(bytes: Uint8Array, origin: number | undefined): void {
    const from = origin ?? 0;
    const whole = { start: from, end: from + bytes.length };
    const [holes, shared] = origin === undefined ? [[], []] : [this.holes, this.shared];
    for (const { start, end } of outside(union([...holes, ...shared]), whole))
      this.#piece(start - from, bytes.subarray(start - from, end - from));
    for (const { start, end } of within(without(shared, holes), whole))
      this.#piece(start - from, this.input.subarray(start, end));
    if (shared.length > 0) this.pieces.sort((a, b) => a.offset - b.offset);
    this.at += bytes.length;
  }

  #piece(offset: number, bytes: Uint8Array): void {
    if (bytes.length > 0) this.pieces.push({ offset: this.at + offset, bytes });
  }
}

/** The loaded part without the pages that became nothing but zeros. */
export function betweenHoles(bytes: Uint8Array, end: number, vacated: readonly Interval<FileOffset>[]): Interval[] {
  const parts: Interval[] = [];
  const zeros = Buffer.alloc(PAGE_SIZE);
  let from = 0;
  for (const v of [...vacated].sort((a, b) => a.start - b.start))
    for (
      let page = Math.floor(v.start / PAGE_SIZE) * PAGE_SIZE;
      page + PAGE_SIZE <= end && page < v.end;
      page += PAGE_SIZE
    ) {
      if (page < from || !zeros.equals(bytes.subarray(page, page + PAGE_SIZE))) continue;
      if (page > from) parts.push({ start: from, end: page });
      from = page + PAGE_SIZE;
    }
  return [...parts, { start: from, end }];
}

/**
 * Stretches of the file that stand nowhere but in large sections without edits, ascending.
 * @param from where what is loaded ends in the output, as a file offset: new code is no edit
 */
export function untouchedSections(image: ElfImage, edits: readonly Edit[], from: number): readonly Interval[] {
  const { header, sections, programHeaders } = image;
  const edited = union(edits.map((edit) => ({ start: edit.offset as number, end: edit.offset + edit.new.length })));
  const isLarge = ({ sh_type, sh_flags, sh_offset, sh_size }: Section): boolean =>
    sh_type === elf.SHT_PROGBITS &&
    (sh_flags & elf.SHF_ALLOC) === 0 &&
    sh_size >= LARGE_SECTION &&
    sh_offset >= from &&
    !touches(edited, sh_offset as number, sh_offset + sh_size);
  const others = [
    { start: 0, end: from },
    { start: header.e_phoff as number, end: header.e_phoff + programHeaders.length * elf.PHDR_SIZE },
    { start: header.e_shoff as number, end: header.e_shoff + sections.length * elf.SHDR_SIZE },
    ...sections.filter((s) => s.sh_type !== elf.SHT_NOBITS && !isLarge(s)).map(placeOf),
  ];
  return without(union(sections.filter(isLarge).map(placeOf)), union(others));
}

const placeOf = ({ sh_offset, sh_size }: Section): Interval => ({ start: sh_offset, end: sh_offset + sh_size });

const LARGE_SECTION = 1 << 20;
