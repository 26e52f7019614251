/**
 * The notes of the probes that moved: their location, and what depends on it.
 *
 * Of an argument string two things do: a bare number before (%rip) is a distance from the probe, and memory that is
 * addressed through %rsp lies further up where rsp is lower than it was at the one-byte nop. The string may become
 * longer; a note section that is not loaded, which is the rule, is then written anew as a whole. So it is where probes
 * became universal: the note of the second place stands directly after that of the first.
 */
import type { Vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, Section } from "../elf/image.js";
import {
  mapArguments,
  parseArguments,
  printArguments,
  type UsdtArgument,
  usesRegister,
  withDisplacement,
} from "../usdt/arguments.js";
import type { UsdtNote } from "../usdt/notes.js";
import { type Edit, editAt, word } from "./edits.js";
import type { PlacedProbe } from "./proposal.js";

interface NoteChanges {
  readonly edits: readonly Edit[];
  /** Note sections with new content of another size. */
  readonly replaced: ReadonlyMap<Section, Uint8Array>;
}

/** Whether its section may become longer: another note has room then. */
export const canGrow = ({ section }: UsdtNote): boolean => (section.sh_flags & elf.SHF_ALLOC) === 0;

/** Why a probe cannot go to another address, for the sake of this note's arguments; undefined where it can. */
export function movePin(note: UsdtNote): string | undefined {
  return pin(note, (a) => a.kind === "rip-relative", "where the probe stands");
}

/** Why a probe cannot go to where rsp is lower, for the sake of this note's arguments; undefined where it can. */
export function stackPin(note: UsdtNote): string | undefined {
  for (const argument of parseArguments(note.argumentText).arguments)
    if (argument.kind === "register" && usesRegister(argument, "rsp"))
      return `the argument ${argument.text} is rsp itself, which would be another`;
  return pin(note, goesByStack, "rsp");
}

function pin(note: UsdtNote, depends: (a: UsdtArgument) => boolean, on: string): string | undefined {
  for (const argument of parseArguments(note.argumentText).arguments) {
    if (argument.kind === "unknown") return `the argument ${argument.text} is not understood`;
    if (depends(argument) && !canGrow(note))
      return `the argument ${argument.text} depends on ${on}, and its note, which is loaded, cannot grow`;
  }
  return undefined;
}

const goesByStack = (argument: UsdtArgument): boolean => argument.kind === "memory" && usesRegister(argument, "rsp");

/** Whether an argument of the note lies below rsp, in so many words. */
export const readsBelowStack = (note: UsdtNote): boolean =>
  parseArguments(note.argumentText).arguments.some((a) => a.kind === "memory" && goesByStack(a) && a.displacement < 0);

/** The argument string for a probe that moved by `distance` bytes to where rsp is lower by `stackShift`. */
function movedArguments(text: string, distance: number, stackShift: number): string {
  const parsed = parseArguments(text);
  const change = (a: UsdtArgument): UsdtArgument => {
    if (a.kind === "rip-relative" && distance !== 0) return withDisplacement(a, a.displacement - distance);
    if (a.kind === "memory" && goesByStack(a) && stackShift !== 0)
      return withDisplacement(a, a.displacement + stackShift);
    return a;
  };
  return printArguments(mapArguments(parsed, change));
}

/** @param placed the rewritten probes, by the location that their notes had */
export function changeNotes(
  image: ElfImage,
  notes: readonly UsdtNote[],
  placed: ReadonlyMap<Vaddr, PlacedProbe>,
): NoteChanges {
  const edits: Edit[] = [];
  const texts = new Map<UsdtNote, string>();
  const grown = new Set<Section>();
  for (const note of notes) {
    const probe = placed.get(note.location);
    if (probe === undefined) continue;
    const { location, stackShift, twin } = probe;
    if (twin !== undefined) grown.add(note.section);
    if (location !== note.location)
      edits.push(editAt(image, note.locationOffset, word(location - note.prelinkShift, 8)));
    const text = movedArguments(note.argumentText, location - note.location, stackShift);
    if (text === note.argumentText) continue;
    texts.set(note, text);
    grown.add(note.section);
  }
  const replaced = new Map([...grown].map((section) => [section, rebuild(image, section, notes, placed, texts)]));
  return { edits: edits.filter((e) => !inside(e, grown)), replaced };
}

const inside = (edit: Edit, sections: ReadonlySet<Section>): boolean =>
  [...sections].some((s) => edit.offset >= s.sh_offset && edit.offset < s.sh_offset + s.sh_size);

/** A note section with other argument strings: notes keep their order, each takes what it needs. */
function rebuild(
  image: ElfImage,
  section: Section,
  notes: readonly UsdtNote[],
  placed: ReadonlyMap<Vaddr, PlacedProbe>,
  texts: ReadonlyMap<UsdtNote, string>,
): Uint8Array {
  const own = notes.filter((n) => n.section === section).sort((a, b) => a.offset - b.offset);
  const pieces: Uint8Array[] = [];
  let at: number = section.sh_offset;
  for (const note of own) {
    pieces.push(image.bytes.subarray(at, note.offset));
    const probe = placed.get(note.location);
    pieces.push(rebuildNote(image, note, probe?.location ?? note.location, texts.get(note)));
    if (probe?.twin !== undefined) pieces.push(twinOf(image, note, probe.twin));
    at = note.offset + note.size;
  }
  pieces.push(image.bytes.subarray(at, section.sh_offset + section.sh_size));
  return Buffer.concat(pieces);
}

/** The same probe's note for its second place. */
function twinOf(image: ElfImage, note: UsdtNote, { location, stackShift }: NonNullable<PlacedProbe["twin"]>): Buffer {
  const text = movedArguments(note.argumentText, location - note.location, stackShift);
  return rebuildNote(image, note, location, text === note.argumentText ? undefined : text);
}

function rebuildNote(image: ElfImage, note: UsdtNote, to: Vaddr, text: string | undefined): Buffer {
  const head = Buffer.from(image.bytes.subarray(note.offset, note.argumentOffset));
  head.set(word(to - note.prelinkShift, 8), note.locationOffset - note.offset);
  if (text === undefined)
    return Buffer.concat([head, image.bytes.subarray(note.argumentOffset, note.offset + note.size)]);
  const tail = Buffer.from(`${text}\0`, "utf8");
  const descsz = head.length - (note.locationOffset - note.offset) + tail.length;
  head.writeUInt32LE(descsz, 4);
  return Buffer.concat([head, tail, Buffer.alloc((4 - ((head.length + tail.length) % 4)) % 4)]);
}
