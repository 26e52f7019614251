/**
 * The notes of `.note.stapsdt`: where a binary says which probes it has.
 *
 *     namesz=8 descsz type=3 "stapsdt\0"
 *     u64 location   link-time address of the probe's nop, as the linker saw it
 *     u64 base       link-time address of the 1-byte section .stapsdt.base, as the linker saw it
 *     u64 semaphore  link-time address of a u16 in .probes, or 0
 *     "provider\0" "name\0" "arguments\0", padded to 4
 *
 * The prelink rule: prelink moves sections but does not touch notes, so readers compare the base in the note with the
 * sh_addr of .stapsdt.base: what they differ by is added to the location, and to the semaphore if there is one. A base
 * of 0 says nothing (headers exist that write none): then nothing is added, as in libbpf; gdb differs. Where the
 * section is missing (lld and mold drop it under --gc-sections) nothing is added.
 *
 * Specification: https://sourceware.org/systemtap/wiki/UserSpaceProbeImplementation
 */
import { alignUp, type FileOffset, fileOffset, hex, type Vaddr, vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import { type ElfImage, read64, type Section, sectionNamed } from "../elf/image.js";
import { InputError } from "../errors.js";

/** The section with the notes. */
export const NOTE_SECTION = ".note.stapsdt";
const BASE_SECTION = ".stapsdt.base";
const STAPSDT_TYPE = 3;
const NOTE_HEADER_SIZE = 12;

/** One stapsdt note. */
export interface UsdtNote {
  readonly provider: string;
  readonly name: string;
  /** The real link-time address of the probe: the prelink rule has been applied. */
  readonly location: Vaddr;
  /** The address of .stapsdt.base as it stands in the note. */
  readonly base: Vaddr;
  /** The real link-time address of the semaphore, or 0. */
  readonly semaphore: Vaddr;
  /** The argument string as it stands in the note. */
  readonly argumentText: string;
  /** What the prelink rule adds: real location = location in the note + this. */
  readonly prelinkShift: number;
  /** Where this note's header (namesz) stands in the file. */
  readonly offset: FileOffset;
  /** Where the note's location field stands in the file. */
  readonly locationOffset: FileOffset;
  /** Where the argument string stands in the file, and how many bytes it may take with its NUL and the padding. */
  readonly argumentOffset: FileOffset;
  readonly argumentRoom: number;
  /** Bytes of the whole note, header and padding included. */
  readonly size: number;
  readonly section: Section;
}

/**
 * Reads every stapsdt note of a file, in the order in which they stand there.
 * @throws InputError where a note section is cut short or its sizes lie
 */
export function readUsdtNotes(image: ElfImage): readonly UsdtNote[] {
  const baseSection = sectionNamed(image, BASE_SECTION);
  return image.sections
    .filter((s) => s.name === NOTE_SECTION && s.sh_type === elf.SHT_NOTE)
    .flatMap((section) => readSection(image, section, baseSection));
}

function readSection(image: ElfImage, section: Section, baseSection: Section | undefined): UsdtNote[] {
  const { view, bytes } = image;
  const notes: UsdtNote[] = [];
  const end = section.sh_offset + section.sh_size;
  let at: number = section.sh_offset;
  while (at < end) {
    const offset = fileOffset(at);
    if (at + NOTE_HEADER_SIZE > end) throw damaged("a note is cut short", offset);
    const namesz = view.getUint32(at, true);
    const descsz = view.getUint32(at + 4, true);
    const type = view.getUint32(at + 8, true);
    const desc = at + NOTE_HEADER_SIZE + alignUp(namesz, 4);
    const next = desc + alignUp(descsz, 4);
    // The last note may lack its padding.
    if (desc + descsz > end) throw damaged("a note is longer than its section", offset);
    const isStapsdt = namesz === 8 && bytes.toString("latin1", at + 12, at + 20) === "stapsdt\0";
    if (isStapsdt && type === STAPSDT_TYPE) {
      notes.push(readNote(image, section, baseSection, offset, fileOffset(desc), descsz, Math.min(next, end)));
    }
    at = next;
  }
  return notes;
}

function readNote(
  image: ElfImage,
  section: Section,
  baseSection: Section | undefined,
  offset: FileOffset,
  desc: FileOffset,
  descsz: number,
  end: number,
): UsdtNote {
  const { view, bytes } = image;
  if (descsz < 24 + 3) throw damaged("a stapsdt note is too short for its addresses and strings", offset);
  const [location, base, semaphore] = [0, 8, 16].map((field) => read64(view, desc + field)) as [number, number, number];
  const strings: string[] = [];
  let at = desc + 24;
  let argumentOffset = at;
  for (let i = 0; i < 3; i++) {
    const nul = bytes.indexOf(0, at);
    if (nul < 0 || nul >= desc + descsz) throw damaged("a stapsdt note has an unterminated string", offset);
    strings.push(bytes.toString("utf8", at, nul));
    argumentOffset = at;
    at = nul + 1;
  }
  const shift = !baseSection?.sh_addr || base === 0 ? 0 : baseSection.sh_addr - base;
  if (![location, base, semaphore, location + shift, semaphore + shift].every(Number.isSafeInteger))
    throw damaged("a stapsdt note holds an address beyond 2^53", offset);
  return {
    provider: strings[0]!,
    name: strings[1]!,
    location: vaddr(location + shift),
    base: vaddr(base),
    semaphore: vaddr(semaphore === 0 ? 0 : semaphore + shift),
    argumentText: strings[2]!,
    prelinkShift: shift,
    offset,
    locationOffset: fileOffset(desc),
    argumentOffset: fileOffset(argumentOffset),
    argumentRoom: end - argumentOffset,
    size: end - offset,
    section,
  };
}

const damaged = (what: string, offset: FileOffset): InputError =>
  new InputError(`damaged ${NOTE_SECTION}: ${what}`, `offset ${hex(offset)}`);
