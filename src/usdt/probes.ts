/**
 * The probes of a file as their users count them: a universal one has two notes and is one probe.
 *
 * A note may lead to no code: linkers leave those of functions that they removed. Such a probe is listed, and has no code.
 */
import type { Vaddr } from "../address.js";
import type { ElfImage } from "../elf/image.js";
import { readUsdtNotes } from "./notes.js";
import { codeFrom, notInCode } from "./sites.js";
import { findTwins } from "./twins.js";

/** A place that a note names. */
export interface ProbePlace {
  readonly location: Vaddr;
  /** The file's bytes from there on, at most LOOK of them; null where there is no code of the file. */
  readonly code: Buffer | null;
}

export interface Probe extends ProbePlace {
  readonly provider: string;
  readonly name: string;
  /** The second place of a universal probe, its nop5; else null. */
  readonly twin: ProbePlace | null;
}

/** Longest instruction of the architecture, in bytes; every form of a probe is shorter. */
const LOOK = 15;

/**
 * The probes of a file, in the order of their notes.
 * @param need gets the parts of the file that are looked at, before they are: for an image that is not read whole
 * @throws InputError where the notes are damaged
 */
export function probesOf(image: ElfImage, need: (offset: number, size: number) => void = () => {}): readonly Probe[] {
  const notes = readUsdtNotes(image);
  const pairs = findTwins(image, notes, need);
  const twinOf = new Map(pairs.map(({ first, twin }) => [first, notes[twin]!]));
  const seconds = new Set(pairs.map(({ twin }) => twin));
  const placeAt = (location: Vaddr): ProbePlace => {
    const code = notInCode(image, location) === null ? (codeFrom(image, location)?.subarray(0, LOOK) ?? null) : null;
    if (code !== null) need(code.byteOffset - image.bytes.byteOffset, code.length);
    return { location, code };
  };
  return notes.flatMap(({ provider, name, location }, i) => {
    if (seconds.has(i)) return [];
    const twin = twinOf.get(i);
    return [{ provider, name, ...placeAt(location), twin: twin === undefined ? null : placeAt(twin.location) }];
  });
}
