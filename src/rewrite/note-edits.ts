/**
 * The notes of the probes that moved: their location, and what depends on it.
 *
 * Of an argument string only a bare number before (%rip) depends on where the probe stands: it is a distance. The string
 * may become longer; a note section that is not loaded, which is the rule, is then written anew as a whole.
 */
import type { Vaddr } from "../address.js";
import * as elf from "../elf/constants.js";
import type { ElfImage, Section } from "../elf/image.js";
import { mapArguments, parseArguments, printArguments, withDisplacement } from "../usdt/arguments.js";
import type { UsdtNote } from "../usdt/notes.js";
import { type Edit, editAt, word } from "./edits.js";

export interface NoteChanges {
  readonly edits: readonly Edit[];
  /** Note sections with new content of another size. */
  readonly replaced: ReadonlyMap<Section, Uint8Array>;
}

/** Whether a note's arguments can follow the probe wherever it goes; else why not. */
export function movableArguments(note: UsdtNote): string | undefined {
  for (const argument of parseArguments(note.argumentText).arguments) {
    if (argument.kind === "unknown") return `the argument ${argument.text} is not understood`;
    if (argument.kind === "rip-relative" && (note.section.sh_flags & elf.SHF_ALLOC) !== 0)
      return `the argument ${argument.text} depends on where the probe stands, and its note cannot grow`;
  }
  return undefined;
}

/** The argument string for a probe that moved by `distance` bytes. */
function movedArguments(text: string, distance: number): string {
  const parsed = parseArguments(text);
  if (!parsed.arguments.some((a) => a.kind === "rip-relative")) return text;
  return printArguments(
    mapArguments(parsed, (a) => (a.kind === "rip-relative" ? withDisplacement(a, a.displacement - distance) : a)),
  );
}

/** @param moved the probes' new locations, by their old ones */
export function changeNotes(
  image: ElfImage,
  notes: readonly UsdtNote[],
  moved: ReadonlyMap<Vaddr, Vaddr>,
): NoteChanges {
  const edits: Edit[] = [];
  const grown = new Map<Section, Map<UsdtNote, string>>();
  for (const note of notes) {
    const to = moved.get(note.location);
    if (to === undefined || to === note.location) continue;
    edits.push(editAt(image, note.locationOffset, word(to - note.prelinkShift, 8)));
    const text = movedArguments(note.argumentText, to - note.location);
    if (text === note.argumentText) continue;
    const texts = grown.get(note.section) ?? new Map<UsdtNote, string>();
    texts.set(note, text);
    grown.set(note.section, texts);
  }
  const replaced = new Map<Section, Uint8Array>();
  for (const [section, texts] of grown) replaced.set(section, rebuild(image, section, notes, moved, texts));
  return { edits: edits.filter((e) => !inside(e, grown)), replaced };
}

const inside = (edit: Edit, sections: ReadonlyMap<Section, unknown>): boolean =>
  [...sections.keys()].some((s) => edit.offset >= s.sh_offset && edit.offset < s.sh_offset + s.sh_size);

/** A note section with other argument strings: notes keep their order, each takes what it needs. */
function rebuild(
  image: ElfImage,
  section: Section,
  notes: readonly UsdtNote[],
  moved: ReadonlyMap<Vaddr, Vaddr>,
  texts: ReadonlyMap<UsdtNote, string>,
): Uint8Array {
  const own = notes.filter((n) => n.section === section).sort((a, b) => a.offset - b.offset);
  const pieces: Uint8Array[] = [];
  let at: number = section.sh_offset;
  for (const note of own) {
    pieces.push(image.bytes.subarray(at, note.offset));
    pieces.push(rebuildNote(image, note, moved.get(note.location) ?? note.location, texts.get(note)));
    at = note.offset + note.size;
  }
  pieces.push(image.bytes.subarray(at, section.sh_offset + section.sh_size));
  return Buffer.concat(pieces);
}

function rebuildNote(image: ElfImage, note: UsdtNote, to: Vaddr, text: string | undefined): Uint8Array {
  const head = Buffer.from(image.bytes.subarray(note.offset, note.argumentOffset));
  head.set(word(to - note.prelinkShift, 8), note.locationOffset - note.offset);
  if (text === undefined)
    return Buffer.concat([head, image.bytes.subarray(note.argumentOffset, note.offset + note.size)]);
  const tail = Buffer.from(`${text}\0`, "utf8");
  const descsz = head.length - (note.locationOffset - note.offset) + tail.length;
  head.writeUInt32LE(descsz, 4);
  return Buffer.concat([head, tail, Buffer.alloc((4 - ((head.length + tail.length) % 4)) % 4)]);
}
